"""Devices: one CPU device against one a core, over which the batch is split."""

from collections.abc import Iterator
from typing import Any

import jax

from jlstm.devices import mesh_for
from jlstm.model import weights_of

from . import agreement, peers, shapes
from .tables import Column, Table, milliseconds, percent
from .timing import Run, interleaved


def measure(run: Run) -> Iterator[Table]:
    """Measure every shape with more than one sequence, on one device and on all, beside what jlstm's rule chooses."""
    records: list[dict[str, Any]] = []
    chosen = shapes.QUICK if run.quick else shapes.SHAPES + shapes.MORE
    for shape in chosen:
        mesh = peers.mesh_of(shape)
        if mesh is None:
            continue
        run.progress(str(shape), shapes.done_before(shape, chosen))
        problem = peers.problem_of(shape)
        one = peers.jlstm_peer(problem)
        split = peers.jlstm_peer(problem, mesh)._replace(gradient=one.gradient)  # which is compiled for one device
        agreement.check(one, [split])
        for kind in ("train", "forward"):
            timings = interleaved({"one": getattr(one, kind), "split": getattr(split, kind)}, run.effort, ran=True)
            timings = {name: timing.per(shape.steps) for name, timing in timings.items()}
            ratio = timings["one"].seconds / timings["split"].seconds
            rule = mesh_for(shape.B, weights_of(problem.params))
            lost = max(0.0, 1 - ratio if rule else 1 - 1 / ratio)
            records.append(
                {
                    "shape": shape.name,
                    "kind": {"train": "training step", "forward": "forward pass"}[kind],
                    "one": timings["one"].seconds,
                    "one spread": timings["one"].spread,
                    "split": timings["split"].seconds,
                    "split spread": timings["split"].spread,
                    "ratio": ratio,
                    "rule": f"{rule.size if rule else 1}",
                    "lost": lost,
                    "verdict": f"{mesh.size} devices are {ratio:.2f} x as fast as one",
                }
            )
    columns = (
        Column("shape", "shape", right=False),
        Column("kind", "what", right=False),
        Column("one", "one device, ms", milliseconds),
        Column("one spread", "spread", percent),
        Column("split", "split, ms", milliseconds),
        Column("split spread", "spread", percent),
        Column("rule", "the rule's"),
        Column("lost", "loses", percent),
        Column("verdict", "ratio", right=False),
    )
    devices = len(jax.local_devices())
    notes = () if devices > 1 else ("there is one device only, so there is nothing to compare",)
    yield Table("devices", f"One CPU device against {devices}", columns, records, "shape", notes)
