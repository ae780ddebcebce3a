"""Many sequences of any length through a few compiled shapes, in bounded memory."""

from typing import Any

import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.config import LSTMConfig
from jlstm.data import LEAST_STEPS, filled_up, rounded_up
from jlstm.devices import AXIS, compiled, mesh_for, replicate, split_batch, to_whole_devices
from jlstm.model import ModelParams, forward, weights_of
from jlstm.objectives import told

__all__ = ["predict"]

MOST_ROWS = 256
MOST_LISTED = 128  # with less padding, 1,024 sequences of 5 to 199 steps take 70 ms; in blocks of 256 they take 96
MOST_STEPS = 256


def predict(
    params: ModelParams, sequences: np.ndarray | list[np.ndarray], config: LSTMConfig, *, apply_softmax: bool = False
) -> np.ndarray | list[np.ndarray]:
    """Compute what a network tells of sequences of any lengths.

    They run in blocks of at most 256 sequences, or of a list 128 of similar lengths, and 256 steps, and the state is
    carried from block to block; where a network has to see all of a sequence at once, in blocks of fewer sequences and
    all steps. A block's shape is rounded up, its steps to a power of two and its sequences to a number of five binary
    digits, so that few shapes are compiled; the steps that this adds are not computed.

    Args:
        params: the network's parameters.
        sequences: a batch, `[N, T, I]` or ids `[N, T]`; or a list of sequences, each `[T, I]` or ids `[T]`.
        config: the network.
        apply_softmax: whether to return probabilities instead of logits.

    Returns:
        For a batch `[N, T, C, 1]`, for a list a list of `[T, C, 1]`; without T where `config.target` is not "each". Of
        "gaussian" and "laplace" 2C, the means and behind them the standard deviations.

    Example:
        >>> import jax
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> [scores.shape for scores in predict(params, [np.ones((4, 1)), np.ones((300, 1))], config)]
        [(4, 3, 1), (300, 3, 1)]
    """
    if isinstance(sequences, np.ndarray):
        most = _most_rows(MOST_ROWS, sequences.shape[1], config)
        blocks = [sequences[first : first + most] for first in range(0, len(sequences), most)]
        scores = [_predict_block(params, block, None, config, apply_softmax) for block in blocks]
        return (np.concatenate(scores) if len(scores) > 1 else scores[0])[..., None]
    by_length = sorted(range(len(sequences)), key=lambda k: len(sequences[k]))
    found: list[Any] = [None] * len(sequences)
    last = len(sequences)
    while last > 0:  # from the longest, which tells how many there is room for
        first = max(0, last - _most_rows(MOST_LISTED, len(sequences[by_length[last - 1]]), config))
        rows, last = by_length[first:last], first
        steps = np.array([len(sequences[k]) for k in rows])
        padded = np.zeros((len(rows), steps.max(), *sequences[0].shape[1:]), sequences[0].dtype)
        for row, k in zip(padded, rows, strict=True):
            row[: len(sequences[k])] = sequences[k]
        block = _predict_block(params, padded, steps, config, apply_softmax)
        for row, k, n in zip(block, rows, steps, strict=True):
            found[k] = (row[:n] if config.target == "each" else row)[..., None]
    return found


def _most_rows(most: int, steps: int, config: LSTMConfig) -> int:
    return most if config.in_pieces else max(1, min(most, MOST_ROWS * MOST_STEPS // steps))


def _predict_block(
    params: ModelParams, sequences: np.ndarray, steps: np.ndarray | None, config: LSTMConfig, apply_softmax: bool
) -> np.ndarray:
    """Return `[N, T, C]`, or `[N, C]`, for sequences that each have so many steps; all T where that is None."""
    rows, time = sequences.shape[:2]
    mesh = mesh_for(rows, weights_of(params))
    height = to_whole_devices(rounded_up(rows, 5), mesh)
    params = replicate(params, mesh)
    scores, state = np.empty((rows, time, config.readout_width), np.float32), None
    piece_steps = MOST_STEPS if config.in_pieces else time
    for start in range(0, time, piece_steps):
        count = min(time - start, piece_steps)
        xs = filled_up(sequences[:, start : start + count], height, max(LEAST_STEPS, rounded_up(count, 1)))
        lengths: Any = np.int32(count)  # one for all, which needs no mask
        if steps is not None:
            lengths = filled_up(np.clip(steps - start, 0, count).astype(np.int32), height)
        piece, state = _scores(
            params,
            xs,
            state,
            lengths,
            config=config,
            apply_softmax=apply_softmax,
            goes_on=start + count < time,
            mesh=mesh,
        )
        if config.target == "each":
            scores[:, start : start + count] = np.asarray(piece)[:rows, :count]
        else:
            ends = np.full(rows, True) if steps is None else steps > start
            scores[ends, 0] = np.asarray(piece)[:rows][ends]
    return scores if config.target == "each" else scores[:, 0]


@compiled(static_argnames=("config", "apply_softmax", "goes_on", "mesh"))
def _scores(
    params: ModelParams,
    xs: Array,
    state: Any,
    lengths: Array,
    *,
    config: LSTMConfig,
    apply_softmax: bool,
    goes_on: bool,
    mesh: Mesh | None,
) -> tuple[Array, Any]:
    """Return the scores of a block, and the state behind it where another block goes on from there."""

    def run(params: ModelParams, xs: Array, state: Any, lengths: Array) -> tuple[Array, Any]:
        scores, state = forward(params, xs, config, state, lengths)
        return told(scores, config.objective, probabilities=apply_softmax), state if goes_on else None

    split = P(AXIS)
    in_specs = (P(), split, split, split if lengths.ndim else P())
    return split_batch(run, mesh, in_specs, split)(params, xs, state, lengths)
