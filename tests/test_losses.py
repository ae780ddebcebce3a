"""Losses against NumPy, their masks, and what lets them be added up in pieces."""

import dataclasses
import os
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import reference
from jlstm.cells.lstm import LSTMParams, LSTMState
from jlstm.config import Loss, LSTMConfig
from jlstm.gradcheck import random_problem
from jlstm.losses import (
    binary_cross_entropy,
    cross_entropy,
    gaussian,
    laplace,
    loss_fn,
    mse,
    summed_evaluation,
    summed_loss,
)
from jlstm.model import ModelParams, Readout
from jlstm.regularizers import draw_masks

os.environ.setdefault("KERAS_BACKEND", "jax")  # whoever imports Keras first decides

B, T, INPUTS, H, C = 3, 4, 2, 3, 5
LENGTHS = np.array([2, 0, 3])
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(B, T, C)).astype(np.float32)
IDS = RNG.integers(C, size=(B, T))
PROBABILITIES = RNG.uniform(size=(B, T, C)).astype(np.float32)  # they do not sum to one
VALUES = RNG.normal(size=(B, T, C)).astype(np.float32)
WIDE = RNG.normal(size=(B, T, 2 * C)).astype(np.float32)
ANSWERS = RNG.random((B, T, C)) < 0.5


def cross_entropies(probabilities):
    """Of each step, in float64."""
    logits = np.float64(SCORES) - SCORES.max(axis=-1, keepdims=True)
    return -(probabilities * (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))).sum(axis=-1)


def binary_cross_entropies(probabilities):
    """Of each answer, in float64."""
    yes, probabilities = 1 / (1 + np.exp(-np.float64(SCORES))), np.float64(probabilities)
    return -(probabilities * np.log(yes) + (1 - probabilities) * np.log(1 - yes))


def of_distribution(of_z):
    """Minus the logarithm of the density of each value, in float64."""
    location, raw = np.split(np.float64(WIDE), 2, axis=-1)
    scale = np.log(1 + np.exp(raw)) + 0.001
    return np.log(scale) + of_z(np.abs(VALUES - location) / scale)


# Each with scores, targets, and what each of these costs: `[B, T]` of classes, else `[B, T, C]`.
LOSSES = {
    "ids": (cross_entropy, SCORES, IDS, cross_entropies(np.eye(C)[IDS])),
    "one-hot": (cross_entropy, SCORES, np.eye(C, dtype=np.float32)[IDS], cross_entropies(np.eye(C)[IDS])),
    "integer one-hot": (cross_entropy, SCORES, np.eye(C, dtype=int)[IDS], cross_entropies(np.eye(C)[IDS])),
    "probabilities": (cross_entropy, SCORES, PROBABILITIES, cross_entropies(PROBABILITIES)),
    "mse": (mse, SCORES, VALUES, (np.float64(SCORES) - VALUES) ** 2),
    "yes or no": (binary_cross_entropy, SCORES, ANSWERS, binary_cross_entropies(ANSWERS)),
    "probabilities of yes": (binary_cross_entropy, SCORES, PROBABILITIES, binary_cross_entropies(PROBABILITIES)),
    "gaussian": (gaussian, WIDE, VALUES, of_distribution(lambda z: z**2 / 2 + np.log(2 * np.pi) / 2)),
    "laplace": (laplace, WIDE, VALUES, of_distribution(lambda z: z + np.log(2))),
}
every_loss = pytest.mark.parametrize(("loss", "scores", "targets", "each"), LOSSES.values(), ids=LOSSES)
FIVE = {name: LOSSES[name] for name in ("ids", "mse", "yes or no", "gaussian", "laplace")}
every_kind = pytest.mark.parametrize(("loss", "scores", "targets", "each"), FIVE.values(), ids=FIVE)


