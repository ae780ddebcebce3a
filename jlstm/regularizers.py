"""What training leaves out: masks that are drawn anew at each step and that prediction knows nothing of."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jlstm.cells.cell import Sizes
from jlstm.checks import floating, prng_key, whole_size
from jlstm.config import LSTMConfig, check_config
from jlstm.stack import Bidirectional, LayerMasks, Masks

__all__ = ["draw_masks"]


def draw_masks(
    key: Array, config: LSTMConfig, batch: int, time: int, dtype: Any = jnp.float32, first_row: int | Array = 0
) -> Masks:
    """Draw what a training step leaves out.

    Every sequence draws by its number in the batch, and so does every time step: what a batch leaves out is what its
    parts do, and what is behind it changes nothing. Masks of weights are the same for all parts.

    Args:
        key: a key of `jax.random.key`; the same key gives the same masks.
        config: the network; it says how much of what is left out, and where that is from.
        batch: how many sequences.
        time: how many time steps each has.
        dtype: the masks' dtype.
        first_row: the number of the first sequence, where these are a part of a batch; an integer, also of JAX.

    Returns:
        The masks; what stays is multiplied by 1 / (1 - share), so that the expectation is what it was.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3, layers=2, dropout=0.5)
        >>> [mask.shape for mask in draw_masks(jax.random.key(0), config, batch=2, time=5).outputs]
        [(2, 1, 8), (2, 1, 8)]
    """
    check_config(config)
    dtype, batch, time = floating("dtype", dtype), whole_size("batch", batch), whole_size("time", time)
    first_row = first_row if isinstance(first_row, Array) else whole_size("first_row", first_row)
    # Of threefry, whatever the key is of: what "unsafe_rbg" draws where it is mapped depends on what is beside it.
    keys = jax.random.wrap_key_data(jax.random.bits(prng_key("key", key), (3, 2), jnp.uint32), impl="threefry2x32")
    rows = jnp.asarray(first_row, jnp.int32) + jnp.arange(batch, dtype=jnp.int32)
    steps = jnp.arange(time, dtype=jnp.int32)
    wanted, tree = jax.tree.flatten(_wanted(config))
    drawn: dict[int, Iterator[Array]] = {}
    for k, axes in enumerate([(), (rows,), (rows, steps)]):
        of_axes = [mask for mask in wanted if mask.axes == k]
        drawn[k] = iter(_draw(keys[k], axes, of_axes) if of_axes else ())

    def finished(mask: _Mask) -> Array:
        left_out = next(drawn[mask.axes])
        return jnp.where(left_out, 0, jnp.asarray(1 / (1 - mask.share), dtype)) if mask.scaled else left_out

    return jax.tree.unflatten(tree, map(finished, wanted))


@dataclass(frozen=True)
class _Mask:
    """What a mask is to be.

    Attributes:
        share: how much of it is left out.
        shape: its shape.
        axes: how many axes are in front: none for weights, one where each sequence has a mask, two where each of its
            steps has.
        scaled: whether it holds 0 and what keeps its mean at 1; else it is true for what is left out.
    """

    share: float
    shape: tuple[int, ...]
    axes: int = 1
    scaled: bool = True


def _wanted(config: LSTMConfig) -> Any:
    """Return the masks of a network, a `_Mask` in place of each array."""

    def mask(share: float, *shape: int, **options: Any) -> Any:
        return _Mask(share, shape, **options) if share else None

    def of_one(sizes: Sizes) -> LayerMasks:
        cell, params = config.cell, config.cell.shapes(sizes)
        weight, zoneout = None, None
        if config.weight_dropout:
            shapes = {name: getattr(params, name).shape for name in cell.recurrent}
            drawn = {name: mask(config.weight_dropout, *shape, axes=0) for name, shape in shapes.items()}
            weight = type(params)(**dict.fromkeys(params._fields) | drawn)
        if config.zoneout:
            state = jax.eval_shape(cell.zero_state, params)
            zoneout = jax.tree.map(lambda leaf: mask(config.zoneout, *leaf.shape, axes=2, scaled=False), state)
        return LayerMasks(weight, mask(config.recurrent_dropout, sizes.outputs), zoneout)

    def of_layer(sizes: Sizes) -> Any:
        return Bidirectional(of_one(sizes), of_one(sizes)) if config.bidirectional else of_one(sizes)

    inputs, outputs = mask(config.input_dropout, 1, config.input_size), mask(config.dropout, 1, config.output_width)
    layers = tuple(of_layer(config.sizes(k)) for k in range(config.layers))
    return Masks(inputs, layers, outputs and (outputs,) * config.layers)


def _draw(key: Array, axes: tuple[Array, ...], masks: list[_Mask]) -> list[Array]:
    """Return what masks leave out, `axes` in front of each: every number of these draws with a key of its own."""
    if axes:
        return jax.vmap(lambda number: _draw(jax.random.fold_in(key, number), axes[1:], masks))(axes[0])
    words = [math.prod(mask.shape[:-1]) + -(-math.prod(mask.shape) // 4) for mask in masks]
    # A key of threefry is 64 random bits; `jax.random.bits` makes 32 in the same time.
    drawn = jax.random.key_data(jax.random.split(key, -(-sum(words) // 2))).reshape(-1)
    pieces = jnp.split(drawn[: sum(words)], list(itertools.accumulate(words[:-1])))
    return [_chosen(piece, mask.share, mask.shape) for piece, mask in zip(pieces, masks, strict=True)]


def _chosen(words: Array, share: float, shape: tuple[int, ...]) -> Array:
    """Return true for a share of the entries, by 8 random bits each: by 32 it takes four times as long.

    Of 256 equally likely numbers, those below share · 256 are chosen; what is left of that when it is rounded down
    decides, anew for each row, whether one more is: each entry is chosen with the probability that was asked for.

    Args:
        words: random uint32, one for each row, and behind them one for four entries.
        share: the share.
        shape: the shape of the result.
    """
    rows, size, (below, rest) = math.prod(shape[:-1]), math.prod(shape), divmod(share * 256, 1)
    one_more = (words[:rows] < np.uint32(rest * 2**32)).reshape(*shape[:-1], *(1 for _ in shape[-1:]))
    # `lax.bitcast_convert_type` takes the same time, and can't where sizes are symbolic.
    drawn = (words[rows:, None] >> np.array([[0, 8, 16, 24]], np.uint32)).astype(jnp.uint8)
    drawn = drawn.reshape(-1)[:size].reshape(shape)
    return (drawn < np.uint8(below)) | ((drawn == np.uint8(below)) & one_more)
