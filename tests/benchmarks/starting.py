"""Starting: importing, the first training with its compilation, the next one, and predictions of new lengths.

What is measured runs in processes of its own, so nothing is imported here that those measure.
"""

import importlib
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from . import shapes
from .machine import in_fresh_process
from .tables import Column, Table, milliseconds, number, target
from .timing import Run

SECONDS = 3.0
STARTS = 3  # at each shape, and of each program
FIRST = shapes.Shape("first", B=3, T=20, I=1, H=64, C=10)  # 50 sequences in the class's batches of three
FIRST_STEPS = 17
PROGRAMS = {  # and within how many seconds they should have trained
    "class, cross_entropy": 2.5,
    "class, cross_entropy, last": 2.5,
    "class, mse": 2.5,
    "class, mse, last": 2.5,
    "CharLM": 3.5,
    "functions": None,
    "torch": None,
    "flax": None,
    "equinox": None,
    "keras": None,
}


def measure(run: Run) -> Iterator[Table]:
    """Start anew for each program and for each shape, several times."""
    yield _first_trainings(run)
    yield from _first_steps(run)


def _first_trainings(run: Run) -> Table:
    records = []
    for k, (program, seconds) in enumerate(PROGRAMS.items()):
        run.progress(program, k / len(PROGRAMS) / 2)
        if program in ("torch", "flax", "equinox", "keras") and importlib.util.find_spec(program) is None:
            continue
        starts = [in_fresh_process(__name__, "first_training", program) for _ in range(1 if run.quick else STARTS)]
        records.append(_medians(program, starts, seconds))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        os.environ.update(settings)
        for program in ("class, cross_entropy", "CharLM"):
            starts = [in_fresh_process(__name__, "first_training", program) for _ in range(1 + STARTS)]
            records.append(_medians(f"{program}, found in JAX's cache", starts[1:], None))
        for name in settings:
            del os.environ[name]
    columns = (
        Column("program", "program", right=False),
        Column("first", "first training, s", number),
        Column("target", "target, s", right=False),
        Column("processor", "processor time, s", number),
        Column("second", "another seed, s", number),
        Column("other", "other N and T, s", number),
    )
    notes = (
        "first training: from the end of the imports to the end of one epoch on 50 sequences of 20 steps (CharLM: on "
        "4,000 characters), on one device, all compilation included; then the same with a new network of another seed, "
        "and with one more on 53 sequences of 22 steps (CharLM: 4,300 characters).",
    )
    return Table("first", "The first minute", columns, records, notes=notes)


def _medians(program: str, starts: list[dict[str, float]], seconds: float | None) -> dict[str, Any]:
    medians = {key: statistics.median(one[key] for one in starts) for key in starts[0]}
    met = target(medians["first"], seconds, at_most=True)
    return {"program": program, **medians, "target": met, "starts": starts}


def first_training(program: str) -> dict[str, float]:
    """Train one epoch three times, in a process that has done nothing before but import."""
    train = _program(program)
    laps = {}
    for key, rows, steps, seed in (("first", 50, 20, 0), ("second", 50, 20, 1), ("other", 53, 22, 2)):
        began, worked = time.perf_counter(), time.process_time()
        train(rows, steps, seed)
        laps[key] = time.perf_counter() - began
        laps.setdefault("processor", time.process_time() - worked)
    return laps


def _program(program: str) -> Callable[[int, int, int], Any]:
    """Import what a program needs and return `train(rows, steps, seed)`."""
    import numpy as np

    if program == "CharLM":
        from jlstm import CharLM

        text = "to be or not to be, that is the question: " * 200
        options = {"hidden_size": FIRST.H, "epochs": 1, "streams": 8, "window": 32, "progress": False}
        return lambda rows, steps, seed: CharLM.train(text[: 4000 + 100 * (rows - 50)], seed=seed, **options)
    if program.startswith("class"):
        from jlstm import LSTMNetwork

        _, loss, *target = program.split(", ")
        outputs, last = FIRST.C if loss == "cross_entropy" else 1, bool(target)

        def train(rows: int, steps: int, seed: int) -> None:
            X = np.random.default_rng(seed).normal(size=(rows, steps))
            Y = np.arange(rows * steps).reshape(rows, steps) % FIRST.C if loss == "cross_entropy" else X
            options = {"loss": loss, "target": "last" if last else "each", "seed": seed, "progress": False}
            LSTMNetwork(1, FIRST.H, outputs, **options).train(X, Y[:, -1] if last else Y, epochs=1)

        return train
    from . import peers

    if program not in ("functions", "torch"):
        importlib.import_module(program)
    if program == "torch":
        import torch  # noqa: F401
    problems = {
        (rows, steps, seed): peers.problem_of(FIRST._replace(T=steps), FIRST_STEPS, seed)
        for rows, steps, seed in ((50, 20, 0), (50, 20, 1), (53, 22, 2))
    }
    name = "jlstm" if program == "functions" else program
    return lambda *sizes: peers.peer(name, problems[sizes]).train()


def _first_steps(run: Run) -> Iterator[Table]:
    records: list[dict[str, Any]] = []
    imports: list[dict[str, Any]] = []
    chosen = shapes.QUICK if run.quick else shapes.SHAPES
    for k, shape in enumerate(chosen):
        run.progress(str(shape), 0.5 + k / len(chosen) / 2)
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
