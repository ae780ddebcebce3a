"""Learning: optax over mini-batches, as pure `init` and `step`, and as many steps in one compiled call."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jlstm.checks import alike, describe, prng_key
from jlstm.config import LSTMConfig, check_config
from jlstm.data import Batch, Data, filled_up, rounded_up, take
from jlstm.devices import (
    AXIS,
    compiled,
    each_its_own,
    mesh_of_all,
    own,
    put_together,
    replicate,
    scatter,
    shares,
    split_batch,
    summed,
    to_whole_devices,
)
from jlstm.losses import summed_evaluation, summed_loss, targets_in
from jlstm.model import ModelParams, params_shapes, weights_of, zero_state
from jlstm.optimizers import (
    IDLE,
    Optimizer,
    Rate,
    Schedule,
    accumulated,
    cosine,
    extra_arguments,
    transformation,
)
from jlstm.orders import Computed
from jlstm.processes import in_accord, of_first, whole

__all__ = ["Evaluation", "Report", "TrainState", "Trainer", "batches_of", "evaluate", "fit", "fresh_state", "trainer"]

# For `_lay_out`, a guess at what a time step of a mini-batch takes, forward and backward: so many seconds and those of
# its arithmetic, and with lengths so much longer.
STEP_SECONDS, FLOPS, MASKED = 2e-5, 5e10, 1.02
COMPILE_SECONDS = 1.5  # what one more shape takes
START_SECONDS = 1e-3  # what a call takes beside its steps
ADDED_SECONDS = 0.2  # what rounding up may cost a network in all: to compile takes a second or two
READ_STEPS = 2**20  # how many time steps a call is given at the most of data that are not in memory: 4 MB of ids
CALL_SECONDS = 1.0  # what one compiled call should take: half as long and wide networks lose 12 % to calls of one step


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        params: the network's parameters.
        opt_state: the optimiser's state.
        key: the key of the shuffles and of dropout, of `jax.random.key`.
        step: how many steps were taken, an int32 scalar.
        memory: the network's state that the next batch goes on from, where it does (see `Data.streams`); else None.
    """

    params: ModelParams
    opt_state: Any
    key: Array
    step: Array
    memory: tuple | None = None


class Trainer(NamedTuple):
    """Training as two pure functions.

    Attributes:
        init: `init(params, key) -> TrainState`.
        step: `step(train_state, batch) -> (train_state, loss)`, one update by the gradient of a batch's mean loss.
    """

    init: Callable[[ModelParams, Array], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Array]]


