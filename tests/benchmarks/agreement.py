"""Before anything is timed: do all programs compute the same?"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .peers import Peer

# The largest difference that is let pass, as a part of the largest value: float32 has a rounding of 6e-8, a sum over
# some thousand products loses two digits of that, and Adam divides by the gradient's size, which keeps no digits of a
# gradient near zero.
SCORES = 1e-4
LOSS = 1e-5
GRADIENT = 1e-4
LOSSES = 1e-3


class Disagreement(Exception):
    """Two programs that should compute the same do not; their times would mean nothing."""


class Agreement(NamedTuple):
    """How far a program is from the one it is compared with: the largest differences as parts of the largest values.

    Attributes:
        name: the program.
        scores: of the logits of all forward passes.
        loss: of the first batch's loss.
        gradient: of its gradient, over all parameters.
        losses: of the losses while it trains for one call, which the optimiser's steps show in.
    """

    name: str
    scores: float
    loss: float
    gradient: float
    losses: float


def check(reference: Peer, peers: Sequence[Peer]) -> list[Agreement]:
    """Compare freshly built programs with `reference`; each trains for one call.

    Raises:
        Disagreement: something differs by more than the bounds above; the message says what and by how much.
    """
    wanted = _measured(reference)
    return [_compare(peer.name, wanted, _measured(peer)) for peer in peers]


def _measured(peer: Peer) -> dict[str, Any]:
    loss, gradient = peer.gradient()
    return {"scores": peer.forward(), "loss": loss, "gradient": gradient, "losses": peer.train()}


def _compare(name: str, wanted: dict[str, Any], got: dict[str, Any]) -> Agreement:
    bounds = {"scores": SCORES, "loss": LOSS, "gradient": GRADIENT, "losses": LOSSES}
    return Agreement(name, **{key: within(f"{name}: {key}", got[key], wanted[key], bounds[key]) for key in bounds})


def within(what: str, got: Any, wanted: Any, bound: float, fail: Callable[[str], Exception] = Disagreement) -> float:
    """Return the largest difference of two pytrees, array by array as a part of the largest value in it.

    Raises:
        Disagreement: it is above `bound`, or not a number, or the shapes differ.
    """
    worst = 0.0
    for a, b in zip(_arrays(got), _arrays(wanted), strict=True):
        if a.shape != b.shape:
            raise fail(f"{what}: the shapes differ, {a.shape} and {b.shape}")
        difference = float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30))
        if not difference <= bound:
            raise fail(f"{what}: differs from jlstm's by {difference:.2g} of the largest value; {bound:g} is allowed")
        worst = max(worst, difference)
    return worst


def _arrays(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, list):
        return [np.stack([np.asarray(array, np.float64) for array in tree])]
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