def assert_close(got, expected, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def real(lengths):
    return np.arange(T) < lengths[:, None]


@every_loss
def test_mean_over_all_steps(loss, scores, targets, each):
    got = loss(scores, targets)
    assert (got.shape, got.dtype) == ((), np.float32)
    np.testing.assert_allclose(got, each.mean(), rtol=1e-6)


@every_loss
def test_mean_over_the_real_steps(loss, scores, targets, each):
    np.testing.assert_allclose(loss(scores, targets, LENGTHS), each[real(LENGTHS)].mean(), rtol=1e-6)


@every_loss
def test_one_target_a_sequence(loss, scores, targets, each):
    np.testing.assert_allclose(loss(scores[:, 0], targets[:, 0]), each[:, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(loss(scores[:, 0], targets[:, 0], LENGTHS), each[LENGTHS > 0, 0].mean(), rtol=1e-6)


@every_loss
def test_without_a_real_step_it_is_zero(loss, scores, targets, each):
    assert loss(scores, targets, np.zeros(B, int)) == loss(scores[:, 0], targets[:, 0], np.zeros(B, int)) == 0


@every_loss
def test_padding_counts_for_nothing(loss, scores, targets, each):
    padding = ~real(LENGTHS)
    other = targets.copy()
    other[padding] = 0
    garbage = np.where(padding[..., None], 1e9, scores).astype(np.float32)
    assert loss(garbage, other, LENGTHS) == loss(scores, targets, LENGTHS)
    grads = jax.jit(jax.grad(loss))(garbage, other, LENGTHS)
    np.testing.assert_array_equal(np.any(grads, axis=-1), ~padding)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_scores_in_16_bits_give_a_loss_in_float32(loss, scores, targets, each, dtype):
    low = scores.astype(dtype)
    got = loss(low, targets)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, loss(low.astype(np.float32), targets), rtol=1e-6)


@every_loss
def test_scores_in_float64_give_a_loss_in_float64(x64, loss, scores, targets, each):
    got = jax.jit(loss)(scores.astype(np.float64), targets)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, each.mean(), rtol=1e-14)


# Weights, and targets that are unknown

SHAPES = {"a sequence": (B,), "a step": (B, T), "an answer": (B, T, C)}
WEIGHTS = {name: RNG.uniform(size=shape) * (RNG.random(shape) < 0.7) for name, shape in SHAPES.items()}
WEIGHTS["a sequence"][:] = 0.25, 3, 0


def behind(array, axes):
    return array.reshape(*array.shape, *[1] * (axes - array.ndim))


@every_loss
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_make_the_mean_a_weighted_one(x64, loss, scores, targets, each, weights):
    if weights.ndim > each.ndim:
        with pytest.raises(
            ValueError, match=r"^weights: expected numbers \[batch = 3\] or \[batch = 3, time = 4\], got"
        ):
            loss(scores, targets, weights=weights)
        return
    scores, full = np.float64(scores), np.broadcast_to(behind(weights, each.ndim), each.shape)
    weighted = jax.jit(jax.value_and_grad(loss))
    got, grad = weighted(scores, targets, None, weights)
    np.testing.assert_allclose(got, np.average(each, weights=full), rtol=1e-13)
    np.testing.assert_array_equal(grad.any(axis=-1), full.reshape(B, T, -1).any(axis=-1))
    scaled = weighted(scores, targets, None, 1e-6 * weights)  # whose sum is far below 1
    np.testing.assert_allclose(scaled[0], got, rtol=1e-12)
    np.testing.assert_allclose(scaled[1], grad, rtol=1e-12, atol=1e-15)
    lengths = np.array([4, 1, 3])
    got, some = weighted(scores, targets, lengths, weights)[0], real(lengths)
    np.testing.assert_allclose(got, np.average(each[some], weights=full[some]), rtol=1e-13)


@every_loss
def test_weights_of_one_target_a_sequence(loss, scores, targets, each):
    got = loss(scores[:, 0], targets[:, 0], weights=WEIGHTS["a sequence"])
    np.testing.assert_allclose(got, np.average(each[:, 0], axis=0, weights=WEIGHTS["a sequence"]).mean(), rtol=1e-6)
    if each.ndim == 3:
        weights = WEIGHTS["an answer"][:, 0]
        got = loss(scores[:, 0], targets[:, 0], weights=weights)
        np.testing.assert_allclose(got, np.average(each[:, 0], weights=weights), rtol=1e-6)


@every_loss
def test_weights_may_be_booleans_or_integers(loss, scores, targets, each):
    some = real(LENGTHS)
    for weights in (some, some.astype(int), some.astype(np.uint8), 2.0 * some):
        np.testing.assert_allclose(loss(scores, targets, weights=weights), each[some].mean(), rtol=1e-6)


def without(targets, places):
    """Return targets of which some are unknown, those at `[B, T]` or `[B, T, C]` places."""
    integers = np.issubdtype(targets.dtype, np.integer)
    targets = targets.copy() if integers else targets.astype(np.float32)
    targets[places] = -100 if integers else np.nan
    return targets


@every_loss
@pytest.mark.parametrize("axes", [2, 3], ids=["of steps", "of answers"])
def test_unknown_targets_are_those_of_weight_zero(loss, scores, targets, each, axes):
    places = WEIGHTS["a step" if axes == 2 else "an answer"] == 0
    if targets.ndim < axes:
        places = places.any(axis=-1)
    unknown = without(targets, places)
    if each.ndim < places.ndim:  # a class of which one probability is unknown is unknown
        places = places.any(axis=-1)
    function = jax.jit(jax.value_and_grad(loss))
    value, grad = function(scores, unknown)
    np.testing.assert_allclose(value, each[~places].mean(), rtol=1e-6)
    np.testing.assert_allclose(grad, function(scores, targets, None, ~places)[1], rtol=1e-5, atol=1e-9)
    idle = np.broadcast_to(behind(places, 3), (B, T, C))
    np.testing.assert_array_equal(grad == 0, np.concatenate([idle] * (scores.shape[-1] // C), axis=-1))


@every_loss
def test_where_no_target_counts_the_loss_and_its_gradient_are_zero(loss, scores, targets, each):
    function = jax.jit(jax.value_and_grad(loss))
    nothing = without(targets, np.ones((B, T), bool))
    for given in (
        (scores, targets, None, np.zeros(B)),
        (scores, targets, None, np.zeros((B, T))),
        (scores, nothing),
        (scores, nothing, LENGTHS, WEIGHTS["a step"]),
        (scores, without(targets, real(LENGTHS)), LENGTHS),
        (scores, targets, np.zeros(B, int)),
    ):
        value, grad = function(*given)
        assert value == 0
        np.testing.assert_array_equal(grad, 0)


def test_a_class_id_that_is_none_is_told_unless_it_does_not_count():
    for wrong in (C, -1, -99, 2**31 - 1):
        ids = IDS.copy()
        ids[0, 0] = wrong
        weights = np.ones((B, T))
        assert np.isnan(cross_entropy(SCORES, ids))
        weights[0, 0] = 0
        value, grad = jax.value_and_grad(cross_entropy)(SCORES, ids, None, weights)
        assert np.isfinite(value)
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("loss", [mse, gaussian, laplace])
def test_an_integer_value_of_minus_100_is_a_value(loss):
    """It is an id alone that can be unknown: -100 degrees are a temperature."""
    scores = np.zeros((1, 3, 1 if loss is mse else 2), np.float32)
    values = np.array([[[-100], [0], [3]]])
    assert loss(scores, values) == loss(scores, values.astype(np.float32)) > loss(scores, np.abs(values) % 100)


@every_kind
def test_vmap_maps_over_weights(loss, scores, targets, each):
    several = np.stack([WEIGHTS["a step"], 1 - WEIGHTS["a step"]])
    got = jax.vmap(lambda weights: jax.value_and_grad(loss)(scores, targets, None, weights))(several)
    for k, weights in enumerate(several):
        one = jax.value_and_grad(loss)(scores, targets, None, weights)
        jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=1e-5, atol=1e-8), got, one)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: mse(SCORES, VALUES, weights=np.ones(C)),
            ValueError,
            r"weights: expected numbers \[batch = 3\] or .*"
            r"\[batch = 3, time = 4, C = 5\], got float64 of shape \(5,\)",
        ),
        (
            lambda: mse(SCORES[:, 0], VALUES[:, 0], weights=np.ones((B, T))),
            ValueError,
            r"weights: expected numbers \[batch = 3\] or \[batch = 3, C = 5\], got float64 of shape \(3, 4\)",
        ),
        (lambda: mse(SCORES, VALUES, weights="heavy"), TypeError, "weights: expected numbers, got strings"),
        (lambda: mse(SCORES, VALUES, weights=1.0), ValueError, "weights: expected numbers .*, got "),
        (
            lambda: gaussian(SCORES, VALUES),
            ValueError,
            r"scores: expected \[batch, time, 2C\], or \[batch, 2C\], got float32 of shape \(3, 4, 5\)",
        ),
        (
            lambda: laplace(WIDE, WIDE),
            ValueError,
            r"targets: expected \[batch = 3, time = 4, C = 5\], got float32 of shape \(3, 4, 10\)",
        ),
        (
            lambda: binary_cross_entropy(SCORES, IDS),
            ValueError,
            r"targets: expected \[batch = 3, time = 4, C = 5\], got int64 of shape \(3, 4\)",
        ),
    ],
    ids=["weights of C", "weights of steps for one target", "strings", "a number", "odd", "wide targets", "ids"],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


