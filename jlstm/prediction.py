"""Many sequences of any length through a few compiled shapes, in bounded memory."""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.devices import AXIS, mesh_for, replicate, split_batch
from jlstm.model import LSTMConfig, ModelParams, forward

__all__ = ["predict"]

MOST_ROWS = 256
MOST_STEPS = 256
LEAST_STEPS = 16


def predict(
    params: ModelParams, sequences: list[np.ndarray], config: LSTMConfig, *, apply_softmax: bool = False
) -> list[np.ndarray]:
    """Compute the scores of sequences of any lengths.

    They run in blocks of at most 256 sequences and 256 steps, and the state is carried from block to block. A block's
    shape is rounded up, its steps to a power of two and its sequences to a number of four binary digits, so that few
    shapes are compiled; the steps that this adds are not computed.

    Args:
        params: the network's parameters.
        sequences: each `[T, I]`, or ids `[T]`.
        config: the network.
        apply_softmax: whether to return probabilities instead of logits.

    Returns:
        For each sequence `[T, C, 1]`, or `[C, 1]` where `config.target` is "last".

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> [scores.shape for scores in predict(params, [np.ones((4, 1)), np.ones((300, 1))], config)]
        [(4, 3, 1), (300, 3, 1)]
    """
    by_length = sorted(range(len(sequences)), key=lambda k: len(sequences[k]))
    scores: list[Any] = [None] * len(sequences)
    for first in range(0, len(sequences), MOST_ROWS):
        rows = by_length[first : first + MOST_ROWS]
        block = _predict_block(params, [sequences[k] for k in rows], config, apply_softmax)
        for k, row in zip(rows, block, strict=True):
            scores[k] = row[..., None]
    return scores


def _predict_block(
    params: ModelParams, sequences: list[np.ndarray], config: LSTMConfig, apply_softmax: bool
) -> list[np.ndarray]:
    steps = np.array([len(sequence) for sequence in sequences])
    mesh = mesh_for(len(sequences))
    height = _rounded_up(len(sequences), 1 if mesh is None else mesh.size)
    params = replicate(params, mesh)
    pieces, state = [], None
    for start in range(0, steps.max(), MOST_STEPS):
        width = _power_of_two(min(steps.max() - start, MOST_STEPS))
        xs = np.zeros((height, width, *sequences[0].shape[1:]), sequences[0].dtype)
        lengths = np.zeros(height, np.int32)
        lengths[: len(steps)] = np.clip(steps - start, 0, width)
        for row, sequence, length in zip(xs, sequences, lengths, strict=False):
            row[:length] = sequence[start : start + length]
        scores, state = _scores(params, xs, state, lengths, config=config, apply_softmax=apply_softmax, mesh=mesh)
        pieces.append(np.asarray(scores))
    if config.target == "last":
        return [pieces[(n - 1) // MOST_STEPS][k] for k, n in enumerate(steps)]
    whole = np.concatenate(pieces, axis=1) if len(pieces) > 1 else pieces[0]
    return [whole[k, :n] for k, n in enumerate(steps)]


@functools.partial(jax.jit, static_argnames=("config", "apply_softmax", "mesh"))
def _scores(
    params: ModelParams,
    xs: Array,
    state: Any,
    lengths: Array,
    *,
    config: LSTMConfig,
    apply_softmax: bool,
    mesh: Mesh | None,
) -> tuple[Array, Any]:
    def run(params: ModelParams, xs: Array, state: Any, lengths: Array) -> tuple[Array, Any]:
        scores, state = forward(params, xs, config, state, lengths)
        return jax.nn.softmax(scores) if apply_softmax else scores, state

    split = P(AXIS)
    return split_batch(run, mesh, (P(), split, split, split), split)(params, xs, state, lengths)


def _power_of_two(steps: int) -> int:
    return max(LEAST_STEPS, 1 << (int(steps) - 1).bit_length())


def _rounded_up(rows: int, devices: int) -> int:
    """Return the next number of at most four binary digits before its zeros, rounded up to a multiple of `devices`."""
    unit = 1 << max(0, rows.bit_length() - 4)
    rows = -(-rows // unit) * unit
    return -(-rows // devices) * devices
