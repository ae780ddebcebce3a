"""The training step and the forward pass, next to torch, Flax, Equinox, Keras and, forward, ONNX Runtime."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import agreement, machine, peers, shapes
from .tables import Column, Table, faster, milliseconds, percent, target
from .timing import Effort, Run, Timing, interleaved

JAX_TRAINING = {"online": 1.3, "progression": 1.3, "shakespeare": 1.8, "char-rnn": 1.5, "wide": 1.2}
TORCH_TRAINING = {
    "as it comes": {"online": 2.5, "progression": 1.2, "shakespeare": 1.6, "char-rnn": 1.3, "wide": 1.05},
    "threshold raised": {"online": 2.5, "progression": 1.1, "shakespeare": 1.1, "char-rnn": 1.0},
}
SECONDS = {"training": 30.0, "forward": 15.0}  # for the rounds at a shape
FORWARD = {"torch": 1.0, "flax": 1.0, "equinox": 1.0, "keras": 1.0}
ONNX = {"online": 0.8, "progression": 0.8, "shakespeare": 1.0, "char-rnn": 1.0, "wide": 1.0}


def measure(run: Run) -> Iterator[Table]:
    """Measure every shape; a shape's programs must agree first.

    With the allocator's threshold raised only torch has targets, and only in training, so nothing else is measured.
    """
    whole = run.allocator == "as it comes"
    names = [name for name in peers.installed() if whole or name == "torch"]
    kinds = ("training", "forward") if whole else ("training",)
    run.progress("matrix products", 0)
    peak = machine.peak_flops()
    measured: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    agreements: list[dict[str, Any]] = []
    chosen = shapes.QUICK if run.quick else shapes.SHAPES
    for shape in chosen:
        run.progress(str(shape), shapes.done_before(shape, chosen))
        problem = peers.problem_of(shape)
        mesh = peers.mesh_of(shape)
        jlstm = peers.peer("jlstm", problem, mesh)
        others = {name: peers.peer(name, problem) for name in names}
        if mesh is not None and not run.quick:
            for name in [name for name in names if name != "torch"]:
                label = f"{name}, sharded"
                # The same gradient, which is compiled for one device; the split one shows in the losses.
                one = others[name].gradient
                others[label] = peers.peer(name, problem, mesh)._replace(name=label, gradient=one)
        found = agreement.check(jlstm, list(others.values()))
        agreements += [{"shape": shape.name, **agreed._asdict()} for agreed in found]
        programs = {"jlstm": jlstm, **others}
        for kind in kinds:
            calls = {name: peer.train if kind == "training" else peer.forward for name, peer in programs.items()}
            if kind == "forward":
                runners = _checked_runners(problem, jlstm)
                calls |= {name: _run_all(program, problem) for name, program in runners.items()}
            effort = run.effort if run.quick else Effort(seconds=SECONDS[kind])
            timings = {name: timing.per(shape.steps) for name, timing in interleaved(calls, effort, ran=True).items()}
            flops = shape.training_flops if kind == "training" else shape.forward_flops
            measured[kind] += _records(kind, shape.name, timings, flops / peak.best, run.allocator)
    if whole:
        yield _agreement_table(agreements)
    titles = {"training": "Training step", "forward": "Forward pass"}
    for kind in kinds:
        yield _table(kind, f"{titles[kind]}, allocator {run.allocator}", measured[kind], peak)


def _checked_runners(problem: peers.Problem, jlstm: peers.Peer) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return the programs that only run the network, or an error where their logits are others."""
    found = {name: make(problem) for name, make in peers.runners().items()}
    for name, run in found.items():
        agreement.within(f"{name}: scores", [run(xs) for xs in problem.xs], jlstm.forward(), agreement.SCORES)
    return found


def _run_all(run: Callable[[np.ndarray], np.ndarray], problem: peers.Problem) -> Callable[[], Any]:
    return lambda: [run(xs) for xs in problem.xs]


def _bound(kind: str, shape: str, name: str, allocator: str) -> float | None:
    if kind == "training" and name == "torch":
        return TORCH_TRAINING[allocator].get(shape)
    if allocator != "as it comes":
        return None
    if name in peers.FORWARD_ONLY:
        return ONNX[shape]
    return JAX_TRAINING[shape] if kind == "training" else FORWARD[name]


def _records(kind: str, shape: str, timings: dict[str, Timing], least: float, allocator: str) -> list[dict[str, Any]]:
    records = []
    jlstm = timings["jlstm"].seconds
    for name, timing in timings.items():
        if name.endswith(", sharded"):
            continue
        sharded = timings.get(f"{name}, sharded")
        record = {
            "shape": shape,
            "program": name,
            "seconds": timing.seconds,
            "spread": timing.spread,
            "sharded": sharded and sharded.seconds,
            "sharded spread": sharded and sharded.spread,
            "samples": timing.samples,
            "share": least / timing.seconds,
        }
        if name != "jlstm":
            ratio = timing.seconds / jlstm
            record |= {
                "ratio": ratio,
                "target": target(ratio, _bound(kind, shape, name, allocator)),
                "verdict": faster(ratio, name),
            }
        records.append(record)
    return records


def _table(name: str, title: str, records: list[dict[str, Any]], peak: machine.Peak) -> Table:
    columns = (
        Column("shape", "shape", right=False),
        Column("program", "program", right=False),
        Column("seconds", "ms", milliseconds),
        Column("spread", "spread", percent),
        Column("sharded", "sharded, ms", milliseconds),
        Column("share", "of peak", percent),
        Column("target", "target", right=False),
        Column("verdict", "ratio", right=False),
    )
    formula = f"{'3 x ' if name == 'training' else ''}2·B·T·(4H·(I + H) + H·C)"
    notes = (
        f"ms: the median of one of {shapes.STEPS} in a call ({shapes.LARGE_STEPS} at wide); spread: the interquartile "
        "range. jlstm splits the batch over the devices, the others run on one; sharded: they, with our split of the "
        "batch.",
        f"of peak: {formula} flops a second, as a share of the better of these two: {peak}.",
        *peers.missing_notes(),
    )
    return Table(name, f"{title}, {machine.THREADS} threads", columns, records, "shape", notes)


def _agreement_table(records: list[dict[str, Any]]) -> Table:
    def small(value: float) -> str:
        return f"{value:.1e}"

    columns = (
        Column("shape", "shape", right=False),
        Column("name", "program", right=False),
        Column("scores", "logits", small),
        Column("loss", "loss", small),
        Column("gradient", "gradient", small),
        Column("losses", "losses of a call", small),
    )
    bounds = [agreement.SCORES, agreement.LOSS, agreement.GRADIENT, agreement.LOSSES]
    notes = (f"allowed: {', '.join(map(small, bounds))}, in this order; more ends the benchmark",)
    title = "Agreement: the largest difference from jlstm's, as a part of the largest value"
    return Table("agreement", title, columns, records, "shape", notes)
