"""The simple recurrent network, the baseline:

    h' = tanh(W_ih x + W_hh h + b)

Source: Elman, "Finding Structure in Time", 1990.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.initializers import biases, input_weights, orthogonal
from jlstm.cells.lstm import linear, linear_all

__all__ = ["RNN", "RNNParams", "RNNState"]


class RNNParams(NamedTuple):
    """The parameters of one layer.

    Attributes:
        weight_ih: `[H, I]`.
        weight_hh: `[H, H]`.
        bias: `[H]`.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array


class RNNState(NamedTuple):
    """What one layer remembers between two time steps.

    Attributes:
        h: the hidden state, `[..., H]`.
    """

    h: Array


def _gates(params: RNNParams, z: Array, state: RNNState) -> tuple[RNNState, Array]:
    h = jnp.tanh(z)
    return RNNState(h), h


def _zero_state(params: RNNParams) -> RNNState:
    return RNNState(jnp.zeros(params.weight_hh.shape[1], params.weight_hh.dtype))


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> RNNParams:
    """Draw the weights as for the LSTM's candidate; an orthogonal matrix keeps what nothing else would."""
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [scale], fan_in)
    return RNNParams(weight_ih, orthogonal(normal, 1, sizes.hidden), biases(steep, 0))


RNN = Cell(
    linear,
    _gates,
    _zero_state,
    name="rnn",
    draw=_draw,
    blocks=RNNParams("h", "h", "h"),  # type: ignore[arg-type]
    linear_all=linear_all,
    pads=True,
)