# Numbers of every size


@pytest.mark.parametrize("raw", [-5.0, 0.0, 5.0, 1e4])
@pytest.mark.parametrize("loss", [mse, gaussian, laplace])
def test_an_outlier_leaves_loss_and_gradient_finite(loss, raw):
    scores = np.float32([[[0.0, raw]]])[..., : 1 if loss is mse else 2]
    for outlier in (1e3, -1e9, 1e15):
        value, grad = jax.jit(jax.value_and_grad(loss))(scores, np.float32([[[outlier]]]))
        assert np.isfinite(value)
        assert np.isfinite(grad).all()
        assert grad[0, 0, 0] * outlier < 0  # up, where the value is above


@pytest.mark.parametrize("raw", [-1e4, -100.0, -5.0, 0.0])
@pytest.mark.parametrize("loss", [gaussian, laplace])
def test_a_series_that_stands_still_has_a_likelihood_with_a_bound(loss, raw):
    scores, values = np.float32([[[0.5, raw]]]), np.float32([[[0.5]]])
    value, grad = jax.jit(jax.value_and_grad(loss))(scores, values)
    peak = np.sqrt(2 * np.pi) if loss is gaussian else 2
    assert np.log(0.00099 * peak) < value < np.log(0.7 * peak)
    assert grad[0, 0, 0] == 0  # also of |x|, whose slope at 0 JAX says is 1
    assert 0 <= grad[0, 0, 1] < 1


