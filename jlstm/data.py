"""What training takes its mini-batches from: `Batch`, `Windows` and `Streams`."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jlstm.checks import class_ids, numbers, whole_number
from jlstm.config import LSTMConfig

__all__ = [
    "Batch",
    "Data",
    "Streams",
    "Windows",
    "characters_with_room",
    "count",
    "filled_up",
    "inputs_of",
    "rounded_up",
    "some_of",
    "steps_of",
    "steps_with_room",
    "take",
    "with_room",
]

LEAST_STEPS, LEAST_CHARACTERS = 16, 2**16  # shorter sequences, and texts, share a compiled shape


class Batch(NamedTuple):
    """Sequences with their targets, padded to one length.

    Attributes:
        xs: the inputs, `[batch, time, I]`, or ids `[batch, time]`.
        ys: the targets, `[batch, time]` or `[batch, time, C]`; without the time axis where there is one a sequence.
        lengths: how many steps of each sequence are real, `[batch]` integers; all where None.

    Example:
        >>> Batch(jnp.ones((2, 7, 1)), jnp.zeros((2, 7), int)).lengths is None
        True
    """

    xs: Any
    ys: Any
    lengths: Any = None


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Windows:
    """Overlapping windows over a long text, gathered when they are needed and never built.

    Window k is `ids[k * stride : k * stride + length]`, and its targets are the ids one further on; with one target a
    sequence, that is the id after the window. What a network reads for an id says `inputs_of`.

    Args:
        ids: the text as class ids, `[characters]` integers.
        length: the number of steps of a window.
        stride: how many characters each window starts after the one before.

    Raises:
        TypeError: `ids`, `length` or `stride` is not of integers.
        ValueError: `ids` has not one axis, holds a negative id, or is too short for one window and the id after it;
            `length` or `stride` is not positive.

    Example:
        >>> len(Windows(np.arange(10), length=4, stride=2))
        3
    """

    ids: Any
    length: int
    stride: int = 1

    def __post_init__(self) -> None:
        for name in ("length", "stride"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=1))
        object.__setattr__(self, "ids", _long_text(self.ids, self.length, "length"))

    def __len__(self) -> int:
        return -(-(self.ids.shape[0] - self.length) // self.stride)

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (self.ids,), (self.length, self.stride)

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: tuple) -> "Windows":
        windows = object.__new__(cls)  # its leaves may be tracers, which can't be checked
        for name, value in zip(("ids", "length", "stride"), (*leaves, *static), strict=True):
            object.__setattr__(windows, name, value)
        return windows


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Streams:
    """A long text read as parallel streams, for truncated backpropagation through time with the state carried.

    The text is a ring, cut into streams of equal length at places that are drawn anew in each epoch. A training step
    reads the next window of every stream with the state that the window before it left, and its gradient ends at the
    window's start (Williams and Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories", 1990).

    Args:
        ids: the text as class ids, `[characters]` integers.
        streams: how many streams, the sequences of a batch.
        length: the number of steps of a window.

    Attributes:
        characters: how many ids the text has.

    Raises:
        TypeError: `ids`, `streams` or `length` is not of integers.
        ValueError: `ids` has not one axis, holds a negative id, or is too short for a window of every stream and the id
            after it; `streams` or `length` is not positive.

    Example:
        >>> Streams(np.arange(1000), streams=4, length=32).windows
        7
    """

    ids: Any
    streams: int
    length: int
    characters: int = field(init=False)

    def __post_init__(self) -> None:
        for name in ("streams", "length"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=1))
        least = f"streams * length = {self.streams} * {self.length}"
        object.__setattr__(self, "ids", _long_text(self.ids, self.streams * self.length, least))
        object.__setattr__(self, "characters", len(self.ids))

    @property
    def windows(self) -> int:
        """How many windows each stream has."""
        return (self.characters - 1) // self.streams // self.length

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (self.ids, self.characters), (self.streams, self.length)

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: tuple) -> "Streams":
        streams = object.__new__(cls)  # its leaves may be tracers, which can't be checked
        for name, value in zip(("ids", "characters", "streams", "length"), (*leaves, *static), strict=True):
            object.__setattr__(streams, name, value)
        return streams


Data = Batch | Windows | Streams


def count(data: Data) -> int:
    """Return how many sequences `data` holds."""
    if isinstance(data, Streams):
        return data.streams
    return len(data) if isinstance(data, Windows) else data.xs.shape[0]


def steps_of(data: Data) -> int:
    """Return how many time steps each sequence has, those of padding included."""
    return data.xs.shape[1] if isinstance(data, Batch) else data.length


def steps_with_room(data: Data) -> int:
    """Return how many it has where there is room: of arrays a power of two from 16 up, windows are as they are."""
    return max(LEAST_STEPS, rounded_up(steps_of(data), 1)) if isinstance(data, Batch) else data.length


def characters_with_room(text: Windows | Streams) -> int:
    """Return how many characters a text has where there is room: a power of two from 65,536 up."""
    return max(LEAST_CHARACTERS, rounded_up(len(text.ids), 1))


def with_room(data: Data, config: LSTMConfig, *, roomy: bool, masked: bool) -> Data:
    """Return data in arrays of sizes that others near by have too, so that they need no compilation of their own.

    Args:
        data: all sequences.
        config: the network that will read them.
        roomy: whether the numbers of sequences, or of characters, and of time steps are powers of two; else only the
            first is rounded up, by a sixteenth at the most.
        masked: whether lengths are to be known, also where all sequences are of one.

    Returns:
        The same data for `take`, with nothing behind them; a copy, where there is anything to fill up.

    Example:
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> data = with_room(Batch(np.ones((5, 20, 1)), np.ones((5, 20), int)), config, roomy=True, masked=True)
        >>> data.xs.shape, data.lengths
        ((8, 32, 1), array([20, 20, 20, 20, 20,  0,  0,  0], dtype=int32))
    """
    if not isinstance(data, Batch):
        (ids, *rest), form = jax.tree.flatten(data)
        characters = characters_with_room(data) if roomy else rounded_up(len(ids), 5)
        return jax.tree.unflatten(form, [filled_up(ids, characters), *rest])
    rows, steps = rounded_up(count(data), 1 if roomy else 5), steps_with_room(data) if roomy else steps_of(data)
    lengths = np.full(count(data), steps_of(data)) if masked and data.lengths is None else data.lengths
    return Batch(
        filled_up(data.xs, rows, steps),
        filled_up(data.ys, rows, steps) if config.target == "each" else filled_up(data.ys, rows),
        None if lengths is None else filled_up(np.asarray(lengths, np.int32), rows),
    )


def some_of(data: Batch, rows: np.ndarray, steps: int, config: LSTMConfig) -> Batch:
    """Return some of the sequences, which are no longer than `steps`, without the padding behind those.

    Example:
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> data = Batch(np.ones((3, 9, 1)), np.ones((3, 9), int), np.array([2, 9, 4]))
        >>> some_of(data, np.array([0, 2]), 4, config).xs.shape
        (2, 4, 1)
    """
    ys = data.ys[rows, :steps] if config.target == "each" else data.ys[rows]
    return Batch(data.xs[rows, :steps], ys, data.lengths[rows])


def rounded_up(number: int, digits: int) -> int:
    """Return the next number of at most so many binary digits before its zeros.

    Example:
        >>> [rounded_up(number, 1) for number in (4, 5)], [rounded_up(number, 5) for number in (31, 33, 100, 101)]
        ([4, 8], [31, 34, 100, 104])
    """
    unit = 1 << max(0, number.bit_length() - digits)
    return -(-number // unit) * unit


def filled_up(array: Any, *shape: int) -> Any:
    """Return the array with zeros behind its first axes, so that these have the lengths `shape`.

    Example:
        >>> filled_up(np.array([1, 2]), 4)
        array([1, 2, 0, 0])
    """
    shape += array.shape[len(shape) :]
    if array.shape == shape:
        return array
    filled = np.zeros(shape, array.dtype)
    filled[tuple(slice(length) for length in array.shape)] = array
    return filled


def take(data: Data, rows: Array, config: LSTMConfig, *, masked: bool = False) -> Batch:
    """Gather sequences into a batch, inside a compiled call.

    Args:
        data: all sequences.
        rows: which ones to take, `[batch]` integers; of `Streams` the places where their windows start.
        config: the network that will read them.
        masked: whether some of `rows` may be negative; each of those gives a sequence of length 0.

    Returns:
        The batch.

    Example:
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=10)
        >>> take(Windows(np.arange(10), length=4), jnp.array([0, 5]), config).ys
        Array([[1, 2, 3, 4],
               [6, 7, 8, 9]], dtype=int32)
    """
    found = jnp.maximum(rows, 0)
    if not isinstance(data, Batch):
        starts = found * data.stride if isinstance(data, Windows) else found
        places = starts[:, None] + jnp.arange(data.length + 1)[None]
        ids = jnp.asarray(data.ids)[places % data.characters if isinstance(data, Streams) else places]
        batch = Batch(inputs_of(ids[:, :-1], config), ids[:, -1] if config.target == "last" else ids[:, 1:])
    else:
        batch = jax.tree.map(lambda array: jnp.asarray(array)[found], data)
    if masked:
        lengths = batch.xs.shape[1] if batch.lengths is None else batch.lengths
        batch = batch._replace(lengths=jnp.where(rows < 0, 0, lengths))
    return batch


def inputs_of(ids: Array, config: LSTMConfig) -> Array:
    """Return what a network reads for class ids: with one feature the number `id / output_size`, else ids themselves.

    Args:
        ids: `[batch, time]` or `[batch]` integers.
        config: the network.

    Returns:
        Floats of the shape of `ids` with an axis of 1 behind it, or `ids`, which stand for one-hot vectors.

    Example:
        >>> inputs_of(jnp.array([[1, 2]]), LSTMConfig(input_size=1, hidden_size=8, output_size=4)).tolist()
        [[[0.25], [0.5]]]
    """
    return ids[..., None] / config.output_size if config.inputs == "features" and config.input_size == 1 else ids


def _long_text(ids: Any, length: int, least: str) -> np.ndarray:
    array = np.asarray(numbers("ids", ids))
    if array.ndim != 1:
        raise ValueError(
            f"ids: expected one long text as class ids, [characters], got shape {array.shape}; sequences of numbers "
            "are given to train as X and Y"
        )
    if len(array) <= length:
        raise ValueError(f"ids: expected more than {least} = {length} characters, got {len(array)}")
    return class_ids("ids", array, 2**31 - 1)
