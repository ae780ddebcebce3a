"""Orders of more sequences than an array of them has room for: each row is computed when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

__all__ = ["Computed", "shuffled"]

ROUNDS = 6


@jax.tree_util.register_static  # a pytree of no arrays: nothing of it goes to a device
@dataclass(frozen=True, eq=False)
class Computed:
    """An order that is indexed as an array of it would be.

    Args:
        rows_at: the rows at places of the order, integers of any shape.

    Example:
        >>> Computed(lambda places: 9 - places)[np.array([0, 3])]
        array([9, 6])
    """

    rows_at: Callable[[np.ndarray], np.ndarray]

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        return self.rows_at(places)


def shuffled(rng: np.random.Generator, size: int) -> Computed:
    """Draw an order of all numbers below `size`, in memory that does not grow with them.

    A Feistel network permutes the numbers of 2b bits, whatever its rounds compute (Luby and Rackoff, "How to Construct
    Pseudorandom Permutations from Pseudorandom Functions", 1988). What it sends to `size` or beyond goes through it
    again until it is below, which permutes those that are ("cycle walking", Black and Rogaway, 2002); with b as small
    as can be, it is sent four times at most on average. This reaches 2^384 of the `size`! orders, as if at random.

    Args:
        rng: NumPy's random numbers, of which it takes one for each round.
        size: how many, from 1 to 2^62.

    Example:
        >>> sorted(shuffled(np.random.default_rng(0), 5)[np.arange(5)].tolist())
        [0, 1, 2, 3, 4]
    """
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = rng.integers(2**64, size=ROUNDS, dtype=np.uint64)

    def sent(numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> half, numbers & low
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & low)
        return left << half | right

    def rows_at(places: np.ndarray) -> np.ndarray:
        rows = sent(np.asarray(places, np.uint64))
        while (beyond := rows >= size).any():
            rows[beyond] = sent(rows[beyond])
        return rows.astype(np.int64)

    return Computed(rows_at)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of which each bit depends on all of the given ones (Steele et al., "SplitMix", 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
