"""Tensors of a graph of ONNX by what they are, not by their numbers: whose numbers they have, and in which order.

A graph turns, splits, joins and takes axes. Each of these is done here to the names of axes, exactly, whatever their
sizes are and without a number that a tensor has.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from jlstm.stack import directions

__all__ = [
    "CLASSES",
    "ONE_HOT",
    "REPEATED",
    "UNITS",
    "WAYS",
    "Atom",
    "Network",
    "Refused",
    "Tensor",
    "axis_of",
    "concat",
    "expand",
    "per_sequence",
    "reshape",
    "take",
    "take_final",
]

WAYS, UNITS, CLASSES, ONE_HOT, NODES, REPEATED = "directions", "units", "classes", "one-hot", "nodes", "repeated"
FINAL = "last real"  # of the steps of each sequence


class Refused(ValueError):
    """What a node does has no equal here."""


class Atom(NamedTuple):
    """An axis that was not joined with others: its name, its size, and whether that may be any; never of size one."""

    name: str
    size: int
    free: bool = False


class Network(NamedTuple):
    """A network as far as one node of a graph.

    Attributes:
        below: the network below that node; None of the first layer.
        inputs: the name of the graph's input that it reads.
        ids: whether these are ids.
        time, batch: the axes of steps and of sequences.
        lengths: the name of the graph's input that has the sequences' lengths; None where all steps are read.
        layers: the cell and the parameters of each layer.
        readout, activation: as a `Model` has them; `biased` is whether the readout has its bias.
    """

    below: Any
    inputs: str
    ids: bool
    time: tuple[Atom, ...]
    batch: tuple[Atom, ...]
    lengths: str | None
    layers: tuple
    readout: Any = None
    biased: bool = False
    activation: Any = None

    @property
    def ways(self) -> int:
        return len(directions(self.layers[-1][1]))

    @property
    def width(self) -> tuple[Atom, ...]:
        """The axis of all outputs of the top layer."""
        return axis_of(Atom(WAYS, self.ways), Atom(UNITS, directions(self.layers[-1][1])[0].weight_hh.shape[1]))


class Tensor(NamedTuple):
    """What a name in a graph stands for, where it is no array that is known.

    Attributes:
        of: whose numbers these are: a `Network`, a tuple of them joined by a first axis "nodes", the name of a graph's
            input, or an array that is repeated.
        axes: of which axes each axis was joined, in their order.
        dtype: its dtype.
        how: what was computed: of a network nothing, or ("last",), ("cell",), ("mean",), ("sum",); of an input pairs of
            an operator and its number, ("one-hot",) of ids.
        picks: what was taken of axes, which then are not all there: name, first and last but one, of each.
    """

    of: Any
    axes: tuple[tuple[Atom, ...], ...]
    dtype: Any
    how: tuple = ()
    picks: tuple = ()

    @property
    def shape(self) -> list[int]:
        return [_size(axis) for axis in self.axes]

    @property
    def target(self) -> str | None:
        """Which steps of all that a network gives these are; None where some of it is missing."""
        steps = {(): "each", ("last",): "last", ("mean",): "mean"}.get(self.how)
        return steps if isinstance(self.of, Network) and not self.picks else None


def axis_of(*atoms: Atom) -> tuple[Atom, ...]:
    """Return an axis joined of these, without those of one."""
    return tuple(atom for atom in atoms if atom.size != 1)


def _size(axis: Sequence[Atom]) -> int:
    return prod(atom.size for atom in axis)


def reshape(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Join axes and take joined ones apart: what is next to each other stays so."""
    atoms, axes = [atom for axis in tensor.axes for atom in axis], []
    for size in shape:
        axis: list[Atom] = []
        while atoms and _size(axis) < size:
            axis.append(atoms.pop(0))
        axes.append(tuple(axis))
    if atoms or [_size(axis) for axis in axes] != [*shape]:
        raise Refused
    return tensor._replace(axes=tuple(axes))


