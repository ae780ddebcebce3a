"""The LSTM whose hidden state is a projection: Sak, Senior & Beaufays (2014).

*Long Short-Term Memory Recurrent Neural Network Architectures for Large Scale Acoustic Modeling*, without its peepholes
and its second output, as torch has it with `proj_size`.

    i = sigmoid(W_i x + U_i h + b_i)        input gate
    f = sigmoid(W_f x + U_f h + b_f)        forget gate
    g =    tanh(W_g x + U_g h + b_g)
    o = sigmoid(W_o x + U_o h + b_o)        output gate
    c' = f c + i g
    h' = R (o tanh(c'))

`weight_ih [4H, I]` stacks the W, `weight_hh [4H, P]` the U and `bias [4H]` the b, in the order i f g o; `weight_hr
[P, H]` is R. The state is `h [P]` and `c [H]`.

Example:
    >>> from collections import namedtuple
    >>> shapes = (12, 2), (12, 1), 12, (1, 3)
    >>> params = namedtuple("Params", "weight_ih weight_hh bias weight_hr")(*map(np.zeros, shapes))
    >>> state = PROJECTED.zero(params)
    >>> [array.shape for array in PROJECTED.step(params, np.ones(2), state.h, state)[0]]
    [(1,), (3,)]
"""

from typing import Any

import numpy as np

from jlstm.reference.cell import Array, Cell, HiddenAndCell, sigmoid

__all__ = ["PROJECTED"]


def _zero(params: Any) -> HiddenAndCell:
    return HiddenAndCell(*map(np.zeros, params.weight_hr.shape))


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    z_i, z_f, z_g, z_o = np.split(params.weight_ih @ x + params.weight_hh @ h + params.bias, 4)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * state.c + i * g
    return state._replace(h=params.weight_hr @ (o * np.tanh(c)), c=c), (x, h, state.c, i, f, g, o, c)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, c_before, i, f, g, o, c = kept
    dread = params.weight_hr.T @ dstate.h  # by o tanh(c')
    do = dread * np.tanh(c)
    dc = dstate.c + dread * o * (1 - np.tanh(c) ** 2)
    di, df, dg = dc * g, dc * c_before, dc * i
    dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])
    dR = np.outer(dstate.h, o * np.tanh(c))
    gradient = type(params)(weight_ih=np.outer(dz, x), weight_hh=np.outer(dz, h), bias=dz, weight_hr=dR)
    dbefore = dstate._replace(h=np.zeros_like(dstate.h), c=dc * f)
    return gradient, params.weight_ih.T @ dz, params.weight_hh.T @ dz, dbefore


PROJECTED = Cell(_zero, _step, _back)
