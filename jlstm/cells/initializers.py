"""How parameters are drawn: from standard normal numbers that are taken in turn, in JAX or in NumPy, which compiles
nothing."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

__all__ = ["biases", "constants", "in_turn", "input_weights", "orthogonal", "without_drawing"]

Normal = Callable[..., Any]


def in_turn(numbers: Any) -> Normal:
    """Return a function `normal(*shape)` that takes the next of these numbers at each call.

    Args:
        numbers: standard normal numbers, `[count]`, in JAX or in NumPy.

    Returns:
        The function; it returns arrays of the same library and dtype.

    Example:
        >>> normal = in_turn(np.arange(10.0))
        >>> normal(2, 3).shape, normal(4).tolist()
        ((2, 3), [6.0, 7.0, 8.0, 9.0])
    """
    taken = 0

    def normal(*shape: int) -> Any:
        nonlocal taken
        start, taken = taken, taken + int(np.prod(shape))
        return numbers[start:taken].reshape(shape)

    return normal


def without_drawing(draw: Callable[[Normal], Any]) -> tuple[Any, int]:
    """Return what is known of parameters before they are drawn, as `draw(normal)` would.

    Returns:
        The parameters as `jax.ShapeDtypeStruct`, in float32, and how many standard normal numbers they are made of.

    Example:
        >>> shapes, numbers = without_drawing(lambda normal: [normal(2, 3), normal(4)])
        >>> [leaf.shape for leaf in shapes], numbers
        ([(2, 3), (4,)], 10)
    """
    numbers = 0

    def normal(*shape: int) -> Array:
        nonlocal numbers
        numbers += math.prod(shape)
        return jnp.zeros(shape, jnp.float32)

    shapes = jax.eval_shape(lambda: draw(normal))
    return shapes, numbers


def input_weights(normal: Normal, inputs: int, hidden: int, scales: list[float], fan_in: int) -> tuple[Any, Any]:
    """Draw the weights that a layer's gates read its input with, and biases for those that read it more steeply.

    Args:
        normal: standard normal numbers, `normal(*shape)`.
        inputs: the number of features I.
        hidden: the number of units H.
        scales: for each gate how much wider than usual it reads.
        fan_in: how many features are not zero in a step.

    Returns:
        The weights `[gates · H, I]`, normal with standard deviation `scale / sqrt(fan_in)` (LeCun et al., "Efficient
        BackProp", 1998), and the biases `[gates, H]`, normal with `(scale - 1) / sqrt(fan_in)`: steep units then tell
        inputs apart all over their range, as random features do (Rahimi and Recht, 2007).

    Example:
        >>> weights, biases = input_weights(in_turn(np.ones(36)), 2, 3, [1.0, 1.0, 1.0, 1.0], fan_in=2)
        >>> weights.shape, biases.shape
        ((12, 2), (4, 3))
    """
    weights, biases = normal(inputs, len(scales), hidden), normal(len(scales), hidden)
    xp = weights.__array_namespace__()
    wider = xp.asarray(scales, dtype=weights.dtype)[None, :, None]
    steepness = xp.asarray([(scale - 1) / fan_in**0.5 for scale in scales], dtype=weights.dtype)[:, None]
    return (wider / fan_in**0.5 * weights).reshape(inputs, -1).T, steepness * biases


def biases(steep: Any, *start: float) -> Any:
    """Return the biases `[gates · H]` of gates that start at these values, those of steep ones, `[gates, H]`, added.

    Example:
        >>> biases(np.zeros((4, 2)), 0, 1, 0, 0).tolist()
        [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    return steep.reshape(-1) + constants(steep, *start)


def constants(like: Any, *values: float) -> Any:
    """Return each value H times, `[values · H]`, in the library and dtype of `like`, an array whose last axis is H.

    Example:
        >>> constants(np.zeros((4, 2)), 1, 0).tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    xp = like.__array_namespace__()
    column = xp.asarray(values, dtype=like.dtype)[:, None]
    return xp.broadcast_to(column, (len(values), like.shape[-1])).reshape(-1)


def orthogonal(normal: Normal, gates: int, size: int) -> Any:
    """Draw orthogonal matrices, one a gate, on top of each other.

    Any orthogonal matrix is as likely as any other (Mezzadri, "How to Generate Random Matrices from the Classical
    Compact Groups", 2007). They keep the length of what they multiply over many steps (Saxe, McClelland and Ganguli,
    "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks", 2014).

    Args:
        normal: standard normal numbers, `normal(*shape)`.
        gates: how many.
        size: how wide each is.

    Returns:
        `[gates · size, size]`.

    Example:
        >>> matrix = orthogonal(in_turn(np.random.default_rng(0).normal(size=9)), gates=1, size=3)
        >>> bool(np.allclose(matrix @ matrix.T, np.eye(3)))
        True
    """
    square = normal(size, gates, size)
    xp = square.__array_namespace__()
    square = xp.moveaxis(square, 1, 0)
    drawn = _orthogonal(square) if isinstance(square, np.ndarray) else _orthogonal_one_by_one(square)
    return xp.moveaxis(drawn, 1, 2).reshape(-1, size)


def _orthogonal(normal: Any) -> Any:
    xp = normal.__array_namespace__()
    q, r = xp.linalg.qr(normal)
    return q * xp.sign(xp.linalg.diagonal(r))[..., None, :]


@jax.jit  # as a loop that is not in a compiled function is compiled anew at every call
def _orthogonal_one_by_one(normal: Array) -> Array:
    # Under vmap, the QR factorisations of two layers at once can wait for each other for ever (jax 0.10.2).
    return jax.lax.map(_orthogonal, normal)
