"""What a network's scores say and what it costs when they are wrong: an objective a kind of answer, one table of them.

An objective knows scores and targets, and nothing of networks, batches or time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

__all__ = ["OBJECTIVES", "UNKNOWN", "Objective", "known", "location_and_scale", "mean_and_deviation", "told"]

UNKNOWN = -100  # the class id of a target that does not count, as in torch; of floats it is NaN
LEAST_SCALE = 1e-3  # as in torch: at 0, a series that stands still would have a likelihood without bound


@dataclass(frozen=True)
class Objective:
    """A kind of answer, and its loss.

    Attributes:
        name: what `LSTMConfig.loss` calls it.
        answers: "classes": one of C classes at each place; "questions": C answers, each yes or no; "values": C values.
        losses: `losses(scores, targets)`, what each answer costs: `[...]` for "classes", else `[..., C]`, of scores
            `[..., scores * C]` and known targets, values `[..., C]` or class ids `[...]`.
        losses_of_predictions: `(predictions, targets, probabilities) -> losses`, the same in NumPy of what a network
            told: logits or, where `probabilities` is true, those; values; or means and standard deviations in a pair.
        right: `right(scores, targets)`, which answers are right, of the shape of the losses; None where none can be.
        scores: how many numbers the readout gives for each of C.
        probabilities: of scores; None where there are none.
        noise: `noise(key, shape)`, of a distribution of location 0 and scale 1; None where the scores tell none.
        deviation: the standard deviation of that noise.
    """

    name: str
    answers: Literal["classes", "questions", "values"]
    losses: Callable[[Array, Array], Array]
    losses_of_predictions: Callable[[Any, np.ndarray, bool], np.ndarray]
    right: Callable[[Array, Array], Array] | None = None
    scores: int = 1
    probabilities: Callable[[Array], Array] | None = None
    noise: Callable[..., Array] | None = None
    deviation: float = 1.0


def known(targets: Any) -> Any:
    """Return which targets count: integers other than `UNKNOWN`, floats other than NaN.

    Example:
        >>> known(np.array([0.5, np.nan])).tolist(), known(np.array([3, -100])).tolist()
        ([True, False], [True, False])
    """
    return targets != UNKNOWN if jnp.issubdtype(targets.dtype, jnp.signedinteger) else targets == targets


def location_and_scale(scores: Array) -> tuple[Array, Array]:
    """Return the location and the scale, `[..., C]` each, that scores `[..., 2C]` stand for.

    The scale is softplus of the second half (Salinas et al., "DeepAR", 2020), which falls as an exponential and grows
    as a line. In float32, the Gaussian's gradient is finite for values up to some 1e14 off, Laplace's for all.
    """
    location, raw = jnp.split(scores, 2, axis=-1)
    return location, jax.nn.softplus(raw) + LEAST_SCALE


def mean_and_deviation(scores: Array, objective: Objective) -> tuple[Array, Array]:
    """Return what the scores of a distribution say.

    Args:
        scores: `[..., 2C]`, as a network with this objective gives them.
        objective: one with noise.

    Returns:
        The means and the standard deviations, `[..., C]` each.

    Example:
        >>> mean, deviation = mean_and_deviation(jnp.array([3.0, 0.0]), OBJECTIVES["gaussian"])
        >>> mean.tolist(), round(float(deviation[0]), 3)    # log 2, and a thousandth
        ([3.0], 0.694)
    """
    location, scale = location_and_scale(scores)
    return location, objective.deviation * scale


def told(scores: Array, objective: Objective, *, probabilities: bool = False) -> Array:
    """Return what scores tell a user.

    Args:
        scores: `[..., scores * C]`.
        objective: what they were trained by.
        probabilities: whether to turn logits into probabilities.

    Returns:
        The same shape: logits or probabilities, values, or means and behind them standard deviations.

    Example:
        >>> told(jnp.zeros(2), OBJECTIVES["binary_cross_entropy"], probabilities=True).tolist()
        [0.5, 0.5]
    """
    if objective.noise is not None:
        return jnp.concatenate(mean_and_deviation(scores, objective), axis=-1)
    return objective.probabilities(scores) if probabilities and objective.probabilities else scores


def _cross_entropies(logits: Array, targets: Array) -> Array:
    if targets.ndim == logits.ndim:
        return optax.softmax_cross_entropy(logits, targets.astype(logits.dtype))
    there_is = (targets >= 0) & (targets < logits.shape[-1])  # optax takes -1 for the last class
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(there_is, targets, 0))
    return losses * jnp.where(there_is, 1, jnp.nan).astype(losses.dtype)


def _right_classes(logits: Array, targets: Array) -> Array:
    ids = targets if targets.ndim < logits.ndim else jnp.argmax(targets, axis=-1)
    return jnp.argmax(logits, axis=-1) == ids


def _cross_entropies_of_predictions(predictions: np.ndarray, targets: np.ndarray, probabilities: bool) -> np.ndarray:
    logs = (
        _log(predictions) if probabilities else predictions - np.logaddexp.reduce(predictions, axis=-1, keepdims=True)
    )
    one_hot = np.eye(logs.shape[-1])[targets] if targets.ndim < logs.ndim else targets
    return -(one_hot * logs).sum(axis=-1)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))  # they come in float32, where 0 is what is less


def _squared_errors(predictions: Array, targets: Array) -> Array:
    return (predictions - targets.astype(predictions.dtype)) ** 2


def _squared_errors_of_predictions(predictions: np.ndarray, targets: np.ndarray, probabilities: bool) -> np.ndarray:
    return (predictions - targets) ** 2


def _binary_cross_entropies(logits: Array, targets: Array) -> Array:
    return optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype))


def _right_questions(logits: Array, targets: Array) -> Array:
    return (logits > 0) == (targets > 0.5)


def _binary_cross_entropies_of_predictions(
    predictions: np.ndarray, targets: np.ndarray, probabilities: bool
) -> np.ndarray:
    if probabilities:
        yes, no = _log(predictions), _log(1 - predictions)
    else:
        yes, no = -np.logaddexp(0, -predictions), -np.logaddexp(0, predictions)
    return -(targets * yes + (1 - targets) * no)


def _gaussian(scores: Array, targets: Array) -> Array:
    mean, deviation = location_and_scale(scores)
    z = (targets.astype(mean.dtype) - mean) / deviation
    return jnp.log(deviation) + z**2 / 2 + math.log(2 * math.pi) / 2


def _gaussian_of_predictions(
    predictions: tuple[np.ndarray, np.ndarray], targets: np.ndarray, probabilities: bool
) -> np.ndarray:
    mean, deviation = predictions
    return np.log(deviation) + ((targets - mean) / deviation) ** 2 / 2 + math.log(2 * math.pi) / 2


def _laplace(scores: Array, targets: Array) -> Array:
    median, scale = location_and_scale(scores)
    error = targets.astype(median.dtype) - median
    return jnp.log(2 * scale) + error * jnp.sign(error) / scale  # |error|, of which JAX says that its slope at 0 is 1


def _laplace_of_predictions(
    predictions: tuple[np.ndarray, np.ndarray], targets: np.ndarray, probabilities: bool
) -> np.ndarray:
    median, scale = predictions[0], predictions[1] / math.sqrt(2)
    return np.log(2 * scale) + np.abs(targets - median) / scale


# Beside the Gaussian stands Laplace's distribution, for heavy tails, and not a loss of quantiles: it has a density,
# from which whole paths are drawn. Its location is a median, which an outlier pulls no further than any other value.
OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective(
            "cross_entropy",
            "classes",
            _cross_entropies,
            _cross_entropies_of_predictions,
            _right_classes,
            probabilities=jax.nn.softmax,
        ),
        Objective("mse", "values", _squared_errors, _squared_errors_of_predictions),
        Objective(
            "binary_cross_entropy",
            "questions",
            _binary_cross_entropies,
            _binary_cross_entropies_of_predictions,
            _right_questions,
            probabilities=jax.nn.sigmoid,
        ),
        Objective("gaussian", "values", _gaussian, _gaussian_of_predictions, scores=2, noise=jax.random.normal),
        Objective(
            "laplace",
            "values",
            _laplace,
            _laplace_of_predictions,
            scores=2,
            noise=jax.random.laplace,
            deviation=math.sqrt(2),
        ),
    )
}
