"""The hand-written reference against finite differences, hand computation, itself, and torch and Keras."""

import re
from math import exp, log, tanh
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from jlstm import reference
from jlstm.cells.lstm import LSTMParams, LSTMState
from jlstm.config import LSTMConfig
from jlstm.model import ModelParams, Readout
from jlstm.reference import forward, loss_and_grad

B, T, D, H, C = 3, 3, 3, 2, 3  # batch, time, inputs, hidden units, outputs
LENGTHS = np.array([3, 0, 2])
EACH = LSTMConfig(D, H, C)


# What there is for targets, and for which loss.
KINDS = {
    "ids": "cross_entropy",
    "probabilities": "cross_entropy",
    "values": "mse",
    "answers": "binary_cross_entropy",
    "of a normal distribution": "gaussian",
    "of Laplace's distribution": "laplace",
}


def random_params(rng, layers=1, kind="ids"):
    width = C * (2 if "distribution" in kind else 1)

    def layer(size):
        return LSTMParams(*(rng.normal(size=shape) for shape in [(4 * H, size), (4 * H, H), 4 * H]))

    readout = Readout(rng.normal(size=(H, width)), rng.normal(size=width))
    return ModelParams(tuple(layer(H if k else D) for k in range(layers)), readout)


def random_state(rng, layers=1):
    return tuple(LSTMState(*rng.normal(size=(2, B, H))) for _ in range(layers))


def random_masks(rng, layers):
    return tuple(rng.choice([0.0, 1.25], p=[0.2, 0.8], size=(B, 1, H)) for _ in range(layers))


def random_targets(rng, kind, target):
    shape = (B, T) if target == "each" else (B,)
    if kind == "ids":
        ys = rng.integers(C, size=shape)
    elif kind in ("probabilities", "answers"):
        ys = rng.uniform(size=(*shape, C))  # rows do not sum to one
    else:
        ys = rng.normal(size=(*shape, C))
    return ys, LSTMConfig(D, H, C, loss=KINDS[kind], target=target)


def arrays(params):
    return [array for layer in params.layers for array in layer] + list(params.readout)


def sequence(state, b):
    return tuple(LSTMState(h[b : b + 1], c[b : b + 1]) for h, c in state)


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "tokens", "padded"), [(1, False, False), (1, True, True), (2, False, True)])
def test_gradient_is_that_of_finite_differences(layers, tokens, padded, kind, target):
    """With what the sequences start from, lengths, each layer's mask, weights and an unknown target if `padded`."""
    rng = np.random.default_rng(0)
    params = random_params(rng, layers, kind)
    xs = rng.integers(D, size=(B, T)) if tokens else rng.normal(size=(B, T, D))
    ys, config = random_targets(rng, kind, target)
    given = {}
    if padded:
        given = {
            "state": random_state(rng, layers),
            "lengths": LENGTHS,
            "masks": SimpleNamespace(outputs=random_masks(rng, layers)),
            "weights": rng.uniform(size=ys.shape[: ys.ndim - (kind == "probabilities")]),
        }
        unknown = (
            ys[2, :1] if target == "each" else ys[2:]
        )  # all that one of them has, or the last class or value alone
        unknown[..., -1:] = -100 if kind == "ids" else np.nan

    _, grad = loss_and_grad(params, xs, ys, config, **given)
    for array, derivative in zip(arrays(params), arrays(grad), strict=True):
        assert derivative.shape == array.shape
        for at in np.ndindex(array.shape):
            value, losses = array[at], []
            for nudge in (1e-5, -1e-5):
                array[at] = value + nudge
                losses.append(loss_and_grad(params, xs, ys, config, **given)[0])
            array[at] = value
            assert derivative[at] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_one_step_by_hand():
    layer = LSTMParams(
        np.array([[0.1, 0.2, 0.3, 0.4]]).T, np.array([[0.5, -0.6, 0.7, -0.8]]).T, np.array([0.01, 0.02, 0.03, 0.04])
    )
    params = ModelParams((layer,), Readout(np.array([[2.0, -1.0]]), np.array([0.5, 0.25])))
    state = (LSTMState(np.array([[0.9]]), np.array([[-0.7]])),)
    x = np.array([[[1.5]]])

    i = 1 / (1 + exp(-(0.1 * 1.5 + 0.5 * 0.9 + 0.01)))
    f = 1 / (1 + exp(-(0.2 * 1.5 - 0.6 * 0.9 + 0.02)))
    g = tanh(0.3 * 1.5 + 0.7 * 0.9 + 0.03)
    o = 1 / (1 + exp(-(0.4 * 1.5 - 0.8 * 0.9 + 0.04)))
    c = f * -0.7 + i * g
    h = o * tanh(c)
    first, second = 2 * h + 0.5, -h + 0.25

    scores, (end,) = forward(params, x, EACH, state=state)
    np.testing.assert_allclose(scores, [[[first, second]]], rtol=1e-14)
    np.testing.assert_allclose([end.h, end.c], [[[h]], [[c]]], rtol=1e-14)

    loss, _ = loss_and_grad(params, x, np.array([[1]]), LSTMConfig(1, 1, 2), state=state)
    assert loss == pytest.approx(log(exp(first) + exp(second)) - second, rel=1e-14)
    loss, grad = loss_and_grad(params, x, np.array([[[1.0, -2.0]]]), LSTMConfig(1, 1, 2, loss="mse"), state=state)
    assert loss == pytest.approx(((first - 1) ** 2 + (second + 2) ** 2) / 2, rel=1e-14)
    dh = 2 * (first - 1) - (second + 2)
    dz = [d * dh * o * (1 - tanh(c) ** 2) for d in (g * i * (1 - i), -0.7 * f * (1 - f), i * (1 - g**2))]
    np.testing.assert_allclose(grad.layers[0].bias, [*dz, dh * tanh(c) * o * (1 - o)], rtol=1e-13)


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("kind", ["ids", "probabilities", "values"])
def test_loss_is_the_mean_over_the_scores_compared(kind, target):
    rng = np.random.default_rng(7)
    params, xs = random_params(rng), rng.normal(size=(B, T, D))
    ys, config = random_targets(rng, kind, target)
    scores, _ = forward(params, xs, EACH, lengths=LENGTHS)

    losses = []
    for b, length in enumerate(LENGTHS):
        for t in range(length) if target == "each" else range(length)[-1:]:
            s, y = scores[b, t], ys[b, t] if target == "each" else ys[b]
            p = np.eye(C)[y] if kind == "ids" else y
            losses.append(np.mean((s - y) ** 2) if kind == "values" else -p @ np.log(np.exp(s) / np.exp(s).sum()))
    assert len(losses) == (LENGTHS.sum() if target == "each" else 2)
    assert loss_and_grad(params, xs, ys, config, lengths=LENGTHS)[0] == pytest.approx(np.mean(losses), rel=1e-12)


