"""What comes before writing on or forecasting: sequences read step by step, in one compiled shape for every length."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.config import LSTMConfig
from jlstm.data import filled_up, inputs_of
from jlstm.devices import AXIS, compiled, scatter, split_batch
from jlstm.model import ModelParams, read_out, stepper, zero_state

__all__ = ["read"]

READ = 1024  # how many steps one compiled call reads


def read(
    params: ModelParams, xs: np.ndarray, counts: np.ndarray, width: int, config: LSTMConfig, mesh: Mesh | None
) -> tuple[Array, tuple]:
    """Read sequences from a state of zeros.

    Args:
        params: the network's parameters, on the devices of `mesh`.
        xs: the sequences, padded, `[batch, time, I]` or ids `[batch, time]`, from which the network reads its inputs.
        counts: how many steps of each are real, at least one, `[batch]` int32, or one number for all.
        width: how many rows to compute with, of which the first `batch` are real.
        config: the network, which reads forwards.
        mesh: the devices that share the rows.

    Returns:
        The scores behind each sequence's last real step, `[width, ...]`, and the state.
    """
    h = np.zeros((width, config.output_width), params.readout.weight.dtype)
    carry = scatter((h, zero_state(params, width, cell=config.cell)), mesh)
    for start in range(0, xs.shape[1], READ):
        piece = filled_up(xs[:, start : start + READ], width, READ)
        real = np.clip(counts - start, 0, READ).astype(np.int32)
        scores, carry = _read(params, piece, carry, filled_up(real, width) if real.ndim else real, config, mesh=mesh)
    return scores, carry[1]


@compiled(static_argnames="mesh")
def _read(
    params: ModelParams, xs: Array, carry: tuple, counts: Array, config: LSTMConfig, *, mesh: Mesh | None
) -> tuple[Array, tuple]:
    """Read the first steps of each row, so many as `counts` says.

    What is carried is the top layer's output and the state; a row that has nothing to read keeps both.
    """

    def run(params: ModelParams, xs: Array, carry: tuple, counts: Array) -> tuple[Array, tuple]:
        step = stepper(params, config)

        def body(t: Array, carry: tuple) -> tuple:
            x = xs[:, t] if xs.ndim == 3 else inputs_of(xs[:, t], config)
            after = step(x, carry[1])
            if counts.ndim == 0:
                return after
            return jax.tree.map(lambda new, old: jnp.where(reads(t, new), new, old), after, carry)

        def reads(t: Array, like: Array) -> Array:
            return (t < counts).reshape(-1, *[1] * (like.ndim - 1))

        h, state = lax.fori_loop(0, counts.max(), body, carry)
        return read_out(params.readout, h), (h, state)

    split: Any = P(AXIS)
    in_specs = P(), split, split, split if counts.ndim else P()
    return split_batch(run, mesh, in_specs, split)(params, xs, carry, counts)
