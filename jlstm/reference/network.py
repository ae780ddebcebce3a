"""Layers on top of each other, one or two directions each, a readout and a loss: the way there and the way back.

Every sequence of a batch is run by itself, up to its length. A layer's outputs, one direction's beside the other's, are

    out_t = d h_t + in_t        d what dropout leaves of them; in_t from the second layer on, if the network is residual

Sources: two directions, Schuster & Paliwal, *Bidirectional Recurrent Neural Networks* (1997); dropout, Srivastava et
al. (2014); residual layers, He et al. (2016); DropConnect of the recurrent weights, Merity, Keskar & Socher (2018).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jlstm.reference.cell import Array, Cell, mapped
from jlstm.reference.direction import Way, read, read_back
from jlstm.reference.losses import LOSSES
from jlstm.reference.table import CELLS

__all__ = ["forward", "loss_and_grad"]


class Directions(NamedTuple):
    """The two states of a layer that has two directions."""

    forward: Any
    backward: Any


class Layer(NamedTuple):
    """How a layer goes through one sequence: its directions, what its outputs are multiplied by, what is added."""

    ways: tuple[Way, ...]
    factor: Any
    residual: bool


class Network(NamedTuple):
    """All that `forward` is given, as float64 and for the whole batch; DropConnect has been at the layers' weights."""

    cell: Cell
    params: Any
    xs: Array
    state: Any
    lengths: Array
    resets: Array
    masks: Any
    config: Any


def forward(
    params: Any,
    xs: ArrayLike,
    config: Any,
    *,
    state: Any = None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    masks: Any = None,
) -> tuple[Array, Any]:
    """Run the network over a batch of sequences.

    Args:
        params: a NamedTuple of `layers` and `readout`, of any float dtype. Each layer is a cell's parameters, or has
            the fields `forward` and `backward` of those; the readout has the fields `weight [width, C]` and `bias [C]`.
        xs: floats `[B, T, I]`, or integer ids `[B, T]` that stand for one-hot vectors.
        config: names the `target` and, where it has them, the `cell` by its `name` ("lstm"), whether the layers are
            `residual` (no) and the share of `zoneout` (0), which is kept in the mean where there are no masks.
        state: one state a layer, with the fields `forward` and `backward` where that has two directions; arrays
            `[B, ...]`. None is the cell's zero state.
        lengths: how many steps of each sequence are real, integers `[B]` or one for all; less than 0 is 0, more than T
            is T, and None is all.
        resets: `[B, T]`, true where an episode starts: the state is zero before that step for the forward direction,
            after it for the backward one. None is nowhere.
        masks: what training leaves out, an object of three fields, each of them None or:
            `inputs [B, 1, I]`, what the inputs are multiplied by;
            `layers`, one a layer, with the fields `forward` and `backward` of these where that has two directions:
            `weight`, which has by their names what the recurrent weights are multiplied by;
            `recurrent [B, H]`, what h is multiplied by before the products; and
            `zoneout`, like the state, booleans `[B, T, ...]`, true where a unit keeps its old state at that step;
            `outputs`, one a layer, what its outputs are multiplied by, `[B, 1, width]` or `[B, T, width]`.

    Returns:
        The scores, float64 `[B, T, C]`, or `[B, C]` for the targets "last" and "mean"; the readout's bias past a
        sequence's length. And the state to go on from after the step that each direction reads last, float64, which is
        the initial state for a sequence of length 0.

    Example:
        >>> from jlstm import LSTMConfig, LSTMParams, ModelParams, Readout
        >>> layer = LSTMParams(np.zeros((12, 2)), np.zeros((12, 3)), np.zeros(12))
        >>> params = ModelParams((layer,), Readout(np.zeros((3, 4)), np.arange(4)))
        >>> scores, state = forward(params, np.ones((1, 5, 2)), LSTMConfig(2, 3, 4))
        >>> scores.shape, scores[0, 0].tolist()
        ((1, 5, 4), [0.0, 1.0, 2.0, 3.0])
    """
    network = _network(params, xs, config, state, lengths, resets, masks)
    batch, time = network.xs.shape[:2]
    readout = network.params.readout
    scores = np.tile(readout.bias, (batch, time, 1) if config.target == "each" else (batch, 1, 1))
    for b in range(batch):
        layers = _sequence(network, b)
        outputs, runs = _run(network, layers, b)
        rows = _compared(config, layers[-1], outputs)
        scores[b, : len(rows)] = rows @ readout.weight + readout.bias
        for entry, run in zip(network.state, runs, strict=True):
            for way_state, (_, _, end) in zip(_directions(entry), run, strict=True):
                for array, last in zip(way_state, end, strict=True):
                    array[b] = last
    return scores if config.target == "each" else scores[:, 0], network.state


