"""Learning: optax over mini-batches, as pure `init` and `step`, and as many steps in one compiled call."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.cell import LSTMState
from jlstm.data import Batch, Data, Streams, Windows, count, take
from jlstm.devices import AXIS, mesh_for, replicate, scatter, split_batch
from jlstm.losses import summed_loss
from jlstm.model import LSTMConfig, ModelParams, init_params, zero_state

__all__ = [
    "Report",
    "Schedule",
    "TrainState",
    "Trainer",
    "adam",
    "average_of",
    "averaged",
    "batches_of",
    "constant",
    "cosine",
    "evaluate",
    "fit",
    "fresh_state",
    "initial_state",
    "rate",
    "trainer",
]

CALL_SECONDS = 1.0  # what one compiled call should take: half as long and wide networks lose 12 % to calls of one step


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        params: the network's parameters.
        opt_state: the optimiser's state.
        key: the key of the shuffles and of dropout, of `jax.random.key`.
        step: how many steps were taken, an int32 scalar.
        memory: the network's state that the next batch goes on from, where batches are windows of `Streams`; else None.
    """

    params: ModelParams
    opt_state: Any
    key: Array
    step: Array
    memory: tuple[LSTMState, ...] | None = None


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
        key = jax.random.fold_in(state.key, state.step)
        key = jax.random.fold_in(key, 0 if axis_name is None else lax.axis_index(axis_name))

        def share(params: ModelParams) -> tuple[Array, Any]:
            total, (real, memory) = summed_loss(
                params, batch.xs, batch.ys, config, state=state.memory, lengths=batch.lengths, key=key
            )
            return total / jnp.maximum(_sum(real), 1), memory

        (loss, memory), grads = jax.value_and_grad(share, has_aux=True)(state.params)
        loss, grads = _sum((loss, grads))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        memory = None if state.memory is None else memory
        return TrainState(params, opt_state, state.key, state.step + 1, memory), loss

    def _sum(tree: Any) -> Any:
        return tree if axis_name is None else lax.psum(tree, axis_name)

    return Trainer(init, step)


@jax.jit(static_argnames=("config", "optimizer"))
def initial_state(key: Array, *, config: LSTMConfig, optimizer: Callable) -> TrainState:
    """Return the state to start from, its parameters drawn, for an optimiser given as `fit` takes it."""
    key_params, key_training = jax.random.split(key)
    return fresh_state(init_params(key_params, config), key_training, config=config, optimizer=optimizer)


@jax.jit(static_argnames=("config", "optimizer"))
def fresh_state(params: ModelParams, key: Array, *, config: LSTMConfig, optimizer: Callable) -> TrainState:
    """Return the state to go on from with these parameters."""
    return trainer(config, optimizer(optax.constant_schedule(0.0))).init(params, key)


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


def averaged(decay: float) -> optax.GradientTransformation:
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
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    config: LSTMConfig,
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation],
    shape: Callable[[Array], Array] = cosine,
) -> Iterator[Report]:
    """Train for some epochs of mini-batches, shuffled anew in each, and report after every compiled call.

    The batches of `Streams` are their windows in order, and the network's state is carried from each to the next.

    Calls are as few as keep each under about a second. A call never touches the state it was given, so whoever stops
    between or during calls keeps the last reported one.

    Args:
        state: what to start from, as `Trainer.init` gives it.
        schedule: the numbers of the learning rate.
        data: all sequences with their targets.
        epochs: how often to go through `data`.
        batch_size: the most sequences a mini-batch may have; the epoch's batches differ by one sequence at the most.
            `Streams` have a batch of their own size.
        config: the network.
        optimizer: a callable from a learning-rate schedule to an optax `GradientTransformation`.
        shape: the shape of the learning rate over this training.

    Yields:
        A `Report` after each compiled call.

    Raises:
        FloatingPointError: the loss or a parameter became NaN or infinite; the state reported last is finite.
    """
    batches, width, mesh = _layout(data, batch_size)
    state, schedule, data = replicate((state._replace(memory=None), schedule, data), mesh)
    size = 1
    for epoch in range(epochs):
        order = replicate(_draw_order(state.key, state.step, data, batches=batches, width=width), mesh)
        if isinstance(data, Streams):
            state = state._replace(memory=scatter(zero_state(state.params, width), mesh))
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


