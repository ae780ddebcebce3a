"""The program of a process with several devices: one update, and whatever else, by every way in which JAX spreads work.

It writes how far each is from what one device gives, as JSON.
"""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jlstm
from jlstm import Batch, LSTMConfig
from jlstm.gradcheck import random_problem
from jlstm.losses import summed_loss

CONFIG, ROWS, TIME = LSTMConfig(3, 4, 5, layers=2), 6, 5
PROBLEMS = {
    "plain": {},
    "values at the end": {"loss": "gaussian", "target": "last"},
    "everything": {"inputs": "tokens", "dropout": 0.5, "segment": 2},
    "left out": dict.fromkeys(("dropout", "input_dropout", "recurrent_dropout", "zoneout", "weight_dropout"), 0.3),
}


def problem(name):
    given = random_problem(replace(CONFIG, **PROBLEMS[name]), ROWS, TIME)
    if name == "plain":
        return given | {"state": None, "lengths": None, "weights": None}
    given["weights"][2:4] = 0  # one of 3 devices has nothing that counts
    return given | {"lengths": np.array([5, 1, 2, 0, 4, 3])}  # of 3 devices, one has 1 + 5, one 2 + 0, one 4 + 3


def mesh(devices, kind):
    return jax.make_mesh((devices,), ("b",), axis_types=(kind,), devices=jax.devices()[:devices])


def by_shard_map(typed, function, devices, in_specs, out_specs):
    spread = mesh(devices, AxisType.Auto)
    return jax.jit(jax.shard_map(function, mesh=spread, in_specs=in_specs, out_specs=out_specs, check_vma=typed))


def by_vmap(function, devices, *arguments):
    """Map over pieces of what is split, and put the state together again."""
    params, *rest = arguments
    pieces = jax.tree.map(lambda array: array.reshape(devices, -1, *array.shape[1:]), rest)
    mapped = jax.vmap(function, axis_name="b", in_axes=(None, 0, 0), out_axes=(None, None, 0))
    params, loss, memory = jax.jit(mapped)(params, *pieces)
    return params, loss, jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), memory)


def by_jit(kind, function, devices, params, *rest):
    spread = mesh(devices, kind)
    rest = jax.device_put(rest, NamedSharding(spread, P("b")))
    if kind == AxisType.Auto:
        return jax.jit(function)(params, *rest)
    with jax.set_mesh(spread):
        return jax.jit(function)(params, *rest)


def far(got, expected):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(one) - np.asarray(other)).max()) for one, other in pairs)


def updates(name, devices):
    """One update of SGD by every way."""
    given = problem(name)
    parts = ("xs", "ys", "lengths", "weights")
    batch = Batch(**{part: None if given[part] is None else jnp.asarray(given[part]) for part in parts})

    def update(axis, params, memory, batch):
        init, step = jlstm.trainer(given["config"], optax.sgd(1.0), axis_name=axis)
        state, loss = step(init(params, jax.random.key(1))._replace(memory=memory), batch)
        return state.params, loss, state.memory

    mapped, alone = functools.partial(update, "b"), functools.partial(update, None)
    arguments = given["params"], given["state"], batch
    specs = (P(), P("b"), P("b")), (P(), P(), P("b"))
    found = {
        "jit, Auto": by_jit(AxisType.Auto, alone, devices, *arguments),
        "jit, Explicit": by_jit(AxisType.Explicit, alone, devices, *arguments),
        "shard_map": by_shard_map(True, mapped, devices, *specs)(*arguments),
        "shard_map, untyped": by_shard_map(False, mapped, devices, *specs)(*arguments),
        "vmap": by_vmap(mapped, devices, *arguments),
    }
    expected = by_hand(name)
    return {way: far(got, expected) for way, got in found.items()}


