"""What turns gradients into updates: the learning rate's formula, the default optimiser, and an average over steps."""

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from jlstm.checks import describe, is_floating, is_integer

__all__ = [
    "IDLE",
    "Computing",
    "Optimizer",
    "Rate",
    "Schedule",
    "accumulated",
    "adam",
    "averaged",
    "by_what_they_compute",
    "constant",
    "cosine",
    "evaluation_params",
    "extra_arguments",
    "transformation",
]

Shape = Callable[[Array], Array]


class Schedule(NamedTuple):
    """The numbers of the learning rate; they are traced, so other ones compile nothing anew.

    Attributes:
        learning_rate: the highest rate.
        decay_rate: how much is added to the divisor an epoch.
        first_step: the steps that were taken before this training.
        first_epoch: the epochs that were finished before this training.
        epoch_steps: the steps of one epoch.
        steps: the steps of this training.
        warmup: over how many of them, the first, the rate rises in proportion.
    """

    learning_rate: Any
    decay_rate: Any
    first_step: Any
    first_epoch: Any
    epoch_steps: Any
    steps: Any
    warmup: Any = 0


@dataclass(frozen=True)
class Rate:
    """The learning rate now, as the schedule that an optimiser is made with.

    learning_rate · min(1, (n + 1) / warmup) · shape(p) / (1 + decay_rate · epoch), where n counts the steps of this
    training, p is the part of it behind the warm-up that is done, from 0 to 1, and epoch counts from the network's
    first epoch, in fractions.

    It does not ask the count that optax calls a schedule with: each wrapper counts in its own way, and none knows of an
    earlier training.

    Args:
        schedule: the numbers.
        shape: a function of p, such as `cosine`.
        step: the steps that were taken from the network's first.

    Example:
        >>> schedule = Schedule(0.1, 0.5, first_step=0, first_epoch=0.0, epoch_steps=10, steps=20)
        >>> [round(float(Rate(schedule, constant, step)()), 4) for step in (0, 10)]    # after an epoch, by 1.5
        [0.1, 0.0667]
    """

    schedule: Schedule
    shape: Shape
    step: Any

    def __call__(self, count: Any = None) -> Array:
        """Return the rate of the next step, whatever its count."""
        learning_rate, decay_rate, first_step, first_epoch, epoch_steps, steps, warmup = self.schedule
        # Not below 0, where an update began to add up its mini-batches in the training before.
        done = jnp.maximum(jnp.asarray(self.step - first_step, jnp.float32), 0)
        rise = jnp.minimum((done + 1) / jnp.maximum(warmup, 1), 1)
        part = jnp.clip((done - warmup) / jnp.maximum(steps - warmup, 1), 0, 1)
        return learning_rate * rise * self.shape(part) / (1 + decay_rate * (first_epoch + done / epoch_steps))


# A `Rate` is a schedule as optax has them, and says its numbers too; what comes back is anything that optax calls an
# optimiser.
Optimizer = Callable[[Rate], Any]


def cosine(part: Array) -> Array:
    """Return (1 + cos πp) / 2, which falls from 1 to 0 (Loshchilov and Hutter, "SGDR", 2017)."""
    return (1 + jnp.cos(jnp.pi * part)) / 2


def constant(part: Array) -> Array:
    """Return 1: the rate falls by `decay_rate` alone."""
    return jnp.ones_like(part)


IDLE = Rate(Schedule(0.0, 0.0, 0, 0.0, 1.0, 1.0), constant, 0)  # for whoever only wants to see what an optimiser is


