"""The LSTM with a projection (LSTMP), whose hidden state is narrower than its cell state:

    z       = W_ih x + W_hh h + b
    i, f, o = σ(z_i), σ(z_f), σ(z_o)
    g       = tanh(z_g)
    c'      = f ⊙ c + i ⊙ g
    h'      = W_hr (o ⊙ tanh(c'))

Source: Sak, Senior and Beaufays, "Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale
Acoustic Modeling", 2014; as torch's `proj_size`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jlstm.cells.activations import SIGMOID, TANH, activate
from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.initializers import biases, input_weights, orthogonal
from jlstm.cells.lstm import LSTMGates, LSTMState, linear, linear_all

__all__ = ["PROJECTED", "ProjectedParams"]


class ProjectedParams(NamedTuple):
    """The parameters of one layer, the gates in the order input, forget, cell (g), output.

    Attributes:
        weight_ih: `[4H, I]`.
        weight_hh: the weights from the hidden state, which is P wide, `[4H, P]`.
        bias: `[4H]`.
        weight_hr: the projection, `[P, H]`.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array
    weight_hr: Array


def _activations(params: ProjectedParams, z: Array, state: LSTMState) -> LSTMGates:
    return LSTMGates(*activate(z, SIGMOID, SIGMOID, TANH, SIGMOID))


def _gates(params: ProjectedParams, z: Array, state: LSTMState) -> tuple[LSTMState, Array]:
    i, f, g, o = _activations(params, z, state)
    c = f * state.c + i * g
    h = params.weight_hr @ (o * jnp.tanh(c))
    return LSTMState(h, c), h


def _zero_state(params: ProjectedParams) -> LSTMState:
    return LSTMState(*(jnp.zeros(size, params.weight_hr.dtype) for size in params.weight_hr.shape))


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> ProjectedParams:
    """Draw as for the LSTM; the matrices that are not square are parts of orthogonal ones."""
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, 1, scale, 1], fan_in)
    weight_hh = orthogonal(normal, 4, sizes.hidden)[:, : sizes.outputs]
    weight_hr = orthogonal(normal, 1, sizes.hidden)[: sizes.outputs]
    return ProjectedParams(weight_ih, weight_hh, biases(steep, 0, 1, 0, 0), weight_hr)


PROJECTED = Cell(
    linear,
    _gates,
    _zero_state,
    name="projected",
    draw=_draw,
    activations=_activations,
    blocks=ProjectedParams("ifgo", "ifgo", "ifgo", "r"),  # type: ignore[arg-type]
    linear_all=linear_all,
    pads=True,
    projects=True,
)
