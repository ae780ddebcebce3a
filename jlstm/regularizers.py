"""What training leaves out: masks that are drawn anew at each step and that prediction knows nothing of."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jlstm.cells.cell import Sizes
from jlstm.checks import floating, prng_key, whole_size
from jlstm.config import LSTMConfig, check_config
from jlstm.stack import Bidirectional, LayerMasks, Masks

__all__ = ["draw_masks"]


def draw_masks(key: Array, config: LSTMConfig, batch: int, time: int, dtype: Any = jnp.float32) -> Masks:
    """Draw what a training step leaves out.

    Args:
        key: a key of `jax.random.key`; the same key gives the same masks.
        config: the network; it says how much of what is left out, and where that is from.
        batch: how many sequences.
        time: how many time steps each has.
        dtype: the masks' dtype.

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
    key = prng_key("key", key)
    keys = (jax.random.fold_in(key, k) for k in itertools.count(1))
    outputs, inputs = None, None
    if config.dropout:
        keep, shape = 1 - config.dropout, (config.layers, batch, 1, config.output_width)
        outputs = tuple(jax.random.bernoulli(key, jnp.float32(keep), shape).astype(dtype) / keep)
    if config.input_dropout:
        inputs = _scaled(next(keys), config.input_dropout, (batch, 1, config.input_size), dtype)

    def of_layer(sizes: Sizes) -> Any:
        masks = [_of_one(keys, config, sizes, batch, time, dtype) for _ in range(1 + config.bidirectional)]
        return Bidirectional(*masks) if config.bidirectional else masks[0]

    return Masks(inputs, tuple(of_layer(config.sizes(k)) for k in range(config.layers)), outputs)


def _of_one(keys: Iterator[Array], config: LSTMConfig, sizes: Sizes, batch: int, time: int, dtype: Any) -> LayerMasks:
    """Draw the masks of one direction of a layer."""
    cell = config.cell
    params = cell.shapes(sizes)
    weight, recurrent, zoneout = None, None, None
    if config.weight_dropout:
        shapes = {name: getattr(params, name).shape for name in cell.recurrent}
        drawn = {name: _scaled(next(keys), config.weight_dropout, shape, dtype) for name, shape in shapes.items()}
        weight = type(params)(**dict.fromkeys(params._fields) | drawn)
    if config.recurrent_dropout:
        recurrent = _scaled(next(keys), config.recurrent_dropout, (batch, sizes.outputs), dtype)
    if config.zoneout:
        state = jax.eval_shape(cell.zero_state, params)
        zoneout = jax.tree.map(lambda leaf: _chosen(next(keys), config.zoneout, (batch, time, *leaf.shape)), state)
    return LayerMasks(weight, recurrent, zoneout)


def _scaled(key: Array, share: float, shape: tuple, dtype: Any) -> Array:
    """Return 0 for a share of the entries, and what keeps the mean at 1 for the others."""
    return jnp.where(_chosen(key, share, shape), 0, jnp.asarray(1 / (1 - share), dtype))


def _chosen(key: Array, share: float, shape: tuple) -> Array:
    """Return true for a share of the entries, by 8 random bits each: by 32 it takes four times as long.

    Of 256 equally likely numbers, those below share · 256 are chosen; what is left of that when it is rounded down
    decides, anew for each row, whether one more is: each entry is chosen with the probability that was asked for.
    """
    if not all(isinstance(size, int) for size in shape):  # symbolic, which can't be cut into bytes
        return jax.random.bernoulli(key, share, shape)
    size, (key, of_rows) = math.prod(shape), jax.random.split(key)
    bits = lax.bitcast_convert_type(jax.random.bits(key, (-(-size // 4),), jnp.uint32), jnp.uint8)
    below = jnp.floor(share * 256 + jax.random.uniform(of_rows, (*shape[:-1], 1), jnp.float32))
    return bits.reshape(-1)[:size].reshape(shape).astype(jnp.uint16) < below.astype(jnp.uint16)