def test_second_layer_reads_the_h_of_the_first():
    rng = np.random.default_rng(1)
    first, second = random_params(rng, 2).layers
    identity, readout = Readout(np.eye(H), np.zeros(H)), Readout(rng.normal(size=(H, C)), rng.normal(size=C))
    xs, state = rng.normal(size=(B, T, D)), random_state(rng, 2)

    hs, below = forward(ModelParams((first,), identity), xs, EACH, state=state[:1])
    scores, above = forward(ModelParams((second,), readout), hs, EACH, state=state[1:])
    stacked, states = forward(ModelParams((first, second), readout), xs, EACH, state=state)
    np.testing.assert_array_equal(stacked, scores)
    np.testing.assert_array_equal(states, below + above)


def test_mask_is_a_factor_of_what_the_layer_above_reads():
    """It is none of what the layer itself reads at the next step."""
    rng = np.random.default_rng(8)
    first, second = random_params(rng, 2).layers
    identity, readout = Readout(np.eye(H), np.zeros(H)), Readout(rng.normal(size=(H, C)), rng.normal(size=C))
    xs, state = rng.normal(size=(B, T, D)), random_state(rng, 2)
    factors = tuple(rng.normal(size=(B, steps, H)) for steps in (1, T))

    hs, below = forward(ModelParams((first,), identity), xs, EACH, state=state[:1], lengths=LENGTHS)
    tops, above = forward(ModelParams((second,), identity), hs * factors[0], EACH, state=state[1:], lengths=LENGTHS)
    given = {"state": state, "lengths": LENGTHS, "masks": SimpleNamespace(outputs=factors)}
    scores, states = forward(ModelParams((first, second), readout), xs, EACH, **given)
    np.testing.assert_array_equal(scores, (tops * factors[1]) @ readout.weight + readout.bias)
    np.testing.assert_array_equal(states, below + above)


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_each_sequence_run_alone(kind, target):
    rng = np.random.default_rng(2)
    params, xs, state = random_params(rng, 2, kind), rng.normal(size=(B, T, D)), random_state(rng, 2)
    ys, config = random_targets(rng, kind, target)
    padding = np.arange(T) >= LENGTHS[:, None]
    xs[padding] = np.nan
    ys[padding if target == "each" else padding.all(axis=1)] = C if kind == "ids" else np.nan

    scores, end = forward(params, xs, EACH, state=state, lengths=LENGTHS)
    loss, grad = loss_and_grad(params, xs, ys, config, state=state, lengths=LENGTHS)
    assert loss != 0

    losses, grads, weights = [], [], []
    for b, length in enumerate(LENGTHS):
        x, y = xs[b : b + 1, :length], ys[b : b + 1, :length] if target == "each" else ys[b : b + 1]
        alone, alone_end = forward(params, x, EACH, state=sequence(state, b))
        np.testing.assert_allclose(scores[b, :length], alone[0], rtol=1e-12)
        np.testing.assert_array_equal(scores[b, length:], np.tile(params.readout.bias, (T - length, 1)))
        np.testing.assert_array_equal(sequence(end, b), alone_end)
        if length == 0:
            np.testing.assert_array_equal(alone_end, sequence(state, b))
        alone_loss, alone_grad = loss_and_grad(params, x, y, config, state=sequence(state, b))
        losses.append(alone_loss)
        grads.append(alone_grad)
        weights.append(length if target == "each" else min(length, 1))

    assert loss == pytest.approx(np.average(losses, weights=weights), rel=1e-12)
    for array, *alone in zip(arrays(grad), *map(arrays, grads), strict=True):
        np.testing.assert_allclose(array, np.average(alone, axis=0, weights=weights), rtol=1e-10)


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_weight_is_as_if_it_were_not_there(kind, target):
    """Whether it is padding, unknown or weighted by 0, and whatever it is."""
    rng = np.random.default_rng(4)
    params, xs = random_params(rng, 1, kind), rng.normal(size=(B, T, D))
    ys, config = random_targets(rng, kind, target)
    weights = np.array([1.0, 0.0, 3.0])
    expected = loss_and_grad(params, xs[[0, 2, 2, 2]], ys[[0, 2, 2, 2]], config)
    ys[1] = C if kind == "ids" else np.inf
    found = [loss_and_grad(params, xs, ys, config, weights=weights)]
    ys[1] = -100 if kind == "ids" else np.nan
    found += [loss_and_grad(params, xs, ys, config, weights=[1, 7, 3])]
    for loss, grad in found:
        assert loss == pytest.approx(expected[0], rel=1e-12)
        for array, wanted in zip(arrays(grad), arrays(expected[1]), strict=True):
            np.testing.assert_allclose(array, wanted, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("target", ["each", "last"])
def test_nothing_real_is_no_loss_and_no_gradient(target):
    rng = np.random.default_rng(3)
    params, xs = random_params(rng), rng.normal(size=(B, T, D))
    ys, config = random_targets(rng, "ids", target)
    loss, grad = loss_and_grad(params, xs, ys, config, lengths=np.zeros(B, int))
    assert loss == 0.0
    assert all(not array.any() for array in arrays(grad))


def test_state_carries_a_sequence_over_a_cut():
    rng = np.random.default_rng(4)
    params, xs, state = random_params(rng, 2), rng.normal(size=(B, T, D)), random_state(rng, 2)
    before = np.array(state)
    whole, end = forward(params, xs, EACH, state=state)
    head, middle = forward(params, xs[:, :2], EACH, state=state)
    tail, last = forward(params, xs[:, 2:], EACH, state=middle)
    np.testing.assert_allclose(np.concatenate([head, tail], axis=1), whole, rtol=1e-12)
    np.testing.assert_array_equal(last, end)
    np.testing.assert_array_equal(state, before)  # what the caller handed in is not written to


def test_ids_are_one_hot():
    rng = np.random.default_rng(5)
    params, ids = random_params(rng), rng.integers(D, size=(B, T))
    ys, config = random_targets(rng, "ids", "each")
    np.testing.assert_array_equal(forward(params, ids, EACH)[0], forward(params, np.eye(D)[ids], EACH)[0])
    by_id, by_row = (loss_and_grad(params, ids, y, config)[0] for y in (ys, np.eye(C)[ys]))
    assert by_id == by_row
    with pytest.raises(IndexError):
        forward(params, ids + D, EACH)


def test_every_dtype_is_computed_in_float64():
    rng = np.random.default_rng(6)
    params, state = random_params(rng), random_state(rng)
    xs, (ys, config) = rng.normal(size=(B, T, D)), random_targets(rng, "probabilities", "each")

    def cast(dtype, tree):
        return tree.astype(dtype) if isinstance(tree, np.ndarray) else rebuild(tree, [cast(dtype, t) for t in tree])

    def rebuild(tree, leaves):
        return tuple(leaves) if type(tree) is tuple else type(tree)(*leaves)

    low = cast(np.float32, (params, xs, ys, state))
    (p, x, y, s), (p64, x64, y64, s64) = low, cast(np.float64, low)
    scores, end = forward(p, x, EACH, state=s)
    loss, grad = loss_and_grad(p, x, y, config, state=s)
    assert {array.dtype for array in [scores, *end[0], *arrays(grad)]} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(scores, forward(p64, x64, EACH, state=s64)[0])
    assert loss == loss_and_grad(p64, x64, y64, config, state=s64)[0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("z", [1000.0, -1000.0])
def test_saturated_gates_and_logits_stay_finite(z):
    layer = LSTMParams(np.zeros((4, 1)), np.zeros((4, 1)), np.full(4, z))
    params = ModelParams((layer,), Readout(np.array([[1000.0, -1000.0]]), np.zeros(2)))
    state = (LSTMState(np.zeros((1, 1)), np.full((1, 1), 0.5)),)
    (_, (end,)), open_ = forward(params, np.zeros((1, 1, 1)), EACH, state=state), z > 0
    np.testing.assert_allclose([end.h, end.c], [[[tanh(1.5) * open_]], [[1.5 * open_]]], atol=1e-300)

    loss, grad = loss_and_grad(params, np.zeros((1, 1, 1)), np.array([[1]]), LSTMConfig(1, 1, 2), state=state)
    assert loss == pytest.approx(2000 * tanh(1.5) if open_ else log(2), rel=1e-12)
    assert all(np.isfinite(array).all() for array in arrays(grad))


# Every cell, in one direction and in two


class Peephole(NamedTuple):
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias: np.ndarray
    peephole: np.ndarray


class Projected(NamedTuple):
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias: np.ndarray
    weight_hr: np.ndarray


class LayerNorm(NamedTuple):
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias: np.ndarray
    gain_ih: np.ndarray
    gain_hh: np.ndarray
    gain_c: np.ndarray
    shift_c: np.ndarray


class GRU(NamedTuple):
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias: np.ndarray
    bias_hn: np.ndarray


class GRUBefore(NamedTuple):
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    weight_hn: np.ndarray
    bias: np.ndarray


class Plain(NamedTuple):
    """The parameters of the cells that have no others."""

    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias: np.ndarray


class Hidden(NamedTuple):
    h: np.ndarray


class Scaled(NamedTuple):
    h: np.ndarray
    c: np.ndarray
    n: np.ndarray
    m: np.ndarray


class Both(NamedTuple):
    forward: Any
    backward: Any


class Masks(NamedTuple):
    inputs: Any = None
    layers: Any = None
    outputs: Any = None


class LayerMasks(NamedTuple):
    weight: Any = None
    recurrent: Any = None
    zoneout: Any = None


P = 2  # the width of h: that of the projection where there is one, of four units then
CELLS = {  # the type of the parameters, their shapes for so many inputs; the type of the state, and its widths
    "lstm": (LSTMParams, lambda n: ((8, n), (8, 2), 8), LSTMState, (2, 2)),
    "peephole": (Peephole, lambda n: ((8, n), (8, 2), 8, 6), LSTMState, (2, 2)),
    "coupled": (Plain, lambda n: ((6, n), (6, 2), 6), LSTMState, (2, 2)),
    "projected": (Projected, lambda n: ((16, n), (16, 2), 16, (2, 4)), LSTMState, (2, 4)),
    "layer_norm": (LayerNorm, lambda n: ((8, n), (8, 2), 8, 8, 8, 2, 2), LSTMState, (2, 2)),
    "gru": (GRU, lambda n: ((6, n), (6, 2), 6, 2), Hidden, (2,)),
    "gru_before": (GRUBefore, lambda n: ((6, n), (4, 2), (2, 2), 6), Hidden, (2,)),
    "rnn": (Plain, lambda n: ((2, n), (2, 2), 2), Hidden, (2,)),
    "slstm": (Plain, lambda n: ((8, n), (8, 2), 8), Scaled, (2, 2, 2, 2)),
}
RECURRENT = ("weight_hh", "weight_hn")
each_cell = pytest.mark.parametrize("cell", CELLS)
each_way = pytest.mark.parametrize("ways", [1, 2], ids=["one direction", "two directions"])


def config_of(cell, **given):
    given = {"loss": "cross_entropy", "target": "each", "residual": False, "zoneout": 0.0} | given
    return SimpleNamespace(cell=SimpleNamespace(name=cell), **given)


def both(ways, make):
    """One of what is made, or for two directions one of them for each."""
    return make() if ways == 1 else Both(make(), make())


def draw_params(rng, cell, layers=1, ways=1):
    kind, shapes, _, _ = CELLS[cell]

    def layer(size):
        return both(ways, lambda: kind(*(rng.normal(size=shape) for shape in shapes(size))))

    stack = tuple(layer(P * ways if k else D) for k in range(layers))
    return ModelParams(stack, Readout(rng.normal(size=(P * ways, C)), rng.normal(size=C)))


def draw_state(rng, cell, layers=1, ways=1):
    _, _, kind, widths = CELLS[cell]

    def state():
        drawn = kind(*(rng.normal(size=(B, width)) for width in widths))
        return drawn._replace(n=np.exp(drawn.n)) if cell == "slstm" else drawn  # n is a sum of exponentials

    return tuple(both(ways, state) for _ in range(layers))


def draw_masks(rng, params, state, *names):
    """Of "inputs", "weight", "recurrent", "zoneout" and "outputs", those named."""

    def layer(ways, state):
        if hasattr(ways, "backward"):
            return Both(*map(layer, ways, state))
        weights = {name: rng.normal(size=np.shape(getattr(ways, name, 0))) for name in RECURRENT}
        return LayerMasks(
            SimpleNamespace(**weights) if "weight" in names else None,
            rng.normal(size=(B, P)) if "recurrent" in names else None,
            type(state)(*(rng.random((B, T, a.shape[1])) < 0.4 for a in state)) if "zoneout" in names else None,
        )

    width = len(params.readout.weight)
    return Masks(
        rng.normal(size=(B, 1, D)) if "inputs" in names else None,
        tuple(map(layer, params.layers, state)),
        tuple(rng.normal(size=(B, 1, width)) for _ in state) if "outputs" in names else None,
    )


def leaves(tree):
    return [leaf for branch in tree for leaf in leaves(branch)] if isinstance(tree, tuple) else [tree]


def assert_close(got, expected, rtol=1e-12):
    got, expected = leaves(got), leaves(expected)
    scale = max(np.abs(array).max() for array in expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale)


def assert_is_gradient(params, xs, ys, config, entries=None, **given):
    """Assert that the gradient is that of central finite differences, to 1e-7 of its largest entry.

    With so many `entries` of each array, or all; and along one direction that all entries have a share in.
    """
    rng = np.random.default_rng(100)
    _, grad = loss_and_grad(params, xs, ys, config, **given)
    assert [type(layer) for layer in grad.layers] == [type(layer) for layer in params.layers]
    assert all(np.abs(array).max() > 1e-6 for array in leaves(grad))  # with nothing, nothing is hard to agree
    bound = 1e-7 * max(np.abs(array).max() for array in leaves(grad))

    def difference(nudge):
        losses = []
        for sign in (1, -1):
            nudge(sign * 5e-6)
            losses.append(loss_and_grad(params, xs, ys, config, **given)[0])
            nudge(-sign * 5e-6)
        return (losses[0] - losses[1]) / 1e-5

    def nudge_entry(size):
        array[at] += size

    def nudge_all(size):
        for array, along in zip(leaves(params), direction, strict=True):
            array += size * along

    for array, derivative in zip(leaves(params), leaves(grad), strict=True):
        places = list(np.ndindex(array.shape))
        for at in places if entries is None else rng.permutation(places)[:entries]:
            at = tuple(at)
            assert derivative[at] == pytest.approx(difference(nudge_entry), rel=0, abs=bound)
    direction = [rng.choice([-1.0, 1.0], size=array.shape) for array in leaves(params)]
    along = sum(np.sum(derivative * by) for derivative, by in zip(leaves(grad), direction, strict=True))
    assert along == pytest.approx(difference(nudge_all), rel=0, abs=10 * bound)


RESETS = np.array([[False, False, True], [True, True, True], [True, True, False]])
ALL = ("inputs", "weight", "recurrent", "zoneout", "outputs")
NO_ZONEOUT = tuple(name for name in ALL if name != "zoneout")  # sLSTM has none


@each_cell
def test_gradient_of_every_cell(cell):
    """By itself, over whole sequences."""
    rng = np.random.default_rng(0)
    params, state, xs = draw_params(rng, cell), draw_state(rng, cell), rng.normal(size=(B, T, D))
    assert_is_gradient(params, xs, rng.integers(C, size=(B, T)), config_of(cell), state=state)


@each_cell
def test_gradient_of_every_cell_with_everything(cell):
    rng = np.random.default_rng(1)
    params, state, xs = draw_params(rng, cell, 2, 2), draw_state(rng, cell, 2, 2), rng.normal(size=(B, T, D))
    masks = draw_masks(rng, params, state, *(NO_ZONEOUT if cell == "slstm" else ALL))
    ys, config = rng.normal(size=(B, C)), config_of(cell, loss="mse", target="mean", residual=True)
    # All that is there at once, where each of two sequences has a step before and after a reset.
    given = {"state": state, "lengths": LENGTHS, "resets": RESETS, "masks": masks}
    assert_is_gradient(params, xs, ys, config, entries=6, **given)


@each_way
@pytest.mark.parametrize("target", ["each", "last", "mean"])
@pytest.mark.parametrize("extra", [*ALL, "expected zoneout", "residual", "resets", "lengths"])
def test_gradient_of_every_extra(ways, target, extra):
    rng = np.random.default_rng(2)
    cell = "gru_before" if extra == "weight" else "lstm"
    params = draw_params(rng, cell, 2 if extra == "residual" else 1, ways)
    xs = rng.normal(size=(B, T, D))
    state = draw_state(rng, cell, len(params.layers), ways)
    ys = rng.integers(C, size=(B, T) if target == "each" else B)
    config = config_of(cell, target=target, residual=extra == "residual", zoneout=0.3 * (extra == "expected zoneout"))
    given = {
        "state": state,
        "lengths": LENGTHS if extra == "lengths" else None,
        "resets": RESETS if extra == "resets" else None,
        "masks": draw_masks(rng, params, state, extra) if extra in ALL else None,
    }
    assert_is_gradient(params, xs, ys, config, entries=6, **given)


def test_gradient_of_a_frozen_state_that_nothing_reads():
    """Where zoneout keeps all units at every step, no weight has a gradient."""
    rng = np.random.default_rng(3)
    params, state, xs = draw_params(rng, "gru"), draw_state(rng, "gru"), rng.normal(size=(B, T, D))
    masks = Masks(layers=(LayerMasks(zoneout=Hidden(np.ones((B, T, P), bool))),))
    _, grad = loss_and_grad(params, xs, rng.integers(C, size=(B, T)), config_of("gru"), state=state, masks=masks)
    assert not any(array.any() for array in leaves(grad.layers))
    assert grad.readout.weight.any()


# What each extra means, in terms of the network without it


def hs_of(params, xs, config, **given):
    """The top layer's outputs, and the state."""
    width = len(params.readout.weight)
    return forward(params._replace(readout=Readout(np.eye(width), np.zeros(width))), xs, config, **given)


@each_cell
def test_state_of_every_cell_carries_a_sequence_over_a_cut(cell):
    rng = np.random.default_rng(4)
    params, xs, config = draw_params(rng, cell, 2), rng.normal(size=(B, T, D)), config_of(cell)
    for state in (None, draw_state(rng, cell, 2)):
        whole, end = forward(params, xs, config, state=state)
        head, middle = forward(params, xs[:, :1], config, state=state)
        tail, last = forward(params, xs[:, 1:], config, state=middle)
        assert_close((np.concatenate([head, tail], axis=1), last), (whole, end))
        kinds = {type(entry) for entry in end}
        assert kinds == {type(entry) for entry in state or middle}
        assert {entry._fields for entry in end} == {CELLS[cell][2]._fields}


@each_cell
def test_backward_direction_reads_the_real_steps_from_the_last_one_on(cell):
    rng = np.random.default_rng(5)
    params, state, config = draw_params(rng, cell, 1, 2), draw_state(rng, cell, 1, 2), config_of(cell)
    xs = rng.normal(size=(B, T, D))
    xs[np.arange(T) >= LENGTHS[:, None]] = np.nan
    hs, (end,) = hs_of(params, xs, config, state=state, lengths=LENGTHS)
    last, _ = hs_of(params, xs, config_of(cell, target="last"), state=state, lengths=LENGTHS)
    mean, _ = hs_of(params, xs, config_of(cell, target="mean"), state=state, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        x = xs[b : b + 1, :length]
        for k, (name, turn) in enumerate((("forward", 1), ("backward", -1))):
            one = ModelParams((getattr(params.layers[0], name),), params.readout._replace(weight=np.zeros((P, C))))
            start = type(state[0][k])(*(array[b : b + 1] for array in state[0][k]))
            alone, (stop,) = hs_of(one, x[:, ::turn], config, state=(start,))
            part = slice(P * k, P * (k + 1))
            np.testing.assert_array_equal(hs[b, :length, part], alone[0, ::turn])
            for array, expected in zip(end[k], stop, strict=True):
                np.testing.assert_array_equal(array[b], expected[0])
            np.testing.assert_array_equal(last[b, part], alone[0, -1] if length else 0)
            np.testing.assert_allclose(mean[b, part], alone[0].mean(axis=0) if length else 0, rtol=1e-14)


@each_cell
@each_way
def test_an_episode_is_as_if_alone(cell, ways):
    rng = np.random.default_rng(6)
    params, state, config = draw_params(rng, cell, 2, ways), draw_state(rng, cell, 2, ways), config_of(cell)
    xs, cuts = rng.normal(size=(B, 6, D)), [0, 2, 3]
    resets = np.zeros((B, 6), bool)
    resets[:, cuts] = True
    resets[:, 5] = True  # beyond the length: read by no one
    given = {"lengths": 5, "state": state}
    scores, end = forward(params, xs, config, resets=resets, **given)
    alone = [forward(params, xs[:, a:b], config)[0] for a, b in ((0, 2), (2, 3))]
    assert_close(scores[:, :3], np.concatenate(alone, axis=1))
    if ways == 2:  # backward, the last episode starts from the state that was given; forward, it is reset
        zeros = forward(params, xs[:, :0], config)[1]
        started = tuple(Both(zero.forward, entry.backward) for zero, entry in zip(zeros, state, strict=True))
        assert_close(scores[:, 3:5], forward(params, xs[:, 3:5], config, state=started)[0])
        first = forward(params, xs[:, :2], config)[1]  # left at its first step, and so no state to go on from
        assert not np.allclose(end[0].backward.h, first[0].backward.h)
        assert_close(tuple(entry.backward for entry in end), tuple(entry.backward for entry in zeros))
    else:
        assert_close((scores[:, 3:5], end), forward(params, xs[:, 3:5], config))


@each_cell
def test_masks_of_weights_and_inputs_are_factors_of_the_weights(cell):
    """And so is recurrent dropout: all that it thins is read by products."""
    rng = np.random.default_rng(7)
    params, state, config = draw_params(rng, cell), draw_state(rng, cell), config_of(cell)
    xs, masks = rng.normal(size=(B, T, D)), draw_masks(rng, params, state, *NO_ZONEOUT)
    same = masks.layers[0]._replace(recurrent=np.tile(masks.layers[0].recurrent[:1], (B, 1)))
    masks = masks._replace(inputs=np.tile(masks.inputs[:1], (B, 1, 1)), layers=(same,))
    layer = params.layers[0]
    layer = layer._replace(weight_ih=layer.weight_ih * masks.inputs[0])
    for name in set(RECURRENT) & set(layer._fields):
        factor = getattr(same.weight, name) * same.recurrent[0]
        layer = layer._replace(**{name: getattr(layer, name) * factor})
    hs, end = hs_of(params, xs, config, state=state, masks=masks)
    expected, expected_end = hs_of(params._replace(layers=(layer,)), xs, config, state=state)
    assert_close((hs, end), (masks.outputs[0] * expected, expected_end))


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "slstm"])
@each_way
def test_zoneout_keeps_old_values(cell, ways):
    """Of every array of the state by itself, at the steps that the mask names, whichever direction comes there."""
    rng = np.random.default_rng(8)
    params, state, xs = draw_params(rng, cell, 1, ways), draw_state(rng, cell, 1, ways), rng.normal(size=(B, T, D))
    masks = draw_masks(rng, params, state, "zoneout")
    hs, _ = hs_of(params, xs, config_of(cell), state=state, masks=masks)
    mean, _ = hs_of(params, xs, config_of(cell, zoneout=0.3), state=state)
    for k in range(ways):
        layer, old, mask = (tree[0] if ways == 1 else tree[0][k] for tree in (params.layers, state, masks.layers))
        one, before = ModelParams((layer,), params.readout), old
        for t in range(T)[:: -1 if k else 1]:
            part = slice(P * k, P * (k + 1))
            _, (new,) = forward(
                one._replace(readout=Readout(np.eye(P), np.zeros(P))), xs[:, [t]], config_of(cell), state=(old,)
            )
            kept = [np.where(m[:, t], a, b) for m, a, b in zip(mask.zoneout, old, new, strict=True)]
            old = type(old)(*kept)
            np.testing.assert_array_equal(hs[:, t, part], old.h)
            readout = Readout(np.eye(P), np.zeros(P))
            _, (new,) = forward(ModelParams((layer,), readout), xs[:, [t]], config_of(cell), state=(before,))
            before = type(old)(*(0.3 * a + 0.7 * b for a, b in zip(before, new, strict=True)))
            np.testing.assert_allclose(mean[:, t, part], before.h, rtol=1e-12)


def test_zoneout_keeps_the_state_that_a_reset_left():
    rng = np.random.default_rng(9)
    params, state, xs = draw_params(rng, "lstm"), draw_state(rng, "lstm"), rng.normal(size=(B, T, D))
    masks = Masks(layers=(LayerMasks(zoneout=LSTMState(*np.ones((2, B, T, P), bool))),))
    _, (end,) = forward(params, xs, EACH, state=state, resets=RESETS, masks=masks)
    np.testing.assert_array_equal(end.h, np.zeros((B, P)))
    _, (end,) = forward(params, xs, EACH, state=state, resets=0 * RESETS, masks=masks)
    np.testing.assert_array_equal(end.h, state[0].h)


@each_way
def test_residual_layers_add_their_input_after_the_mask(ways):
    rng = np.random.default_rng(10)
    params, state, xs = draw_params(rng, "lstm", 3, ways), draw_state(rng, "lstm", 3, ways), rng.normal(size=(B, T, D))
    masks = draw_masks(rng, params, state, "outputs")
    expected = xs
    for k, (layer, entry, factor) in enumerate(zip(params.layers, state, masks.outputs, strict=True)):
        one = params._replace(layers=(layer,))
        hs, _ = hs_of(one, expected, config_of("lstm"), state=(entry,))
        expected = factor * hs + (expected if k else 0)
    hs, _ = hs_of(params, xs, config_of("lstm", residual=True), state=state, masks=masks)
    np.testing.assert_array_equal(hs, expected)


# What each cell is, in terms of another


def run_cell(cell, layer, xs, state):
    hs, (end,) = hs_of(ModelParams((layer,), Readout(np.zeros((P, C)), np.zeros(C))), xs, config_of(cell), state=state)
    return hs, end


def test_peepholes_are_biases_that_the_cell_state_sets():
    rng = np.random.default_rng(11)
    (layer,), state, x = draw_params(rng, "peephole").layers, draw_state(rng, "peephole"), rng.normal(size=(1, 1, D))
    state = (LSTMState(*(array[:1] for array in state[0])),)
    got = run_cell("peephole", layer, x, state)
    p_i, p_f, p_o = np.split(layer.peephole, 3)
    before, after = state[0].c[0], got[1].c[0]
    bias = layer.bias + np.concatenate([p_i * before, p_f * before, np.zeros(P), p_o * after])
    assert_close(got, run_cell("lstm", LSTMParams(layer.weight_ih, layer.weight_hh, bias), x, state))


def test_a_coupled_gate_is_a_forget_gate_of_the_opposite_weights():
    """As 1 - sigmoid(z) is sigmoid(-z)."""
    rng = np.random.default_rng(12)
    (layer,), state, xs = draw_params(rng, "coupled").layers, draw_state(rng, "coupled"), rng.normal(size=(B, T, D))
    whole = LSTMParams(*(np.concatenate([array[:P], -array[:P], array[P:]]) for array in layer))
    assert_close(run_cell("coupled", layer, xs, state), run_cell("lstm", whole, xs, state))


def test_a_projection_is_a_factor_of_what_reads_h():
    rng = np.random.default_rng(13)
    (layer,), state, xs = draw_params(rng, "projected").layers, draw_state(rng, "projected"), rng.normal(size=(1, T, D))
    R, c = layer.weight_hr, state[0].c[:1]
    start = rng.normal(size=(1, 4))
    wide = LSTMParams(layer.weight_ih, layer.weight_hh @ R, layer.bias)
    readout = Readout(R.T, np.zeros(P))
    hs, (end,) = forward(ModelParams((wide,), readout), xs, EACH, state=(LSTMState(start, c),))
    assert_close(run_cell("projected", layer, xs, (LSTMState(start @ R.T, c),)), (hs, LSTMState(end.h @ R.T, end.c)))


def test_layer_normalisation_takes_away_what_is_common_to_all_units():
    """A shift of W x and a factor of it, but for the 1e-5 that keeps the deviation from zero; both of U h too."""
    rng = np.random.default_rng(14)
    (layer,), state, xs = (
        draw_params(rng, "layer_norm").layers,
        draw_state(rng, "layer_norm"),
        rng.normal(size=(B, T, D)),
    )
    other = layer._replace(
        weight_ih=5 * layer.weight_ih + rng.normal(size=D), weight_hh=5 * layer.weight_hh + rng.normal(size=P)
    )
    hs, _ = run_cell("layer_norm", layer, xs, state)
    changed, _ = run_cell("layer_norm", other, xs, state)
    np.testing.assert_allclose(changed, hs, rtol=0, atol=1e-3)
    # One unit alone is its mean, so that the output gate opens onto tanh(shift_c).
    shapes = (4, D), (4, 1), 4, 4, 4, 1, 1
    one = LayerNorm(*(rng.normal(size=shape) for shape in shapes))
    x = rng.normal(size=D)
    h, _ = forward(ModelParams((one,), Readout(np.eye(1), np.zeros(1))), x[None, None], config_of("layer_norm"))
    v = one.weight_ih @ x
    z = one.gain_ih * (v - v.mean()) / np.sqrt(v.var() + 1e-5) + one.bias
    np.testing.assert_allclose(h[0, 0], tanh(one.shift_c[0]) / (1 + exp(-z[3])), rtol=1e-12)


def test_layer_normalised_step_by_hand():
    rng = np.random.default_rng(15)
    (layer,), state, x = (
        draw_params(rng, "layer_norm").layers,
        draw_state(rng, "layer_norm"),
        rng.normal(size=(B, 1, D)),
    )

    def normal(v):
        mean = sum(v) / len(v)
        return np.array([(a - mean) / (sum((b - mean) ** 2 for b in v) / len(v) + 1e-5) ** 0.5 for a in v])

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    hs, end = run_cell("layer_norm", layer, x, state)
    for b in range(B):
        h, c = state[0].h[b], state[0].c[b]
        z = layer.gain_ih * normal(layer.weight_ih @ x[b, 0]) + layer.gain_hh * normal(layer.weight_hh @ h) + layer.bias
        c = sigmoid(z[2:4]) * c + sigmoid(z[:2]) * np.tanh(z[4:6])
        h = sigmoid(z[6:]) * np.tanh(layer.gain_c * normal(c) + layer.shift_c)
        np.testing.assert_allclose([hs[b, 0], end.h[b], end.c[b]], [h, h, c], rtol=1e-12)


def test_the_two_grus_are_one_where_the_reset_gate_is_open():
    rng = np.random.default_rng(16)
    (layer,), state, xs = (
        draw_params(rng, "gru_before").layers,
        draw_state(rng, "gru_before"),
        rng.normal(size=(B, T, D)),
    )
    layer = layer._replace(bias=layer.bias + np.array([1000] * P + [0] * 2 * P))
    after = GRU(layer.weight_ih, np.concatenate([layer.weight_hh, layer.weight_hn]), layer.bias, np.zeros(P))
    assert_close(run_cell("gru", after, xs, state), run_cell("gru_before", layer, xs, state))


def test_slstm_is_a_weighted_mean_of_its_candidates():
    """Without recurrent weights: each one's weight is its input gate times the forget gates of the steps since."""
    rng = np.random.default_rng(17)
    layer = draw_params(rng, "slstm").layers[0]
    layer, xs = layer._replace(weight_hh=np.zeros((4 * P, P))), rng.normal(size=(1, 6, D))
    z_i, z_f, z_z, z_o = np.split(xs[0] @ layer.weight_ih.T + layer.bias, 4, axis=1)
    hs, end = run_cell("slstm", layer, xs, None)
    for t in range(6):
        weights = np.exp([z_i[s] + z_f[s + 1 : t + 1].sum(axis=0) for s in range(t + 1)])
        mean = (weights * np.tanh(z_z[: t + 1])).sum(axis=0) / weights.sum(axis=0)
        np.testing.assert_allclose(hs[0, t], mean / (1 + np.exp(-z_o[t])), rtol=1e-12)
    np.testing.assert_allclose(end.m[0], np.log(weights).max(axis=0), rtol=1e-12)
    np.testing.assert_allclose(end.n[0], weights.sum(axis=0) / weights.max(axis=0), rtol=1e-12)


def test_slstm_does_not_care_how_its_state_is_scaled():
    rng = np.random.default_rng(18)
    (layer,), (state,), xs = draw_params(rng, "slstm").layers, draw_state(rng, "slstm"), rng.normal(size=(B, T, D))
    by = rng.normal(size=(B, P))
    other = state._replace(c=state.c * np.exp(-by), n=state.n * np.exp(-by), m=state.m + by)
    (hs, end), (same, last) = (run_cell("slstm", layer, xs, (start,)) for start in (state, other))
    np.testing.assert_allclose(same, hs, rtol=1e-12)
    np.testing.assert_allclose(last.n * np.exp(last.m), end.n * np.exp(end.m), rtol=1e-12)


def test_slstm_starts_from_what_16_bits_can_hold():
    layer = draw_params(np.random.default_rng(19), "slstm").layers[0]
    _, (zero,) = forward(
        ModelParams((layer,), Readout(np.zeros((P, C)), np.zeros(C))), np.zeros((B, 0, D)), config_of("slstm")
    )
    assert not np.any(zero[:3])
    np.testing.assert_array_equal(zero.m, np.full((B, P), np.finfo(np.float16).min))


def test_nothing_is_imported_from_the_rest_of_the_library():
    sources = [file.read_text() for file in Path(reference.__file__).parent.glob("*.py")]
    imported = re.findall(r"^(?:from|import) (\S+)", "\n".join(sources), re.MULTILINE)
    assert {name for name in imported if not name.startswith("jlstm.reference.")} <= {
        "collections.abc",
        "typing",
        "numpy",
        "numpy.typing",
    }
    assert len(sources) > len(reference.CELLS) == len(CELLS)


# Against other libraries, where they are installed


def torch_module(cell, params):
    """The layers in torch, in float64, with their weights."""
    torch = pytest.importorskip("torch")
    kind = {"lstm": "LSTM", "projected": "LSTM", "gru": "GRU", "rnn": "RNN"}[cell]
    ways = 2 if hasattr(params.layers[0], "backward") else 1
    sizes = {"hidden_size": 4, "proj_size": P} if cell == "projected" else {"hidden_size": P}
    module = getattr(torch.nn, kind)(
        D, **sizes, num_layers=len(params.layers), bidirectional=ways == 2, batch_first=True, dtype=torch.float64
    )
    for name, weight in module.named_parameters():
        with torch.no_grad():
            weight[:] = torch.tensor(torch_weight(params, name))
    return module


def torch_weight(params, name):
    """The array that torch gives this name to, as "weight_hh_l1_reverse"; its second bias is 0, but for a GRU's n."""
    kind, layer, reverse = re.fullmatch(r"(\w+)_l(\d)(_reverse)?", name).groups()
    layer = params.layers[int(layer)]
    if hasattr(layer, "backward"):
        layer = layer.backward if reverse else layer.forward
    if kind == "bias_hh":
        inner = getattr(layer, "bias_hn", np.zeros(P))
        return np.concatenate([np.zeros(len(layer.bias) - len(inner)), inner])
    return layer.bias if kind == "bias_ih" else getattr(layer, kind)


@each_way
@pytest.mark.parametrize("cell", ["lstm", "projected", "gru", "rnn"])
def test_outputs_and_gradients_are_those_of_torch(cell, ways):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(20)
    params, state, xs = draw_params(rng, cell, 2, ways), draw_state(rng, cell, 2, ways), rng.normal(size=(B, T, D))
    ys, lengths, config = rng.integers(C, size=(B, T)), np.array([2, 3, 1]), config_of(cell)
    scores, end = forward(params, xs, config, state=state, lengths=lengths)
    loss, grad = loss_and_grad(params, xs, ys, config, state=state, lengths=lengths)

    module, real = torch_module(cell, params), np.arange(T) < lengths[:, None]
    weight, bias = (torch.tensor(array, requires_grad=True) for array in params.readout)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(xs), lengths, batch_first=True, enforce_sorted=False)
    # Torch's state: an array a part, a row for each direction of each layer.
    start = [torch.tensor(np.stack(part)) for part in zip(*flat_state(state), strict=True)]
    hs, stop = module(packed, tuple(start) if len(start) == 2 else start[0])
    hs, _ = torch.nn.utils.rnn.pad_packed_sequence(hs, batch_first=True)
    expected = hs @ weight + bias
    expected_loss = torch.nn.functional.cross_entropy(expected[real], torch.tensor(ys[real]))
    expected_loss.backward()

    assert_close((scores, loss), (expected.detach().numpy(), expected_loss.item()))
    stop = stop if isinstance(stop, tuple) else (stop,)
    assert_close(
        tuple(np.stack(part) for part in zip(*flat_state(end), strict=True)),
        tuple(part.detach().numpy() for part in stop),
    )
    pairs = {name: (torch_weight(grad, name), weight.grad.numpy()) for name, weight in module.named_parameters()}
    pairs = {name: pair for name, pair in pairs.items() if "bias_hh" not in name}
    if cell == "gru":
        pairs |= {
            name: (torch_weight(grad, name)[-P:], weight.grad.numpy()[-P:])
            for name, weight in module.named_parameters()
            if "bias_hh" in name
        }
    got, wanted = zip(
        *pairs.values(), (grad.readout.weight, weight.grad.numpy()), (grad.readout.bias, bias.grad.numpy()), strict=True
    )
    assert_close(got, wanted)


