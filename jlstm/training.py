"""Learning: optax over mini-batches, as pure `init` and `step`, and as many steps in one compiled call."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.data import Batch, Windows, count, take
from jlstm.devices import AXIS, mesh_for, replicate, split_batch
from jlstm.losses import summed_loss
from jlstm.model import LSTMConfig, ModelParams

__all__ = [
    "Report",
    "Schedule",
    "TrainState",
    "Trainer",
    "adam",
    "constant",
    "cosine",
    "evaluate",
    "fit",
    "rate",
    "trainer",
]

CALL_SECONDS = 0.5  # what one compiled call should take: often enough to show progress and to answer Ctrl-C


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        params: the network's parameters.
        opt_state: the optimiser's state.
        key: the key of the shuffles, of `jax.random.key`.
        step: how many steps were taken, an int32 scalar.
    """

    params: ModelParams
    opt_state: Any
    key: Array
    step: Array


class Trainer(NamedTuple):
    """Training as two pure functions.

    Attributes:
        init: `init(params, key) -> TrainState`.
        step: `step(train_state, batch) -> (train_state, loss)`, one update by the gradient of a batch's mean loss.
    """

    init: Callable[[ModelParams, Array], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Array]]


def trainer(config: LSTMConfig, optimizer: optax.GradientTransformation, *, axis_name: str | None = None) -> Trainer:
    """Return the pure functions that train a network.

    Args:
        config: the network.
        optimizer: any optax `GradientTransformation`; clipping, schedules and weight decay are optax's.
        axis_name: the mapped axis over whose devices the batch is split, for use inside `jax.shard_map`.

    Returns:
        The `Trainer`; compile its step yourself, or scan over it.

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> init, step = trainer(config, optax.adam(0.01))
        >>> state = init(init_params(jax.random.key(0), config), jax.random.key(1))
        >>> state, loss = jax.jit(step)(state, Batch(jnp.ones((2, 7, 1)), jnp.zeros((2, 7), int)))
        >>> int(state.step)
        1
    """

    def init(params: ModelParams, key: Array) -> TrainState:
        return TrainState(params, optimizer.init(params), key, jnp.zeros((), jnp.int32))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        def share(params: ModelParams) -> Array:
            total, (real, _) = summed_loss(params, batch.xs, batch.ys, config, lengths=batch.lengths)
            return total / jnp.maximum(_sum(real), 1)

        loss, grads = _sum(jax.value_and_grad(share)(state.params))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.key, state.step + 1), loss

    def _sum(tree: Any) -> Any:
        return tree if axis_name is None else lax.psum(tree, axis_name)

    return Trainer(init, step)