@functools.cache
def by_hand(name):
    """The update on one device: the gradient of the sum by the weights of all that counts."""
    given = problem(name)
    parts = {name: given[name] for name in ("xs", "ys", "config", "state", "lengths", "weights")}

    def loss(params):
        key = jax.random.fold_in(jax.random.key(1), 0)
        total, (real, state) = summed_loss(params, **parts, key=key)
        return total / real, state

    (loss, state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(given["params"])
    params = jax.tree.map(jnp.subtract, given["params"], grads)
    return params, loss, None if given["state"] is None else state


def learned(devices, rows):
    """The parameters after some steps in float64, of a batch filled up to `rows` with sequences of no step."""
    given = problem("left out")
    batch = Batch(*(jnp.asarray(given[part]) for part in ("xs", "ys", "lengths")))
    batch = jax.tree.map(lambda array: jnp.pad(array, [(0, rows - ROWS), *[(0, 0)] * (array.ndim - 1)]), batch)
    axis = "b" if devices > 1 else None

    def steps(params, batch):
        init, step = jlstm.trainer(given["config"], optax.sgd(1.0), axis_name=axis)
        state = init(params, jax.random.key(1))
        return lax.fori_loop(0, 5, lambda _, state: step(state, batch)[0], state).params

    params = jax.tree.map(lambda array: jnp.asarray(array, float), given["params"])
    spread = by_shard_map(True, steps, devices, (P(), P("b")), P()) if axis else jax.jit(steps)
    return spread(params, batch)


def functions(name, devices):
    """The pure functions on shards of a batch: typed, and on an Explicit mesh."""
    given, found = problem(name), {}
    params, config = given["params"], given["config"]
    rest = given["xs"], given["ys"], given["state"], given["lengths"]

    def gradient(params, xs, ys, state, lengths):
        return jax.grad(lambda p: summed_loss(p, xs, ys, config, state=state, lengths=lengths)[0])(params)

    def first(params, xs, state):
        return jlstm.zero_state(params, xs.shape[0]) if state is None else state

    def summed(*arguments):
        return lax.psum(sums["summed_loss"](*arguments), "b")

    splits = {
        "forward": lambda p, xs, ys, state, lengths: jlstm.forward(p, xs, config, state, lengths),
        "unroll": lambda p, xs, ys, state, lengths: jlstm.unroll(p.layers[0], xs, lengths=lengths, segment=2),
        "step": lambda p, xs, ys, state, lengths: jlstm.step(p, xs[:, 0], config, first(p, xs, state)),
        "lstm_cell": lambda p, xs, ys, state, lengths: jlstm.lstm_cell(p.layers[0], first(p, xs, state)[0], xs[:, 0]),
    }
    sums = {
        "summed_loss": lambda p, xs, ys, state, lengths: (
            summed_loss(p, xs, ys, config, state=state, lengths=lengths)[0],
            summed_loss(p, xs, ys, config, state=state, lengths=lengths)[1][0],
        ),
        "gradient": gradient,
    }
    for kind, function in (splits | sums).items():
        shared = summed if kind == "summed_loss" else function  # typed, JAX sums the gradient by itself
        specs = (P(), *[P("b")] * 4), P("b") if kind in splits else P()
        expected = function(params, *rest)
        found[f"{kind}, shard_map"] = far(by_shard_map(True, shared, devices, *specs)(params, *rest), expected)
        found[f"{kind}, Explicit"] = far(by_jit(AxisType.Explicit, function, devices, params, *rest), expected)
    return found


def line_search(devices):
    """An optimiser that asks for the loss as a function of the parameters, on shards as on one device."""
    given = problem("values at the end")
    batch = Batch(**{part: jnp.asarray(given[part]) for part in ("xs", "ys", "lengths", "weights")})

    def two_steps(axis, params, batch):
        init, step = jlstm.trainer(given["config"], optax.lbfgs(), axis_name=axis)
        state = init(params, jax.random.key(1))
        losses = []
        for _ in range(2):
            state, loss = step(state, batch)
            losses.append(loss)
        return state.params, jnp.stack(losses)

    expected = jax.jit(functools.partial(two_steps, None))(given["params"], batch)
    found = {}
    for typed in (True, False):
        spread = by_shard_map(typed, functools.partial(two_steps, "b"), devices, (P(), P("b")), (P(), P()))
        found[f"lbfgs, shard_map{'' if typed else ', untyped'}"] = far(spread(given["params"], batch), expected)
    return found


def each_example(devices):
    """The gradient of each example, mapped over the axis that is split."""
    given = problem("plain")
    gradient = jax.grad(lambda params, x, y: jlstm.loss_fn(params, x[None], y[None], given["config"]))
    mapped = jax.vmap(gradient, in_axes=(None, 0, 0))
    arguments = given["params"], given["xs"], given["ys"]
    return far(by_jit(AxisType.Explicit, mapped, devices, *arguments), jax.jit(mapped)(*arguments))


def within_a_mesh(kind):
    """The class and what it does, called within a mesh of the caller's, which is not for them."""
    data = np.ones((4, 5)), np.zeros((4, 5), int)

    def results():
        network = jlstm.LSTMNetwork(1, 4, 3, progress=False)
        network.train(*data, epochs=2, validation=data)
        config = replace(CONFIG, input_size=5)
        own = random_problem(config, 1, 1)["params"]
        written = jlstm.generate(own, [[1, 2], [3]], 5, config, key=jax.random.key(0))
        read = jlstm.evaluate_text(own, np.arange(9) % 5, config).nats
        return network.params, network.predict(data[0][..., None]), network.predict([0.5]), written, read

    expected = results()
    with jax.set_mesh(mesh(2, kind)):
        return far(results(), expected)


def main():
    found = {}
    for name, devices in (("plain", 2), ("everything", 2), ("everything", 3)):
        for way, distance in updates(name, devices).items():
            found[f"update, {name}, {devices} devices, {way}"] = distance
    with jax.enable_x64(True):
        expected = learned(1, ROWS)
        for devices, rows in ((2, ROWS), (3, 9), (4, 8)):
            found[f"float64, {devices} devices, {rows} rows"] = far(learned(devices, rows), expected)
    found |= functions("everything", 2) | line_search(2)
    found["each example, Explicit"] = each_example(2)
    found["LSTMNetwork within a mesh"] = within_a_mesh(AxisType.Explicit)
    print(json.dumps(found))
