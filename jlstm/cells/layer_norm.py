"""The layer-normalised LSTM:

    z       = α_ih ⊙ N(W_ih x) + α_hh ⊙ N(W_hh h) + b        N(v) = (v - mean of v) / standard deviation of v
    i, f, o = σ(z_i), σ(z_f), σ(z_o)
    g       = tanh(z_g)
    c'      = f ⊙ c + i ⊙ g
    h'      = o ⊙ tanh(α_c ⊙ N(c') + β_c)

The pre-activations of all four gates are normalised together. The paper's shifts of the first two parts are one with b.
Of a single feature, N leaves the sign alone: its size is lost, so this cell reads no number that stands by itself.

Source: Ba, Kiros and Hinton, "Layer Normalization", 2016.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jlstm.cells.activations import SIGMOID, TANH, activate
from jlstm.cells.cell import Cell, Sizes
from jlstm.cells.initializers import biases, constants, input_weights, orthogonal
from jlstm.cells.lstm import LSTMGates, LSTMState, zero_state
from jlstm.cells.products import times, times_all

__all__ = ["LAYER_NORM", "LayerNormParams"]

EPSILON = 1e-5  # added to the variance, as in torch: where all units are equal there is none


class LayerNormParams(NamedTuple):
    """The parameters of one layer, the gates in the order input, forget, cell (g), output.

    Attributes:
        weight_ih: `[4H, I]`.
        weight_hh: `[4H, H]`.
        bias: `[4H]`.
        gain_ih: the gains α_ih of the normalised input part, `[4H]`.
        gain_hh: the gains α_hh of the normalised hidden part, `[4H]`.
        gain_c: the gains α_c of the normalised cell state, `[H]`.
        shift_c: its shifts β_c, `[H]`.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array
    gain_ih: Array
    gain_hh: Array
    gain_c: Array
    shift_c: Array


def _linear(params: LayerNormParams, h: Array, x: Array) -> tuple[Array, Array]:
    return times(params.weight_ih, x), params.weight_hh @ h


def _linear_all(params: LayerNormParams, hs: Array, xs: Array) -> tuple[Array, Array]:
    return times_all((params.weight_ih, xs)), times_all((params.weight_hh, hs))


def _activations(params: LayerNormParams, z: tuple[Array, Array], state: LSTMState) -> LSTMGates:
    from_input, from_hidden = map(_normalised, z)
    together = params.gain_ih * from_input + params.gain_hh * from_hidden + params.bias
    return LSTMGates(*activate(together, SIGMOID, SIGMOID, TANH, SIGMOID))


def _gates(params: LayerNormParams, z: tuple[Array, Array], state: LSTMState) -> tuple[LSTMState, Array]:
    i, f, g, o = _activations(params, z, state)
    c = f * state.c + i * g
    h = o * jnp.tanh(params.gain_c * _normalised(c) + params.shift_c)
    return LSTMState(h, c), h


def _normalised(v: Array) -> Array:
    wide = v.astype(jnp.promote_types(v.dtype, jnp.float32))  # in float16 the gradient of 1 / sqrt(ε) overflows
    centred = wide - wide.mean()
    return (centred * jax.lax.rsqrt((centred**2).mean() + EPSILON)).astype(v.dtype)


def _draw(normal: Callable[..., Any], sizes: Sizes, scale: float, fan_in: int) -> LayerNormParams:
    """Draw as for the LSTM; gains are 1 and shifts 0, as everything is of standard deviation 1 already."""
    weight_ih, steep = input_weights(normal, sizes.inputs, sizes.hidden, [1, 1, scale, 1], fan_in)
    bias, recurrent = biases(steep, 0, 1, 0, 0), orthogonal(normal, 4, sizes.hidden)
    gain_ih, gain_hh = (constants(steep, 1, 1, 1, 1) for _ in range(2))  # no array twice: it could not be donated
    gain_c, shift_c = constants(steep, 1), constants(steep, 0)
    return LayerNormParams(weight_ih, recurrent, bias, gain_ih, gain_hh, gain_c, shift_c)


LAYER_NORM = Cell(
    _linear,
    _gates,
    zero_state,
    name="layer_norm",
    draw=_draw,
    activations=_activations,
    blocks=LayerNormParams("ifgo", "ifgo", "ifgo", "ifgo", "ifgo", "c", "c"),  # type: ignore[arg-type]
    linear_all=_linear_all,
)
