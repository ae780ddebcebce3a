"""What there is to measure: a name, the module that does it, and in which settings."""

import importlib
from typing import NamedTuple

from .tables import Table
from .timing import Run


class Subject(NamedTuple):
    """A subject.

    Attributes:
        module: the module whose `measure(run)` returns its tables, imported where it is measured.
        about: what it is, in a few words.
        allocators: the settings of `machine.ALLOCATORS` it is measured in.
        devices: whether its process has one JAX device a core.
    """

    module: str
    about: str
    allocators: tuple[str, ...] = ("as it comes",)
    devices: bool = True

    def measure(self, run: Run) -> list[Table]:
        """Measure it in this process."""
        return importlib.import_module(f".{self.module}", __package__).measure(run)


SUBJECTS = {
    "steps": Subject(
        "steps", "the training step and the forward pass next to every peer", ("as it comes", "threshold raised")
    ),
    "class": Subject("network", "LSTMNetwork's train and predict next to the bare step"),
    "generation": Subject("generation", "writing text"),
    "starting": Subject("starting", "imports, the first step, new lengths", devices=False),
    "growth": Subject("growth", "how time and memory grow with T, B and H"),
    "devices": Subject("devices", "one CPU device against one a core"),
    "learning": Subject("learning", "what the defaults learn", devices=False),
}
