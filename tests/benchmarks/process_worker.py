"""One of several processes that train together, which `processes.py` starts: how long its steps and sums take."""

import json
import os
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from jlstm import LSTMConfig, Streams, init_params
from jlstm.devices import AXIS, compiled, each_its_own, mesh_of_all, replicate, split_batch, summed, use_cpu_cores
from jlstm.model import ModelParams, weights_of
from jlstm.optimizers import Schedule
from jlstm.processes import of_first, use_distributed
from jlstm.training import fit, fresh_state

IDS = 65
CHARACTERS = 2_000_000  # more steps than any training here takes
BEFORE = 3  # calls: one compiles, one of a step or two tells how many a call should have, one warms up


class Network(NamedTuple):
    """Sizes of a network that reads ids, and how many time steps a training step has."""

    hidden: int
    layers: int
    steps: int

    def __str__(self) -> str:
        return f"{self.layers} x {self.hidden}" if self.layers > 1 else f"{self.hidden}"

    @property
    def config(self) -> LSTMConfig:
        return LSTMConfig(IDS, self.hidden, IDS, inputs="tokens", layers=self.layers)

    @property
    def params(self) -> ModelParams:
        return init_params(jax.random.key(0), self.config)


def main() -> None:
    """Do what the arguments say in turn, and print what was measured, as JSON; it matters in process 0 only."""
    address, count, number, devices, cores, jobs = json.loads(sys.argv[1])
    os.sched_setaffinity(0, cores)
    use_cpu_cores(devices)
    if count > 1:
        use_distributed(address, count, number)
    kinds, found, parent = {"steps": steps, "sums": sums}, [], os.getppid()
    for kind, network, *numbers in jobs:
        if os.getppid() != parent:  # whoever started this was killed, and nobody reads on
            sys.exit(1)
        found.append(kinds[kind](Network(*network), *numbers))
    print(json.dumps(found))


def steps(network: Network, rows: int, calls: int) -> tuple[list[float], list[float]]:
    """Train on `rows` rows, split over all processes.

    Returns:
        The seconds of a step in each of so many compiled calls, and to compare the first step's loss and gradient.
    """
    data = Streams(np.random.default_rng(0).integers(IDS, size=CHARACTERS), rows, network.steps)
    state = fresh_state(network.params, jax.random.key(1), config=network.config, optimizer=optax.adam)
    schedule = Schedule(1e-3, 0.0, 0, 0.0, 100.0, 1e6)
    reports = fit(state, schedule, data, epochs=1, batch_size=rows, config=network.config, optimizer=optax.adam)
    first = next(reports)  # of one step
    moment = optax.tree_utils.tree_get(first.state.opt_state, "mu")  # a tenth of the gradient
    for _ in range(BEFORE - 1):
        report = next(reports)
    times, done = [time.perf_counter()], [int(report.place.done)]
    for _ in range(calls):
        done.append(int(next(reports).place.done))
        times.append(time.perf_counter())
    return (np.diff(times) / np.diff(done)).tolist(), [first.loss, float(optax.global_norm(moment))]


def sums(network: Network, calls: int) -> list[float]:
    """Sum what are a network's gradients over all processes; return the seconds of a sum in each of so many calls.

    A network without layers is one number.
    """
    grads = network.params if network.layers else np.zeros((), np.float32)
    mesh = mesh_of_all(jax.process_count(), weights_of(network.params) if network.layers else 1)

    def mean(_: Array, grads: ModelParams) -> ModelParams:
        return jax.tree.map(lambda leaf: leaf / mesh.size, summed(each_its_own(grads, AXIS), AXIS))

    @compiled()
    def many(grads: ModelParams, count: Array) -> ModelParams:
        loop = split_batch(lambda grads, count: lax.fori_loop(0, count, mean, grads), mesh, (P(), P()), P())
        return loop(grads, count)

    def seconds(count: int) -> float:
        began = time.perf_counter()
        many(*replicate((grads, jnp.int32(count)), mesh))
        return (time.perf_counter() - began) / count

    seconds(1)
    count = of_first(max(1, int(0.3 / seconds(3))))
    return [seconds(count) for _ in range(calls)]


if __name__ == "__main__":
    main()