def trainer(
    config: LSTMConfig, optimizer: Any, *, axis_name: str | tuple[str, ...] | None = None, balanced: bool = False
) -> Trainer:
    """Return the pure functions that train a network.

    Args:
        config: the network.
        optimizer: any optax `GradientTransformation`, or what else optax calls an optimiser; clipping, schedules and
            weight decay are optax's. It is offered the loss, as `value`, and the loss as a function, as `value_fn`.
        axis_name: the mapped axis, or axes in a tuple, over whose devices the batch is split, for use inside
            `jax.shard_map` or `jax.vmap`; the update is that of the whole batch.
        balanced: whether the batches are parts of a whole whose weights have a mean of 1. Then a batch's loss is its
            sum over how many targets it has, of whatever weight; else over their weights, so that in a batch of one
            its weight is nothing.

    Returns:
        The `Trainer`; compile its step yourself, or scan over it. Nothing in the state shares a buffer with what it was
        made of, so it can be donated.

    Raises:
        TypeError: `config` or `optimizer` is none.

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> init, step = trainer(config, optax.adam(0.01))
        >>> state = init(init_params(jax.random.key(0), config), jax.random.key(1))
        >>> state, loss = jax.jit(step)(state, Batch(jnp.ones((2, 7, 1)), jnp.zeros((2, 7), int)))
        >>> int(state.step)
        1
    """
    check_config(config)
    for name in axis_name if isinstance(axis_name, tuple) else (axis_name,):
        if name is not None and not isinstance(name, str):
            raise TypeError(
                f"axis_name: expected the name of a mapped axis, or several in a tuple, got {describe(name)}"
            )
    tx = transformation(optimizer)

    def init(params: ModelParams, key: Array) -> TrainState:
        params, key = alike("params", params, params_shapes(config)), prng_key("key", key)
        return jax.tree.map(jnp.copy, TrainState(params, tx.init(params), key, jnp.zeros((), jnp.int32)))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Array]:
        for name, value, kind in (("state", state, TrainState), ("batch", batch, Batch)):
            if not isinstance(value, kind):
                raise TypeError(f"{name}: expected a {kind.__name__}, got {describe(value)}")
        key = jax.random.fold_in(state.key, state.step)
        first_row = 0 if axis_name is None else lax.axis_index(axis_name) * jnp.shape(batch.xs)[0]

        def share(params: ModelParams) -> tuple[Array, Any]:
            total, (real, memory) = summed_loss(
                params,
                batch.xs,
                batch.ys,
                config,
                state=state.memory,
                lengths=batch.lengths,
                key=key,
                resets=batch.resets,
                weights=batch.weights,
                first_row=first_row,
            )
            real = targets_in(batch, config) if balanced and batch.weights is not None else real
            weight = summed(real, axis_name)
            return total / jnp.where(weight > 0, weight, 1).astype(total.dtype), memory

        def loss_and_grads(params: ModelParams) -> tuple[Array, Any, Any]:
            own = each_its_own(params, axis_name)
            (loss, memory), grads = jax.value_and_grad(share, has_aux=True)(own)
            return *summed((loss, grads), axis_name), memory

        loss, grads, memory = loss_and_grads(state.params)
        extra = extra_arguments(loss, grads, _with_gradient(loss_and_grads))
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to the power of its counts (0.2.8)
            updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra)
        params = optax.apply_updates(state.params, updates)
        memory = None if state.memory is None else memory
        return TrainState(params, opt_state, state.key, state.step + 1, memory), loss

    return Trainer(init, step)


def _with_gradient(loss_and_grads: Callable[[Any], tuple[Array, Any, Any]]) -> Callable[[Any], Array]:
    """Return the loss as a function whose gradient is the one that is summed over devices already."""

    @jax.custom_vjp
    def loss(params: Any) -> Array:
        return loss_and_grads(params)[0]

    loss.defvjp(
        lambda params: loss_and_grads(params)[:2],
        lambda grads, weight: (jax.tree.map(lambda array: weight * array, grads),),
    )
    return loss


@compiled(static_argnames=("config", "optimizer"))
def fresh_state(params: ModelParams, key: Array, *, config: LSTMConfig, optimizer: Optimizer) -> TrainState:
    """Return the state to start from with these parameters, for an optimiser given as `fit` takes it."""
    return trainer(config, optimizer(IDLE)).init(params, key)


class Report(NamedTuple):
    """Where a training stands after a compiled call.

    Attributes:
        state: the training state.
        epoch: the epoch, from 0.
        part: how much of the epoch is done, up to 1.
        loss: the mean loss of the epoch's mini-batches so far.
        place: where that is, to go on from.
    """

    state: TrainState
    epoch: int
    part: float
    loss: float
    place: "Place | None" = None


class Place(NamedTuple):
    """Where within a training its state stands, all that the state itself does not tell.

    Attributes:
        epoch: the epoch, from 0.
        began: how many steps were taken before it, from which its order is drawn.
        done: how many of its mini-batches are done.
        total: the sum of their losses, a float scalar.
    """

    epoch: Any
    began: Any
    done: Any
    total: Any


