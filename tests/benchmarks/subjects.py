"""What there is to measure: a name, the module that does it, and in which settings."""

import importlib
from collections.abc import Iterable
from typing import NamedTuple

from .tables import Table
from .timing import Run


class Subject(NamedTuple):
    """A subject.

    Attributes:
        module: the module whose `measure(run)` yields its tables, imported where it is measured.
        about: what it is, in a few words.
        minutes: what it takes, on two cores with nothing else to do, in each of its settings.
        allocators: the settings of `machine.ALLOCATORS` it is measured in.
        devices: whether its process has one JAX device a core.
        usual: whether it is measured where no subject is named.
    """

    module: str
    about: str
    minutes: tuple[float, ...]
    allocators: tuple[str, ...] = ("as it comes",)
    devices: bool = True
    usual: bool = True

    def measure(self, run: Run) -> Iterable[Table]:
        """Measure it in this process."""
        return importlib.import_module(f".{self.module}", __package__).measure(run)


SUBJECTS = {
    "steps": Subject(
        "steps",
        "the training step and the forward pass next to every peer",
        (6.0, 1.5),
        ("as it comes", "threshold raised"),
    ),
    "class": Subject("network", "LSTMNetwork's train and predict next to the bare step", (4.0,)),
    "generation": Subject("generation", "writing text", (2.5,)),
    "language-model": Subject("language_model", "training, writing and evaluating at two layers of 256", (1.0,)),
    "starting": Subject(
        "starting", "imports, the first training beside every peer's, new lengths", (3.0,), devices=False
    ),
    "growth": Subject("growth", "how time and memory grow with T, B and H", (6.0,)),
    "devices": Subject("devices", "one CPU device against one a core, and what the rule chooses", (3.5,)),
    "learning": Subject("learning", "what the defaults learn", (6.0,), devices=False),
    "cells": Subject("cells", "every cell beside a plain scan, torch's GRU and both directions, dropouts", (9.0,)),
    "addition": Subject(
        "addition", "examples/addition.py beside Keras's; only where it is named", (10.0,), devices=False, usual=False
    ),
    "cells-learning": Subject("cells_learning", "what every cell learns; only where it is named", (35.0,), usual=False),
    "forecasting": Subject(
        "forecasting",
        "CO2 beside Holt-Winters, Mackey-Glass in a closed loop, µs a value; only where it is named",
        (5.0,),
        usual=False,
    ),
    "processes": Subject(
        "processes",
        "1, 2 and 4 processes, the sum over them, and on paper many machines; only where it is named",
        (5.0,),
        devices=False,
        usual=False,
    ),
    "original": Subject(
        "original", "the experiments of 1997; only where it is named", (40.0,), devices=False, usual=False
    ),
}
QUICK_PART = 0.1  # of a subject's minutes, roughly