def batches_of(data: Data, batch_size: int) -> int:
    """Return how many mini-batches an epoch has."""
    return data.windows if isinstance(data, Streams) else -(-count(data) // batch_size)


def evaluate(params: ModelParams, data: Batch | Windows, *, batch_size: int, config: LSTMConfig) -> float:
    """Return the mean loss over all real steps of `data`, computed in batches of `batch_size` sequences."""
    batches, width, mesh = _layout(data, batch_size)
    order = _batches(np.arange(count(data)), batches, width)
    params, data, order = replicate((params, data, order), mesh)
    sums, size, start = replicate((jnp.zeros(()), jnp.zeros(())), mesh), 1, 0
    while start < batches:
        stop = min(start + size, batches)
        began = time.perf_counter()
        sums = jax.block_until_ready(_sum_losses(sums, params, data, order, start, stop, config=config, mesh=mesh))
        size = max(1, int((stop - start) * CALL_SECONDS / (time.perf_counter() - began)))
        start = stop
    return float(sums[0]) / max(float(sums[1]), 1.0)


def _layout(data: Data, batch_size: int) -> tuple[int, int, Mesh | None]:
    """Return how many mini-batches there are, their width, and the devices that share each."""
    batches = batches_of(data, batch_size)
    width = data.streams if isinstance(data, Streams) else -(-count(data) // batches)
    mesh = mesh_for(width)
    devices = mesh.size if mesh else 1
    return batches, -(-width // devices) * devices, mesh


def _batches(order: np.ndarray, batches: int, width: int) -> np.ndarray:
    """Return an order of rows as mini-batches `[batches, width]`, filled up with -1 evenly."""
    filled = np.full(batches * width, -1, np.int32)
    filled[: order.size] = order
    return filled.reshape(width, batches).T


def _is_padded(data: Data, order: Array) -> bool:
    return (order.shape[1] if isinstance(data, Streams) else order.size) > count(data)


def _draw_order(key: Array, step: Array, data: Data, *, batches: int, width: int) -> np.ndarray:
    """Return what the mini-batches of the next epoch `take`, `[batches, width]`, filled up with -1.

    By NumPy, seeded with the key and the step: to compile `jax.random.permutation` takes 0.3 s.
    """
    rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)).ravel(), int(step)])
    if not isinstance(data, Streams):
        return _batches(rng.permutation(count(data)), batches, width)
    length = data.ids.shape[0]
    starts = rng.integers(length) + np.arange(data.streams) * ((length - 1) // data.streams)
    starts = (starts + np.arange(batches)[:, None] * data.length) % length
    order = np.full((batches, width), -1, np.int32)
    order[:, : data.streams] = starts
    return order


@jax.jit(static_argnames=("config", "optimizer", "shape", "mesh"))
def _train_steps(
    state: TrainState,
    total: Array,
    schedule: Schedule,
    data: Data,
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
    padded = _is_padded(data, order)

    def steps(
        state: TrainState, total: Array, schedule: Schedule, data: Data, order: Array
    ) -> tuple[TrainState, Array]:
        tx = optimizer(functools.partial(rate, schedule, shape))
        step = trainer(config, tx, axis_name=AXIS if mesh else None).step

        def body(k: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, total = carry
            state, loss = step(state, take(data, order[k], config, padded=padded))
            return state, total + loss

        return lax.fori_loop(start, stop, body, (state, total))

    split: Any = TrainState(P(), P(), P(), P(), P(AXIS))  # type: ignore[arg-type]
    specs = (split, P(), P(), P(), P(None, AXIS))
    state, total = split_batch(steps, mesh, specs, (split, P()))(state, total, schedule, data, order)
    finite = [jnp.isfinite(array).all() for array in jax.tree.leaves((state.params, total))]
    return state, total, jnp.stack(finite).all()


@jax.jit(static_argnames=("config", "mesh"))
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
    padded = _is_padded(data, order)

    def add(sums: tuple[Array, Array], params: ModelParams, data: Batch | Windows, order: Array) -> tuple[Array, Array]:
        def body(k: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            batch = take(data, order[k], config, padded=padded)
            total, (real, _) = summed_loss(params, batch.xs, batch.ys, config, lengths=batch.lengths)
            found = lax.psum((total, real), AXIS) if mesh else (total, real)
            return sums[0] + found[0], sums[1] + found[1]

        return lax.fori_loop(start, stop, body, sums)

    return split_batch(add, mesh, (P(), P(), P(), P(None, AXIS)), P())(sums, params, data, order)
