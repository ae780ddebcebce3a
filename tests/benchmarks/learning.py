"""Learning: what `LSTMNetwork`'s defaults learn with the documented arguments. Scores, not times."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jlstm import LSTMNetwork

from .tables import Column, Table, number, target
from .timing import Run

HIDDEN = 250
RATE = {"learning_rate": 0.01, "decay_rate": 0.00001}
EPOCHS = 250


class Progression(NamedTuple):
    """The task to say the next number of x, f(x), f(f(x)), ...

    Attributes:
        rule: what f is, in words.
        follow: f.
        modulus: how many numbers there are.
        length: how many numbers the sequences have that are trained on, from each number three times.
        longest: the most numbers a question has.
        shortest: the fewest.
        seeds: how many networks are trained.
        encode: what the network reads for numbers.
        bound: the right answers that are aimed at in the worst case, in percent.
    """

    rule: str
    follow: Callable[[np.ndarray], np.ndarray]
    modulus: int
    length: int = 10
    longest: int = 19
    shortest: int = 2
    seeds: int = 3
    encode: Callable[[np.ndarray, int], np.ndarray] = np.divide
    bound: float = 98.0

    def sequences(self, length: int) -> np.ndarray:
        """Return `length` numbers and the one after them, from each start."""
        columns = [np.arange(self.modulus)]
        for _ in range(length):
            columns.append(self.follow(columns[-1]) % self.modulus)
        return np.stack(columns, axis=1)

    def inputs(self, sequences: np.ndarray) -> np.ndarray:
        """Return what the network reads of sequences: all numbers but the last."""
        return self.encode(sequences[:, :-1], self.modulus)


def centred(numbers: np.ndarray, modulus: int) -> np.ndarray:
    """Return numbers as they lie between -1 and 1."""
    return numbers / (modulus / 2) - 1


TRIPLE = Progression("3x mod 50", lambda x: 3 * x, 50, shortest=1, seeds=5, bound=98.9)
PROGRESSIONS = {
    "3x mod 50": TRIPLE,
    "2x + 5 mod 37": Progression("2x + 5 mod 37", lambda x: 2 * x + 5, 37),
    "7x mod 97": Progression("7x mod 97", lambda x: 7 * x, 97),
    "x + 13 mod 60": Progression("x + 13 mod 60", lambda x: x + 13, 60),
    "3x mod 50, trained on 5": TRIPLE._replace(length=5, shortest=2, seeds=3, bound=98.0),
    "3x mod 50, trained on 30": TRIPLE._replace(length=30, longest=59, shortest=2, seeds=3, bound=98.0),
    "3x mod 50, read as x/25 - 1": TRIPLE._replace(encode=centred, shortest=2, seeds=3, bound=98.0),
}

SINE_SEEN = 10  # before so many numbers nobody could know the sine's phase
SINE_EPOCHS, SINE_SEQUENCES, SINE_STEPS, SINE_STEP, SIGMA, SINE_SEEDS, SINE_BOUND = 100, 100, 50, 0.3, 0.1, 3, 1.15


def measure(run: Run) -> Iterator[Table]:
    """Train every task with every seed."""
    records: list[dict[str, Any]] = []
    tasks = list(PROGRESSIONS.items())[: 1 if run.quick else None]
    for name, task in tasks:
        run.progress(name, len(records) / (len(tasks) + 1))
        questions = task.modulus * (task.longest - task.shortest + 1)
        seeds = range(1 if run.quick else task.seeds)
        scores, seconds = zip(*(_timed(seed, answers_right, task) for seed in seeds), strict=True)
        worst = 100 * min(scores) / questions
        record = {"task": name, "questions": f"{questions:,} of {task.shortest}–{task.longest}", "seeds": len(seeds)}
        record |= {"scores": scores, "worst": f"{worst:.1f} %", "seconds": statistics.mean(seconds)}
        records.append(record | {"target": target(worst, task.bound)})
    seeds = range(1 if run.quick else SINE_SEEDS)
    run.progress("noisy sine", len(records) / (len(tasks) + 1))
    errors, seconds = zip(*(_timed(seed, sine_error) for seed in seeds), strict=True)
    record = {"task": "noisy sine", "questions": "RMS error / sigma", "seeds": len(seeds), "scores": errors}
    record |= {"worst": f"{max(errors):.3f}", "seconds": statistics.mean(seconds)}
    records.append(record | {"target": target(max(errors), SINE_BOUND, at_most=True)})
    columns = (
        Column("task", "task", right=False),
        Column("questions", "questions", right=False),
        Column("seeds", "seeds"),
        Column("scores", "right answers", _scores, right=False),
        Column("worst", "worst"),
        Column("target", "target", right=False),
        Column("seconds", "s each", number),
    )
    notes = (
        f"{EPOCHS} epochs ({SINE_EPOCHS} for the sine), learning rate 0.01, decay 0.00001, {HIDDEN} hidden units, "
        "defaults otherwise, on one device; trained on sequences of 10 numbers from every start, unless it says "
        "otherwise.",
        "questions: how many, and of how many numbers; each gives a progression from its start and asks for the number "
        "after them. The sine's next value has noise of sigma, so 1 is the least; it counts after the first "
        f"{SINE_SEEN}, before which its phase can't be known.",
    )
    yield Table("learning", "Learning with the documented arguments", columns, records, notes=notes)


def _timed(seed: int, train: Callable[..., float], *task: Any) -> tuple[float, float]:
    began = time.perf_counter()
    return train(seed, *task), time.perf_counter() - began


def answers_right(seed: int, task: Progression, epochs: int = EPOCHS, **options: Any) -> int:
    """Train a network, whose defaults the options change, on a progression and count the questions answered right."""
    network = LSTMNetwork(1, HIDDEN, task.modulus, apply_softmax=True, seed=seed, progress=False, **options)
    trained = np.tile(task.sequences(task.length), (3, 1))
    network.train(task.inputs(trained), trained[:, 1:], epochs, **RATE)
    asked = task.sequences(task.longest)
    # The network sees no step that is yet to come, so the answers along the longest question are those to all shorter.
    answers = network.predict(task.inputs(asked)[..., None])[..., 0].argmax(axis=-1)
    return int((answers == asked[:, 1:])[:, task.shortest - 1 :].sum())


def sine_error(seed: int, epochs: int = SINE_EPOCHS) -> float:
    """Train a network on noisy sines and return its error of the next value on fresh ones, in multiples of sigma."""
    rng = np.random.default_rng(seed)

    def draw() -> np.ndarray:
        phases = rng.uniform(0, 2 * np.pi, (SINE_SEQUENCES, 1))
        sines = np.sin(phases + SINE_STEP * np.arange(SINE_STEPS + 1))
        return sines + SIGMA * rng.normal(size=sines.shape)

    trained, fresh = draw(), draw()
    network = LSTMNetwork(1, HIDDEN, 1, loss="mse", seed=seed, progress=False)
    network.train(trained[:, :-1], trained[:, 1:], epochs, **RATE)
    predicted = network.predict(fresh[:, :-1, None])[..., 0, 0]
    errors = (predicted - fresh[:, 1:])[:, SINE_SEEN:]
    return float(np.sqrt(np.mean(errors**2)) / SIGMA)


def _scores(scores: tuple[float, ...]) -> str:
    return " ".join(f"{score:,}" if isinstance(score, int) else f"{score:.3f}" for score in scores)
