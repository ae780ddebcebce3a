"""The GRU as its paper has it, reset before the product: Cho et al. (2014).

*Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation*; here with biases.

    r = sigmoid(W_r x + U_r h + b_r)                reset gate
    z = sigmoid(W_z x + U_z h + b_z)                update gate, which keeps what was there
    n =    tanh(W_n x + U_n (r h) + b_n)
    h' = (1 - z) n + z h

`weight_ih [3H, I]` stacks the W and `bias [3H]` the b, in the order r z n; `weight_hh [2H, H]` stacks U_r and U_z, and
`weight_hn [H, H]` is U_n.

Example:
    >>> from collections import namedtuple
    >>> params = namedtuple("Params", "weight_ih weight_hh weight_hn bias")(*map(np.zeros, ((3, 2), (2, 1), (1, 1), 3)))
    >>> GRU_BEFORE.step(params, np.ones(2), np.zeros(1), Hidden(h=np.array([8.0])))[0].h.tolist()  # half of it is kept
    [4.0]
"""

from typing import Any

import numpy as np

from jlstm.reference.cell import Array, Cell, Hidden, sigmoid

__all__ = ["GRU_BEFORE"]


def _zero(params: Any) -> Hidden:
    return Hidden(np.zeros(params.weight_hh.shape[1]))


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    x_r, x_z, x_n = np.split(params.weight_ih @ x + params.bias, 3)
    h_r, h_z = np.split(params.weight_hh @ h, 2)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + params.weight_hn @ (r * h))
    return state._replace(h=(1 - z) * n + z * state.h), (x, h, state.h, r, z, n)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, h_before, r, z, n = kept
    dz, dn = dstate.h * (h_before - n), dstate.h * (1 - z)
    dx_n = dn * (1 - n**2)
    dread = params.weight_hn.T @ dx_n  # by r h
    dx_r, dx_z = dread * h * r * (1 - r), dz * z * (1 - z)
    dfrom_x, dfrom_h = np.concatenate([dx_r, dx_z, dx_n]), np.concatenate([dx_r, dx_z])
    gradient = type(params)(
        weight_ih=np.outer(dfrom_x, x),
        weight_hh=np.outer(dfrom_h, h),
        weight_hn=np.outer(dx_n, r * h),
        bias=dfrom_x,
    )
    dh = params.weight_hh.T @ dfrom_h + dread * r
    return gradient, params.weight_ih.T @ dfrom_x, dh, dstate._replace(h=dstate.h * z)


GRU_BEFORE = Cell(_zero, _step, _back)
