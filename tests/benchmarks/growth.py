"""Growth: how the training step, the gradient's memory and generation grow, one quantity at a time."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jlstm
from jlstm.sampling import generate

from . import peers, shapes
from .machine import in_fresh_process
from .tables import Column, Table, megabytes, microseconds, milliseconds, number, target
from .timing import Effort, Run, Timing, exponent, interleaved

SIZES = {
    "T": [25 * 2**k for k in range(7)],
    "B": [2**k for k in range(11)],
    "H": [32 * 2**k for k in range(6)],
}
QUICK_SIZES = {"T": [100, 200, 400], "B": [32, 64, 128], "H": [64, 128, 256]}
LARGE = {"T": 200, "B": 64}  # from where a size is large
WHOLE_RANGE, LARGE_RANGE = 1.15, 1.05  # the exponents that are aimed at
EFFORT = Effort(rounds=7, seconds=15.0)
STEPS = {False: shapes.STEPS, True: 2}  # training steps a call, quick or not

LONG = shapes.Shape("long", B=16, T=10_000, I=1, H=256, C=65)
SEGMENT = 100  # about the root of T, where what is kept between segments and within one balance
LONG_BYTES = 2e9

LENGTHS = [1024 * 2**k for k in range(7)]
QUICK_LENGTHS = [1024, 4096]


def measure(run: Run) -> Iterator[Table]:
    """Measure all growths."""
    yield from _training(run)
    yield _memory(run)
    yield _generation(run)


def _training(run: Run) -> tuple[Table, Table]:
    records: list[dict[str, Any]] = []
    fits: list[dict[str, Any]] = []
    timings: dict[shapes.Shape, Timing] = {}
    effort = run.effort if run.quick else EFFORT
    growing = QUICK_SIZES if run.quick else SIZES
    total = sum(map(len, growing.values()))
    for quantity, sizes in growing.items():
        seconds = []
        for size in sizes:
            shape = shapes.BY_NAME["shakespeare"]._replace(name="growth", **{quantity: size})
            if shape not in timings:  # where the three quantities meet
                run.progress(f"the training step: {shape}", 0.7 * len(records) / total)
                peer = peers.jlstm_peer(peers.problem_of(shape, STEPS[run.quick]), peers.mesh_of(shape))
                timings[shape] = interleaved({"jlstm": peer.train}, effort)["jlstm"].per(STEPS[run.quick])
            timing = timings[shape]
            seconds.append(timing.seconds)
            records.append({"quantity": quantity, "size": size, "seconds": timing.seconds, "spread": timing.spread})
            records[-1]["times"] = seconds[-1] / seconds[-2] if len(seconds) > 1 else None
        aims = {"whole range": (sizes[0], None if quantity == "H" else WHOLE_RANGE)}
        if quantity in LARGE:
            aims[f"{quantity} ≥ {LARGE[quantity]}"] = LARGE[quantity], LARGE_RANGE
        for part, (first, bound) in aims.items():
            large = [(size, time) for size, time in zip(sizes, seconds, strict=True) if size >= first]
            p = exponent(*zip(*large, strict=True))
            aim = target(p, bound, at_most=True)
            fits.append({"quantity": quantity, "range": part, "exponent": p, "target": aim})
    columns = (
        Column("quantity", "quantity", right=False),
        Column("size", "size", number_of),
        Column("seconds", "ms a step", milliseconds),
        Column("times", "x the one above", number),
    )
    fit_columns = (
        Column("quantity", "quantity", right=False),
        Column("range", "range", right=False),
        Column("exponent", "p", "{:.2f}".format),
        Column("target", "target", right=False),
    )
    title = f"Growth of the training step, one quantity at a time around {shapes.BY_NAME['shakespeare']}"
    return (
        Table("growth", title, columns, records, "quantity"),
        Table("exponents", "Growth of the training step: p in ms ~ size^p", fit_columns, fits, "quantity"),
    )


def _memory(run: Run) -> Table:
    """Measure the gradient's memory as T grows, and at the length that fits by choice."""
    base = shapes.BY_NAME["shakespeare"]._replace(name="memory")
    cases = [(base._replace(T=steps), None) for steps in (SIZES["T"][::6] if run.quick else SIZES["T"])]
    cases += [(LONG, SEGMENT)] if run.quick else [(LONG, None), (LONG, SEGMENT)]
    records = []
    for k, (shape, segment) in enumerate(cases):
        in_segments = f", in segments of {segment}" if segment else ""
        run.progress(f"memory of the gradient: {shape}{in_segments}", 0.7 + 0.28 * k / len(cases))
        # Sizes that are planned tell enough where a whole run only repeats them.
        run_it = not (run.quick and shape is LONG)
        found = in_fresh_process(__name__, "gradient_memory", shape[1:], segment, run_it)
        bound = LONG_BYTES / 1e6 if segment else None
        most = max(found["planned"], found["used"] or 0)
        records.append(
            {"B": shape.B, "T": shape.T, "H": shape.H, "segment": segment}
            | found
            | {"target": target(most / 1e6, bound, at_most=True)}
        )
    columns = (
        Column("B", "B"),
        Column("T", "T", number_of),
        Column("H", "H"),
        Column("segment", "segment"),
        Column("planned", "planned, MB", megabytes),
        Column("used", "used, MB", megabytes),
        Column("target", "target, MB", right=False),
    )
    notes = (
        "planned: what the compiled program says it needs beside its inputs; used: how far the process grew while it "
        "ran.",
        "segment: `LSTMConfig(segment=...)`, with which the gradient keeps only the states between segments.",
    )
    return Table("memory", "Peak memory of the gradient", columns, records, notes=notes)