def flat_state(state):
    return [way for entry in state for way in (entry if hasattr(entry, "backward") else (entry,))]


@pytest.mark.parametrize("cell", ["gru", "gru_before"])
def test_outputs_are_those_of_keras(cell, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    rng = np.random.default_rng(21)
    (layer,), (state,), xs = draw_params(rng, cell).layers, draw_state(rng, cell), rng.normal(size=(B, T, D))
    there = keras.layers.GRUCell(P, reset_after=cell == "gru")
    there.build((B, D))

    def z_first(array):
        """Keras has the update gate before the reset gate, and its weights turned."""
        r, z, n = np.split(array, 3)
        return np.concatenate([z, r, n]).T

    if cell == "gru":
        recurrent = layer.weight_hh
        bias = np.stack([z_first(layer.bias), np.concatenate([np.zeros(2 * P), layer.bias_hn])])
    else:
        recurrent, bias = np.concatenate([layer.weight_hh, layer.weight_hn]), z_first(layer.bias)
    there.set_weights([z_first(layer.weight_ih), z_first(recurrent), bias])
    h, hs = state.h, []
    for t in range(T):
        h, _ = there(xs[:, t].astype(np.float32), h.astype(np.float32))
        h = np.asarray(keras.ops.convert_to_numpy(h))
        hs.append(h)
    assert_close(np.stack(hs, axis=1), run_cell(cell, layer, xs, (state,))[0], 2e-6)
