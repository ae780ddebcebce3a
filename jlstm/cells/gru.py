"""The gated recurrent unit in cuDNN's form, in which the reset gate works on the product:

    a  = W_ih x + b
    u  = W_hh h
    r  = σ(a_r + u_r)                      the reset gate
    z  = σ(a_z + u_z)                      the update gate, which keeps the old state
    n  = tanh(a_n + r ⊙ (u_n + b_hn))      the candidate
    h' = (1 - z) ⊙ n + z ⊙ h

Sources: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
2014, whose own form is `gru_before`; this one is torch's, and Keras's with `reset_after=True`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jlstm.cells.activations import SIGMOID, activate
from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.initializers import biases, constants, input_weights, orthogonal
from jlstm.cells.products import times, times_all

__all__ = ["GRU", "GRUGates", "GRUParams", "GRUState", "zero_state"]


class GRUParams(NamedTuple):
    """The parameters of one layer, the gates in the order reset, update (z), candidate (n).

    Attributes:
        weight_ih: `[3H, I]`.
        weight_hh: `[3H, H]`.
        bias: `[3H]`.
        bias_hn: the bias within the reset product, `[H]`.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array
    bias_hn: Array


class GRUState(NamedTuple):
    """What one layer remembers between two time steps.

    Attributes:
        h: the hidden state, `[..., H]`.
    """

    h: Array


class GRUGates(NamedTuple):
    """What the gates of one layer are at a time step.

    Attributes:
        r: the reset gate, `[..., H]`, from 0 to 1.
        z: the update gate, from 0 to 1.
        n: the candidate, from -1 to 1.
    """

    r: Array
    z: Array
    n: Array


def _linear(params: GRUParams, h: Array, x: Array) -> tuple[Array, Array, Array]:
    a_r, a_z, a_n = jnp.split(times(params.weight_ih, x) + params.bias, 3)
    u_r, u_z, u_n = jnp.split(params.weight_hh @ h, 3)
    # Kept by three, four blocks and not six: 0.91 of the time of a training step at H=128.
    return jnp.concatenate([a_r + u_r, a_z + u_z]), a_n, u_n


def _linear_all(params: GRUParams, hs: Array, xs: Array) -> tuple[Array, Array, Array]:
    (w_rz, w_n), (u_rz, u_n), (b_rz, b_n) = (jnp.split(array, [2 * hs.shape[1]]) for array in params[:3])
    return times_all((w_rz, xs), (u_rz, hs), bias=b_rz), times_all((w_n, xs), bias=b_n), times_all((u_n, hs))


def _activations(params: GRUParams, parts: tuple[Array, Array, Array], state: GRUState) -> GRUGates:
    rz, a_n, u_n = parts
    r, z = activate(rz, SIGMOID, SIGMOID)
    return GRUGates(r, z, jnp.tanh(a_n + r * (u_n + params.bias_hn)))


def _gates(params: GRUParams, parts: tuple[Array, Array, Array], state: GRUState) -> tuple[GRUState, Array]:
    _, z, n = _activations(params, parts, state)
    h = (1 - z) * n + z * state.h
    return GRUState(h), h


def zero_state(params: Any) -> GRUState:
    """Return a hidden state of zeros."""
    return GRUState(jnp.zeros(params.weight_hh.shape[1], params.weight_hh.dtype))


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> GRUParams:
    """Draw as for the LSTM; the update gate starts open as its forget gate does, so that the state is kept."""
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, 1, scale], fan_in)
    bias = biases(steep, 0, 1, 0)
    return GRUParams(weight_ih, orthogonal(normal, 3, sizes.hidden), bias, constants(steep, 0))


GRU = Cell(
    _linear,
    _gates,
    zero_state,
    name="gru",
    draw=_draw,
    activations=_activations,
    blocks=GRUParams("rzn", "rzn", "rzn", "n"),  # type: ignore[arg-type]
    linear_all=_linear_all,
    pads=True,
)
