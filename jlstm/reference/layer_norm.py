"""The layer-normalised LSTM: Ba, Kiros & Hinton, *Layer Normalization* (2016).

    N(v) = (v - mean(v)) / sqrt(var(v) + 1e-5)      over the whole vector, all gates together
    z = p N(W x) + q N(U h) + b                     in four blocks, z_i z_f z_g z_o
    i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o)
    g = tanh(z_g)
    c' = f c + i g
    h' = o tanh(r N(c') + s)

`weight_ih [4H, I]` is W, `weight_hh [4H, H]` U, `bias [4H]` b, `gain_ih [4H]` p, `gain_hh [4H]` q, `gain_c [H]` r and
`shift_c [H]` s. The state's c is not normalised.

Example:
    >>> from collections import namedtuple
    >>> names = "weight_ih weight_hh bias gain_ih gain_hh gain_c shift_c"
    >>> params = namedtuple("Params", names)(*map(np.ones, ((8, 3), (8, 2), 8, 8, 8, 2, 2)))
    >>> state = LAYER_NORM.zero(params)
    >>> few, many = (LAYER_NORM.step(params, x * np.ones(3), state.h, state)[0] for x in (1, 1000))
    >>> np.array_equal(few.h, many.h)  # all rows of W x are the same, and N takes their mean away
    True
"""

from typing import Any

import numpy as np

from jlstm.reference.cell import Array, Cell, HiddenAndCell, sigmoid

__all__ = ["LAYER_NORM"]


def _zero(params: Any) -> HiddenAndCell:
    return HiddenAndCell(*np.zeros((2, params.weight_hh.shape[1])))


def _deviation(v: Array) -> float:
    return np.sqrt(np.mean((v - np.mean(v)) ** 2) + 1e-5)


def _normal(v: Array) -> Array:
    return (v - np.mean(v)) / _deviation(v)


def _normal_back(v: Array, d: Array) -> Array:
    """From the derivative by N(v) to that by v: the mean moves with every entry, and so does the deviation."""
    return (d - np.mean(d) - _normal(v) * np.mean(d * _normal(v))) / _deviation(v)


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    from_x, from_h = params.weight_ih @ x, params.weight_hh @ h
    z = params.gain_ih * _normal(from_x) + params.gain_hh * _normal(from_h) + params.bias
    z_i, z_f, z_g, z_o = np.split(z, 4)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * state.c + i * g
    read = np.tanh(params.gain_c * _normal(c) + params.shift_c)
    return state._replace(h=o * read, c=c), (x, h, state.c, from_x, from_h, i, f, g, o, c, read)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, c_before, from_x, from_h, i, f, g, o, c, read = kept
    do = dstate.h * read
    dshift = dstate.h * o * (1 - read**2)
    dc = dstate.c + _normal_back(c, dshift * params.gain_c)
    di, df, dg = dc * g, dc * c_before, dc * i
    dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])
    dfrom_x = _normal_back(from_x, dz * params.gain_ih)
    dfrom_h = _normal_back(from_h, dz * params.gain_hh)
    gradient = type(params)(
        weight_ih=np.outer(dfrom_x, x),
        weight_hh=np.outer(dfrom_h, h),
        bias=dz,
        gain_ih=dz * _normal(from_x),
        gain_hh=dz * _normal(from_h),
        gain_c=dshift * _normal(c),
        shift_c=dshift,
    )
    dbefore = dstate._replace(h=np.zeros_like(dstate.h), c=dc * f)
    return gradient, params.weight_ih.T @ dfrom_x, params.weight_hh.T @ dfrom_h, dbefore


LAYER_NORM = Cell(_zero, _step, _back)