@pytest.mark.parametrize(("logit", "answer", "expected"), [(1e4, 1, 0), (1e4, 0, 1e4), (-1e4, 1, 1e4), (-1e4, 0, 0)])
def test_binary_cross_entropy_of_extreme_logits(logit, answer, expected):
    loss, grad = jax.jit(jax.value_and_grad(binary_cross_entropy))(np.float32([[[logit]]]), np.float32([[[answer]]]))
    assert loss == expected
    assert grad[0, 0, 0] == (logit > 0) - answer


# Beside other libraries, where those say the same

CLASS_WEIGHTS = np.array([0.5, 2, 0, 1, 3])


def torch_gradient(function, scores):
    torch = pytest.importorskip("torch")
    scores = torch.tensor(np.float64(scores), requires_grad=True)
    value = function(torch, scores)
    value.backward()
    return value.item(), scores.grad.numpy()


def assert_as_torch(function, loss, scores, *given, factor=1.0):
    expected = torch_gradient(function, scores)
    got = jax.jit(jax.value_and_grad(lambda scores: factor * loss(scores, *given)))(np.float64(scores))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), got, expected)


def test_cross_entropy_is_that_of_torch(x64):
    ids = without(IDS, WEIGHTS["a step"] == 0)

    def function(torch, scores):
        rows, weight = scores.reshape(-1, C), torch.tensor(CLASS_WEIGHTS)
        return torch.nn.functional.cross_entropy(rows, torch.tensor(ids.ravel()), weight=weight, ignore_index=-100)

    assert_as_torch(function, cross_entropy, SCORES, ids, None, jnp.asarray(CLASS_WEIGHTS)[ids])