def adam(rate: optax.Schedule) -> optax.GradientTransformation:
    """Return Adam (Kingma and Ba, 2015) behind clipping of the gradient's global norm at 1 (Pascanu et al., 2013)."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


class Schedule(NamedTuple):
    """The numbers of the learning rate; they are traced, so other ones compile nothing anew.

    Attributes:
        learning_rate: the rate to start from.
        decay_rate: how much is added to the divisor an epoch.
        first_step: the steps that were taken before this training.
        first_epoch: the epochs that were finished before this training.
        epoch_steps: the steps of one epoch.
        steps: the steps of this training.
    """

    learning_rate: Any
    decay_rate: Any
    first_step: Any
    first_epoch: Any
    epoch_steps: Any
    steps: Any


def rate(schedule: Schedule, shape: Callable[[Array], Array], step: Array) -> Array:
    """Return the learning rate at a step.

    learning_rate · shape(p) / (1 + decay_rate · epoch), where p is the part of this training that is done, from 0 to 1,
    and epoch counts from the network's first epoch, in fractions.

    Args:
        schedule: the numbers.
        shape: a function of p, such as `cosine`.
        step: the number of steps that were taken, from the network's first.

    Returns:
        The rate, a scalar.
    """
    done = step - schedule.first_step
    epoch = schedule.first_epoch + done / schedule.epoch_steps
    part = jnp.clip(done / schedule.steps, 0, 1)
    return schedule.learning_rate * shape(part) / (1 + schedule.decay_rate * epoch)


def cosine(part: Array) -> Array:
    """Return (1 + cos πp) / 2, which falls from 1 to 0 (Loshchilov and Hutter, "SGDR", 2017)."""
    return (1 + jnp.cos(jnp.pi * part)) / 2


def constant(part: Array) -> Array:
    """Return 1: the rate falls by `decay_rate` alone."""
    return jnp.ones_like(part)


class Report(NamedTuple):
    """Where a training stands after a compiled call.

    Attributes:
        state: the training state.
        epoch: the epoch, from 0.
        part: how much of the epoch is done, up to 1.
        loss: the mean loss of the epoch's mini-batches so far.
    """

    state: TrainState
    epoch: int
    part: float
    loss: float


def fit(
    state: TrainState,
    schedule: Schedule,
    data: Batch | Windows,
    *,
    epochs: int,
    batch_size: int,
    config: LSTMConfig,
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation],
    shape: Callable[[Array], Array] = cosine,
) -> Iterator[Report]:
    """Train for some epochs of mini-batches, shuffled anew in each, and report after every compiled call.

    Calls are as few as keep each under about a second. A call never touches the state it was given, so whoever stops
    between or during calls keeps the last reported one.

    Args:
        state: what to start from, as `Trainer.init` gives it.
        schedule: the numbers of the learning rate.
        data: all sequences with their targets.
        epochs: how often to go through `data`.
        batch_size: the most sequences a mini-batch may have; the epoch's batches differ by one sequence at the most.
        config: the network.
        optimizer: a callable from a learning-rate schedule to an optax `GradientTransformation`.
        shape: the shape of the learning rate over this training.

    Yields:
        A `Report` after each compiled call.

    Raises:
        FloatingPointError: the loss or a parameter became NaN or infinite; the state reported last is finite.
    """
    batches, width, mesh = _layout(count(data), batch_size)
    state, schedule, data = replicate((state, schedule, data), mesh)
    size = 1
    for epoch in range(epochs):
        order = _shuffle(jax.random.fold_in(state.key, state.step), rows=count(data), batches=batches, width=width)
        order = replicate(order, mesh)
        total, start = replicate(jnp.zeros(()), mesh), 0
        while start < batches:
            stop = min(start + size, batches)
            began = time.perf_counter()
            stepped, total, finite = _train_steps(
                state,
                total,
                schedule,
                data,
                order,
                start,
                stop,
                config=config,
                optimizer=optimizer,
                shape=shape,
                mesh=mesh,
            )
            if not finite:  # waits for the call to end
                raise FloatingPointError(
                    f"the loss became NaN or infinite in epoch {epoch + 1}; the parameters from before are kept. "
                    "Try a lower learning_rate, or inputs of a smaller range"
                )
            size = max(1, int((stop - start) * CALL_SECONDS / (time.perf_counter() - began)))
            state, start = stepped, stop
            yield Report(state, epoch, start / batches, float(total) / start)


def evaluate(params: ModelParams, data: Batch | Windows, *, batch_size: int, config: LSTMConfig) -> float:
    """Return the mean loss over all real steps of `data`, computed in batches of `batch_size` sequences."""
    batches, width, mesh = _layout(count(data), batch_size)
    order = _batches(jnp.arange(count(data)), batches, width)
    params, data, order = replicate((params, data, order), mesh)
    sums, size, start = replicate((jnp.zeros(()), jnp.zeros(())), mesh), 1, 0
    while start < batches:
        stop = min(start + size, batches)
        began = time.perf_counter()
        sums = jax.block_until_ready(_sum_losses(sums, params, data, order, start, stop, config=config, mesh=mesh))
        size = max(1, int((stop - start) * CALL_SECONDS / (time.perf_counter() - began)))
        start = stop
    return float(sums[0]) / max(float(sums[1]), 1.0)


def _layout(rows: int, batch_size: int) -> tuple[int, int, Mesh | None]:
    """Return how many mini-batches there are, their width, and the devices that share each."""
    batches = -(-rows // batch_size)
    width = -(-rows // batches)
    mesh = mesh_for(width)
    devices = mesh.size if mesh else 1
    return batches, -(-width // devices) * devices, mesh


def _batches(order: Array, batches: int, width: int) -> Array:
    """Return an order of rows as mini-batches `[batches, width]`, filled up with -1 evenly."""
    return jnp.full(batches * width, -1).at[: order.size].set(order).reshape(width, batches).T


@functools.partial(jax.jit, static_argnames=("rows", "batches", "width"))
def _shuffle(key: Array, *, rows: int, batches: int, width: int) -> Array:
    return _batches(jax.random.permutation(key, rows), batches, width)


@functools.partial(jax.jit, static_argnames=("config", "optimizer", "shape", "mesh"))
def _train_steps(
    state: TrainState,
    total: Array,
    schedule: Schedule,
    data: Batch | Windows,
    order: Array,
    start: Array,
    stop: Array,
    *,
    config: LSTMConfig,
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation],
    shape: Callable[[Array], Array],
    mesh: Mesh | None,
) -> tuple[TrainState, Array, Array]:
    """Train on the batches `start` to `stop` of `order`, their losses added to `total`; tell whether all is finite.

    The learning rate's numbers and the bounds of the loop are traced: none of them compiles anything anew.
    """
    padded = order.size > count(data)

    def steps(
        state: TrainState, total: Array, schedule: Schedule, data: Batch | Windows, order: Array
    ) -> tuple[TrainState, Array]:
        tx = optimizer(functools.partial(rate, schedule, shape))
        step = trainer(config, tx, axis_name=AXIS if mesh else None).step

        def body(k: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, total = carry
            state, loss = step(state, take(data, order[k], config, padded=padded))
            return state, total + loss

        return lax.fori_loop(start, stop, body, (state, total))

    specs = (P(), P(), P(), P(), P(None, AXIS))
    state, total = split_batch(steps, mesh, specs, P())(state, total, schedule, data, order)
    finite = [jnp.isfinite(array).all() for array in jax.tree.leaves((state.params, total))]
    return state, total, jnp.stack(finite).all()


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def _sum_losses(
    sums: tuple[Array, Array],
    params: ModelParams,
    data: Batch | Windows,
    order: Array,
    start: Array,
    stop: Array,
    *,
    config: LSTMConfig,
    mesh: Mesh | None,
) -> tuple[Array, Array]:
    padded = order.size > count(data)

    def add(sums: tuple[Array, Array], params: ModelParams, data: Batch | Windows, order: Array) -> tuple[Array, Array]:
        def body(k: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            batch = take(data, order[k], config, padded=padded)
            total, (real, _) = summed_loss(params, batch.xs, batch.ys, config, lengths=batch.lengths)
            found = lax.psum((total, real), AXIS) if mesh else (total, real)
            return sums[0] + found[0], sums[1] + found[1]

        return lax.fori_loop(start, stop, body, sums)

    return split_batch(add, mesh, (P(), P(), P(), P(None, AXIS)), P())(sums, params, data, order)
