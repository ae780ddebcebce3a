"""The LSTM with peepholes, whose gates look at the cell state:

    z  = W_ih x + W_hh h + b
    i  = σ(z_i + p_i ⊙ c)        the input gate and the forget gate look at the cell state before the step,
    f  = σ(z_f + p_f ⊙ c)
    g  = tanh(z_g)
    c' = f ⊙ c + i ⊙ g
    o  = σ(z_o + p_o ⊙ c')       the output gate at the one after it
    h' = o ⊙ tanh(c')

Sources: Gers and Schmidhuber, "Recurrent Nets that Time and Count", 2000; Gers, Schraudolph and Schmidhuber, "Learning
Precise Timing with LSTM Recurrent Networks", 2002.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jlstm.cells.activations import SIGMOID, TANH, activate
from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.initializers import biases, constants, input_weights, orthogonal
from jlstm.cells.lstm import LSTMGates, LSTMState, linear, linear_all, zero_state

__all__ = ["PEEPHOLE", "PeepholeParams"]


class PeepholeParams(NamedTuple):
    """The parameters of one layer, the gates in the order input, forget, cell (g), output.

    Attributes:
        weight_ih: `[4H, I]`.
        weight_hh: `[4H, H]`.
        bias: `[4H]`.
        peephole: the weights from the cell state to the input, forget and output gate, `[3H]`.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array
    peephole: Array


def _activations(params: PeepholeParams, z: Array, state: LSTMState) -> LSTMGates:
    p_i, p_f, p_o = jnp.split(params.peephole, 3)
    z_i, z_f, z_g, z_o = jnp.split(z, 4)
    before = jnp.concatenate([z_i + p_i * state.c, z_f + p_f * state.c, z_g])
    i, f, g = activate(before, SIGMOID, SIGMOID, TANH)
    return LSTMGates(i, f, g, jax.nn.sigmoid(z_o + p_o * _cell_state(i, f, g, state)))


def _gates(params: PeepholeParams, z: Array, state: LSTMState) -> tuple[LSTMState, Array]:
    i, f, g, o = _activations(params, z, state)
    c = _cell_state(i, f, g, state)
    h = o * jnp.tanh(c)
    return LSTMState(h, c), h


def _cell_state(i: Array, f: Array, g: Array, state: LSTMState) -> Array:
    return f * state.c + i * g


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> PeepholeParams:
    """Draw as for the LSTM; the peepholes start closed, at 0, and open where the task needs them."""
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, 1, scale, 1], fan_in)
    bias = biases(steep, 0, 1, 0, 0)
    return PeepholeParams(weight_ih, orthogonal(normal, 4, sizes.hidden), bias, constants(steep, 0, 0, 0))


PEEPHOLE = Cell(
    linear,
    _gates,
    zero_state,
    name="peephole",
    draw=_draw,
    activations=_activations,
    blocks=PeepholeParams("ifgo", "ifgo", "ifgo", "ifo"),  # type: ignore[arg-type]
    linear_all=linear_all,
    pads=True,
)