def take(tensor: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """Take a range of an axis, which stays, of one where the range is."""
    of, kept, picks = tensor.of, list(tensor.axes[axis]), []
    if not 0 <= start < stop <= _size(kept):
        raise Refused
    for k, atom in enumerate(tensor.axes[axis]):
        block = _size(tensor.axes[axis][k + 1 :])
        one = start // block == (stop - 1) // block
        if not one and (start % block or stop % block):
            raise Refused
        own = (start // block, start // block + 1 if one else stop // block)
        kept[k] = atom._replace(size=own[1] - own[0])
        if atom.name == NODES:
            of = of[own[0]] if one else of[slice(*own)]
        elif kept[k] != atom:
            picks.append((atom.name, *own))
        if not one:
            break
        start, stop = start - own[0] * block, stop - own[0] * block
    axes = (*tensor.axes[:axis], axis_of(*kept), *tensor.axes[axis + 1 :])
    return _settled(tensor._replace(of=of, axes=axes, picks=(*tensor.picks, *picks)))


def take_final(tensor: Tensor, axis: int) -> Tensor:
    """Take the last real step of each sequence, of an axis of steps."""
    axes = (*tensor.axes[:axis], (), *tensor.axes[axis + 1 :])
    return _settled(tensor._replace(axes=axes, picks=(*tensor.picks, (tensor.axes[axis][0].name, FINAL))))


def _settled(tensor: Tensor) -> Tensor:
    """Call the step that a direction reads last by its name."""
    if not isinstance(tensor.of, Network) or tensor.how or not tensor.of.time:
        return tensor
    [time] = tensor.of.time
    ends: list = [(time.name, FINAL)] + [(time.name, time.size - 1, time.size)] * (tensor.of.lengths is None)
    if (WAYS, 1, 2) in tensor.picks:
        ends = [(time.name, 0, 1)]
    elif tensor.of.ways > 1 and (WAYS, 0, 1) not in tensor.picks:
        ends = []
    left = tuple(pick for pick in tensor.picks if pick not in ends)
    return tensor if left == tensor.picks else tensor._replace(how=("last",), picks=left)


def concat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Join the directions of a layer, or the same of several nodes."""
    first, picks = tensors[0], [{*each.picks} for each in tensors]
    if len(tensors) == 1:
        return first
    rest = picks[0] - {(WAYS, 0, 1)}
    alike = all(each[1:4] == first[1:4] and isinstance(each.of, Network) for each in tensors)
    one = all(each.of is first.of for each in tensors)
    if alike and one and picks == [rest | {(WAYS, k, k + 1)} for k in range(first.of.ways)]:
        made = axis_of(Atom(WAYS, len(tensors)))
        first = first._replace(picks=tuple(rest))
    elif alike and not one and picks == [rest] * len(tensors):
        made = axis_of(Atom(NODES, len(tensors)))
        first = first._replace(of=tuple(each.of for each in tensors))
    else:
        raise Refused
    return first._replace(axes=(*first.axes[:axis], made + first.axes[axis], *first.axes[axis + 1 :]))


def expand(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat axes of one; an axis of an input that may be of any size gets the one that is asked for."""
    rank, axes = max(len(shape), len(tensor.axes)), []
    given = ((),) * (rank - len(tensor.axes)) + tensor.axes
    for axis, size in zip(given, [1] * (rank - len(shape)) + [*shape], strict=True):
        if size in (1, _size(axis)):
            axes.append(axis)
        elif not axis:
            axes.append((Atom(REPEATED, size),))
        elif isinstance(tensor.of, str) and len(axis) == 1 and axis[0].free:
            axes.append((axis[0]._replace(size=size),))
        else:
            raise Refused
    repeated = [] if axes == [*given] else [(REPEATED, *shape)]
    return tensor._replace(axes=tuple(axes), picks=(*tensor.picks, *repeated))


def per_sequence(other: Tensor, tensor: Tensor) -> bool:
    """Whether the first tensor, broadcast to the second one of a network, is one number for each sequence."""
    own = [any(atom.name != REPEATED for atom in axis) for axis in other.axes]
    own = [False] * (len(tensor.axes) - len(own)) + own
    return own == [axis == tensor.of.batch != () for axis in tensor.axes]
