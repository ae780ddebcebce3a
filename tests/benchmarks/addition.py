"""Addition: `examples/addition.py` beside a network as Keras's example has it, until 99 % of new sums are right.

Both learn the same sums and are asked the same others; what differs is their own: the decoder, the batch, the rate.
"""

import functools
import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .machine import in_fresh_process
from .tables import Column, Table, faster, number, target
from .timing import Run

DIGITS, SUMS, SEEDS = 3, 50_000, 3
BOUND = 0.99  # the share of whole answers that are right
KERAS_EPOCHS = 100  # after so many Keras is given up
QUICK_EPOCHS = 2
HIDDEN, KERAS_BATCH = 128, 32

History = list[tuple[float, float]]  # after each epoch, the seconds of training until then and the share right
Ask = Callable[[], float]


def measure(run: Run) -> Iterator[Table]:
    """Let both programs learn in turn, with several seeds."""
    programs = ["jlstm", *["keras"] * (importlib.util.find_spec("keras") is not None)]
    histories: dict[str, list[History]] = {name: [] for name in programs}
    tries = list(itertools.product(range(1 if run.quick else SEEDS), programs))
    for k, (seed, name) in enumerate(tries):
        run.progress(f"{name}, seed {seed}", k / len(tries))
        histories[name].append(in_fresh_process(__name__, "learn", name, seed, run.quick))
    records = [_record(name, found) for name, found in histories.items()]
    records[0]["target"] = target(records[0]["last"], None if run.quick else BOUND)
    columns = (
        Column("program", "program", right=False),
        Column("epochs", "epochs to 99 %", _each, right=False),
        Column("seconds", "s to 99 %, median", number),
        Column("epoch", "s an epoch", number),
        Column("last", "right at the end, median", lambda share: f"{100 * share:.2f} %"),
        Column("target", "target", right=False),
    )
    notes = [
        f"{SUMS:,} sums of numbers of up to {DIGITS} digits, a tenth of them held out; right is an answer whose every "
        "character is, written from the question alone. Seconds are those of training, the compilation included; the "
        f"held-out sums are asked off the clock. Keras ends at {BOUND:.0%}, jlstm with its last epoch; one device.",
        "keras: LSTM, RepeatVector, LSTM and a dense softmax, Adam at 0.001, batches of 32, as its example has them.",
    ]
    if len(records) == 2 and all(record["seconds"] is not None for record in records):
        notes.append(faster(records[1]["seconds"] / records[0]["seconds"], "keras") + f" at reaching {BOUND:.0%}")
    yield Table("addition", "Learning to add", columns, records, notes=notes)


def _record(name: str, histories: list[History]) -> dict[str, Any]:
    epochs, seconds = zip(*map(reached, histories), strict=True)
    return {
        "program": name,
        "epochs": epochs,
        "seconds": None if None in seconds else statistics.median(seconds),
        "epoch": statistics.median(b - a for history in histories for (a, _), (b, _) in itertools.pairwise(history)),
        "last": statistics.median(history[-1][1] for history in histories),
        "histories": histories,
    }


def reached(history: History) -> tuple[int | None, float | None]:
    """Return after which epoch, and how many seconds, `BOUND` was reached; None where it was not."""
    found = ((epoch, seconds) for epoch, (seconds, share) in enumerate(history, 1) if share >= BOUND)
    return next(found, (None, None))


def learn(name: str, seed: int, quick: bool = False, digits: int = DIGITS, sums: int = SUMS) -> History:
    """Let a program learn, in a process that has compiled nothing before."""
    epochs = {"jlstm": jlstm_epochs, "keras": keras_epochs}[name](seed, digits, sums)
    history: History = []
    clock, began = 0.0, time.perf_counter()
    for ask in itertools.islice(epochs, QUICK_EPOCHS if quick else KERAS_EPOCHS):
        clock += time.perf_counter() - began
        history.append((clock, ask()))
        if name == "keras" and history[-1][1] >= BOUND:
            break
        began = time.perf_counter()
    return history


def example() -> Any:
    """Import the example, which is in no package."""
    path = Path(__file__).parents[2] / "examples" / "addition.py"
    spec = importlib.util.spec_from_file_location("example_addition", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jlstm_epochs(seed: int, digits: int, sums: int) -> Iterator[Ask]:
    """Train as the example does, an epoch whenever another function is asked for that tells the share right."""
    import jax

    addition = example()
    learned, held_out = addition.draw_sums(seed, sums, digits)

    def ask(params: Any) -> float:
        return float(addition.shares_right(params, held_out)[0])

    epochs = addition.train(learned, addition.EPOCHS, seed)
    return (functools.partial(ask, jax.block_until_ready(params)) for params in epochs)


def keras_epochs(seed: int, digits: int, sums: int) -> Iterator[Ask]:
    """Train as Keras's example does: its decoder reads what the encoder ended with at each step, and no characters."""
    os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when it is imported
    import keras
    from keras import layers

    addition = example()
    learned, held_out = addition.draw_sums(seed, sums, digits)
    one_hot = np.eye(len(addition.CHARACTERS), dtype=np.float32)
    xs, ys, asked, answers = one_hot[learned.xs], one_hot[learned.ys], one_hot[held_out.xs], np.asarray(held_out.ys)
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input(xs.shape[1:]),
            layers.LSTM(HIDDEN),
            layers.RepeatVector(digits + 1),
            layers.LSTM(HIDDEN, return_sequences=True),
            layers.Dense(len(one_hot), activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam")

    def ask() -> float:
        return float((model.predict(asked, verbose=0).argmax(axis=-1) == answers).all(axis=1).mean())

    def epoch() -> Ask:
        model.fit(xs, ys, batch_size=KERAS_BATCH, epochs=1, verbose=0)
        return ask

    return iter(epoch, None)


def _each(values: tuple) -> str:
    return " ".join("–" if value is None else str(value) for value in values)
