"""The hand-written reference against finite differences, hand computation and itself: NumPy only."""

from math import exp, log, tanh
from types import SimpleNamespace

import numpy as np
import pytest

from jlstm.cell import LSTMParams, LSTMState
from jlstm.model import LSTMConfig, ModelParams, Readout
from jlstm.reference import forward, loss_and_grad

B, T, D, H, C = 3, 3, 3, 2, 3  # batch, time, inputs, hidden units, outputs
LENGTHS = np.array([3, 0, 2])
EACH = LSTMConfig(D, H, C)


def random_params(rng, layers=1):
    def layer(size):
        return LSTMParams(*(rng.normal(size=shape) for shape in [(4 * H, size), (4 * H, H), 4 * H]))

    return ModelParams(
        tuple(layer(H if k else D) for k in range(layers)), Readout(rng.normal(size=(H, C)), rng.normal(size=C))
    )


def random_state(rng, layers=1):
    return tuple(LSTMState(*rng.normal(size=(2, B, H))) for _ in range(layers))


def random_masks(rng, layers):
    return tuple(rng.choice([0.0, 1.25], p=[0.2, 0.8], size=(B, 1, H)) for _ in range(layers))


def random_targets(rng, kind, target):
    shape = (B, T) if target == "each" else (B,)
    ys = {
        "ids": rng.integers(C, size=shape),
        "probabilities": rng.uniform(size=(*shape, C)),  # rows do not sum to one
        "values": rng.normal(size=(*shape, C)),
    }[kind]
    return ys, LSTMConfig(D, H, C, loss="mse" if kind == "values" else "cross_entropy", target=target)


def arrays(params):
    return [array for layer in params.layers for array in layer] + list(params.readout)


def sequence(state, b):
    return tuple(LSTMState(h[b : b + 1], c[b : b + 1]) for h, c in state)


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("kind", ["ids", "probabilities", "values"])
@pytest.mark.parametrize(("layers", "tokens", "padded"), [(1, False, False), (1, True, True), (2, False, True)])
def test_gradient_is_that_of_finite_differences(layers, tokens, padded, kind, target):
    """With what the sequences start from, their lengths and each layer's mask, where it is `padded`."""
    rng = np.random.default_rng(0)
    params = random_params(rng, layers)
    xs = rng.integers(D, size=(B, T)) if tokens else rng.normal(size=(B, T, D))
    ys, config = random_targets(rng, kind, target)
    given = {}
    if padded:
        given = {
            "state": random_state(rng, layers),
            "lengths": LENGTHS,
            "masks": SimpleNamespace(outputs=random_masks(rng, layers)),
        }

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
@pytest.mark.parametrize("kind", ["ids", "probabilities", "values"])
def test_lengths_are_each_sequence_run_alone(kind, target):
    rng = np.random.default_rng(2)
    params, xs, state = random_params(rng, 2), rng.normal(size=(B, T, D)), random_state(rng, 2)
    ys, config = random_targets(rng, kind, target)
    padding = np.arange(T) >= LENGTHS[:, None]
    xs[padding] = np.nan
    ys[padding if target == "each" else padding.all(axis=1)] = C if kind == "ids" else np.nan

    scores, end = forward(params, xs, EACH, state=state, lengths=LENGTHS)
    loss, grad = loss_and_grad(params, xs, ys, config, state=state, lengths=LENGTHS)

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
