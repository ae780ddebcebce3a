"""The LSTM: Hochreiter & Schmidhuber, *Long Short-Term Memory* (1997).

The forget gate is from Gers, Schmidhuber & Cummins, *Learning to Forget* (2000), the way back as Graves, *Supervised
Sequence Labelling with Recurrent Neural Networks* (2012), gives it.

    i = sigmoid(W_i x + U_i h + b_i)        input gate
    f = sigmoid(W_f x + U_f h + b_f)        forget gate
    g =    tanh(W_g x + U_g h + b_g)        what could be written into the cell
    o = sigmoid(W_o x + U_o h + b_o)        output gate
    c' = f c + i g
    h' = o tanh(c')

`weight_ih [4H, I]` stacks the W, `weight_hh [4H, H]` the U and `bias [4H]` the b, in the order i f g o.

Example:
    >>> from collections import namedtuple
    >>> params = namedtuple("Params", "weight_ih weight_hh bias")(np.zeros((12, 2)), np.zeros((12, 3)), np.zeros(12))
    >>> h, state = np.zeros(3), HiddenAndCell(h=np.zeros(3), c=np.full(3, 8.0))
    >>> LSTM.step(params, np.ones(2), h, state)[0].c.tolist()  # half of it is kept
    [4.0, 4.0, 4.0]
"""

from typing import Any

import numpy as np

from jlstm.reference.cell import Array, Cell, HiddenAndCell, sigmoid

__all__ = ["LSTM"]


def _zero(params: Any) -> HiddenAndCell:
    return HiddenAndCell(*np.zeros((2, params.weight_hh.shape[1])))


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    z_i, z_f, z_g, z_o = np.split(params.weight_ih @ x + params.weight_hh @ h + params.bias, 4)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * state.c + i * g
    return state._replace(h=o * np.tanh(c), c=c), (x, h, state.c, i, f, g, o, c)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, c_before, i, f, g, o, c = kept
    do = dstate.h * np.tanh(c)
    dc = dstate.c + dstate.h * o * (1 - np.tanh(c) ** 2)
    di, df, dg = dc * g, dc * c_before, dc * i
    dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])
    gradient = type(params)(weight_ih=np.outer(dz, x), weight_hh=np.outer(dz, h), bias=dz)
    dbefore = dstate._replace(h=np.zeros_like(dstate.h), c=dc * f)  # h is read by the products alone
    return gradient, params.weight_ih.T @ dz, params.weight_hh.T @ dz, dbefore


LSTM = Cell(_zero, _step, _back)
