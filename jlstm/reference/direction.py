"""One direction of one layer through one sequence, step by step, and the way back through time (Werbos 1990).

old   = the state after the step that was read before, or zero where an episode starts
new   = step(x_t, a h of old, old)      a what recurrent dropout leaves of h (Gal & Ghahramani 2016)
state = k old + (1 - k) new             k what zoneout keeps (Krueger et al. 2017): 1 or 0, or its share
"""

from typing import Any, NamedTuple

import numpy as np

from jlstm.reference.cell import Array, Cell, mapped

__all__ = ["Way", "read", "read_back"]


class Way(NamedTuple):
    """How one direction of a layer goes through one sequence of T steps.

    Attributes:
        params: the cell's parameters, as it multiplies by them.
        state: the state before the first step that it reads.
        order: the steps, in the order in which it reads them.
        starts: before which steps the state is zero, `[T]`.
        recurrent: what h is multiplied by before the products, a number or `[H]`.
        keep: for each step a tuple like the state, of how much of the old state stays: numbers, or arrays like its own.
        left: whether an episode is left after the last step that it reads, so that the state at the end is zero.
    """

    params: Any
    state: Any
    order: range
    starts: Array
    recurrent: Any
    keep: list
    left: bool = False


def read(cell: Cell, way: Way, xs: Array) -> tuple[Array, list, Any]:
    """Read a sequence.

    Args:
        cell: the cell.
        way: how it goes through the sequence.
        xs: the inputs, `[T, I]`, in the order of time.

    Returns:
        Every h `[T, H]` in the order of time, what each step keeps in the order of reading, and the state at the end.

    Example:
        >>> from collections import namedtuple
        >>> from jlstm.reference.rnn import RNN
        >>> params = namedtuple("Params", "weight_ih weight_hh bias")(np.ones((1, 1)), np.zeros((1, 1)), np.zeros(1))
        >>> way = Way(params, RNN.zero(params), range(2), np.zeros(2, bool), 1.0, 2 * [RNN.zero(params)])
        >>> hs, _, end = read(RNN, way, np.array([[0.0], [1.0]]))
        >>> hs.round(3).tolist(), end.h.round(3).tolist()  # tanh 1
        ([[0.0], [0.762]], [0.762])
    """
    state, hs, kept = way.state, np.zeros((len(xs), len(way.state.h))), []
    for t in way.order:
        old = state._replace(**cell.zero(way.params)._asdict()) if way.starts[t] else state
        new, for_back = cell.step(way.params, xs[t], way.recurrent * old.h, old)
        state = mapped(lambda k, old, new: k * old + (1 - k) * new, way.keep[t], old, new)
        hs[t] = state.h
        kept.append(for_back)
    return hs, kept, state._replace(**cell.zero(way.params)._asdict()) if way.left else state


def read_back(cell: Cell, way: Way, kept: list, dhs: Array) -> tuple[Any, Array]:
    """Go back over what `read` read; `da` is the loss's derivative by a.

    Args:
        cell, way: as for `read`.
        kept: what each step kept.
        dhs: the derivative by every h, `[T, H]`.

    Returns:
        The gradient, like the parameters, and the derivative by every x, `[T, I]`.

    Example:
        >>> from collections import namedtuple
        >>> from jlstm.reference.rnn import RNN
        >>> params = namedtuple("Params", "weight_ih weight_hh bias")(np.ones((1, 1)), np.zeros((1, 1)), np.zeros(1))
        >>> way = Way(params, RNN.zero(params), range(2), np.zeros(2, bool), 1.0, 2 * [RNN.zero(params)])
        >>> _, kept, _ = read(RNN, way, np.zeros((2, 1)))
        >>> read_back(RNN, way, kept, np.ones((2, 1)))[0].bias.tolist()  # tanh has a slope of 1 at 0
        [2.0]
    """
    grad, dxs = mapped(np.zeros_like, way.params), np.zeros((len(dhs), way.params.weight_ih.shape[1]))
    dstate = mapped(np.zeros_like, way.state)  # by the state after the last step but for its output: nothing reads it
    for t, for_back in zip(reversed(way.order), reversed(kept), strict=True):
        dstate = dstate._replace(h=dstate.h + dhs[t])
        dnew = mapped(lambda k, d: (1 - k) * d, way.keep[t], dstate)
        step_grad, dxs[t], dh, dread = cell.back(way.params, for_back, dnew)
        dold = mapped(lambda k, d, dread: k * d + dread, way.keep[t], dstate, dread)
        dold = dold._replace(h=dold.h + way.recurrent * dh)
        dstate = mapped(np.zeros_like, dold) if way.starts[t] else dold
        for total, part in zip(grad, step_grad, strict=True):
            total += part
    return grad, dxs
