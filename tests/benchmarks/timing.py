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
REST_SECONDS = 0.01  # between samples: threads that wait in a loop for more work give up and leave the cores


class Effort(NamedTuple):
    """How much trouble to take: the rounds that are wanted, what they may take, and the rounds that must be."""

    rounds: int = 11
    seconds: float = 120.0
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


def interleaved(programs: Mapping[str, Callable[[], Any]], effort: Effort) -> dict[str, Timing]:
    """Time programs in turn (a b c, a b c, ...), so that what disturbs the machine disturbs all alike.

    Args:
        programs: callables without arguments that return when their work is done.
        effort: how many rounds.

    Returns:
        The time of one call of each program.
    """
    for program in programs.values():
        program()
    once = {name: _sample(program, 1) for name, program in programs.items()}
    repeats = max(1, math.ceil(LEAST_SECONDS / min(once.values())))
    rounds = int(effort.seconds / (repeats * sum(once.values())))
    rounds = max(effort.least_rounds, min(effort.rounds, rounds))
    samples = {name: [seconds] if repeats == 1 else [] for name, seconds in once.items()}
    for _ in range(rounds - (repeats == 1)):
        for name, program in programs.items():
            samples[name].append(_sample(program, repeats))
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


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(f"  {time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


class Run(NamedTuple):
    """What a subject must know of the run that it is part of.

    Attributes:
        quick: whether fewer shapes, sizes and seeds do.
        allocator: one of `machine.ALLOCATORS`.
    """

    quick: bool = False
    allocator: str = "as it comes"

    @property
    def effort(self) -> Effort:
        return QUICK if self.quick else Effort()
