"""Layers on top of each other, each read in one direction or in both."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jlstm.cells import LSTM, Cell, cell_of
from jlstm.cells.cell import Sizes, cast_like
from jlstm.checks import describe, inputs, lengths_of, resets_of, switch, whole_number
from jlstm.devices import spread_by_xla
from jlstm.unroll import batch_of_states, next_state, run

__all__ = [
    "Bidirectional",
    "LayerMasks",
    "Masks",
    "advance",
    "check_layers",
    "directions",
    "run_layers",
    "stack",
    "stack_state",
]

FAST = 16  # a width that this divides


class Bidirectional(NamedTuple):
    """What a layer has for each of its two directions: parameters, states, or masks.

    Attributes:
        forward: that of the direction which reads from the first step to the last.
        backward: that of the one which reads from the last step to the first.
    """

    forward: Any
    backward: Any


class LayerMasks(NamedTuple):
    """What training does to one direction of a layer; nothing where None.

    Attributes:
        weight: like the cell's parameters, what its recurrent weights are multiplied by; None for all others.
        recurrent: what the hidden state is multiplied by where the products read it, `[batch, H]`.
        zoneout: like the state, booleans `[batch, time, ...]`, true where a unit keeps its old state at a step.
    """

    weight: Any = None
    recurrent: Array | None = None
    zoneout: Any = None


class Masks(NamedTuple):
    """What a training step does to a network; nothing where None.

    Attributes:
        inputs: what the features, or the one-hot vectors of tokens, are multiplied by, `[batch, 1, I]`.
        layers: the `LayerMasks` of each layer, as `Bidirectional` where it has two directions.
        outputs: what each layer's outputs are multiplied by, `[batch, 1, width]`.
    """

    inputs: Array | None
    layers: tuple
    outputs: tuple | None


def directions(layer: Any) -> tuple:
    """Return what a layer has for its one direction, or for both."""
    return tuple(layer) if isinstance(layer, Bidirectional) else (layer,)


def stack(
    layers: Any,
    xs: Array,
    state: Any = None,
    *,
    cell: Cell | str = LSTM,
    lengths: Array | None = None,
    resets: Array | None = None,
    residual: bool = False,
    segment: int | None = None,
) -> tuple[Array, tuple]:
    """Run layers on top of each other over a batch of sequences: a network without a readout.

    Args:
        layers: the parameters of each layer from the input upwards, of `cell`; a `Bidirectional` of two reads in both
            directions, its outputs next to each other, and the layer above reads both.
        xs: the inputs, `[batch, time, features]`; or class ids, integers `[batch, time]`, which stand for one-hot
            vectors.
        state: the state before the first step, an entry a layer, `Bidirectional` as the layer is, each array
            `[batch, H]`, or `[1, H]` for all sequences; that of `zero_state` where None.
        cell: the cell, or its name.
        lengths: how many steps of each sequence are real, `[batch]` integers or one for all; all where None. A backward
            direction starts at each sequence's last real step.
        resets: booleans `[batch, time]`, true where an episode starts, before which the state is zero; a backward
            direction starts anew where one ends. Nowhere where None.
        residual: whether each layer from the second on adds what it reads to what it gives.
        segment: as for `unroll`.

    Returns:
        The outputs of the top layer, `[batch, time, H]`, or `[batch, time, 2H]` of both directions, zero past a
        sequence's length; and the state of each layer after the step that it read last.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> both = Bidirectional(*(LSTM.init(key, input_size=3, hidden_size=5) for key in keys))
        >>> hs, [(forward, backward)] = stack([both], jnp.ones((2, 7, 3)))
        >>> hs.shape, backward.h.shape
        ((2, 7, 10), (2, 5))
    """
    cell = cell_of("cell", cell) if isinstance(cell, str) else cell
    if not isinstance(cell, Cell):
        raise TypeError(f"cell: expected the name of a cell or a Cell, got {describe(cell)}")
    features = check_layers("layers", layers, cell, switch("residual", residual))
    layers = jax.tree.map(jnp.asarray, tuple(layers))
    xs = inputs("xs", xs, features, batch=None, time=None)
    batch, time = xs.shape[:2]
    segment = None if segment is None else whole_number("segment", segment, least=1)
    return run_layers(
        layers,
        xs,
        stack_state("state", state, cell, layers, batch),
        lengths_of(lengths, batch),
        resets_of(resets, batch, time),
        cell=cell,
        residual=residual,
        segment=segment,
    )


def check_layers(name: str, layers: Any, cell: Cell, residual: bool) -> int | None:
    """Raise an error unless these are layers of the cell that read each other; return what the first one reads."""
    if not isinstance(layers, (tuple, list)) or hasattr(layers, "_fields") or not layers:
        raise TypeError(f"{name}: expected a tuple of layers, at least one, got {describe(layers)}")
    first, width = None, None
    for k, layer in enumerate(layers):
        two = isinstance(layer, Bidirectional)
        names = [f"{name}[{k}].{way}" for way in Bidirectional._fields] if two else [f"{name}[{k}]"]
        for own, params in zip(names, directions(layer), strict=True):
            reads = cell.check(own, params)
            first, expected = first or reads, width if k else first or reads
            if reads != expected:
                what = f"the {width} outputs of the layer below" if k else f"{first} features, as the other direction"
                raise ValueError(f"{own}: expected weights for {what}, got weights for {reads}")
        if first is None:  # of a cell of which nothing is known
            continue
        gives: list[Any] = [cell.sizes(params) for params in directions(layer)]
        width, below = sum(sizes.outputs for sizes in gives), width
        if k and residual and width != below:
            raise ValueError(
                f"{name}[{k}]: expected {below} outputs, as many as it reads, with residual=True, got {width}"
            )
    return first


def stack_state(name: str, state: Any, cell: Cell, layers: tuple, batch: Any) -> tuple:
    """Return the argument `name`, the state of each layer, for each sequence of a batch; zeros where it is None."""
    state = (None,) * len(layers) if state is None else state
    if not isinstance(state, (tuple, list)) or hasattr(state, "_fields"):
        raise TypeError(f"{name}: expected a tuple of {len(layers)} states, got {describe(state)}")
    if len(state) != len(layers):
        raise ValueError(f"{name}: expected {len(layers)} states, one a layer, got {len(state)}")
    found = []
    for k, (layer, own) in enumerate(zip(layers, state, strict=True)):
        if not isinstance(layer, Bidirectional):
            found.append(batch_of_states(f"{name}[{k}]", own, cell, layer, batch))
            continue
        if own is not None and not isinstance(own, Bidirectional):
            raise TypeError(f"{name}[{k}]: expected Bidirectional, got {describe(own)}")
        pairs = zip(Bidirectional._fields, own or (None, None), layer, strict=True)
        found.append(Bidirectional(*(batch_of_states(f"{name}[{k}].{way}", s, cell, p, batch) for way, s, p in pairs)))
    return tuple(found)


@spread_by_xla((True, True))
def run_layers(
    layers: tuple,
    xs: Array,
    state: tuple,
    lengths: Array | None,
    resets: Array | None,
    masks: Masks | None = None,
    *,
    cell: Cell,
    residual: bool,
    segment: int | None,
    zoneout: float = 0.0,
) -> tuple[Array, tuple]:
    """Run layers as `stack` does, over arguments that were checked, with what training leaves out."""
    of_layers: tuple = (None,) * len(layers)
    outputs = of_layers
    if masks is not None:
        of_layers, outputs = masks.layers, masks.outputs or outputs
        xs = xs if masks.inputs is None else _vectors(xs, masks.inputs) * masks.inputs
    hs, states = xs, []
    options: dict[str, Any] = {"cell": cell, "segment": segment, "zoneout": zoneout}
    for k, (layer, layer_state, own, mask) in enumerate(zip(layers, state, of_layers, outputs, strict=True)):
        given = zip(directions(layer), directions(layer_state), directions(own) if own else (None, None), strict=False)
        found = [
            _run_layer(params, hs, start, lengths, resets, each, reverse=way == 1, **options)
            for way, (params, start, each) in enumerate(given)
        ]
        outs, ends = zip(*found, strict=True)
        above = jnp.concatenate(outs, axis=-1) if len(outs) > 1 else outs[0]
        above = above if mask is None else mask * above
        if residual and k and above.shape != hs.shape:
            raise ValueError(f"residual: expected layers that give what they read, {hs.shape}, got {above.shape}")
        hs = above + hs if residual and k else above
        states.append(Bidirectional(*ends) if len(ends) > 1 else ends[0])
    return hs, tuple(states)


def _vectors(xs: Array, like: Array) -> Array:
    """Return ids as one-hot vectors, an unknown id as NaN, and vectors as they are."""
    if xs.ndim == like.ndim:
        return xs
    known = (xs >= 0) & (xs < like.shape[-1])
    return jnp.where(known[..., None], jax.nn.one_hot(xs, like.shape[-1], dtype=like.dtype), jnp.nan)


def _run_layer(
    params: Any,
    xs: Array,
    state: Any,
    lengths: Array | None,
    resets: Array | None,
    masks: LayerMasks | None,
    *,
    cell: Cell,
    reverse: bool,
    segment: int | None,
    zoneout: float,
) -> tuple[Array, Any]:
    """Run one direction of a layer, at a width that 16 divides: 250 units as 256 take 0.93 of the time, 0.96 with the
    gradient.

    With a single sequence, whose time goes into reading the weights, they would take longer.
    """
    weight, recurrent, kept = masks or LayerMasks()
    if weight is not None:
        params = type(params)(*(p if mask is None else mask * p for p, mask in zip(params, weight, strict=True)))
    options: dict[str, Any] = {"cell": cell, "reverse": reverse, "segment": segment, "zoneout": zoneout}
    sizes = cell.sizes(params) if cell.pads else None
    extra = -sizes.hidden % FAST if sizes and xs.shape[0] != 1 else 0
    if not sizes or not extra:
        return run(params, xs, state, lengths, resets, recurrent, kept, **options)
    wide = _wider(cell, sizes, extra)
    narrow_state, wide_state = (jax.eval_shape(cell.zero_state, cell.shapes(each)) for each in (sizes, wide))
    grow = functools.partial(jax.tree.map, functools.partial(_grow, extra))
    hs, end = run(
        grow(params, cell.shapes(sizes), cell.shapes(wide)),
        xs,
        grow(state, narrow_state, wide_state),
        lengths,
        resets,
        None if recurrent is None else _grow(extra, recurrent, narrow_state.h, wide_state.h),
        None if kept is None else grow(kept, narrow_state, wide_state),
        **options,
    )
    cut = jax.tree.map(lambda array, like: array[(..., *map(slice, like.shape))], end, narrow_state)
    return hs[..., : sizes.outputs], cut


def _wider(cell: Cell, sizes: Sizes, extra: int) -> Sizes:
    return sizes._replace(hidden=sizes.hidden + extra, outputs=sizes.outputs + (0 if cell.projects else extra))


def _grow(extra: int, array: Array, narrow: Any, wide: Any) -> Array:
    """Return an array with so many zeros behind each of the blocks by which its last axes differ between two shapes."""
    leading = array.shape[: array.ndim - len(narrow.shape)]
    cut, padding = [*leading], [(0, 0) for _ in leading]
    for before, after in zip(narrow.shape, wide.shape, strict=True):
        blocks = (after - before) // extra
        cut += [blocks, before // blocks] if blocks > 1 else [before]
        padding += [(0, 0), (0, extra)] if blocks > 1 else [(0, extra * blocks)]
    return jnp.pad(array.reshape(cut), padding).reshape(*leading, *wide.shape)


def advance(
    layers: tuple, weights: list, x: Array, state: tuple, *, cell: Cell, residual: bool, zoneout: float
) -> tuple[Array, tuple]:
    """Take one more step of layers that read forwards.

    Args:
        layers, cell, residual, zoneout: as for `run_layers`.
        weights: for each layer a function that gives its parameters as they multiply fastest (`forward_weights`).
        x: the inputs, `[..., I]`, or ids `[...]`.
        state: the state of each layer, with the same axes in front.

    Returns:
        The top layer's outputs, and the state after the step.
    """
    state = cast_like(layers, state)
    axes = state[0].h.ndim - len(jax.eval_shape(cell.zero_state, layers[0]).h.shape)
    h, states = x if x.ndim == axes else cast_like(layers, x), []
    for k, (layer, laid_out, layer_state) in enumerate(zip(layers, weights, state, strict=True)):

        def step(state: Any, x: Any, layer: Any = layer, laid_out: Callable = laid_out) -> tuple[Any, Any]:
            return next_state(cell, zoneout, layer, laid_out(), state, x)

        for _ in range(axes):
            step = jax.vmap(step)
        layer_state, above = step(layer_state, h)
        h = above + h if residual and k else above
        states.append(layer_state)
    return h, tuple(states)
