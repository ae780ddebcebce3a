"""The LSTM:

    z       = W_ih x + W_hh h + b            the pre-activations of all four gates
    i, f, o = σ(z_i), σ(z_f), σ(z_o)         input, forget and output gate
    g       = tanh(z_g)                      the candidate for the cell state
    c'      = f ⊙ c + i ⊙ g                  the cell state
    h'      = o ⊙ tanh(c')                   the hidden state

Sources: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; the forget gate is from Gers, Schmidhuber and
Cummins, "Learning to Forget", 2000.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jlstm.cells.activations import SIGMOID, TANH, activate
from jlstm.cells.cell import Cell, Sizes, checked_step
from jlstm.cells.initializers import biases, input_weights, orthogonal
from jlstm.cells.products import times, times_all

__all__ = ["LSTM", "LSTMGates", "LSTMParams", "LSTMState", "linear", "linear_all", "lstm_cell", "zero_state"]


class LSTMParams(NamedTuple):
    """The parameters of one LSTM layer, the gates in the order input, forget, cell (g), output.

    Attributes:
        weight_ih: the weights from the input to the gates, `[4H, I]`, as torch and ONNX have them.
        weight_hh: the weights from the hidden state to the gates, `[4H, H]`.
        bias: the bias of the gates, `[4H]`.

    Example:
        >>> params = LSTMParams(jnp.zeros((20, 3)), jnp.zeros((20, 5)), jnp.zeros(20))
        >>> params.weight_hh.shape
        (20, 5)
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array


class LSTMState(NamedTuple):
    """What one LSTM layer remembers between two time steps.

    Attributes:
        h: the hidden state, `[..., H]`.
        c: the cell state, `[..., H]`.

    Example:
        >>> LSTMState(h=jnp.zeros((2, 5)), c=jnp.zeros((2, 5))).h.shape
        (2, 5)
    """

    h: Array
    c: Array


class LSTMGates(NamedTuple):
    """What the gates of one LSTM layer are at a time step.

    Attributes:
        i: the input gate, `[..., H]`, from 0 to 1.
        f: the forget gate, from 0 to 1.
        g: the candidate for the cell state, from -1 to 1.
        o: the output gate, from 0 to 1.

    Example:
        >>> LSTMGates(*jnp.zeros((4, 5))).f.shape
        (5,)
    """

    i: Array
    f: Array
    g: Array
    o: Array


def linear(params: Any, h: Array, x: Array) -> Array:
    """Return the pre-activations z of all gates."""
    return times(params.weight_ih, x) + params.weight_hh @ h + params.bias


def linear_all(params: Any, hs: Array, xs: Array) -> Array:
    """Return those of many steps at once."""
    return times_all((params.weight_ih, xs), (params.weight_hh, hs), bias=params.bias)


def _activations(params: LSTMParams, z: Array, state: LSTMState) -> LSTMGates:
    return LSTMGates(*activate(z, SIGMOID, SIGMOID, TANH, SIGMOID))


def _gates(params: LSTMParams, z: Array, state: LSTMState) -> tuple[LSTMState, Array]:
    i, f, g, o = _activations(params, z, state)
    c = f * state.c + i * g
    h = o * jnp.tanh(c)
    return LSTMState(h, c), h


def zero_state(params: Any) -> LSTMState:
    """Return a hidden and a cell state of zeros."""
    # Two arrays: one in both places could not be donated.
    return LSTMState(*(jnp.zeros(params.weight_hh.shape[1], params.weight_hh.dtype) for _ in LSTMState._fields))


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> LSTMParams:
    """Draw the parameters.

    The forget gate starts open, so that the cell remembers (Gers, Schmidhuber and Cummins, 2000; Jozefowicz, Zaremba
    and Sutskever, "An Empirical Exploration of Recurrent Network Architectures", 2015). Only the candidate is steep: a
    steep forget gate latches, and the network fails beyond the lengths it was trained on.
    """
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, 1, scale, 1], fan_in)
    return LSTMParams(weight_ih, orthogonal(normal, 4, sizes.hidden), biases(steep, 0, 1, 0, 0))


def _remembering(params: LSTMParams, chosen: Any, spans: Any) -> LSTMParams:
    """Start units with b_f = -b_i = log T, so that they forget and write about a T-th part of their state a step.

    Over T steps, neither what they keep nor its gradient vanishes (Tallec and Ollivier, "Can Recurrent Neural Networks
    Warp Time?", 2018).
    """
    arrays = params.bias.__array_namespace__()
    i, f, g, o = arrays.split(params.bias, 4)
    i, f = arrays.where(chosen, -spans, i), arrays.where(chosen, spans, f)
    return params._replace(bias=arrays.concat([i, f, g, o]).astype(params.bias.dtype))


LSTM = Cell(
    linear,
    _gates,
    zero_state,
    name="lstm",
    draw=_draw,
    activations=_activations,
    blocks=LSTMParams("ifgo", "ifgo", "ifgo"),  # type: ignore[arg-type]
    linear_all=linear_all,
    pads=True,
    remembering=_remembering,
)


def lstm_cell(params: LSTMParams, state: LSTMState, x: Array) -> tuple[LSTMState, Array]:
    """Take one time step of an LSTM.

    z = W_ih x + W_hh h + b;  i, f, o = σ(z_i), σ(z_f), σ(z_o);  g = tanh(z_g);  c' = f ⊙ c + i ⊙ g;  h' = o ⊙ tanh(c')
    (Hochreiter and Schmidhuber, 1997; the forget gate f: Gers, Schmidhuber and Cummins, 2000).

    Args:
        params: the layer's parameters; their dtype decides, and `state` and `x` are cast to it.
        state: the state before the step, `[..., H]`; with or without a batch axis.
        x: the input, `[..., I]`; or class ids, integers `[...]`, which stand for one-hot vectors.

    Returns:
        The state after the step and the output, which is the hidden state `[..., H]`.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> import jax
        >>> params = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
        >>> state, h = lstm_cell(params, LSTM.zero_state(params), jnp.ones(3))
        >>> h.shape, state.c.shape
        ((5,), (5,))
    """
    return checked_step(LSTM, params, state, x)