def gradient_memory(sizes: list[int], segment: int | None, run_it: bool) -> dict[str, float | None]:
    """Return what the gradient of one batch takes, in bytes; in a process that has done nothing before.

    Args:
        sizes: B, T, I, H and C.
        segment: the steps between the states that are kept; None keeps all.
        run_it: whether to run it, too, and see how far the process grows.
    """
    problem = peers.problem_of(shapes.Shape("memory", *sizes), steps=1)
    config = dataclasses.replace(problem.config, segment=segment)
    arguments = jax.device_put((problem.params, problem.xs[0], problem.ys[0]))
    gradient = jax.jit(jax.value_and_grad(jlstm.loss_fn)).lower(*arguments, config).compile()
    memory = gradient.memory_analysis()
    planned = memory.temp_size_in_bytes + memory.output_size_in_bytes
    if not run_it:
        return {"planned": planned, "used": None}
    # The peak is forgotten first: it has compiling in it, and on Linux that of the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_memory()
    jax.block_until_ready(gradient(*arguments, config))
    return {"planned": planned, "used": _peak_memory() - before}


def _peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(kilobytes)


def _generation(run: Run) -> Table:
    """Measure texts of growing length: a character must cost the same in all."""
    config = jlstm.LSTMConfig(input_size=65, hidden_size=128, output_size=65)
    params = jlstm.init_params(jax.random.key(0), config)
    records: list[dict[str, Any]] = []
    for length in QUICK_LENGTHS if run.quick else LENGTHS:
        run.progress(f"generation of {length:,} characters", 0.98)

        def write(length: int = length) -> np.ndarray:
            return generate(params, [[0]], length, config, key=jax.random.key(0))

        timing = interleaved({"jlstm": write}, run.effort if run.quick else EFFORT)["jlstm"].per(length)
        records.append({"length": length, "seconds": timing.seconds, "spread": timing.spread})
    p = exponent([record["length"] for record in records], [r["length"] * r["seconds"] for r in records])
    columns = (
        Column("length", "characters", number_of),
        Column("seconds", "µs a character", microseconds),
    )
    notes = (f"time ~ length^{p:.2f}",)
    return Table("growth of generation", "Growth of generation, H=128, one stream", columns, records, notes=notes)


def number_of(count: int) -> str:
    """Show a whole number."""
    return f"{count:,}"
