"""One CPU device a core, and a batch split over the devices that JAX has.

Over how many devices a batch is split follows from its rows, the weights that a time step multiplies by, and the cache
of a core, never from a measured time: on the same machine the same seed gives the same bits. A device gets at least

    as many rows as make 300,000 multiplications a time step, which is what keeping the devices in step costs;
    8 rows where the weights do not fit into its L2 cache, since every device streams all of them at each time step,
    where two cores that work for one device stream half of them each.

With fewer rows there are fewer devices: 64 rows of a large network are split over 8 devices of 16. Training steps on
two cores with 2 MB of L2 each, one device against two, in ms: 8 rows of 128 units 2.0 / 1.8, 4 rows 1.1 / 1.4; 4 rows
of 256 units 4.8 / 3.1; of 512 units, whose weights take 4.7 MB, 8 rows 23.6 / 26.3, 16 rows 42.2 / 34.9.

Where several processes train together (`jlstm/processes.py`), a batch is split over all of them, and in each over as
many devices, by the same rule for its rows.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from jlstm.checks import whole_number
from jlstm.forks import check_not_forked
from jlstm.processes import reaching_all
from jlstm.turns import in_turn

__all__ = [
    "AXIS",
    "compiled",
    "each_its_own",
    "everywhere",
    "mesh_for",
    "mesh_of_all",
    "own",
    "put_together",
    "replicate",
    "scatter",
    "shares",
    "split_batch",
    "spread_by_xla",
    "summed",
    "to_whole_devices",
    "use_cpu_cores",
]

AXIS = "batch"


WORTHWHILE = 300_000  # multiplications of a time step
ENOUGH = 8  # rows a device, for weights beyond its cache
GUESSED_CACHE = 2**20  # bytes, where the system does not tell

_least_rows: int | None = None


def use_cpu_cores(cores: int | None = None, *, least_rows: int | None = None) -> None:
    """Give JAX one CPU device a core, over which training and prediction then split a batch where it pays.

    XLA runs the many small operations of an LSTM's step on one thread; a device a core keeps all of them busy.
    Threads that use networks then take turns, of about a second each beside a training. JAX programs of your own take
    none: one beside a training in another thread may wait for it forever, and it for that.

    Args:
        cores: how many devices; by default as many as there are cores that this process may use.
        least_rows: the fewest sequences of a batch that a device gets, 1 to split whatever can be split; by default
            chosen by the sizes of the network and the caches (see the top of `jlstm/devices.py`).

    Raises:
        TypeError, ValueError: `cores` or `least_rows` is not an integer from 1 up.
        RuntimeError: JAX has started its devices already; call this before anything that computes.

    Example:
        >>> use_cpu_cores()    # doctest: +SKIP
    """
    if cores is None:  # the cores of this process, which only Linux tells
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = whole_number("cores", cores, least=1)
    least_rows = None if least_rows is None else whole_number("least_rows", least_rows, least=1)
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:
        raise RuntimeError(
            "use_cpu_cores: JAX has started its devices already; call it before the first computation, best right "
            "after the imports"
        ) from None
    global _least_rows
    _least_rows = least_rows


def mesh_for(rows: int, weights: int) -> Mesh | None:
    """Return the devices of this process that share a batch, or None where it is a single one.

    Args:
        rows: how many sequences it has.
        weights: how many numbers a time step multiplies by, those of the largest layer.
    """
    devices = jax.local_devices()
    return _mesh(tuple(devices[: _count(len(devices), rows, weights)]))


def mesh_of_all(rows: int, weights: int) -> Mesh | None:
    """Return the devices of all processes that share a batch, as many of each, as `mesh_for` does those of one."""
    processes = jax.process_count()
    if processes == 1:
        return mesh_for(rows, weights)
    each = [[device for device in jax.devices() if device.process_index == k] for k in range(processes)]
    count = _count(min(map(len, each)), -(-rows // processes), weights)
    return _mesh(tuple(device for devices in each for device in devices[:count]))


def _count(devices: int, rows: int, weights: int) -> int:
    """Return how many of a process's devices get a part of its rows."""
    return max(1, min(devices, rows // _rows_each(weights)))


def _rows_each(weights: int) -> int:
    """Return the fewest rows that a device gets."""
    if _least_rows is not None:
        return _least_rows
    return max(-(-WORTHWHILE // weights), ENOUGH if 4 * weights > _core_cache() else 1)


@functools.cache
def _core_cache() -> int:
    """Return the bytes of a core's L2 cache, which only Linux tells; several machines guess the same."""
    if jax.process_count() > 1:
        return GUESSED_CACHE
    try:
        with open("/sys/devices/system/cpu/cpu0/cache/index2/size") as file:
            return int(file.read().strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return GUESSED_CACHE


@functools.cache
def _mesh(devices: tuple[jax.Device, ...]) -> Mesh | None:
    if len(devices) == 1:
        return None
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def to_whole_devices(rows: int, mesh: Mesh | None) -> int:
    """Return the next number of rows that the devices of `mesh` can share evenly."""
    return rows if mesh is None else -(-rows // mesh.size) * mesh.size


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Put a pytree on every device of `mesh`, or on the first one where that is None; nothing is copied in vain.

    Of a mesh of several processes each puts it on its own devices; all have the same. All that comes back is committed
    to its place: what is not would compile anew whatever takes it first.
    """
    first = jax.local_devices()[0]
    if mesh is None:
        tree = jax.tree.map(functools.partial(_copy_on, first), tree)
    place = NamedSharding(mesh, P()) if mesh else SingleDeviceSharding(first)
    # Asked first: `device_put` takes 60 µs to find that it has nothing to do, and a short prediction 300.
    if all(isinstance(leaf, jax.Array) and leaf.committed and leaf.sharding == place for leaf in jax.tree.leaves(tree)):
        return tree
    if mesh is not None and jax.process_count() > 1:
        return jax.tree.map(functools.partial(_copies_on, mesh), tree)
    return jax.device_put(tree, place)


def everywhere(tree: Any) -> Any:
    """Put a pytree on every device that this process has, from where `replicate` takes it without a copy."""
    return replicate(tree, _mesh(tuple(jax.local_devices())))


def own(tree: Any) -> Any:
    """Return a pytree that lies on the devices of several processes as it lies on those of this one."""
    return tree if jax.process_count() == 1 else everywhere(tree)


def _copy_on(device: jax.Device, leaf: Any) -> Any:
    """Return the copy that lies on `device`, where there is one of all of `leaf`; else one that can be copied there."""
    if not isinstance(leaf, jax.Array) or not leaf.is_fully_replicated:
        return leaf
    if leaf.addressable_data(0).device == device:
        return leaf.addressable_data(0)
    copies = {shard.device: shard.data for shard in leaf.addressable_shards}
    return copies.get(device, leaf if leaf.is_fully_addressable else leaf.addressable_data(0))


def _copies_on(mesh: Mesh, leaf: Any) -> Any:
    """Return an array with a copy on each device of a mesh, of which each process knows its own.

    JAX's `device_put` would ask the others each time whether they have the same. A number of Python stays one, which
    takes the dtype of what it meets.
    """
    if isinstance(leaf, (int, float)):
        return leaf
    copies = [jax.device_put(_copy_on(device, leaf), device) for device in mesh.local_devices]
    return jax.make_array_from_single_device_arrays(copies[0].shape, NamedSharding(mesh, P()), copies)


def scatter(tree: Any, mesh: Mesh | None) -> Any:
    """Put a part of each array's first axis on every device of `mesh`, or all on the first one where that is None."""
    if mesh is None:
        return jax.device_put(tree, jax.local_devices()[0])
    place = NamedSharding(mesh, P(AXIS))
    if jax.process_count() == 1:
        return jax.device_put(tree, place)
    parts = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(mesh.size, -1, *leaf.shape[1:])[shares(mesh)], tree)
    return put_together(jax.tree.map(lambda part: part.reshape(-1, *part.shape[2:]), parts), mesh)


def shares(mesh: Mesh | None) -> np.ndarray:
    """Return which of the parts of a batch are for the devices of this process, `[devices]` integers."""
    if mesh is None:
        return np.zeros(1, int)
    return np.array([k for k, device in enumerate(mesh.devices) if device.process_index == jax.process_index()])


def put_together(tree: Any, mesh: Mesh | None) -> Any:
    """Put on every device its part of arrays, along their first axis, of which each process has those of its own."""
    if mesh is None:
        return replicate(tree, None)
    place = NamedSharding(mesh, P(AXIS))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(place, leaf), tree)


def split_batch(function: Callable, mesh: Mesh | None, in_specs: tuple, out_specs: Any) -> Callable:
    """Return `function` run on every device of `mesh` at once, each with its part of what the specs split."""
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs)


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Return `jax.jit` with these options for what runs on devices that this room chose.

    It does so within a mesh of the caller's (`jax.set_mesh`) as well, which JAX would take for the function's too.

    Where there are several devices, threads take turns, each until its result is there (see `jlstm/turns.py`).
    """

    def decorate(function: Callable) -> Callable:
        jitted = jax.jit(function, **options)

        @functools.wraps(jitted)
        def call(*args: Any, **kwargs: Any) -> Any:
            check_not_forked()
            if jax.local_device_count() == jax.process_count() == 1:
                return on_its_own_mesh(*args, **kwargs)
            with in_turn(), reaching_all():
                return jax.block_until_ready(on_its_own_mesh(*args, **kwargs))

        def on_its_own_mesh(*args: Any, **kwargs: Any) -> Any:
            if jax.sharding.get_abstract_mesh().empty:
                return jitted(*args, **kwargs)
            with jax.set_mesh(Mesh(np.empty((), object), ())):
                return jitted(*args, **kwargs)

        return call

    return decorate


def each_its_own(tree: Any, axis_name: str | tuple[str, ...] | None) -> Any:
    """Return what the devices of a mapped axis share as something that each of them has, so that its gradient is too.

    Where JAX knows that they share it, under `jax.shard_map` as it comes, it sums the gradient over them by itself;
    where it doesn't, under `check_vma=False` or `jax.vmap`, each has its own. This makes the two alike.
    """
    if axis_name is None:
        return tree
    yes = jnp.ones_like(lax.axis_index(axis_name), bool)  # it varies over the axis, and so does what it chooses
    return jax.tree.map(lambda leaf: jnp.where(yes, leaf, jnp.zeros_like(leaf)), tree)


def summed(tree: Any, axis_name: str | tuple[str, ...] | None) -> Any:
    """Return the sum of each array over a mapped axis, or what it is where that is None.

    Between processes, all arrays of a dtype go as one: 8 of 1 MB took 33 ms over loopback, one of 8 MB took 9.5.
    """
    if axis_name is None:
        return tree
    if jax.process_count() == 1:
        return lax.psum(tree, axis_name)
    leaves, form = jax.tree.flatten(tree)
    found: dict[int, Array] = {}
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):  # in the same order in all processes
        places = [k for k, leaf in enumerate(leaves) if leaf.dtype == dtype]
        one = lax.psum(jnp.concatenate([leaves[k].ravel() for k in places]), axis_name)
        ends = np.cumsum([leaves[k].size for k in places])[:-1]
        found |= {k: part.reshape(leaves[k].shape) for k, part in zip(places, jnp.split(one, ends), strict=True)}
    return jax.tree.unflatten(form, [found[k] for k in range(len(leaves))])


def spread_by_xla(by_batch: Any) -> Callable[[Callable], Callable]:
    """Return a decorator that leaves to XLA how a function is spread, where arrays lie on a mesh with Explicit axes.

    There JAX asks of every operation how its result lies, and has no answer for time and batch as one axis.

    Args:
        by_batch: of what the function returns, a pytree of whether it has the batch for its first axis, which then lies
            as that of `xs`, the function's second argument; all else lies whole on every device.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def on_mesh(params: Any, xs: Any, *args: Any, **kwargs: Any) -> Any:
            check_not_forked()
            arrays = [leaf for leaf in jax.tree.leaves((params, xs, args)) if hasattr(leaf, "dtype")]
            places = [jax.typeof(leaf).sharding for leaf in arrays]
            # Within `jax.vmap` over an axis that is split, there is nothing left to spread.
            explicit = next((place.mesh for place in places if place.mesh.explicit_axes and any(place.spec)), None)
            if explicit is None:
                return function(params, xs, *args, **kwargs)
            batch = P(*jax.typeof(jax.tree.leaves(xs)[0]).sharding.spec[:1])
            out = jax.tree.map(lambda split: NamedSharding(explicit, batch if split else P()), by_batch)
            run = jax.sharding.auto_axes(functools.partial(function, **kwargs), out_sharding=out)
            return run(params, xs, *args)

        return on_mesh

    return decorate
