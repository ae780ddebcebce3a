"""The LSTM with coupled gates (CIFG): what is written takes the place of what is forgotten.

    z    = W_ih x + W_hh h + b
    i, o = σ(z_i), σ(z_o)
    g    = tanh(z_g)
    f    = 1 - i
    c'   = f ⊙ c + i ⊙ g
    h'   = o ⊙ tanh(c')

Source: Greff, Srivastava, Koutník, Steunebrink and Schmidhuber, "LSTM: A Search Space Odyssey", 2017.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jlstm.cells.activations import SIGMOID, TANH, activate
from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.initializers import biases, input_weights, orthogonal
from jlstm.cells.lstm import LSTMGates, LSTMState, linear, linear_all, zero_state

__all__ = ["COUPLED", "CoupledParams"]


class CoupledParams(NamedTuple):
    """The parameters of one layer, the gates in the order input, cell (g), output.

    Attributes:
        weight_ih: `[3H, I]`.
        weight_hh: `[3H, H]`.
        bias: `[3H]`.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array


def _activations(params: CoupledParams, z: Array, state: LSTMState) -> LSTMGates:
    i, g, o = activate(z, SIGMOID, TANH, SIGMOID)
    return LSTMGates(i, 1 - i, g, o)


def _gates(params: CoupledParams, z: Array, state: LSTMState) -> tuple[LSTMState, Array]:
    i, f, g, o = _activations(params, z, state)
    c = f * state.c + i * g
    h = o * jnp.tanh(c)
    return LSTMState(h, c), h


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> CoupledParams:
    """Draw as for the LSTM; the input gate's bias is -1, so that the forget gate starts as open as the LSTM's, σ(1)."""
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, scale, 1], fan_in)
    return CoupledParams(weight_ih, orthogonal(normal, 3, sizes.hidden), biases(steep, -1, 0, 0))


COUPLED = Cell(
    linear,
    _gates,
    zero_state,
    name="coupled",
    draw=_draw,
    activations=_activations,
    blocks=CoupledParams("igo", "igo", "igo"),  # type: ignore[arg-type]
    linear_all=linear_all,
    pads=True,
)
