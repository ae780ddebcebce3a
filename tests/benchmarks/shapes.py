"""The shapes that are measured and their data; with NumPy alone, so that it imports nothing that is to be timed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

STEPS = 10  # training steps, or forward passes, in one compiled call
LARGE_STEPS = 5  # in a call at a shape whose steps are LARGE
LARGE = 2e10  # flops of a training step


class Shape(NamedTuple):
    """Sizes of a network and of what it reads: batch, time, inputs, hidden units, classes."""

    name: str
    B: int
    T: int
    I: int  # noqa: E741
    H: int
    C: int

    def __str__(self) -> str:
        return f"{self.name}: B={self.B} T={self.T} I={self.I} H={self.H} C={self.C}"

    @property
    def forward_flops(self) -> int:
        """The multiplications and additions of a forward pass's matrix products: 2·B·T·(4H·(I + H) + H·C)."""
        return 2 * self.B * self.T * (4 * self.H * (self.I + self.H) + self.H * self.C)

    @property
    def training_flops(self) -> int:
        """Those of a training step: the backward pass has two products for each of the forward pass."""
        return 3 * self.forward_flops

    @property
    def steps(self) -> int:
        """How many steps one compiled call has, the same for all programs."""
        return LARGE_STEPS if self.training_flops > LARGE else STEPS


SHAPES = (
    Shape("online", B=1, T=10, I=1, H=250, C=50),
    Shape("progression", B=50, T=10, I=1, H=250, C=50),
    Shape("shakespeare", B=64, T=100, I=1, H=128, C=65),
    Shape("char-rnn", B=50, T=50, I=65, H=256, C=65),
    Shape("wide", B=64, T=100, I=65, H=512, C=65),
)
MORE = (  # for the split over devices
    *(Shape(f"H={H}, {B} rows", B=B, T=50, I=65, H=H, C=65) for H in (128, 256, 512) for B in (4, 8, 16)),
    Shape("large", B=64, T=50, I=65, H=1024, C=65),
    Shape("many", B=256, T=50, I=65, H=256, C=65),
)
BY_NAME = {shape.name: shape for shape in SHAPES}
QUICK = (BY_NAME["shakespeare"],)
_PARTS = {"online": 1, "progression": 1, "shakespeare": 2, "char-rnn": 2, "wide": 4}  # of the time that all take


def done_before(shape: Shape, shapes: Sequence[Shape]) -> float:
    """Return which part of the time that `shapes` take is over when `shape` begins."""
    parts = [_PARTS.get(one.name, 2) for one in shapes]
    return sum(parts[: shapes.index(shape)]) / sum(parts)


def draw_data(shape: Shape, batches: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs `[batches, B, T, I]` in float32 and class ids `[batches, B, T]` in int32.

    One input reads the number id / C, as many inputs as classes read one-hot vectors, other networks read noise.
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(shape.C, size=(batches, shape.B, shape.T + 1))
    if shape.I == 1:
        xs = ids[..., :-1, None] / shape.C
    elif shape.I == shape.C:
        xs = np.eye(shape.C, dtype=np.float32)[ids[..., :-1]]
    else:
        xs = rng.normal(size=(batches, shape.B, shape.T, shape.I))
    return xs.astype(np.float32), ids[..., 1:].astype(np.int32)
