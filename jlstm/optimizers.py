"""What turns gradients into updates: the learning rate's formula, the default optimiser, and an average over steps."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

__all__ = [
    "IDLE",
    "Computing",
    "Optimizer",
    "Rate",
    "Schedule",
    "adam",
    "average_of",
    "averaged",
    "by_what_they_compute",
    "constant",
    "cosine",
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
    """The learning rate as a function of the steps that were taken, which an optimiser is made with.

    learning_rate · min(1, (n + 1) / warmup) · shape(p) / (1 + decay_rate · epoch), where n counts the steps of this
    training, p is the part of it behind the warm-up that is done, from 0 to 1, and epoch counts from the network's
    first epoch, in fractions.

    Args:
        schedule: the numbers.
        shape: a function of p, such as `cosine`.

    Example:
        >>> schedule = Schedule(0.1, 0.5, first_step=0, first_epoch=0.0, epoch_steps=10, steps=20)
        >>> [round(float(Rate(schedule, constant)(step)), 4) for step in (0, 10)]    # after an epoch, by 1.5
        [0.1, 0.0667]
    """

    schedule: Schedule
    shape: Shape

    def __call__(self, step: Any) -> Array:
        """Return the rate of the next step, where `step` were taken from the network's first."""
        learning_rate, decay_rate, first_step, first_epoch, epoch_steps, steps, warmup = self.schedule
        done = step - first_step
        rise = jnp.minimum((done + 1) / jnp.maximum(warmup, 1), 1)
        part = jnp.clip((done - warmup) / jnp.maximum(steps - warmup, 1), 0, 1)
        return learning_rate * rise * self.shape(part) / (1 + decay_rate * (first_epoch + done / epoch_steps))


# A `Rate` is a schedule as optax has them, and says its numbers too.
Optimizer = Callable[[Rate], optax.GradientTransformation]


def cosine(part: Array) -> Array:
    """Return (1 + cos πp) / 2, which falls from 1 to 0 (Loshchilov and Hutter, "SGDR", 2017)."""
    return (1 + jnp.cos(jnp.pi * part)) / 2


def constant(part: Array) -> Array:
    """Return 1: the rate falls by `decay_rate` alone."""
    return jnp.ones_like(part)


IDLE = Rate(Schedule(0.0, 0.0, 0, 0.0, 1.0, 1.0), constant)  # for whoever only wants to see what an optimiser is


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
        The transformation, which needs the parameters; `average_of` finds the average in the optimiser's state.

    Example:
        >>> optimizer = optax.chain(optax.sgd(1.0), averaged(0.9))
        >>> _, state = optimizer.update(jnp.ones(1), optimizer.init(jnp.ones(1)), jnp.ones(1))
        >>> round(float(average_of(state)[0]), 6)    # of the first 1 a tenth is kept; the step led to 0
        0.1
    """

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), params)

    def update(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        kept = jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
        after = optax.apply_updates(params, updates)
        return updates, AverageState(state.steps + 1, optax.incremental_update(after, state.average, 1 - kept))

    return optax.GradientTransformation(init, update)


def average_of(opt_state: Any) -> Any:
    """Return the average that `averaged` keeps in an optimiser's state."""
    return optax.tree.get(opt_state, "average")


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


def by_what_they_compute(optimizer: Optimizer, shape: Shape, params: Any) -> tuple[Optimizer, Shape]:
    """Return an optimiser and a shape of the rate that are equal to others that compute the same.

    What is compiled for an optimiser is found again by the function, and a lambda written in place is another function
    each time: without this, each of its networks would compile its training anew. What the two compute is compared as
    the program that JAX makes of them now, with all the numbers that they hold, which takes 20 ms.

    Args:
        optimizer: a callable from a learning-rate schedule to an optax `GradientTransformation`.
        shape: a function of the part of a training that is done.
        params: the parameters that it is for.

    Returns:
        The two as `Computing`; as they are where both are found by name in a module, where one calls back into Python,
        of which the program does not tell what it does, and where they can't be run with a gradient alone.

    Example:
        >>> first, again = (by_what_they_compute(lambda rate: optax.sgd(rate), cosine, jnp.ones(3)) for _ in range(2))
        >>> first == again
        True
    """
    if _has_name(optimizer) and _has_name(shape):
        return optimizer, shape

    def run(schedule: Schedule, grads: Any, state: Any, params: Any) -> tuple:
        made = optimizer(Rate(schedule, shape))
        return made.init(params), made.update(grads, state, params)

    numbers = Schedule(*map(jnp.float32, IDLE.schedule))
    try:
        state = jax.eval_shape(optimizer(IDLE).init, params)
        # With what is unused as well: the program's text numbers its arguments, and does not name them.
        text = jax.jit(run, keep_unused=True).lower(numbers, params, state, params).as_text()
    except Exception:  # it will be raised again where the training needs it, or is not
        return optimizer, shape
    if "callback" in text:
        return optimizer, shape
    program = hashlib.sha256(text.encode()).hexdigest()
    return Computing(program, optimizer), Computing(program, shape)


def _has_name(function: Any) -> bool:
    module = sys.modules.get(getattr(function, "__module__", ""))
    return getattr(module, getattr(function, "__qualname__", ""), None) is function
