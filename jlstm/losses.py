"""What training makes small: losses of scores against targets, each the mean over the real steps."""

from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

from jlstm.checks import array, describe, lengths_of, targets_of
from jlstm.config import LSTMConfig
from jlstm.devices import spread_by_xla
from jlstm.model import ModelParams, checked, scores_of

__all__ = ["cross_entropy", "loss_fn", "mse", "summed_loss"]


def cross_entropy(logits: Array, targets: Array, lengths: Array | None = None) -> Array:
    """Return the cross-entropy of targets under the softmax of logits, in nats.

    - Σ_k p_k log softmax(logits)_k (Bridle, "Probabilistic Interpretation of Feedforward Classification Network
    Outputs", 1990), computed from the logits, so that it neither overflows nor takes the logarithm of zero.

    Args:
        logits: `[batch, time, C]`, or `[batch, C]` with one target a sequence.
        targets: class ids, integers of the shape of `logits` without its last axis; or one-hot or probability vectors
            of the shape of `logits`.
        lengths: how many steps of each sequence are real, `[batch]` integers or one for all; all where None.

    Returns:
        The mean over all real steps (over all sequences that have one, with one target a sequence), a scalar; NaN where
        a class id is not from 0 to C - 1.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> float(cross_entropy(jnp.zeros((1, 2, 4)), jnp.array([[0, 3]])))    # log 4
        1.3862943649291992
    """
    return _loss_of("logits", logits, targets, lengths, "cross_entropy")


def mse(predictions: Array, targets: Array, lengths: Array | None = None) -> Array:
    """Return the mean squared error.

    Args:
        predictions: `[batch, time, C]`, or `[batch, C]` with one target a sequence.
        targets: values of the same shape.
        lengths: how many steps of each sequence are real, `[batch]` integers or one for all; all where None.

    Returns:
        The mean over all real steps and all outputs, a scalar.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> float(mse(jnp.zeros((1, 2, 1)), jnp.array([[[1.0], [3.0]]])))
        5.0
    """
    return _loss_of("predictions", predictions, targets, lengths, "mse")


def _loss_of(name: str, scores: Any, targets: Any, lengths: Any, loss: str) -> Array:
    scores = array(name, scores)
    if scores.ndim == 0 or (lengths is not None and scores.ndim not in (2, 3)):
        raise ValueError(f"{name}: expected [batch, time, C], or [batch, C], got {describe(scores)}")
    names = {1: ["C"], 2: ["batch", "C"], 3: ["batch", "time", "C"]}
    other = [*(f"axis {k}" for k in range(scores.ndim - 1)), "C"]
    axes = dict(zip(names.get(scores.ndim, other), scores.shape, strict=True))
    targets, lengths = targets_of("targets", targets, loss, **axes), lengths_of(lengths, scores.shape[0])
    return _mean(*_summed(scores, targets, lengths, loss=loss))


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
) -> Array:
    """Return the loss of a batch, the function whose gradient trains the network.

    Args:
        params: the network's parameters.
        xs: the inputs, `[batch, time, I]`, or class ids `[batch, time]`.
        ys: the targets: for "cross_entropy" class ids `[batch, time]` or probabilities `[batch, time, C]`, for "mse"
            values `[batch, time, C]`; without the time axis where `config.target` is "last" or "mean".
        config: the network.
        state: the state before the first step, an entry a layer, as `forward` takes it; zeros where None.
        lengths: how many steps of each sequence are real, `[batch]` integers or one for all; all where None.
        key: what `draw_masks` draws with; nothing is left out where None.
        resets: booleans `[batch, time]`, true where an episode starts, before which the state is zero.

    Returns:
        The mean loss over all real steps, a scalar; 0 where there are none, and NaN where a class id is not from 0 to
        C - 1.

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
    total, (count, _) = summed_loss(params, xs, ys, config, state=state, lengths=lengths, key=key, resets=resets)
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
) -> tuple[Array, tuple[Array, tuple]]:
    """Return the loss of a batch before it is averaged, the form that adds up over pieces of a batch or of a text.

    Args:
        params, xs, ys, config, state, lengths, key, resets: as `loss_fn` takes them.

    Returns:
        `(total, (count, state))`: the sum of the losses of all real steps, how many those are, and the state after
        each sequence's last real step. The loss is `total / count`.

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
    params, xs, *rest = checked(params, xs, config, state, lengths, key, resets)
    axes = {"batch": xs.shape[0], "time": xs.shape[1], "C": config.output_size}
    if config.target != "each":
        del axes["time"]
    return _total(params, xs, targets_of("ys", ys, config.loss, **axes), *rest, config=config)


@spread_by_xla((False, (False, True)))
def _total(
    params: ModelParams, xs: Array, ys: Array, state: Any, lengths: Any, key: Any, resets: Any, *, config: LSTMConfig
) -> tuple[Array, tuple[Array, tuple]]:
    scores, state = scores_of(params, xs, state, lengths, key, resets, config=config)
    total, count = _summed(scores, ys, lengths, loss=config.loss)
    return total, (count, state)


@spread_by_xla((False, False))
def _summed(scores: Array, targets: Array, lengths: Array | None, *, loss: str) -> tuple[Array, Array]:
    """Return the sum of the losses of all real steps, and how many those are."""
    losses = _cross_entropies if loss == "cross_entropy" else _squared_errors
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if lengths is None:
        each = losses(scores, targets)
        return each.sum(), jnp.asarray(each.size, each.dtype)
    lengths = jnp.broadcast_to(lengths, scores.shape[:1])
    real = jnp.arange(scores.shape[1], dtype=jnp.int32)[None] < lengths[:, None] if scores.ndim == 3 else lengths > 0
    # The targets too: NaN in the padding would reach the gradient as 0 · NaN.
    targets = jnp.where(real if targets.ndim == real.ndim else real[..., None], targets, 0)
    return jnp.where(real, losses(scores, targets), 0).sum(), real.sum().astype(scores.dtype)


def _cross_entropies(logits: Array, targets: Array) -> Array:
    if targets.ndim == logits.ndim:
        return optax.softmax_cross_entropy(logits, targets.astype(logits.dtype))
    known = (targets >= 0) & (targets < logits.shape[-1])  # optax takes -1 for the last class
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, targets, 0))
    return losses * jnp.where(known, 1, jnp.nan).astype(losses.dtype)


def _squared_errors(predictions: Array, targets: Array) -> Array:
    return jnp.mean((predictions - targets.astype(predictions.dtype)) ** 2, axis=-1)


def _mean(total: Array, count: Array) -> Array:
    return total / jnp.maximum(count, 1)
