"""What a cell of the witness is, and the few lines that several of them need."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Array", "Cell", "Hidden", "HiddenAndCell", "mapped", "sigmoid"]

Array = np.ndarray


class Cell(NamedTuple):
    """One time step of one sequence and the way back through it, in float64 and written out by hand.

    Parameters and states are NamedTuples of any type that has the cell's fields, and come back as the same type.

    Attributes:
        zero: `zero(params) -> state`, the state before the first step; its field `h` is what the cell puts out.
        step: `step(params, x, h, state) -> (state, kept)`; `x [I]` is the input and `h` the hidden state as the
            products read it, which recurrent dropout may have thinned; what is elementwise reads the one in `state`.
            `kept` is whatever the way back needs.
        back: `back(params, kept, dstate) -> (gradient, dx, dh, dstate)`, from the loss's derivative by the state after
            the step to those by the parameters, by `x`, by `h` and by the state before the step.
    """

    zero: Callable[[Any], Any]
    step: Callable[[Any, Array, Array, Any], tuple[Any, Any]]
    back: Callable[[Any, Any, Any], tuple[Any, Array, Array, Any]]


class Hidden(NamedTuple):
    """The state of a cell that has a hidden state alone, `h [H]`."""

    h: Array


class HiddenAndCell(NamedTuple):
    """The state of a cell that has a hidden state `h [H]` and a cell state `c [H]`."""

    h: Array
    c: Array


def sigmoid(z: Array) -> Array:
    """Compute the logistic function `1 / (1 + exp(-z))`, or where z < 0 the same as `exp(z) / (1 + exp(z))`.

    So neither exponential can overflow.

    Args:
        z: floats of any shape.

    Returns:
        Floats of the same shape, from 0 to 1.

    Example:
        >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(z))
    return np.where(z < 0, small, 1) / (1 + small)


def mapped(function: Callable[..., Any], *trees: Any) -> Any:
    """Call a function on each array of a tree of tuples, or on the arrays in the same place of several.

    Args:
        function: takes as many arrays as there are trees.
        trees: tuples, NamedTuples and lists of these or of arrays, all of the same form.

    Returns:
        A tree like the first of what the function returned.

    Example:
        >>> mapped(np.add, (1, (2, 3)), (10, (20, 30)))
        (np.int64(11), (np.int64(22), np.int64(33)))
    """
    first = trees[0]
    if not isinstance(first, tuple | list):
        return function(*trees)
    parts = [mapped(function, *same) for same in zip(*trees, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