def fit(
    state: TrainState,
    schedule: Schedule,
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    config: LSTMConfig,
    optimizer: Optimizer,
    shape: Callable[[Array], Array] = cosine,
    place: Place | None = None,
) -> Iterator[Report]:
    """Train for some epochs of mini-batches, shuffled anew in each, and report after every compiled call.

    Where the data are `streams`, each mini-batch goes on where the one before it ended, with the network's state.

    Sequences of different length are divided into parts of similar lengths, each computed at its own longest. Each
    mini-batch is drawn from one part, anew in each epoch, and those of all parts come in any order.

    Calls are as few as keep each under about a second and within one part. A call never touches the state it was given,
    so whoever stops between or during calls keeps the last reported one.

    Args:
        state: what to start from, as `Trainer.init` gives it.
        schedule: the numbers of the learning rate.
        data: all sequences with their targets.
        epochs: how often to go through `data`.
        batch_size: the most sequences a mini-batch may have; those of a part differ by one sequence at the most, and a
            part of few sequences is one smaller mini-batch. Streams have a batch of their own size.
        config: the network.
        optimizer: a callable from a learning-rate schedule to anything that optax calls an optimiser; another function
            compiles anew, also where it computes the same (see `by_what_they_compute`).
        shape: the shape of the learning rate over this training.
        place: that of a report, to go on from its state to the same bits as if nothing had come between, the other
            arguments being the same; None for a training from its beginning.

    Yields:
        A `Report` after each compiled call.

    Raises:
        FloatingPointError: the loss or a parameter became NaN or infinite; the state reported last is finite.
    """
    parts = _parts(data, batch_size, state.params, float(schedule.first_epoch) + epochs, config)
    mesh, batches = parts[0].mesh, sum(part.batches for part in parts)
    held = [replicate(_whole(part, config), mesh) for part in parts]
    memory, first = state.memory, place or Place(0, state.step, 0, _zero())
    state, schedule = replicate((of_first(state._replace(memory=None)), schedule), mesh)
    sizes = [1] * len(parts)
    for epoch in range(int(first.epoch), epochs):
        here = first if epoch == first.epoch else Place(epoch, state.step, 0, _zero())
        rngs = [_rng(state.key, here.began, k) for k in range(len(parts) + 1)]
        orders = [replicate(_draw_order(rng, part), mesh) for rng, part in zip(rngs, parts, strict=False)]
        if data.streams:
            if memory is None or here.done == 0:
                memory = zero_state(own(state.params), parts[0].width, cell=config.cell)
            state = state._replace(memory=scatter(_of_width(whole(memory), data.streams, parts[0].width), mesh))
        total, done, passed = replicate(here.total, mesh), int(here.done), 0
        for k, start, end in _runs(rngs[-1], parts):
            start, passed = min(start + max(0, int(here.done) - passed), end), passed + end - start
            while start < end:
                stop = min(start + sizes[k], start + parts[k].most, end)
                began = time.perf_counter()
                stepped, total, finite = _train_steps(
                    state,
                    total,
                    schedule,
                    *_given(parts[k], held[k], orders[k], start, stop, config),
                    config=config,
                    optimizer=optimizer,
                    shape=shape,
                    masked=parts[k].masked,
                    reads=data.read is not None,
                    mesh=mesh,
                )
                if not finite:  # waits for the call to end
                    raise FloatingPointError(
                        f"the loss became NaN or infinite in epoch {epoch + 1}; the parameters from before are kept. "
                        "Try a lower learning_rate, or inputs and targets of a smaller range"
                    )
                sizes[k] = _next_size(stop - start, began)
                state, done, start = stepped, done + stop - start, stop
                reported = own(state._replace(memory=None))._replace(memory=state.memory)
                mean, place = float(total) / done, Place(epoch, here.began, done, own(total))
                yield Report(reported, epoch, done / batches, mean, place)


def _of_width(memory: Any, streams: int, width: int) -> Any:
    """Return the state of so many streams with room for more, which other devices may have had less or more of."""
    return jax.tree.map(lambda leaf: filled_up(np.asarray(leaf)[:streams], width), memory)


def _next_size(steps: int, began: float) -> int:
    """Return how many steps the next call should have, by the time of this one; the same in all processes."""
    return of_first(max(1, int(steps * CALL_SECONDS / (time.perf_counter() - began))))


