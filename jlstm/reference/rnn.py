"""The simple recurrent network: Elman, *Finding Structure in Time* (1990).

    h' = tanh(W x + U h + b)

`weight_ih [H, I]` is W, `weight_hh [H, H]` U and `bias [H]` b.

Example:
    >>> from collections import namedtuple
    >>> params = namedtuple("Params", "weight_ih weight_hh bias")(np.zeros((1, 2)), np.ones((1, 1)), np.zeros(1))
    >>> state = Hidden(h=np.array([0.5]))
    >>> RNN.step(params, np.ones(2), state.h, state)[0].h == np.tanh(0.5)
    array([ True])
"""

from typing import Any

import numpy as np

from jlstm.reference.cell import Array, Cell, Hidden

__all__ = ["RNN"]


def _zero(params: Any) -> Hidden:
    return Hidden(np.zeros(params.weight_hh.shape[1]))


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    after = np.tanh(params.weight_ih @ x + params.weight_hh @ h + params.bias)
    return state._replace(h=after), (x, h, after)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, after = kept
    dz = dstate.h * (1 - after**2)
    gradient = type(params)(weight_ih=np.outer(dz, x), weight_hh=np.outer(dz, h), bias=dz)
    dbefore = dstate._replace(h=np.zeros_like(dstate.h))  # h is read by the product alone
    return gradient, params.weight_ih.T @ dz, params.weight_hh.T @ dz, dbefore


RNN = Cell(_zero, _step, _back)