def test_binary_cross_entropy_is_that_of_torch_times_the_mean_weight(x64):
    """torch divides by how many there are, and not by the sum of their weights."""
    weights = WEIGHTS["an answer"]

    def function(torch, scores):
        functional, answers = torch.nn.functional, torch.tensor(np.float64(ANSWERS))
        return functional.binary_cross_entropy_with_logits(scores, answers, weight=torch.tensor(weights))

    assert_as_torch(function, binary_cross_entropy, SCORES, ANSWERS, None, weights, factor=weights.mean())


@pytest.mark.parametrize("loss", [mse, gaussian, laplace])
def test_losses_of_values_are_those_of_torch(x64, loss):
    known = WEIGHTS["an answer"] > 0

    def function(torch, scores):
        values, places = torch.tensor(np.float64(VALUES[known])), torch.tensor(known)
        if loss is mse:
            return torch.nn.MSELoss()(scores[places], values)
        location, raw = scores.split(C, dim=-1)
        location, scale = location[places], (torch.nn.functional.softplus(raw) + 1e-3)[places]
        if loss is gaussian:
            return torch.nn.GaussianNLLLoss(full=True)(location, values, scale**2)
        return -torch.distributions.Laplace(location, scale).log_prob(values).mean()

    scores, values = (SCORES if loss is mse else WIDE), without(VALUES, ~known)
    assert_as_torch(function, loss, scores, values)
    assert_as_torch(function, loss, scores, VALUES, None, known)


@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "BinaryCrossentropy", "MeanSquaredError"])
def test_losses_with_weights_are_those_of_keras(name):
    """By `mean_with_sample_weight`; its `sum_over_batch_size` divides by how many there are, and not by the weights."""
    keras = pytest.importorskip("keras")
    options = {} if name == "MeanSquaredError" else {"from_logits": True}
    loss, targets = {"S": (cross_entropy, IDS), "B": (binary_cross_entropy, ANSWERS), "M": (mse, VALUES)}[name[0]]
    weights = WEIGHTS["a step"].astype(np.float32)
    got = loss(SCORES, targets, None, weights)
    for reduction, factor in (("mean_with_sample_weight", 1), ("sum_over_batch_size", weights.mean())):
        theirs = getattr(keras.losses, name)(reduction=reduction, **options)
        of_keras = theirs(np.float32(targets), SCORES, sample_weight=weights)
        np.testing.assert_allclose(factor * got, of_keras, rtol=1e-5)


def test_mse_of_targets_of_another_shape_is_no_silent_broadcast():
    with pytest.raises((ValueError, TypeError)):
        mse(SCORES[:, 0, :1], VALUES[:, 0, 0])


@pytest.mark.parametrize(("loss", "targets"), [(mse, VALUES), (cross_entropy, PROBABILITIES)])
def test_nan_targets_in_the_padding_do_the_gradient_no_harm(loss, targets):
    dirty = np.where(real(LENGTHS)[..., None], targets, np.nan)
    grad = jax.jit(jax.grad(loss))
    np.testing.assert_array_equal(grad(SCORES, dirty, LENGTHS), grad(SCORES, targets, LENGTHS))


@pytest.mark.parametrize("form", ["ids", "one-hot"])
@pytest.mark.parametrize(("target", "expected"), [(0, 0.0), (1, 1e4), (2, 2e4)])
def test_cross_entropy_of_extreme_logits(form, target, expected):
    logits = np.array([[[1e4, 0.0, -1e4]]], np.float32)
    targets = np.array([[target]]) if form == "ids" else np.eye(3, dtype=np.float32)[[[target]]]
    loss, grads = jax.jit(jax.value_and_grad(cross_entropy))(logits, targets)
    assert loss == expected
    np.testing.assert_array_equal(grads, [[np.eye(3)[0] - np.eye(3)[target]]])


