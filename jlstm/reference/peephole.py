"""The LSTM whose gates see the cell state: Gers & Schmidhuber, *Recurrent Nets that Time and Count* (2000).

In full, with its way back: Gers, Schraudolph & Schmidhuber, *Learning Precise Timing with LSTM Recurrent Networks*
(2002).

    i = sigmoid(W_i x + U_i h + b_i + p_i c)        input gate, sees the cell state before the step
    f = sigmoid(W_f x + U_f h + b_f + p_f c)        forget gate, too
    g =    tanh(W_g x + U_g h + b_g)
    c' = f c + i g
    o = sigmoid(W_o x + U_o h + b_o + p_o c')       output gate, sees the cell state after the step
    h' = o tanh(c')

`weight_ih [4H, I]` stacks the W, `weight_hh [4H, H]` the U and `bias [4H]` the b, in the order i f g o; `peephole [3H]`
stacks the p, in the order i f o.

Example:
    >>> from collections import namedtuple
    >>> params = namedtuple("Params", "weight_ih weight_hh bias peephole")(*map(np.zeros, ((4, 2), (4, 1), 4, 3)))
    >>> params = params._replace(peephole=np.array([0.0, 1000.0, 0.0]))
    >>> state = HiddenAndCell(h=np.zeros(1), c=np.array([8.0]))
    >>> PEEPHOLE.step(params, np.ones(2), state.h, state)[0].c.tolist()  # the forget gate sees c and opens
    [8.0]
"""

from typing import Any

import numpy as np

from jlstm.reference.cell import Array, Cell, HiddenAndCell, sigmoid

__all__ = ["PEEPHOLE"]


def _zero(params: Any) -> HiddenAndCell:
    return HiddenAndCell(*np.zeros((2, params.weight_hh.shape[1])))


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    z_i, z_f, z_g, z_o = np.split(params.weight_ih @ x + params.weight_hh @ h + params.bias, 4)
    p_i, p_f, p_o = np.split(params.peephole, 3)
    i, f, g = sigmoid(z_i + p_i * state.c), sigmoid(z_f + p_f * state.c), np.tanh(z_g)
    c = f * state.c + i * g
    o = sigmoid(z_o + p_o * c)
    return state._replace(h=o * np.tanh(c), c=c), (x, h, state.c, i, f, g, o, c)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, c_before, i, f, g, o, c = kept
    p_i, p_f, p_o = np.split(params.peephole, 3)
    dz_o = dstate.h * np.tanh(c) * o * (1 - o)
    dc = dstate.c + dstate.h * o * (1 - np.tanh(c) ** 2) + p_o * dz_o
    dz_i, dz_f, dz_g = dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g**2)
    dz = np.concatenate([dz_i, dz_f, dz_g, dz_o])
    dp = np.concatenate([dz_i * c_before, dz_f * c_before, dz_o * c])
    gradient = type(params)(weight_ih=np.outer(dz, x), weight_hh=np.outer(dz, h), bias=dz, peephole=dp)
    dbefore = dstate._replace(h=np.zeros_like(dstate.h), c=dc * f + p_i * dz_i + p_f * dz_f)
    return gradient, params.weight_ih.T @ dz, params.weight_hh.T @ dz, dbefore


PEEPHOLE = Cell(_zero, _step, _back)
