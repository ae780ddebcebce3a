"""What training makes small: losses of scores against targets, each the mean over the targets that count.

Those are the targets of real steps, of a weight other than 0, and not unknown: floats that are NaN and class ids that
are `jlstm.objectives.UNKNOWN`, -100, are. The mean is weighted where there are weights.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from jlstm.checks import array, describe, is_integer, lengths_of, targets_of, weights_of
from jlstm.config import LSTMConfig
from jlstm.data import behind
from jlstm.devices import spread_by_xla
from jlstm.model import ModelParams, checked, scores_of
from jlstm.objectives import OBJECTIVES, Objective, known

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "gaussian",
    "laplace",
    "loss_fn",
    "mse",
    "summed_evaluation",
    "summed_loss",
    "targets_in",
]


def cross_entropy(logits: Array, targets: Array, lengths: Array | None = None, weights: Array | None = None) -> Array:
    """Return the cross-entropy of targets under the softmax of logits, in nats.

    - Σ_k p_k log softmax(logits)_k (Bridle, "Probabilistic Interpretation of Feedforward Classification Network
    Outputs", 1990), computed from the logits, so that it neither overflows nor takes the logarithm of zero.

    Args:
        logits: `[batch, time, C]`, or `[batch, C]` with one target a sequence.
        targets: class ids, integers of the shape of `logits` without its last axis; or one-hot or probability vectors
            of the shape of `logits`.
        lengths: how many steps of each sequence are real, `[batch]` integers or one for all; all where None.
        weights: how much each target counts, `[batch]`, or `[batch, time]`; `class_weights[targets]` weighs classes as
            torch's `weight` does.

    Returns:
        The mean over all targets that count, a scalar, 0 where none does; NaN where a class id that counts is not from
        0 to C - 1.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> float(cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[0, 3]])))    # log 4
        1.3862943649291992
    """
    return _loss_of("logits", logits, targets, lengths, weights, "cross_entropy")


def mse(predictions: Array, targets: Array, lengths: Array | None = None, weights: Array | None = None) -> Array:
    """Return the mean squared error.

    Args:
        predictions: `[batch, time, C]`, or `[batch, C]` with one target a sequence.
        targets: values of the same shape.
        lengths: how many steps of each sequence are real, `[batch]` integers or one for all; all where None.
        weights: how much each target counts, `[batch]`, `[batch, time]`, or of the shape of `targets`.

    Returns:
        The mean over all targets that count, a scalar, 0 where none does.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> float(mse(jnp.zeros((1, 2, 1)), jnp.array([[[1.0], [3.0]]])))
        5.0
    """
    return _loss_of("predictions", predictions, targets, lengths, weights, "mse")


def binary_cross_entropy(
    logits: Array, targets: Array, lengths: Array | None = None, weights: Array | None = None
) -> Array:
    """Return the cross-entropy of answers to questions, each yes or no by itself, in nats.

    - p log σ(logit) - (1 - p) log(1 - σ(logit)) (Bridle, 1990), computed from the logit.

    Args:
        logits: `[batch, time, C]`, or `[batch, C]` with one target a sequence.
        targets: booleans, 0 and 1, or probabilities of yes, of the same shape.
        lengths, weights: as for `mse`.

    Returns:
        The mean over all targets that count, a scalar, 0 where none does.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> float(binary_cross_entropy(jnp.zeros((1, 2, 1)), jnp.array([[[True], [False]]])))    # log 2
        0.6931471824645996
    """
    return _loss_of("logits", logits, targets, lengths, weights, "binary_cross_entropy")


def gaussian(scores: Array, targets: Array, lengths: Array | None = None, weights: Array | None = None) -> Array:
    """Return the negative log-likelihood of targets under normal distributions, in nats.

    log s + (y - m)² / 2s² + ½ log 2π (Nix and Weigend, "Estimating the Mean and Variance of the Target Probability
    Distribution", 1994).

    Args:
        scores: `[batch, time, 2C]`, or `[batch, 2C]` with one target a sequence: the means m, and behind them what the
            standard deviations s are made of, as `jlstm.objectives.mean_and_deviation` does it.
        targets: values y, `[batch, time, C]` or `[batch, C]`.
        lengths, weights: as for `mse`.

    Returns:
        The mean over all targets that count, a scalar, 0 where none does.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> round(float(gaussian(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 1)))), 3)    # log 0.694 + ½ log 2π
        0.554
    """
    return _loss_of("scores", scores, targets, lengths, weights, "gaussian")


def laplace(scores: Array, targets: Array, lengths: Array | None = None, weights: Array | None = None) -> Array:
    """Return the negative log-likelihood of targets under Laplace distributions, in nats: for values with heavy tails.

    log 2b + |y - m| / b (Laplace, 1774).

    Args:
        scores: as for `gaussian`: the medians m, and behind them what the scales b are made of.
        targets, lengths, weights: as for `gaussian`.

    Returns:
        The mean over all targets that count, a scalar, 0 where none does.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> round(float(laplace(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 1)))), 3)    # log(2 · 0.694)
        0.328
    """
    return _loss_of("scores", scores, targets, lengths, weights, "laplace")


def _loss_of(name: str, scores: Any, targets: Any, lengths: Any, weights: Any, loss: str) -> Array:
    scores, objective = array(name, scores), OBJECTIVES[loss]
    if scores.ndim == 0 or (lengths is not None and scores.ndim not in (2, 3)) or scores.shape[-1] % objective.scores:
        last = f"{objective.scores}C" if objective.scores > 1 else "C"
        raise ValueError(f"{name}: expected [batch, time, {last}], or [batch, {last}], got {describe(scores)}")
    names = {1: ["C"], 2: ["batch", "C"], 3: ["batch", "time", "C"]}
    other = [*(f"axis {k}" for k in range(scores.ndim - 1)), "C"]
    sizes = *scores.shape[:-1], scores.shape[-1] // objective.scores
    axes = dict(zip(names.get(scores.ndim, other), sizes, strict=True))
    targets, lengths = _targets_of("targets", targets, objective, axes), lengths_of(lengths, scores.shape[0])
    weights = _weights_of(weights, objective, axes)
    return _mean(*_summed(scores, targets, lengths, weights, objective=objective, each=objective.losses))


def _targets_of(name: str, targets: Any, objective: Objective, axes: dict[str, Any]) -> Array:
    found = targets_of(name, targets, ids=objective.answers == "classes", **axes)
    if objective.answers == "values" and is_integer(found):  # of which -100 is one
        return found.astype(float)
    return found


def _weights_of(weights: Any, objective: Objective, axes: dict[str, Any]) -> Array | None:
    if objective.answers == "classes":
        axes = {name: size for name, size in axes.items() if name != "C"}
    return weights_of(weights, **axes)


def loss_fn(
    params: ModelParams,
    xs: Array,
    ys: Array,
    config: LSTMConfig,
    *,
    state: tuple | None = None,
    lengths: Array | None = None,
    key: Array | None = None,
    resets: Array | None = None,
    weights: Array | None = None,
) -> Array:
    """Return the loss of a batch, the function whose gradient trains the network.

    Args:
        params: the network's parameters.
        xs: the inputs, `[batch, time, I]`, or class ids `[batch, time]`.
        ys: the targets: for "cross_entropy" class ids `[batch, time]` or probabilities `[batch, time, C]`; else values,
            or for "binary_cross_entropy" booleans or probabilities of yes, `[batch, time, C]`; without the time axis
            where `config.target` is "last" or "mean". Unknown ones do not count: the id -100, floats that are NaN.
        config: the network.
        state: the state before the first step, an entry a layer, as `forward` takes it; zeros where None.
        lengths: how many steps of each sequence are real, `[batch]` integers or one for all; all where None.
        key: what `draw_masks` draws with; nothing is left out where None.
        resets: booleans `[batch, time]`, true where an episode starts, before which the state is zero.
        weights: how much each target counts, numbers from 0 up: `[batch]`, `[batch, time]` with a target for each step,
            or one for each of C outputs behind that, where those are no classes; all alike where None.

    Returns:
        The mean loss over all targets that count, weighted, a scalar; 0, with a gradient of 0, where none does, and NaN
        where a class id that counts is not from 0 to C - 1.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> import jax
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> xs, ys = jnp.ones((2, 7, 1)), jnp.zeros((2, 7), int)
        >>> grads = jax.jit(jax.grad(loss_fn))(params, xs, ys, config)
        >>> grads.layers[0].weight_hh.shape
        (32, 8)
    """
    total, (count, _) = summed_loss(
        params, xs, ys, config, state=state, lengths=lengths, key=key, resets=resets, weights=weights
    )
    return _mean(total, count)


def summed_loss(
    params: ModelParams,
    xs: Array,
    ys: Array,
    config: LSTMConfig,
    *,
    state: tuple | None = None,
    lengths: Array | None = None,
    key: Array | None = None,
    resets: Array | None = None,
    weights: Array | None = None,
    first_row: int | Array = 0,
) -> tuple[Array, tuple[Array, tuple]]:
    """Return the loss of a batch before it is averaged, the form that adds up over pieces of a batch or of a text.

    Args:
        params, xs, ys, config, state, lengths, key, resets, weights: as `loss_fn` takes them.
        first_row: the number of the first sequence in the whole batch, by which `draw_masks` draws.

    Returns:
        `(total, (count, state))`: the weighted sum of the losses of all targets that count, the sum of their weights,
        and the state after each sequence's last real step. The loss is `total / count`.

    Raises:
        TypeError, ValueError: as for `loss_fn`.

    Example:
        >>> import jax
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> _, (count, _) = summed_loss(params, jnp.ones((2, 7, 1)), jnp.zeros((2, 7), int), config)
        >>> int(count)
        14
    """
    arguments = _checked(params, xs, ys, config, state, lengths, key, resets, weights)
    total, (weight, state, *_) = _total(*arguments, first_row, config=config)
    return total, (weight, state)


def summed_evaluation(
    params: ModelParams,
    xs: Array,
    ys: Array,
    config: LSTMConfig,
    *,
    lengths: Array | None = None,
    resets: Array | None = None,
    weights: Array | None = None,
) -> tuple[Array, Array, Array, Array]:
    """Return what a batch adds to an evaluation.

    Args:
        params, xs, ys, config, lengths, resets, weights: as `loss_fn` takes them.

    Returns:
        `(total, weight, right, count)`: the weighted sum of the losses of all targets that count, the sum of their
        weights, how many of them are answered right (0 where none can be), and how many there are.

    Raises:
        TypeError, ValueError: as for `loss_fn`.
    """
    arguments = _checked(params, xs, ys, config, None, lengths, None, resets, weights)
    total, (weight, _, *judged) = _total(*arguments, config=config, judged=True)
    return total, weight, *judged


def _checked(
    params: Any, xs: Any, ys: Any, config: Any, state: Any, lengths: Any, key: Any, resets: Any, weights: Any
) -> tuple:
    params, xs, *rest = checked(params, xs, config, state, lengths, key, resets)
    axes = {"batch": xs.shape[0], "time": xs.shape[1], "C": config.output_size}
    if config.target != "each":
        del axes["time"]
    ys = _targets_of("ys", ys, config.objective, axes)
    return params, xs, ys, *rest, _weights_of(weights, config.objective, axes)


@spread_by_xla((False, (False, True, False, False)))
def _total(
    params: ModelParams,
    xs: Array,
    ys: Array,
    state: Any,
    lengths: Any,
    key: Any,
    resets: Any,
    weights: Any,
    first_row: int | Array = 0,
    *,
    config: LSTMConfig,
    judged: bool = False,
) -> tuple[Array, tuple[Array, tuple, Array, Array]]:
    scores, state = scores_of(params, xs, state, lengths, key, resets, first_row, config=config)
    objective, right, count = config.objective, jnp.zeros(()), jnp.zeros(())
    total, weight = _summed(scores, ys, lengths, weights, objective=objective, each=objective.losses)
    if judged and objective.right is not None:
        counts = None if weights is None else weights.astype(bool)
        right, count = _summed(scores, ys, lengths, counts, objective=objective, each=objective.right)
    return total, (weight, state, right, count)


@spread_by_xla((False, False))
def _summed(
    scores: Array,
    targets: Array,
    lengths: Array | None,
    weights: Array | None,
    *,
    objective: Objective,
    each: Callable[[Array, Array], Array],
) -> tuple[Array, Array]:
    """Return the sum of what `each` says of all targets that count, and how many those are; both weighted."""
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    counts = known(targets)
    if objective.answers == "classes" and targets.ndim == scores.ndim:
        counts = counts.all(axis=-1)
    if lengths is not None:
        counts = counts & behind(_real(scores, lengths), counts)
    if weights is not None:
        weights = behind(weights, counts).astype(scores.dtype)
        counts = counts & (weights != 0)
    # The targets too: NaN among those that do not count would reach the gradient as 0 · NaN.
    targets = jnp.where(behind(counts, targets), targets, jnp.zeros((), targets.dtype))
    found = jnp.where(counts, each(scores, targets).astype(scores.dtype), 0)
    if weights is not None:
        counts = jnp.where(counts, weights, 0)
        found = found * counts
    answers = 1 if objective.answers == "classes" else counts.shape[-1]
    return found.sum() / answers, counts.sum().astype(scores.dtype) / answers


def _real(scores: Array, lengths: Array) -> Array:
    """Return which steps are real, `[batch, time]`, or which sequences have any, `[batch]`."""
    lengths = jnp.broadcast_to(lengths, scores.shape[:1])
    return jnp.arange(scores.shape[1], dtype=jnp.int32)[None] < lengths[:, None] if scores.ndim == 3 else lengths > 0


def targets_in(batch: Any, config: LSTMConfig) -> Array:
    """Return how many targets a `Batch` has at real steps, or how many sequences with one, of whatever weight."""
    rows, steps = batch.xs.shape[:2]
    lengths = jnp.broadcast_to(jnp.asarray(steps if batch.lengths is None else batch.lengths), rows)
    return (jnp.clip(lengths, 0, steps) if config.target == "each" else lengths > 0).sum()


def _mean(total: Array, count: Array) -> Array:
    return total / jnp.where(count > 0, count, 1)