CONFIGS = {
    "ids": (LSTMConfig(INPUTS, H, C), IDS),
    "probabilities": (LSTMConfig(INPUTS, H, C), PROBABILITIES),
    "mse": (LSTMConfig(INPUTS, H, C, loss="mse"), VALUES),
    "last ids": (LSTMConfig(INPUTS, H, C, target="last"), IDS[:, 0]),
    "last mse": (LSTMConfig(INPUTS, H, C, target="last", loss="mse"), VALUES[:, 0]),
}
every_config = pytest.mark.parametrize(("config", "targets"), CONFIGS.values(), ids=CONFIGS)
XS = RNG.normal(size=(B, T, INPUTS)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    def normal(*shape):
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)

    layer = LSTMParams(normal(4 * H, INPUTS), normal(4 * H, H), normal(4 * H))
    return ModelParams((layer,), Readout(normal(H, C), normal(C)))


@every_config
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
def test_summed_loss_is_that_of_the_reference(params, config, targets, lengths):
    total, (count, state) = jax.jit(summed_loss)(params, XS, targets, config, lengths=lengths)
    expected, _ = reference.loss_and_grad(params, XS, targets, config, lengths=lengths)
    np.testing.assert_allclose(total / count, expected, rtol=1e-5)
    steps = np.full(B, T) if lengths is None else lengths
    assert count == (steps.sum() if config.target == "each" else (steps > 0).sum())
    assert_close(state, reference.forward(params, XS, config, lengths=lengths)[1], 1e-5)


@every_config
def test_value_and_grad_take_the_config_as_an_ordinary_argument(params, config, targets):
    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params, XS, targets, config)
    np.testing.assert_allclose(loss, reference.loss_and_grad(params, XS, targets, config)[0], rtol=1e-5)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    assert all(np.isfinite(array).all() and np.any(array) for array in jax.tree.leaves(grads))


def test_loss_fn_takes_state_and_lengths(params):
    config, targets = CONFIGS["ids"]
    state = (LSTMState(*RNG.normal(size=(2, B, H)).astype(np.float32)),)
    got = jax.jit(loss_fn)(params, XS, targets, config, state=state, lengths=LENGTHS)
    expected, _ = reference.loss_and_grad(params, XS, targets, config, state=state, lengths=LENGTHS)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert jax.jit(loss_fn)(params, XS, targets, config, state=state, lengths=0 * LENGTHS) == 0


@pytest.mark.parametrize("form", ["ids", "last mse"])
def test_key_leaves_out_what_its_masks_do(params, form):
    config, targets = CONFIGS[form]
    config, key = dataclasses.replace(config, dropout=0.4), jax.random.key(2)
    masks = draw_masks(key, config, B, XS.shape[1])
    got = jax.jit(loss_fn)(params, XS, targets, config, lengths=LENGTHS, key=key)
    expected, _ = reference.loss_and_grad(params, XS, targets, config, lengths=LENGTHS, masks=masks)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    whole = jax.jit(loss_fn)(params, XS, targets, config, lengths=LENGTHS)
    np.testing.assert_allclose(whole, reference.loss_and_grad(params, XS, targets, config, lengths=LENGTHS)[0], 1e-5)
    assert abs(got - whole) > 1e-3


def test_equal_configs_retrace_nothing(params):
    traced = []

    @jax.jit
    def counted(*args):
        traced.append(1)
        return loss_fn(*args)

    counted(params, XS, IDS, LSTMConfig(INPUTS, H, C))
    counted(params, XS, IDS, LSTMConfig(np.int64(INPUTS), H, C, input_scale=1))
    assert len(traced) == 1


