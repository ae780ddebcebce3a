"""The class against the bare step: what `LSTMNetwork` costs on top of the compiled call inside it."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import PartitionSpec as P

import jlstm
from jlstm.devices import AXIS, replicate, split_batch
from jlstm.optimizers import adam

from . import agreement, peers, shapes
from .tables import Column, Table, number, percent, target
from .timing import Run, Timing, interleaved, least

LEAST_SEQUENCES = 150  # what an epoch has, as in the documented example, where ten batches are fewer
SECONDS = {False: 1.5, True: 0.3}  # what a call of `train` takes, quick or not
KEPT = 0.9


def measure(run: Run) -> Iterator[Table]:
    """Measure `train` and `predict` at every shape."""
    records: list[dict[str, Any]] = []
    chosen = shapes.QUICK if run.quick else shapes.SHAPES
    for shape in chosen:
        run.progress(str(shape), shapes.done_before(shape, chosen))
        records += _training(shape, run) + _predicting(shape, run)
    columns = (
        Column("shape", "shape", right=False),
        Column("method", "method", right=False),
        Column("class", "the class", number),
        Column("class spread", "spread", percent),
        Column("bare", "bare step", number),
        Column("bare spread", "spread", percent),
        Column("onnxruntime", "ONNX Runtime", number),
        Column("target", "target", right=False),
        Column("verdict", "ratio", right=False),
    )
    notes = (
        "train: batches of B, the class's own optimiser, checks and shuffles and reports included; its step: "
        f"{shapes.STEPS} of `trainer`'s in one compiled call, {shapes.LARGE_STEPS} at wide.",
        "predict: one call on B sequences; its step: the compiled `forward` at just that shape; both "
        "from NumPy to NumPy, as is ONNX Runtime.",
    )
    yield Table("class", "The class against the bare step, sequences a second", columns, records, "shape", notes)


def _training(shape: shapes.Shape, run: Run) -> list[dict[str, Any]]:
    problem, mesh = peers.problem_of(shape), peers.mesh_of(shape)
    init, step = jlstm.trainer(
        problem.config, adam(optax.constant_schedule(peers.LEARNING_RATE)), axis_name=AXIS if mesh else None
    )

    def scan(state: Any, xs: Array, ys: Array) -> tuple[Any, Array]:
        return lax.scan(lambda state, batch: step(state, jlstm.Batch(*batch)), state, (xs, ys))

    split = P(None, AXIS)
    call = jax.jit(split_batch(scan, mesh, (P(), split, split), P()))
    state, data = replicate((init(problem.params, jax.random.key(0)), (problem.xs, problem.ys)), mesh)

    def some_steps() -> None:
        nonlocal state
        state = jax.block_until_ready(call(state, *data))[0]

    steps = max(shapes.STEPS, math.ceil(LEAST_SEQUENCES / shape.B))
    xs, ys = shapes.draw_data(shape, steps)
    X, Y = xs.reshape(-1, shape.T, shape.I), ys.reshape(-1, shape.T)
    calls = steps / shape.steps  # of the bare step in an epoch
    epochs = math.ceil(SECONDS[run.quick] / (calls * least(some_steps, samples=1)))
    network = jlstm.LSTMNetwork(shape.I, shape.H, shape.C, batch_size=shape.B, progress=False)
    programs = {
        "class": lambda: network.train(X, Y, epochs=epochs, learning_rate=peers.LEARNING_RATE),
        "bare": lambda: [some_steps() for _ in range(round(calls * epochs))],
    }
    timings = interleaved(programs, run.effort)
    bare_sequences = round(calls * epochs) * shape.steps * shape.B
    return [_record(shape, "train", timings, {"class": epochs * len(X), "bare": bare_sequences})]


def _predicting(shape: shapes.Shape, run: Run) -> list[dict[str, Any]]:
    problem, mesh = peers.problem_of(shape), peers.mesh_of(shape)
    network = jlstm.LSTMNetwork(shape.I, shape.H, shape.C, progress=False)
    network.params = problem.params
    scores = functools.partial(jlstm.forward, config=problem.config)
    split = P(AXIS)
    call = jax.jit(split_batch(lambda params, xs: scores(params, xs)[0], mesh, (P(), split), split))
    params, xs = replicate(problem.params, mesh), problem.xs[0]

    def bare() -> np.ndarray:
        return np.asarray(call(params, xs))

    agreement.within(f"{shape.name}: predict", network.predict(xs)[..., 0], bare(), agreement.SCORES)
    programs = {"class": lambda: network.predict(xs), "bare": bare}
    for name, make in peers.runners().items():
        other = make(problem)
        programs[name] = lambda other=other: other(xs)
    timings = interleaved(programs, run.effort)
    return [_record(shape, "predict", timings, dict.fromkeys(programs, shape.B))]


def _record(shape: shapes.Shape, method: str, timings: dict[str, Timing], sequences: dict[str, int]) -> dict[str, Any]:
    speeds = {name: sequences[name] / timing.seconds for name, timing in timings.items()}
    ratio = speeds["class"] / speeds["bare"]
    return {
        "shape": shape.name,
        "method": method,
        **speeds,
        "class spread": timings["class"].spread,
        "bare spread": timings["bare"].spread,
        "ratio": ratio,
        "target": target(ratio, KEPT),
        "verdict": f"the class is {ratio:.2f} x as fast",
    }
