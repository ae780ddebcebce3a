"""Measuring: programs in turn, medians with spread, and the exponent of a growth."""

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

LEAST_SECONDS = 0.05  # what a sample takes at the least; shorter calls are repeated inside it
REST_SECONDS = 0.05  # between samples: threads that wait in a loop for more work give up and leave the cores


LONG_SECONDS, LONG_ROUNDS = 5.0, 3  # a call that takes longer is in so many rounds only


class Effort(NamedTuple):
    """How much trouble to take: the rounds that are wanted, what they may take, and the rounds that must be."""

    rounds: int = 11
    seconds: float = 30.0
    least_rounds: int = 5


QUICK = Effort(rounds=3, seconds=2.0, least_rounds=2)


class Timing(NamedTuple):
    """The times of one program.

    Attributes:
        seconds: the median.
        spread: the interquartile range as a part of the median.
        samples: all of them, in seconds.
    """

    seconds: float
    spread: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        """Summarise samples."""
        low, median, high = np.quantile(samples, (0.25, 0.5, 0.75))
        return cls(float(median), float((high - low) / median), tuple(samples))

    def per(self, units: float) -> "Timing":
        """Return the time of one of the `units` that a sample consists of."""
        return Timing(self.seconds / units, self.spread, tuple(sample / units for sample in self.samples))


def interleaved(programs: Mapping[str, Callable[[], Any]], effort: Effort, *, ran: bool = False) -> dict[str, Timing]:
    """Time programs in turn (a b c, a b c, ...), so that what disturbs the machine disturbs all alike.

    Rounds end when the time is spent or there are enough, but not before there are as many as there must be.

    Args:
        programs: callables without arguments that return when their work is done.
        effort: how many rounds, in how much time.
        ran: whether all of them ran before, so that nothing is left to be compiled.

    Returns:
        The time of one call of each program.
    """
    gc.collect()
    gc.freeze()  # what was imported need not be looked through again at each sample
    try:
        if not ran:
            for program in programs.values():
                program()
        began = time.perf_counter()
        samples = {name: [_sample(program, 1)] for name, program in programs.items()}
        once = {name: seconds for name, (seconds,) in samples.items()}
        repeats = {name: math.ceil(LEAST_SECONDS / seconds) or 1 for name, seconds in once.items()}
        samples = {name: samples[name] if repeats[name] == 1 else [] for name in programs}
        done = 1 if all(samples.values()) else 0
        while done < effort.rounds and (done < effort.least_rounds or time.perf_counter() - began < effort.seconds):
            for name, program in programs.items():
                if once[name] < LONG_SECONDS or done < LONG_ROUNDS:
                    samples[name].append(_sample(program, repeats[name]))
            done += 1
    finally:
        gc.unfreeze()
    return {name: Timing.of(times) for name, times in samples.items()}


def _sample(program: Callable[[], Any], repeats: int) -> float:
    time.sleep(REST_SECONDS)
    with _no_garbage_collection():
        began = time.perf_counter()
        for _ in range(repeats):
            program()
        return (time.perf_counter() - began) / repeats


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def least(program: Callable[[], Any], samples: int = 5) -> float:
    """Return the shortest time of a call: what the machine can do, rather than what it usually does."""
    program()
    repeats = max(1, math.ceil(LEAST_SECONDS / _sample(program, 1)))
    return min(_sample(program, repeats) for _ in range(samples))


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return p of the power law seconds ~ sizes ** p, by least squares in logarithms."""
    return statistics.linear_regression(np.log(sizes).tolist(), np.log(seconds).tolist()).slope


class Run(NamedTuple):
    """What a subject must know of the run that it is part of.

    Attributes:
        quick: whether fewer shapes, sizes and seeds do.
        allocator: one of `machine.ALLOCATORS`.
        minutes: what this subject should take.
        after: what the subjects behind it should take, in minutes.
        pace: how much longer than they should the subjects before it took.
    """

    quick: bool = False
    allocator: str = "as it comes"
    minutes: float = 0.0
    after: float = 0.0
    pace: float = 1.0

    @property
    def effort(self) -> Effort:
        return QUICK if self.quick else Effort()

    def progress(self, text: str, done: float) -> None:
        """Say on standard error what is measured next, where `done` of 1 of this subject is, and what time is left."""
        left = self.pace * ((1 - done) * self.minutes + self.after)
        print(f"  {time.strftime('%H:%M:%S')}  about {left:.1f} min left  {text}", file=sys.stderr, flush=True)
