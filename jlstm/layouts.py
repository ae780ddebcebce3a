"""How a batch and the weights lie in memory while a cell is scanned: what the processor multiplies fastest.

A cell says `W h` of one sequence. For a batch, that is either of two products, and XLA's matrix products copy what
stands on their right into blocks of their own at each call (YNNPACK in jaxlib 0.10.2):

    sequences first     h Wᵀ    `[B, H]` by `[H, 4H]`    the weights are copied at every time step
    features first      W h     `[4H, H]` by `[H, B]`    only the hidden states are; B has to be whole vectors

So for large weights features first is faster: at 32 rows a core 465 against 680 µs for H=512, 123 against 153 for
H=256, 25 against 28 for H=128 (an Intel Xeon with AVX-512); but 25 rows, no whole vectors, take 178 against 118 at
H=256. What is around the products wants sequences first: the weights' gradient, which is one product over all steps,
and what a layer gives to the next. To turn each step's outputs, and in the gradient its pre-activations, costs more
than the products gain below 384 units: of whole training steps on two cores, 1.11 times as fast at H=512 (forward
1.4), 1.07 at 384 (1.18), 0.8 to 0.96 at 128 and 256.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = [
    "Turned",
    "backward_weights",
    "batch_axis",
    "forward_weights",
    "laid",
    "mapped",
    "pinned",
    "takes_forms",
    "turned",
    "unlaid",
]

ALONE, SEQUENCES_FIRST, FEATURES_FIRST = None, 0, -1  # which axis the batch is; one sequence needs none
VECTOR = 8  # floats in a vector of AVX2; with AVX-512, half a one costs what a whole one does
LARGE = 384  # hidden units
MANY = 100  # time steps, of which the weights of a single sequence are worth a transposed copy


def batch_axis(rows: Any, hidden: Sequence[Any]) -> int | None:
    """Choose the axis of the batch, from the number of sequences and the shape of one's hidden state alone."""
    if not all(isinstance(size, int) for size in (rows, *hidden)):
        return SEQUENCES_FIRST  # a size is symbolic
    if rows < VECTOR:
        return ALONE if rows == 1 else SEQUENCES_FIRST
    return FEATURES_FIRST if math.prod(hidden) >= LARGE else SEQUENCES_FIRST


def mapped(function: Any, axis: int | None) -> Any:
    """Return a function of one sequence for a batch whose axis this is, in what goes in and in what comes out."""
    return function if axis is ALONE else jax.vmap(function, in_axes=axis, out_axes=axis)


def pinned(tree: Any, axis: int | None) -> Any:
    """Return arrays that lie in memory as their axes say, which XLA would otherwise choose anew.

    As one axis they can lie in one way alone. JAX's `with_layout_constraint` makes the forward pass 8 % faster still at
    H=512, but a function with it can't be exported (jax 0.10.2).
    """
    if axis != FEATURES_FIRST:
        return tree
    return jax.tree.map(lambda array: lax.optimization_barrier(array.reshape(-1)).reshape(array.shape), tree)


def laid(tree: Any, axis: int | None, batch: int = 0) -> Any:
    """Return arrays with their batch, the axis `batch`, moved to `axis`; where that is last, in whole vectors."""

    def lay(array: Array) -> Array:
        if axis != FEATURES_FIRST:
            return array.squeeze(batch) if axis is ALONE else array
        array = jnp.moveaxis(array, batch, -1)
        extra = -array.shape[-1] % VECTOR
        return jnp.pad(array, [*[(0, 0)] * (array.ndim - 1), (0, extra)]) if extra else array

    return jax.tree.map(lay, tree)


def unlaid(tree: Any, axis: int | None, rows: Any, batch: int = 0) -> Any:
    """Undo `laid` for a batch of so many sequences."""
    if axis != FEATURES_FIRST:
        return jax.tree.map(lambda array: jnp.expand_dims(array, batch), tree) if axis is ALONE else tree
    return jax.tree.map(lambda array: jnp.moveaxis(array[..., :rows], -1, batch), tree)


def takes_forms(linear: Callable, params: Any, h: Array, x: Any) -> bool:
    """Return whether a cell multiplies by its matrices and turns them, and does nothing else with them.

    Args:
        linear, params: the cell's.
        h: hidden states, `[batch, H]`.
        x: inputs, each array `[time, batch, ...]`.
    """

    def of_one(params: Any, h: Array, x: Any) -> Any:
        first = jax.tree.map(lambda array: array.sum(axis=(0, 1), dtype=array.dtype), x)
        return linear(_each_matrix(Upright, params), h.sum(axis=0), first)

    try:
        jax.eval_shape(of_one, params, h, x)
    except Exception:  # of whatever kind: its own, where it is at fault, comes up again
        return False
    return True


def forward_weights(params: Any, axis: int | None, steps: Any = None) -> Callable[[], Any]:
    """Return a function that gives, within each step, the parameters as they multiply fastest.

    How many steps there are decides only where a sequence is alone; by default few.
    """
    if axis is ALONE and not (isinstance(steps, int) and steps >= MANY):
        return lambda: params
    if axis == FEATURES_FIRST:
        return lambda: _each_matrix(Upright, params)
    stored = lax.optimization_barrier(_transposed(params))
    return lambda: _each_matrix(Turned, stored)


def backward_weights(params: Any, axis: int | None) -> Callable[[], Any]:
    """Return the same for the gradient, which multiplies by the transpose of W.

    Sequences first that is `dz W`, with W as it is. Features first it is `Wᵀ dz`, with the transpose stored, not made a
    view again by XLA: 159 against 35 GFLOP/s at H=512. For a single sequence, to store it takes longer than it saves.
    """
    if axis is ALONE:
        return lambda: params
    if axis == SEQUENCES_FIRST:
        return lambda: turned(params)
    stored = lax.optimization_barrier(_transposed(params))
    return lambda: _each_matrix(Upright, _transposed(stored))


class Turned:
    """A matrix W that lies in memory as its transpose, so that `W @ h` of many rows h is `h Wᵀ`.

    Attributes:
        T: the transpose.
    """

    def __init__(self, transpose: Array) -> None:
        self.T = transpose

    def __matmul__(self, h: Array) -> Array:
        return h @ self.T if h.ndim == 1 else self.T.T @ h


class Upright:
    """A matrix W whose products with columns h are kept as they are, which XLA would turn to suit what comes after.

    Attributes:
        matrix: W.
    """

    def __init__(self, matrix: Array) -> None:
        self.matrix = matrix

    @property
    def T(self) -> Array:
        """The transpose."""
        return self.matrix.T

    def __matmul__(self, h: Array) -> Array:
        return lax.optimization_barrier(self.matrix @ h)


def turned(params: Any) -> Any:
    """Return parameters for a product of many rows at once, whose gradient is then taken as `hᵀ dz`."""
    return _each_matrix(lambda matrix: Turned(matrix.T), params)


def _transposed(params: Any) -> Any:
    return _each_matrix(lambda matrix: matrix.T, params)


def _each_matrix(function: Callable[[Array], Any], params: Any) -> Any:
    return jax.tree.map(lambda array: function(array) if array.ndim == 2 else array, params)
