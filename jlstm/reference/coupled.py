"""The LSTM whose input gate writes what the forget gate lets go: Greff et al., *LSTM: A Search Space Odyssey* (2017).

    i = sigmoid(W_i x + U_i h + b_i)        input gate
    g =    tanh(W_g x + U_g h + b_g)
    o = sigmoid(W_o x + U_o h + b_o)        output gate
    c' = (1 - i) c + i g
    h' = o tanh(c')

`weight_ih [3H, I]` stacks the W, `weight_hh [3H, H]` the U and `bias [3H]` the b, in the order i g o.

Example:
    >>> from collections import namedtuple
    >>> params = namedtuple("Params", "weight_ih weight_hh bias")(np.zeros((3, 2)), np.zeros((3, 1)), np.zeros(3))
    >>> state = HiddenAndCell(h=np.zeros(1), c=np.array([8.0]))
    >>> COUPLED.step(params, np.ones(2), state.h, state)[0].c.tolist()  # half of it is overwritten
    [4.0]
"""

from typing import Any

import numpy as np

from jlstm.reference.cell import Array, Cell, HiddenAndCell, sigmoid

__all__ = ["COUPLED"]


def _zero(params: Any) -> HiddenAndCell:
    return HiddenAndCell(*np.zeros((2, params.weight_hh.shape[1])))


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    z_i, z_g, z_o = np.split(params.weight_ih @ x + params.weight_hh @ h + params.bias, 3)
    i, g, o = sigmoid(z_i), np.tanh(z_g), sigmoid(z_o)
    c = (1 - i) * state.c + i * g
    return state._replace(h=o * np.tanh(c), c=c), (x, h, state.c, i, g, o, c)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, c_before, i, g, o, c = kept
    do = dstate.h * np.tanh(c)
    dc = dstate.c + dstate.h * o * (1 - np.tanh(c) ** 2)
    di, dg = dc * (g - c_before), dc * i
    dz = np.concatenate([di * i * (1 - i), dg * (1 - g**2), do * o * (1 - o)])
    gradient = type(params)(weight_ih=np.outer(dz, x), weight_hh=np.outer(dz, h), bias=dz)
    dbefore = dstate._replace(h=np.zeros_like(dstate.h), c=dc * (1 - i))
    return gradient, params.weight_ih.T @ dz, params.weight_hh.T @ dz, dbefore


COUPLED = Cell(_zero, _step, _back)
