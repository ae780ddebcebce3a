"""The sLSTM, with exponential gates: Beck et al., *xLSTM: Extended Long Short-Term Memory* (2024).

    i =     exp(W_i x + U_i h + b_i)        input gate
    f =     exp(W_f x + U_f h + b_f)        forget gate
    g =    tanh(W_z x + U_z h + b_z)        what could be written into the cell
    o = sigmoid(W_o x + U_o h + b_o)        output gate
    c' = f c + i g
    n' = f n + i                            how much was written into it
    h' = o c' / n'

`weight_ih [4H, I]` stacks the W, `weight_hh [4H, H]` the U and `bias [4H]` the b, in the order i f z o.

The state `(h, c, n, m)` holds c and n times exp(-m), where m' = max(log f + m, log i): so they stay in the range of a
float. Here they are unpacked before they are used and packed again afterwards, so that the
witness computes with the values themselves, which may overflow where a stabilised cell does not. Derivatives by c and n
are by those values; m is only how they are written down, and has none. The zero state's m is the least that
16 bits can hold, of which exp(m) is 0.

Example:
    >>> from collections import namedtuple
    >>> params = namedtuple("Params", "weight_ih weight_hh bias")(np.zeros((4, 2)), np.zeros((4, 1)), np.ones(4))
    >>> state, _ = SLSTM.step(params, np.ones(2), np.zeros(1), SLSTM.zero(params))
    >>> state.n * np.exp(state.m) == np.exp(1)  # i alone
    array([ True])
"""

from typing import Any, NamedTuple

import numpy as np

from jlstm.reference.cell import Array, Cell, sigmoid

__all__ = ["SLSTM"]


class State(NamedTuple):
    """The state of the sLSTM, each `[H]`, where c and n are the values times exp(-m)."""

    h: Array
    c: Array
    n: Array
    m: Array


def _zero(params: Any) -> State:
    h, c, n, m = np.zeros((4, params.weight_hh.shape[1]))
    return State(h, c, n, m + np.finfo(np.float16).min)


def _step(params: Any, x: Array, h: Array, state: Any) -> tuple[Any, Any]:
    z_i, z_f, z_g, z_o = np.split(params.weight_ih @ x + params.weight_hh @ h + params.bias, 4)
    i, f, g, o = np.exp(z_i), np.exp(z_f), np.tanh(z_g), sigmoid(z_o)
    c_before, n_before = state.c * np.exp(state.m), state.n * np.exp(state.m)
    c, n = f * c_before + i * g, f * n_before + i
    m = np.maximum(z_f + state.m, z_i)
    after = state._replace(h=o * c / n, c=c * np.exp(-m), n=n * np.exp(-m), m=m)
    return after, (x, h, c_before, n_before, i, f, g, o, c, n)


def _back(params: Any, kept: Any, dstate: Any) -> tuple[Any, Array, Array, Any]:
    """`da` is the loss's derivative by a."""
    x, h, c_before, n_before, i, f, g, o, c, n = kept
    do = dstate.h * c / n
    dc = dstate.c + dstate.h * o / n
    dn = dstate.n - dstate.h * o * c / n**2
    di, df, dg = dc * g + dn, dc * c_before + dn * n_before, dc * i
    dz = np.concatenate([di * i, df * f, dg * (1 - g**2), do * o * (1 - o)])
    gradient = type(params)(weight_ih=np.outer(dz, x), weight_hh=np.outer(dz, h), bias=dz)
    nothing = np.zeros_like(dstate.h)
    dbefore = dstate._replace(h=nothing, c=dc * f, n=dn * f, m=nothing)
    return gradient, params.weight_ih.T @ dz, params.weight_hh.T @ dz, dbefore


SLSTM = Cell(_zero, _step, _back)