def loss_and_grad(
    params: Any,
    xs: ArrayLike,
    ys: ArrayLike,
    config: Any,
    *,
    state: Any = None,
    lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    masks: Any = None,
) -> tuple[float, Any]:
    """Compute the loss, and its gradient by backpropagation through time (Werbos 1990).

    Args:
        params, xs, state, lengths, resets, masks: as for `forward`.
        ys: what the scores should be at `"each"` step: integer ids `[B, T]` or float probabilities `[B, T, C]` for the
            cross-entropy, floats `[B, T, C]` for all others. For `"last"` and `"mean"` without the `T`. The id -100 and
            NaN are unknown, and have a weight of zero.
        config: as for `forward`, and names the `loss`.
        weights: how much each target counts, floats `[B]` or more axes of the targets; None is 1.

    Returns:
        The loss, a weighted mean over the real steps or, for `"last"` and `"mean"`, over the sequences that have one
        (where those are no classes, over the outputs too), and its gradient, float64 in the shapes of `params`. Both
        are zero if all weights are.

    Example:
        >>> from jlstm import LSTMConfig, LSTMParams, ModelParams, Readout
        >>> layer = LSTMParams(np.zeros((12, 2)), np.zeros((12, 3)), np.zeros(12))
        >>> params = ModelParams((layer,), Readout(np.zeros((3, 4)), np.zeros(4)))
        >>> loss, grad = loss_and_grad(params, np.ones((1, 5, 2)), np.full((1, 5), 2), LSTMConfig(2, 3, 4))
        >>> round(loss, 3), grad.readout.bias.tolist()  # the loss is log 4
        (1.386, [0.25, 0.25, -0.75, 0.25])
    """
    network = _network(params, xs, config, state, lengths, resets, masks)
    readout = network.params.readout
    ys, weights = _weighted(np.asarray(ys), weights, config)
    loss, grad, total = 0.0, mapped(np.zeros_like, network.params), 0.0
    for b in np.flatnonzero(network.lengths).tolist():
        layers = _sequence(network, b)
        outputs, runs = _run(network, layers, b)
        rows = _compared(config, layers[-1], outputs)
        y, weight = _rows(ys[b, : len(rows)], len(readout.bias)), weights[b, : len(rows)]
        scores = rows @ readout.weight + readout.bias
        losses, dscores = LOSSES[config.loss](scores, y, weight)

        dreadout = type(readout)(weight=rows.T @ dscores, bias=dscores.sum(axis=0))
        doutputs = _compared_back(config, layers[-1], outputs, dscores @ readout.weight.T)
        dlayers = _run_back(network, layers, runs, doutputs)
        grad = mapped(np.add, grad, type(params)(layers=dlayers, readout=dreadout))
        loss, total = loss + losses.sum(), total + weight.mean(axis=1).sum()
    grad = mapped(lambda sums: sums / (total or 1), grad)
    return float(loss / (total or 1)), _drop_connect(grad, masks)