@pytest.mark.parametrize("form", ["probabilities", "mse", "last ids"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
def test_summed_loss_adds_up_over_pieces_of_a_batch(params, form, lengths):
    config, targets = CONFIGS[form]

    def summed(rows):
        some = None if lengths is None else lengths[rows]
        total, (count, _) = jax.jit(summed_loss)(params, XS[rows], targets[rows], config, lengths=some)
        return np.array([total, count])

    np.testing.assert_allclose(summed([0]) + summed([1]) + summed([2]), summed([0, 1, 2]), rtol=1e-6)


@pytest.mark.parametrize("form", ["ids", "mse"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
def test_summed_loss_adds_up_over_pieces_of_time(params, form, lengths):
    config, targets = CONFIGS[form]

    def summed(start, stop, state=None):
        left = None if lengths is None else np.clip(lengths - start, 0, stop - start)
        total, (count, state) = jax.jit(summed_loss)(
            params, XS[:, start:stop], targets[:, start:stop], config, state=state, lengths=left
        )
        return np.array([total, count]), state

    whole, last = summed(0, T)
    first, state = summed(0, T // 2, jax.tree.map(np.zeros_like, last))
    second, state = summed(T // 2, T, state)
    np.testing.assert_allclose(first + second, whole, rtol=1e-6)
    assert_close(state, last, 1e-6)


def test_parameters_in_bfloat16_give_a_loss_in_float32(params):
    config, targets = CONFIGS["ids"]
    low = jax.tree.map(lambda array: array.astype(jnp.bfloat16), params)
    total, (count, _) = jax.jit(summed_loss)(low, XS, targets, config)
    assert total.dtype == count.dtype == np.float32
    np.testing.assert_allclose(total / count, reference.loss_and_grad(low, XS, targets, config)[0], rtol=0.02)


@every_loss
def test_one_target_of_a_sequence_of_a_single_step_counts(loss, scores, targets, each):
    got = loss(scores[:, 0], targets[:, 0], np.array([1, 0, 2]))
    np.testing.assert_allclose(got, each[[0, 2], 0].mean(), rtol=1e-6)


# Weights through a network


@pytest.mark.parametrize("loss", get_args(Loss))
def test_a_network_is_not_moved_where_no_target_counts(loss):
    config = LSTMConfig(INPUTS, H, C, loss=loss)
    problem = random_problem(config, B, T)
    nothing = without(problem["ys"], np.ones((B, T), bool))
    gradient = jax.jit(jax.value_and_grad(lambda params, given: loss_fn(params, **given, config=config)))
    params = problem.pop("params")
    given = {name: problem[name] for name in ("xs", "lengths", "resets")}
    weights = np.zeros((B, T), np.float32)
    for some in ({"ys": problem["ys"], "weights": weights}, {"ys": nothing, "weights": weights + 1}):
        for leaf in jax.tree.leaves(gradient(params, given | some)):
            np.testing.assert_array_equal(leaf, 0)
    value, grads = gradient(params, given | {"ys": problem["ys"], "weights": weights + 1})
    assert value != 0
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("config", "ys"),
    [
        (LSTMConfig(INPUTS, H, C), IDS),
        (LSTMConfig(INPUTS, H, C), np.eye(C)[IDS]),
        (LSTMConfig(INPUTS, H, C, loss="binary_cross_entropy"), ANSWERS),
        (LSTMConfig(INPUTS, H, C, loss="mse"), VALUES),
    ],
    ids=["ids", "probabilities", "yes or no", "values"],
)
def test_an_evaluation_weighs_losses_and_counts_what_is_right(params, config, ys):
    weights, lengths = WEIGHTS["a step"], np.array([4, 3, 2])
    ys = without(ys, np.eye(B, T, dtype=bool))
    found = jax.jit(summed_evaluation)(params, XS, ys, config, lengths=lengths, weights=weights)
    total, (weight, _) = jax.jit(summed_loss)(params, XS, ys, config, lengths=lengths, weights=weights)
    np.testing.assert_allclose(found[:2], [total, weight], rtol=1e-6)
    counts = real(lengths) & (weights > 0) & ~np.eye(B, T, dtype=bool)
    np.testing.assert_allclose(weight, weights[counts].sum(), rtol=1e-6)
    scores, _ = reference.forward(params, XS, config)
    right = {
        "classes": lambda: scores.argmax(axis=-1) == IDS,
        "questions": lambda: (scores > 0) == ANSWERS,
        "values": lambda: np.zeros((B, T, 0)),
    }[config.objective.answers]()
    answers = C if config.objective.answers == "questions" else 1
    asked = config.objective.answers != "values"
    np.testing.assert_allclose(found[2:], [right[counts].sum() / answers, asked * counts.sum()], rtol=1e-6)
