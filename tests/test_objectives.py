"""The table of what scores say: each objective's losses, what it tells, what is right, and its noise."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm.config import Loss, LSTMConfig
from jlstm.objectives import OBJECTIVES, UNKNOWN, known, location_and_scale, mean_and_deviation, told

N, C = 40, 3
RNG = np.random.default_rng(0)
TARGETS = {
    "classes": RNG.integers(C, size=N),
    "questions": RNG.random((N, C)) < 0.5,
    "values": RNG.normal(size=(N, C)).astype(np.float32),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
WITH_NOISE = {name: objective for name, objective in OBJECTIVES.items() if objective.noise is not None}
with_noise = pytest.mark.parametrize("objective", WITH_NOISE.values(), ids=WITH_NOISE)


def scores_of(objective):
    return np.random.default_rng(1).normal(size=(N, C * objective.scores), scale=2).astype(np.float32)


def test_the_table_has_every_loss_by_its_name():
    assert tuple(OBJECTIVES) == get_args(Loss)
    assert {name: objective.name for name, objective in OBJECTIVES.items()} == {name: name for name in OBJECTIVES}
    for name, objective in OBJECTIVES.items():
        config = LSTMConfig(1, 2, C, loss=name)
        assert config.objective is objective
        assert config.readout_width == C * objective.scores
    assert set(WITH_NOISE) == {"gaussian", "laplace"}


@every_objective
def test_losses_have_the_shape_of_the_answers(objective):
    targets = TARGETS[objective.answers]
    losses = objective.losses(jnp.asarray(scores_of(objective)), jnp.asarray(targets))
    assert losses.shape == targets.shape
    assert (objective.right is None) == (objective.answers == "values")
    if objective.right:
        right = objective.right(jnp.asarray(scores_of(objective)), jnp.asarray(targets))
        assert (right.shape, right.dtype) == (targets.shape, bool)
        assert losses[right].max() < np.log(C if objective.answers == "classes" else 2) + 1e-6 < losses[~right].max()


@every_objective
@pytest.mark.parametrize("probabilities", [False, True], ids=["scores", "probabilities"])
def test_losses_of_predictions_are_those_of_the_scores(objective, probabilities):
    scores, targets = jnp.asarray(scores_of(objective)), TARGETS[objective.answers]
    predictions = np.asarray(told(scores, objective, probabilities=probabilities), float)
    if objective.noise is not None:
        predictions = tuple(np.split(predictions, 2, axis=-1))
    for form in (targets, np.eye(C)[targets]) if objective.answers == "classes" else (targets,):
        found = objective.losses_of_predictions(predictions, form, probabilities)
        expected = objective.losses(scores, jnp.asarray(form))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_a_probability_of_zero_costs_as_much_as_the_least_float(name):
    predictions = np.array([[1.0, 0.0]])
    targets = np.array([1]) if name == "cross_entropy" else np.array([[0, 1]])
    found = OBJECTIVES[name].losses_of_predictions(predictions, targets, True)
    np.testing.assert_allclose(found, np.full(found.shape, -np.log(np.finfo(np.float32).tiny)))


def test_right_classes_of_probabilities_and_right_answers_of_probabilities_of_yes():
    classes, questions = OBJECTIVES["cross_entropy"].right, OBJECTIVES["binary_cross_entropy"].right
    scores = jnp.array([[0.0, 2, 1], [3, 0, 1]])
    assert classes(scores, jnp.array([1, 1])).tolist() == [True, False]
    assert classes(scores, jnp.array([[0.2, 0.5, 0.3], [0.4, 0.5, 0.1]])).tolist() == [True, False]
    answers = questions(jnp.array([1.0, -1, 1, -1]), jnp.array([0.9, 0.1, 0.4, 0.6]))
    assert answers.tolist() == [True, True, False, False]


@with_noise
def test_what_a_distribution_tells(objective):
    location, raw = np.split(np.float64(scores_of(objective)), 2, axis=-1)
    scale = np.log(1 + np.exp(raw)) + 0.001
    factor = 1 if objective.name == "gaussian" else np.sqrt(2)
    scores = jnp.asarray(scores_of(objective))
    for got, expected in (
        (location_and_scale(scores), (location, scale)),
        (mean_and_deviation(scores, objective), (location, factor * scale)),
        (jnp.split(told(scores, objective, probabilities=True), 2, axis=-1), (location, factor * scale)),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@every_objective
def test_what_is_told_without_a_distribution(objective):
    if objective.noise is not None:
        return
    scores = jnp.asarray(scores_of(objective))
    np.testing.assert_array_equal(told(scores, objective), scores)
    shares, exponentials = told(scores, objective, probabilities=True), np.exp(np.float64(scores))
    expected = {
        "classes": exponentials / exponentials.sum(axis=-1, keepdims=True),
        "questions": exponentials / (1 + exponentials),
        "values": scores,
    }[objective.answers]
    np.testing.assert_allclose(shares, expected, rtol=1e-5)


@with_noise
def test_noise_is_of_the_distribution_that_the_loss_is_of(objective):
    """100,000 draws: within five standard errors of their mean, deviation and, of scores, the entropy as their loss."""
    count = 100_000
    noise = np.float64(objective.noise(jax.random.key(0), (count,)))
    deviation, kurtosis = (1, 3) if objective.name == "gaussian" else (np.sqrt(2), 6)
    assert objective.deviation == deviation
    assert noise.mean() == pytest.approx(0, abs=5 * deviation / np.sqrt(count))
    assert noise.std() == pytest.approx(deviation, rel=5 * np.sqrt((kurtosis - 1) / 4 / count))
    scale = np.log(1 + np.exp(0.3)) + 0.001
    losses = objective.losses(
        np.tile(np.float32([2, 0.3]), (count, 1)), (2 + scale * noise).astype(np.float32)[:, None]
    )
    entropy = np.log(2 * np.pi * np.e) / 2 if objective.name == "gaussian" else 1 + np.log(2)
    assert losses.mean() == pytest.approx(np.log(scale) + entropy, abs=5 / np.sqrt(count))


@pytest.mark.parametrize("dtype", ["int8", "int32", "float16", "bfloat16", "float32", "uint8", "bool"])
def test_what_is_known(dtype):
    assert UNKNOWN == -100
    floats, signed = "float" in dtype, dtype.startswith("int")
    values = {True: [0.0, np.nan, -100.0, 1.0], False: [0, -100, 1] if signed else [0, 1, 1]}[floats]
    expected = [True, False, True, True] if floats else [True, not signed, True]
    assert known(jnp.array(values, dtype)).tolist() == expected
    assert known(np.array(values, jnp.dtype(dtype))).tolist() == expected