def batches_of(data: Data, batch_size: int, params: ModelParams, epochs: float) -> int:
    """Return how many mini-batches an epoch of `fit` has in a training that ends with so many epochs."""
    width = data.streams or batch_size
    return sum(-(-len(rows) // width) for rows, _ in _divided(data, batch_size, params, epochs))


class Evaluation(NamedTuple):
    """How well a network does on some data.

    Attributes:
        loss: the mean loss over all targets that count, weighted where there are weights.
        accuracy: the share of them that is right, each counted once; None of values, which are never right or wrong.
    """

    loss: float
    accuracy: float | None = None


def evaluate(params: ModelParams, data: Data, *, batch_size: int, config: LSTMConfig, times: int = 1) -> Evaluation:
    """Return the mean over all targets of `data` that count, computed in batches of `batch_size` sequences.

    Args:
        params: the network's parameters.
        data: sequences with their targets, none of which goes on from another (`streams` are 0).
        batch_size: the most sequences that are computed together.
        config: the network.
        times: how often this will be asked, which decides whether to compile for exactly these data (see `_divided` and
            `_lay_out`).

    Returns:
        The `Evaluation`.
    """
    parts = _parts(data, batch_size, params, times, config)
    mesh = parts[0].mesh
    params, sums = replicate((params, (_zero(),) * 4), mesh)
    for part in parts:
        order = _as_batches(np.arange(part.data.sequences) if part.data.read is None else Computed(np.asarray), part)
        held, order = replicate((_whole(part, config), order), mesh)
        size, start = 1, 0
        while start < part.batches:
            stop = min(start + size, start + part.most, part.batches)
            began = time.perf_counter()
            given, reads = _given(part, held, order, start, stop, config), data.read is not None
            sums = _add_evaluations(sums, params, *given, config=config, masked=part.masked, reads=reads, mesh=mesh)
            jax.block_until_ready(sums)
            size, start = _next_size(stop - start, began), stop
    loss, weight, right, count = map(float, sums)
    return Evaluation(loss / (weight or 1.0), right / (count or 1.0) if config.objective.right else None)


def _zero() -> np.ndarray:
    return np.zeros((), jax.dtypes.canonicalize_dtype(float))


def _divided(
    data: Data, batch_size: int, params: ModelParams, epochs: float
) -> list[tuple[Sequence[int] | np.ndarray, int]]:
    """Return the sequences in parts of similar lengths, `(rows, steps)`, each to be compiled for its own longest.

    The cuts are those that cost least in all: the steps of padding in all epochs, a call for each mini-batch, and the
    compilation of each shape are weighed against each other (by dynamic programming).
    """
    if data.lengths is None or data.streams:
        return [(range(data.sequences), data.steps)]
    lengths, weights = np.clip(data.lengths, 1, data.steps), sum(leaf.size for leaf in jax.tree.leaves(params))
    # All numbers of epochs between two powers of two have the same parts, and share what was compiled for them.
    epochs = rounded_up(max(1, int(epochs)), 1)
    cuts = sorted({0, *(min(rounded_up(int(n), 3), data.steps) for n in np.unique(lengths))})
    below = [int((lengths <= cut).sum()) for cut in cuts]

    def seconds(i: int, j: int) -> float:
        batches = -(-(below[j] - below[i]) // batch_size)
        width = -(-(below[j] - below[i]) // batches)
        calls = 0 if (i, j) == (0, len(cuts) - 1) else batches
        return COMPILE_SECONDS + epochs * (_epoch_seconds(batches, width, cuts[j], weights) + calls * START_SECONDS)

    least: list[tuple[float, list[int]]] = [(0.0, [])]  # up to each cut: the seconds, and the cuts before it
    for j in range(1, len(cuts)):
        least.append(min((least[i][0] + seconds(i, j), [*least[i][1], i]) for i in range(j)))
    chosen = [cuts[i] for i in (*least[-1][1], -1)]
    return [
        (np.flatnonzero((lengths > shortest) & (lengths <= longest)), longest)
        for shortest, longest in itertools.pairwise(chosen)
    ]


def _epoch_seconds(batches: int, width: int, steps: int, weights: int) -> float:
    return batches * steps * (STEP_SECONDS + 6 * weights * width / FLOPS)  # the backward pass is two


class _Part(NamedTuple):
    """Data and the shapes that an epoch of them is compiled for.

    Attributes:
        data: the sequences.
        batches: how many mini-batches they are.
        most: the most that it has with other data that are compiled alike, or that a call is given where they are read.
        width: how many rows each of them is computed with.
        mesh: the devices that share each, the same for all parts.
        masked: whether the batches have lengths, to tell rows and steps of nothing from the real ones.
        roomy: whether all sizes are rounded up to powers of two.
    """

    data: Data
    batches: int
    most: int
    width: int
    mesh: Mesh | None
    masked: bool
    roomy: bool


def _parts(data: Data, batch_size: int, params: ModelParams, epochs: float, config: LSTMConfig) -> list[_Part]:
    """Return the data in parts of similar lengths, with their shapes, all for the devices of the widest."""
    divided = _divided(data, batch_size, params, epochs)
    pieces = [data] if len(divided) == 1 else [data.gather(rows, steps, config) for rows, steps in divided]
    parts = [_lay_out(piece, batch_size, params, epochs) for piece in pieces]
    mesh = max((part.mesh for part in parts), key=lambda mesh: mesh.size if mesh else 1)
    widths = [to_whole_devices(part.width, mesh) for part in parts]
    return [
        part._replace(width=width, mesh=mesh, masked=part.masked or width > part.width)
        for part, width in zip(parts, widths, strict=True)
    ]


def _lay_out(data: Data, batch_size: int, params: ModelParams, epochs: float) -> _Part:
    """Choose the shapes so that one compiled program serves whatever is near by in size.

    Where it costs little over all epochs, rows and steps of nothing fill the data up to powers of two, which takes less
    time than to compile for other shapes; else the steps are as they are, and there are a sixteenth more rows at most.
    To leave out steps of nothing by a `lax.cond` in the gradient made each step 1.2 to 2.6 times as long.
    """
    batches = -(-data.sequences // (data.streams or batch_size))
    real = -(-data.sequences // batches)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))

    def seconds(width: int, steps: int) -> float:
        return epochs * _epoch_seconds(batches, width, steps, weights)

    _, longest = data.room(roomy=True)
    added = MASKED * seconds(rounded_up(real, 1), longest) - seconds(real, data.steps)
    roomy = bool(data.streams) or added < ADDED_SECONDS
    rows, _ = data.room(roomy=roomy)
    if data.streams:  # their mini-batches are of their own size, and room behind a text costs nothing
        width, most = real, rows // real
    else:
        width = rounded_up(real, 1 if roomy else 5)
        most = rows if width == 1 else 2 * rows // width  # more than half of each batch are real rows
    mesh = mesh_of_all(width, weights_of(params))
    width = to_whole_devices(width, mesh)
    if data.read is not None:
        most = min(most, max(1, READ_STEPS // (width * data.steps)))
    masked = (roomy and not data.streams) or batches * width > data.sequences
    return _Part(data, batches, most, width, mesh, masked, roomy)


def _batches(order: np.ndarray, batches: int, width: int) -> np.ndarray:
    """Return an order of rows as mini-batches `[batches, width]`, filled up with -1 evenly."""
    filled = np.full(batches * width, -1, np.int32)
    filled[: order.size] = order
    return filled.reshape(width, batches).T


def _rng(key: Array, step: Array, k: int = 0) -> np.random.Generator:
    """Return NumPy's numbers for the k-th use in an epoch: to compile `jax.random.permutation` takes 0.3 s."""
    seed = [*np.asarray(jax.random.key_data(key)).ravel().tolist(), int(step)]
    return np.random.default_rng(seed + [k] * (k > 0))


def _runs(rng: np.random.Generator, parts: list[_Part]) -> Iterator[tuple[int, int, int]]:
    """Return the mini-batches of all parts in any order, as `(part, from, to)`: those in one run are of one part."""
    if len(parts) == 1:  # of which there may be more mini-batches than a list has room for
        yield 0, 0, parts[0].batches
        return
    turns = np.repeat(np.arange(len(parts)), [part.batches for part in parts])
    starts = [0] * len(parts)
    for k, run in itertools.groupby(rng.permutation(turns).tolist()):
        first, starts[k] = starts[k], starts[k] + len(list(run))
        yield k, first, starts[k]


def _draw_order(rng: np.random.Generator, part: _Part) -> np.ndarray | Computed:
    """Return what the mini-batches of a part `take` in an epoch, as `_as_batches` does."""
    return _as_batches(part.data.order(rng), part)


def _as_batches(order: Any, part: _Part) -> Any:
    """Return an order of rows as mini-batches, `[most, width]`, or where data are read as it is; no more follow."""
    if part.data.read is not None:
        return Computed(order.__getitem__)  # an array would go to a device
    return filled_up(_batches(order, part.batches, part.width), part.most)


def _whole(part: _Part, config: LSTMConfig) -> Data | None:
    """Return all data of a part with their room, or None where they are read call by call."""
    return None if part.data.read is not None else part.data.with_room(config, roomy=part.roomy, masked=part.masked)


def _given(part: _Part, held: Data | None, order: Any, start: int, stop: int, config: LSTMConfig) -> tuple:
    """Return where a compiled call finds the mini-batches `start` to `stop`: data, an order, and these two in it.

    Data in memory are held for all calls. Others are read for each, so many as it takes, into arrays of one size: by
    each process the rows of its devices, and the order tells where each of these finds its own in what it was given.
    """
    read = part.data.read
    if read is None:
        return held, order, start, stop
    places = np.arange(start, stop)[:, None] + np.arange(part.width) * part.batches  # as `_batches` has them
    real = places < part.data.sequences
    rows = np.full((part.most, part.width), -1)
    rows[: stop - start][real] = order[places[real]]
    devices = part.mesh.size if part.mesh else 1
    of_devices = rows.reshape(part.most, devices, -1).swapaxes(0, 1)
    taken = np.where(of_devices < 0, -1, np.arange(of_devices[0].size, dtype=np.int32).reshape(of_devices[0].shape))
    taken = taken.swapaxes(0, 1).reshape(rows.shape)
    found = in_accord(lambda: read(of_devices[shares(part.mesh)].ravel(), config))
    return put_together(found, part.mesh), replicate(taken, part.mesh), 0, stop - start


@compiled(static_argnames=("config", "optimizer", "shape", "masked", "reads", "mesh"))
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
    optimizer: Optimizer,
    shape: Callable[[Array], Array],
    masked: bool,
    reads: bool,
    mesh: Mesh | None,
) -> tuple[TrainState, Array, Array]:
    """Train on the batches `start` to `stop` of `order`, their losses added to `total`; tell whether all is finite.

    The learning rate's numbers and the bounds of the loop are traced: none of them compiles anything anew.
    """

    def steps(
        state: TrainState, total: Array, schedule: Schedule, data: Data, order: Array
    ) -> tuple[TrainState, Array]:
        def body(k: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, total = carry
            tx = optimizer(Rate(schedule, shape, state.step - accumulated(state.opt_state)))
            step = trainer(config, tx, axis_name=AXIS if mesh else None, balanced=True).step
            state, loss = step(state, take(data, order[k], config, masked=masked))
            return state, total + loss

        return lax.fori_loop(start, stop, body, (state, total))

    split: Any = TrainState(P(), P(), P(), P(), P(AXIS))  # type: ignore[arg-type]
    specs = (split, P(), P(), P(AXIS) if reads else P(), P(None, AXIS))
    state, total = split_batch(steps, mesh, specs, (split, P()))(state, total, schedule, data, order)
    numbers = jnp.concatenate([array.ravel() for array in jax.tree.leaves((state.params, total))])
    return state, total, jnp.isfinite(numbers).all()  # one check of all compiles faster than one of each array


@compiled(static_argnames=("config", "masked", "reads", "mesh"))
def _add_evaluations(
    sums: tuple,
    params: ModelParams,
    data: Data,
    order: Array,
    start: Array,
    stop: Array,
    *,
    config: LSTMConfig,
    masked: bool,
    reads: bool,
    mesh: Mesh | None,
) -> tuple:
    """Add what `summed_evaluation` finds in the batches `start` to `stop` of `order`."""

    def add(sums: tuple, params: ModelParams, data: Data, order: Array) -> tuple:
        def body(k: Array, sums: tuple) -> tuple:
            batch = take(data, order[k], config, masked=masked)
            found = summed_evaluation(
                params,
                batch.xs,
                batch.ys,
                config,
                lengths=batch.lengths,
                resets=batch.resets,
                weights=batch.weights,
            )
            return jax.tree.map(jnp.add, sums, summed(found, AXIS if mesh else None))

        return lax.fori_loop(start, stop, body, sums)

    specs = (P(), P(), P(AXIS) if reads else P(), P(None, AXIS))
    return split_batch(add, mesh, specs, P())(sums, params, data, order)
