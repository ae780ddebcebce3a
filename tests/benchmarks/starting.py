"""Starting: importing, the first trained step with its compilation, and predictions of new lengths.

What is measured runs in processes of its own, so nothing is imported here that those measure.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any

from . import shapes
from .machine import in_fresh_process
from .tables import Column, Table, milliseconds, number, target
from .timing import Run

SECONDS = 3.0
STARTS = 3  # at each shape


def measure(run: Run) -> Iterator[Table]:
    """Start anew for each shape, several times."""
    records: list[dict[str, Any]] = []
    imports: list[dict[str, Any]] = []
    chosen = shapes.QUICK if run.quick else shapes.SHAPES
    for k, shape in enumerate(chosen):
        run.progress(str(shape), k / len(chosen))
        starts = [in_fresh_process(__name__, "start", shape.name) for _ in range(1 if run.quick else STARTS)]
        medians = {key: statistics.median(one[key] for one in starts) for key in starts[0]}
        imports += starts
        met = target(medians["first step"], SECONDS, at_most=True)
        records.append({"shape": shape.name, **medians, "target": met, "starts": starts})
    columns = (
        Column("shape", "shape", right=False),
        Column("first step", "first step, s", number),
        Column("target", "target, s", right=False),
        Column("predict", "first predict, ms", milliseconds),
        Column("shorter", "one step shorter, ms", milliseconds),
        Column("longer", "twice as long, ms", milliseconds),
    )
    notes = (
        "first step: from the end of `import jlstm` to the end of one step of LSTMNetwork.train; then three calls of "
        "predict on one sequence. All compilation is included; a length that rounds up to one that was seen "
        "needs none.",
    )
    import_columns = (
        Column("what", "what", right=False),
        Column("seconds", "ms", milliseconds),
    )
    import_records = [
        {"what": what, "seconds": statistics.median(one[key] for one in imports)}
        for what, key in (
            ("import jax", "import jax"),
            ("import jlstm, after it", "import jlstm"),
            ("of which import optax", "import optax"),
        )
    ]
    yield Table("import", "Importing", import_columns, import_records)
    yield Table("starting", "Starting: the first step and the first predictions", columns, records, notes=notes)


def start(name: str) -> dict[str, float]:
    """Import, train one step and predict, in a process that has done nothing before."""
    shape = shapes.BY_NAME[name]
    (xs,), (ys,) = shapes.draw_data(shape, batches=1)
    (longer,), _ = shapes.draw_data(shape._replace(T=2 * shape.T, B=1), batches=1)
    times = [time.perf_counter()]

    def lap() -> float:
        times.append(time.perf_counter())
        return times[-1] - times[-2]

    import jax  # noqa: F401

    laps = {"import jax": lap()}
    import optax  # noqa: F401

    laps["import optax"] = lap()
    import jlstm

    laps["import jlstm"] = laps["import optax"] + lap()
    from jlstm.devices import use_cpu_cores

    use_cpu_cores()
    network = jlstm.LSTMNetwork(shape.I, shape.H, shape.C, batch_size=shape.B, progress=False)
    network.train(xs, ys, epochs=1)
    laps["first step"] = lap()
    for key, sequence in (
        ("predict", longer[0, : shape.T]),
        ("shorter", longer[0, 1 : shape.T]),
        ("longer", longer[0]),
    ):
        network.predict(sequence)
        laps[key] = lap()
    return laps