def transformation(made: Any) -> optax.GradientTransformationExtraArgs:
    """Return anything that optax calls an optimiser in one form, which takes the loss and whatever else it is offered.

    Args:
        made: an optax `GradientTransformation`, or an object with its two methods, such as `optax.MultiSteps`.

    Returns:
        The transformation.

    Raises:
        TypeError: `made` is neither.

    Example:
        >>> transformation(optax.MultiSteps(optax.sgd(0.1), 4)).init(jnp.ones(1)).mini_step.shape
        ()
    """
    init, update = getattr(made, "init", None), getattr(made, "update", None)
    if not callable(init) or not callable(update):
        advice = "; call it, and give what it returns" if callable(made) else ""
        raise TypeError(f"optimizer: expected it to be an optax GradientTransformation, got {describe(made)}{advice}")
    parameters = inspect.signature(update).parameters

    def taking(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        taken = {name: value for name, value in extra.items() if name in parameters}
        return update(updates, state, params, **taken)

    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return optax.GradientTransformationExtraArgs(init, update if takes_all else taking)


def adam(rate: optax.Schedule) -> optax.GradientTransformation:
    """Return Adam (Kingma and Ba, 2015) behind clipping of the gradient's global norm at 1 (Pascanu et al., 2013)."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


class AverageState(NamedTuple):
    """The state of `averaged`.

    Attributes:
        steps: how many were taken, an int32 scalar.
        average: the average of the parameters after each of them.
    """

    steps: Array
    average: Any


def averaged(decay: Any) -> optax.GradientTransformation:
    """Return a transformation that changes no update and keeps a moving average of the parameters.

    Chained behind the optimiser, as averages of late iterates generalise better than the last one (Polyak and Juditsky,
    "Acceleration of Stochastic Approximation by Averaging", 1992).

    Args:
        decay: what the average keeps at each step; at step n it is (1 + n) / (10 + n) while that is less.

    Returns:
        The transformation, which needs the parameters; `evaluation_params` finds the average in its state.

    Example:
        >>> optimizer = optax.chain(optax.sgd(1.0), averaged(0.9))
        >>> _, state = optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)), jnp.ones(1))
        >>> round(float(evaluation_params(state, None)[0]), 6)    # of the first 1 a tenth is kept; the step led to 0
        0.1
    """

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        kept = jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
        after = optax.apply_updates(params, updates)
        return updates, AverageState(state.steps + 1, optax.incremental_update(after, state.average, 1 - kept))

    return optax.GradientTransformation(init, update)


def evaluation_params(opt_state: Any, params: Any) -> Any:
    """Return the parameters to predict with, which are others than those that are trained where an optimiser says so.

    Args:
        opt_state: the optimiser's state.
        params: the parameters that are trained.

    Returns:
        The average that `averaged` keeps; with `optax.contrib.schedule_free` what it has for evaluation (Defazio et
        al., "The Road Less Scheduled", 2024); else `params`.

    Example:
        >>> evaluation_params(optax.adam(0.1).init(1.0), 1.0)
        1.0
    """
    kinds = AverageState, ScheduleFreeState
    found = params
    for state in jax.tree.leaves(opt_state, is_leaf=lambda state: isinstance(state, kinds)):
        if isinstance(state, AverageState):
            found = _filled(state.average, found)
        elif isinstance(state, ScheduleFreeState):
            own = schedule_free_eval_params(state._replace(z=_filled(state.z, params)), params)
            found = jax.tree.map(
                lambda z, new, old: old if _is_masked(z) else new, state.z, own, found, is_leaf=_is_masked
            )
    return found


def _filled(tree: Any, params: Any) -> Any:
    """Return a pytree with the parameters where an optimiser for some of them alone has left them out."""
    return jax.tree.map(lambda leaf, own: own if _is_masked(leaf) else leaf, tree, params, is_leaf=_is_masked)


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def accumulated(opt_state: Any) -> Any:
    """Return how many mini-batches the next update has already, where an optimiser adds gradients up.

    With `optax.MultiSteps`, four batches make one update; they are one batch, whose rate is that of the first of them.

    Args:
        opt_state: the optimiser's state.

    Returns:
        An integer, 0 where nothing is added up.

    Example:
        >>> accumulated(optax.adam(0.1).init(1.0))
        0
    """
    found: list[Any] = [count for _, count in optax.tree.get_all_with_path(opt_state, "mini_step")]
    return functools.reduce(jnp.maximum, found) if found else 0


@dataclass(frozen=True)
class Computing:
    """A function that counts as equal to every other one that computes the same.

    Attributes:
        program: a hash of what it computes.
        function: what is called.
    """

    program: str
    function: Callable = field(compare=False)

    def __call__(self, argument: Any) -> Any:
        """Return what the function returns."""
        return self.function(argument)


def by_what_they_compute(optimizer: Optimizer, schedule: Shape, params: Any) -> tuple[Optimizer, Shape]:
    """Return an optimiser and a shape of the rate that are equal to others that compute the same, or say what is wrong.

    What is compiled for an optimiser is found again by the function, and a lambda written in place is another function
    each time: without this, each of its networks would compile its training anew. What the two compute is compared as
    the program that JAX makes of them now, with all the numbers that they hold, which takes 20 ms.

    Args:
        optimizer: a callable from a learning-rate schedule to anything that optax calls an optimiser.
        schedule: a function of the part of a training that is done.
        params: the parameters that it is for.

    Returns:
        The two as `Computing`; as they are where both are found by name in a module, and where one calls back into
        Python, of which the program does not tell what it does.

    Raises:
        TypeError: `optimizer` or `schedule` is no callable, or returns something else than it should.
        ValueError: one of them fails when it is called.

    Example:
        >>> first, again = (by_what_they_compute(lambda rate: optax.sgd(rate), cosine, jnp.ones(3)) for _ in range(2))
        >>> first == again
        True
    """
    for name, function in (("optimizer", optimizer), ("schedule", schedule)):
        if not callable(function):
            advice = "; write lambda rate: optax.adam(rate)" if hasattr(function, "update") else ""
            raise TypeError(f"{name}: expected a callable, got {describe(function)}{advice}")
    if (optimizer, schedule) == (adam, cosine):  # nobody waits for the trial of what is known
        return optimizer, schedule
    part = jax.ShapeDtypeStruct((), jnp.float32)
    factor = _tried(
        "schedule: expected a factor for the part that is done, a JAX number", jax.eval_shape, schedule, part
    )
    if getattr(factor, "shape", None) != () or not (is_floating(factor) or is_integer(factor)):
        raise TypeError(f"schedule: expected it to return one number, got {describe(factor)}")

    transformation(_tried("optimizer: expected it to take a learning-rate schedule", optimizer, IDLE))
    run = _trial(optimizer, schedule)
    _tried("optimizer: expected init and update to take the parameters", jax.eval_shape, run, *_arguments(params))
    if _has_name(optimizer) and _has_name(schedule):
        return optimizer, schedule
    text = program_of(optimizer, schedule, params)
    if "callback" in text:
        return optimizer, schedule
    program = hashlib.sha256(text.encode()).hexdigest()
    return Computing(program, optimizer), Computing(program, schedule)


def program_of(optimizer: Optimizer, schedule: Shape, params: Any) -> str:
    """Return the text of the program that JAX makes of an optimiser and the shape of its rate.

    Args:
        optimizer, schedule, params: as for `by_what_they_compute`.

    Returns:
        The same text for all that compute the same, in one version of JAX.
    """
    # With what is unused as well: the text numbers the program's arguments, and does not name them.
    return jax.jit(_trial(optimizer, schedule), keep_unused=True).lower(*_arguments(params)).as_text()


def _trial(optimizer: Optimizer, schedule: Shape) -> Callable[..., tuple]:
    def run(numbers: Schedule, step: Any, grads: Any, params: Any) -> tuple:
        made = transformation(optimizer(Rate(numbers, schedule, step)))
        state = made.init(params)
        return state, made.update(grads, state, params, **extra_arguments(_sum(params), grads, _sum))

    return run


def _arguments(params: Any) -> tuple:
    return Schedule(*map(jnp.float32, IDLE.schedule)), jnp.int32(0), params, params


def extra_arguments(loss: Array, grads: Any, function: Callable[[Any], Array]) -> dict[str, Any]:
    """Return what optax calls extra arguments, which some optimisers want beside the gradient.

    Args:
        loss: the loss of the batch, as `optax.contrib.reduce_on_plateau` and `optax.polyak_sgd` want it.
        grads: its gradient.
        function: the loss as a function of the parameters, as `optax.lbfgs` wants it.

    Returns:
        Keyword arguments for an optimiser's update.
    """
    return {"value": loss, "grad": grads, "value_fn": function}


def _sum(params: Any) -> Array:
    return jnp.asarray(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)))


def _tried(expected: str, function: Callable, *arguments: Any) -> Any:
    """Return what a user's function returns, or say in every error what was expected of it."""
    try:
        return function(*arguments)
    except Exception as error:
        raise ValueError(f"{expected}, got {type(error).__name__}: {str(error)[:500]}") from error


def _has_name(function: Any) -> bool:
    module = sys.modules.get(getattr(function, "__module__", ""))
    return getattr(module, getattr(function, "__qualname__", ""), None) is function