def _weighted(ys: Array, weights: Any, config: Any) -> tuple[Array, Array]:
    """Targets `[B, T, ...]`, 0 where they do not count, and weights `[B, T, 1]` or `[B, T, C]`; T is 1 for one each."""
    if config.target != "each":
        ys = ys[:, None]
    if np.issubdtype(ys.dtype, np.floating):
        unknown = np.isnan(ys)
    else:
        unknown = (ys == -100) & (config.loss in ("cross_entropy", "binary_cross_entropy"))
    if config.loss == "cross_entropy":
        unknown = unknown[..., None] if ys.ndim == 2 else unknown.any(axis=-1, keepdims=True)
    weights = np.ones(len(ys)) if weights is None else _float64(weights)
    if config.target != "each" and weights.ndim > 1:
        weights = weights[:, None]
    weights = weights.reshape(weights.shape + (1,) * (3 - weights.ndim))
    weights = np.where(unknown, 0, np.broadcast_to(weights, unknown.shape))
    idle = weights == 0
    return np.where(idle[..., 0] if ys.ndim == 2 else idle, 0, ys), weights


def _network(params: Any, xs: ArrayLike, config: Any, state: Any, lengths: Any, resets: Any, masks: Any) -> Network:
    cell = CELLS[getattr(getattr(config, "cell", None), "name", "lstm")]
    params, xs = mapped(_float64, params), np.asarray(xs)
    batch, time = xs.shape[:2]
    if state is None:
        state = tuple(_zero_state(cell, layer, batch) for layer in params.layers)
    lengths = np.broadcast_to(time if lengths is None else np.clip(lengths, 0, time), batch)
    resets = np.zeros((batch, time), bool) if resets is None else np.asarray(resets, bool)
    return Network(cell, _drop_connect(params, masks), xs, mapped(_float64, state), lengths, resets, masks, config)


def _zero_state(cell: Cell, layer: Any, batch: int) -> Any:
    zeros = [mapped(lambda array: np.tile(array, (batch, 1)), cell.zero(params)) for params in _directions(layer)]
    return Directions(*zeros) if len(zeros) == 2 else zeros[0]


def _drop_connect(params: Any, masks: Any) -> Any:
    """Multiply the recurrent weights by what is left of them: on the way back, their derivatives by the same."""

    def masked(layer: Any, mask: Any) -> Any:
        factors = {name: getattr(getattr(mask, "weight", None), name, None) for name in layer._fields}
        left = {name: getattr(layer, name) * _float64(by) for name, by in factors.items() if by is not None}
        return layer._replace(**left)

    layers = []
    for k, layer in enumerate(params.layers):
        ways = _directions(layer)
        layers.append(_joined(layer, map(masked, ways, _way_masks(masks, k, len(ways)))))
    return params._replace(layers=type(params.layers)(layers))


def _sequence(network: Network, b: int) -> list[Layer]:
    """How each layer goes through sequence b."""
    layers = []
    for k, (layer, state) in enumerate(zip(network.params.layers, network.state, strict=True)):
        ways = _directions(layer)
        masks = _way_masks(network.masks, k, len(ways))
        each = zip(ways, _directions(state), masks, (False, True)[: len(ways)], strict=True)
        factor = _entry(network.masks, "outputs", k)
        layers.append(
            Layer(
                tuple(_way(network, b, *one) for one in each),
                1.0 if factor is None else _over_time(_float64(factor)[b], network.lengths[b]),
                bool(k and getattr(network.config, "residual", False)),
            )
        )
    return layers


def _way(network: Network, b: int, params: Any, state: Any, masks: Any, backward: bool) -> Way:
    length, starts = network.lengths[b], network.resets[b, : network.lengths[b]]
    recurrent, zoneout = getattr(masks, "recurrent", None), getattr(masks, "zoneout", None)
    share = getattr(network.config, "zoneout", 0.0) if network.masks is None else 0.0

    def kept(name: str) -> Array:
        return np.full(length, share) if zoneout is None else _float64(getattr(zoneout, name))[b]

    keep = {name: kept(name) for name in state._fields}
    return Way(
        params,
        mapped(lambda array: array[b], state),
        range(length)[::-1] if backward else range(length),
        np.append(starts[1:], False) if backward else starts,  # backwards, an episode ends where the next one starts
        1.0 if recurrent is None else _float64(recurrent)[b],
        [state._replace(**{name: array[t] for name, array in keep.items()}) for t in range(length)],
        bool(backward and length and starts[0]),
    )


