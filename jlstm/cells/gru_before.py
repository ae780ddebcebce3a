"""The gated recurrent unit as it was written first, in which the reset gate works before the product:

    a    = W_ih x + b
    r, z = σ(a_r + U_r h), σ(a_z + U_z h)     the reset gate, and the update gate, which keeps the old state
    n    = tanh(a_n + W_hn (r ⊙ h))           the candidate
    h'   = (1 - z) ⊙ n + z ⊙ h                U_r and U_z are W_hh

Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
2014; Keras's with `reset_after=False`. Its second product waits for the first: `gru` is faster.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jlstm.cells.activations import SIGMOID, activate
from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.gru import GRUGates, GRUState, zero_state
from jlstm.cells.initializers import biases, input_weights, orthogonal
from jlstm.cells.products import times, times_all

__all__ = ["GRU_BEFORE", "GRUBeforeParams"]


class GRUBeforeParams(NamedTuple):
    """The parameters of one layer, the gates in the order reset, update (z), candidate (n).

    Attributes:
        weight_ih: `[3H, I]`.
        weight_hh: the weights from the hidden state to the two gates, `[2H, H]`.
        bias: `[3H]`.
        weight_hn: the weights from the reset hidden state to the candidate, `[H, H]`.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array
    weight_hn: Array


def _linear(params: GRUBeforeParams, h: Array, x: Array) -> tuple[Array, Array, Array]:
    a_r, a_z, a_n = jnp.split(times(params.weight_ih, x) + params.bias, 3)
    u_r, u_z = jnp.split(params.weight_hh @ h, 2)
    # The hidden state too, as all products read it, which is not as the gates do where training leaves some out.
    return jnp.concatenate([a_r + u_r, a_z + u_z]), a_n, h


def _linear_all(params: GRUBeforeParams, hs: Array, xs: Array) -> tuple[Array, Array, Array]:
    (w_rz, w_n), (b_rz, b_n) = (jnp.split(array, [2 * hs.shape[1]]) for array in (params.weight_ih, params.bias))
    return times_all((w_rz, xs), (params.weight_hh, hs), bias=b_rz), times_all((w_n, xs), bias=b_n), hs


def _activations(params: GRUBeforeParams, parts: tuple[Array, Array, Array], state: GRUState) -> GRUGates:
    rz, a_n, h = parts
    r, z = activate(rz, SIGMOID, SIGMOID)
    return GRUGates(r, z, jnp.tanh(a_n + params.weight_hn @ (r * h)))


def _gates(params: GRUBeforeParams, parts: tuple[Array, Array, Array], state: GRUState) -> tuple[GRUState, Array]:
    _, z, n = _activations(params, parts, state)
    h = (1 - z) * n + z * state.h
    return GRUState(h), h


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> GRUBeforeParams:
    """Draw as for `gru`."""
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, 1, scale], fan_in)
    square = orthogonal(normal, 3, sizes.hidden)
    return GRUBeforeParams(weight_ih, square[: 2 * sizes.hidden], biases(steep, 0, 1, 0), square[2 * sizes.hidden :])


GRU_BEFORE = Cell(
    _linear,
    _gates,
    zero_state,
    name="gru_before",
    draw=_draw,
    activations=_activations,
    blocks=GRUBeforeParams("rzn", "rz", "rzn", "n"),  # type: ignore[arg-type]
    linear_all=_linear_all,
    recurrent=("weight_hh", "weight_hn"),
    pads=True,
)
