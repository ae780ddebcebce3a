"""The sLSTM of xLSTM, whose input and forget gates are exponential:

    a    = W_ih x + W_hh h + b
    i, f = exp(a_i), exp(a_f)
    z, o = tanh(a_z), σ(a_o)            the candidate, and the output gate
    c'   = f ⊙ c + i ⊙ z                the cell state
    n'   = f ⊙ n + i                    the normaliser
    h'   = o ⊙ c' / n'

Exponentials overflow, so c and n are kept as parts of exp(m), by the stabiliser m' = max(a_f + m, a_i): it scales both
and changes no h. Before the first step c, n and exp(m) are 0. W_hh is one matrix; the paper's is made of blocks.

Source: Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jlstm.cells.activations import SIGMOID, TANH, activate
from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.initializers import biases, input_weights, orthogonal
from jlstm.cells.lstm import linear, linear_all

__all__ = ["SLSTM", "SLSTMGates", "SLSTMParams", "SLSTMState"]


class SLSTMParams(NamedTuple):
    """The parameters of one layer, the gates in the order input, forget, candidate (z), output.

    Attributes:
        weight_ih: `[4H, I]`.
        weight_hh: `[4H, H]`.
        bias: `[4H]`.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array


class SLSTMState(NamedTuple):
    """What one layer remembers between two time steps.

    Attributes:
        h: the hidden state, `[..., H]`.
        c: the cell state divided by exp(m), `[..., H]`.
        n: the normaliser divided by exp(m), `[..., H]`, 1 at the least after the first step.
        m: the stabiliser, `[..., H]`.
    """

    h: Array
    c: Array
    n: Array
    m: Array


class SLSTMGates(NamedTuple):
    """What the gates of one layer are at a time step.

    Attributes:
        i: the input gate divided by exp(m'), `[..., H]`, from 0 to 1.
        f: the forget gate times exp(m - m'), from 0 to 1.
        z: the candidate, from -1 to 1.
        o: the output gate, from 0 to 1.
    """

    i: Array
    f: Array
    z: Array
    o: Array


def _activations(params: SLSTMParams, a: Array, state: SLSTMState) -> SLSTMGates:
    log_i, log_f, a_z, a_o = jnp.split(a, 4)
    m = _stabiliser(a, state)
    z, o = activate(jnp.concatenate([a_z, a_o]), TANH, SIGMOID)
    # As one array, behind a barrier as in `activate`: 0.82 of the time of a training step at H=128.
    i, f = jnp.split(jax.lax.optimization_barrier(jnp.exp(jnp.concatenate([log_i - m, log_f + state.m - m]))), 2)
    return SLSTMGates(i, f, z, o)


def _gates(params: SLSTMParams, a: Array, state: SLSTMState) -> tuple[SLSTMState, Array]:
    i, f, z, o = _activations(params, a, state)
    c = f * state.c + i * z
    n = f * state.n + i
    h = o * c / n
    return SLSTMState(h, c, n, _stabiliser(a, state)), h


def _stabiliser(a: Array, state: SLSTMState) -> Array:
    log_i, log_f, *_ = jnp.split(a, 4)
    return jnp.maximum(log_f + state.m, log_i)


def _zero_state(params: SLSTMParams) -> SLSTMState:
    dtype = params.weight_hh.dtype
    h, c, n = (jnp.zeros(params.weight_hh.shape[1], dtype) for _ in range(3))
    return SLSTMState(h, c, n, jnp.full_like(h, jnp.finfo(jnp.float16).min))  # exp of it is 0 in every dtype


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> SLSTMParams:
    """Draw as for the LSTM, but all biases 0: where i = f = 1 the cell state is the mean of all candidates."""
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, 1, scale, 1], fan_in)
    return SLSTMParams(weight_ih, orthogonal(normal, 4, sizes.hidden), biases(steep, 0, 0, 0, 0))


SLSTM = Cell(
    linear,
    _gates,
    _zero_state,
    name="slstm",
    draw=_draw,
    activations=_activations,
    blocks=SLSTMParams("ifzo", "ifzo", "ifzo"),  # type: ignore[arg-type]
    linear_all=linear_all,
    pads=True,
    averages=False,
)