def _run(network: Network, layers: list[Layer], b: int) -> tuple[Array, list]:
    """Sequence b through all layers: the top one's outputs `[T, width]`, and what each direction of each layer read."""
    first = _directions(network.params.layers[0])[0]
    outputs = _rows(network.xs[b, : network.lengths[b]], first.weight_ih.shape[1])
    if (factor := getattr(network.masks, "inputs", None)) is not None:
        outputs = outputs * _float64(factor)[b]
    runs = []
    for layer in layers:
        run = [read(network.cell, way, outputs) for way in layer.ways]
        hs = np.concatenate([hs for hs, _, _ in run], axis=1)
        outputs = layer.factor * hs + (outputs if layer.residual else 0)
        runs.append(run)
    return outputs, runs


def _run_back(network: Network, layers: list[Layer], runs: list, doutputs: Array) -> Any:
    """From the derivative by the top layer's outputs to every layer's gradient: what one read, the one below wrote."""
    grads = []
    for like, layer, run in zip(reversed(network.params.layers), reversed(layers), reversed(runs), strict=True):
        dhs = np.split(layer.factor * doutputs, len(layer.ways), axis=1)
        each = zip(layer.ways, run, dhs, strict=True)
        gradients, dxs = zip(*(read_back(network.cell, way, kept, dh) for way, (_, kept, _), dh in each), strict=True)
        doutputs = sum(dxs, doutputs if layer.residual else np.zeros(()))
        grads.append(_joined(like, gradients))
    return type(network.params.layers)(reversed(grads))


def _compared(config: Any, top: Layer, outputs: Array) -> Array:
    """The rows of the outputs, or the one row made of them, that the readout reads."""
    return outputs if config.target == "each" else (_share(config, top, outputs) * outputs).sum(axis=0, keepdims=True)


def _compared_back(config: Any, top: Layer, outputs: Array, drows: Array) -> Array:
    return drows if config.target == "each" else _share(config, top, outputs) * drows


def _share(config: Any, top: Layer, outputs: Array) -> Array:
    """The share `[T, width]` of each output in the one row: a mean, or the step that each direction reads last."""
    if config.target == "mean":
        return np.full_like(outputs, 1 / max(len(outputs), 1))
    share = np.zeros_like(outputs)
    for way, columns in zip(top.ways, np.split(share, len(top.ways), axis=1), strict=True):
        columns[list(way.order[-1:])] = 1
    return share


def _over_time(factor: Array, length: int) -> Array:
    """`[1, width]` as it is, the first so many of `[T, width]`."""
    return factor if len(factor) == 1 else factor[:length]


def _rows(values: Array, size: int) -> Array:
    """Vectors `[N, size]` as they are, ids `[N]` as one-hot vectors."""
    if values.ndim == 2:
        return _float64(values)
    one_hot = np.zeros((len(values), size))
    one_hot[np.arange(len(values)), values] = 1
    return one_hot


def _directions(layer: Any) -> tuple:
    """What there is for each direction of a layer."""
    return (layer.forward, layer.backward) if hasattr(layer, "backward") else (layer,)


def _joined(like: Any, parts: Iterable) -> Any:
    """The way back from `_directions`."""
    first, *second = parts
    return type(like)(forward=first, backward=second[0]) if second else first


def _entry(masks: Any, name: str, k: int) -> Any:
    entries = getattr(masks, name, None)
    return None if entries is None else entries[k]


def _way_masks(masks: Any, k: int, ways: int) -> tuple:
    """Layer k's masks of each direction, None where it has none."""
    entry = _entry(masks, "layers", k)
    return (None,) * ways if entry is None else _directions(entry)


def _float64(array: ArrayLike) -> Array:
    return np.array(array, np.float64)
