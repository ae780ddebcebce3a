"""The GRU that resets after the product: Cho et al. (2014) in the form of cuDNN, which torch has too.

Cho et al., *Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation* (2014).

    r = sigmoid(W_r x + U_r h + b_r)                reset gate
    z = sigmoid(W_z x + U_z h + b_z)                update gate, which keeps what was there
    n =    tanh(W_n x + b_n + r (U_n h + e))
    h' = (1 - z) n + z h

`weight_ih [3H, I]` stacks the W, `weight_hh [3H, H]` the U and `bias [3H]` the b, in the order r z n; `bias_hn [H]` is
e.

Example:
    >>> from collections import namedtuple
    >>> params = namedtuple("Params", "weight_ih weight_hh bias bias_hn")(*map(np.zeros, ((3, 2), (3, 1), 3, 1)))
    >>> GRU.step(params, np.ones(2), np.zeros(1), Hidden(h=np.array([8.0])))[0].h.tolist()  # half of it is kept
    [4.0]
"""

from typing import Any

import numpy as np

from jlstm.reference.cell import Array, Cell, Hidden, sigmoid

__all__ = ["GRU"]


def _zero(params: Any) -> Hidden:
    return Hidden(np.zeros(params.weight_hh.shape[1]))


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    x_r, x_z, x_n = np.split(params.weight_ih @ x + params.bias, 3)
    h_r, h_z, h_n = np.split(params.weight_hh @ h, 3)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    inner = h_n + params.bias_hn
    n = np.tanh(x_n + r * inner)
    return state._replace(h=(1 - z) * n + z * state.h), (x, h, state.h, r, z, n, inner)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, h_before, r, z, n, inner = kept
    dz, dn = dstate.h * (h_before - n), dstate.h * (1 - z)
    dx_n = dn * (1 - n**2)
    dx_r, dx_z = dx_n * inner * r * (1 - r), dz * z * (1 - z)
    dinner = dx_n * r
    dfrom_x, dfrom_h = np.concatenate([dx_r, dx_z, dx_n]), np.concatenate([dx_r, dx_z, dinner])
    gradient = type(params)(
        weight_ih=np.outer(dfrom_x, x), weight_hh=np.outer(dfrom_h, h), bias=dfrom_x, bias_hn=dinner
    )
    return gradient, params.weight_ih.T @ dfrom_x, params.weight_hh.T @ dfrom_h, dstate._replace(h=dstate.h * z)


GRU = Cell(_zero, _step, _back)
