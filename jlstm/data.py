"""What training takes its mini-batches from: `Batch`, `Windows` and `Streams`, each through the protocol `Data`."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jlstm.checks import class_ids, is_integer, numbers, whole_number
from jlstm.config import LSTMConfig
from jlstm.objectives import known
from jlstm.orders import Computed, shuffled

__all__ = [
    "Batch",
    "Data",
    "Streams",
    "Windows",
    "behind",
    "counting",
    "filled_up",
    "inputs_of",
    "rounded_up",
    "take",
]

LEAST_STEPS, LEAST_CHARACTERS = 16, 2**16  # shorter sequences, and texts, share a compiled shape
MOST_SHUFFLED = 2**24  # windows of a text on disk whose order is drawn as an array, which takes 8 bytes each


class Data(Protocol):
    """What a kind of data says about itself, all that training asks; to pass through `jit`, it is a pytree.

    Example:
        >>> data: Data = Windows(np.arange(10), length=4)
        >>> data.sequences, data.steps, data.streams, data.lengths
        (6, 4, 0, None)
        >>> data.gather(np.array([0, 5]), 2, LSTMConfig(input_size=10, hidden_size=8, output_size=10)).xs
        array([[0, 1],
               [5, 6]], dtype=int32)
    """

    @property
    def sequences(self) -> int:
        """How many sequences an epoch reads."""

    @property
    def steps(self) -> int:
        """How many time steps each of them has, those of padding included."""

    @property
    def lengths(self) -> Any:
        """How many steps of each are real, `[sequences]` integers, by which training divides them; all where None."""

    @property
    def streams(self) -> int:
        """How many rows each mini-batch has, where they go on in the next with the state carried; 0 where none does."""

    @property
    def read(self) -> "Callable[[np.ndarray, LSTMConfig], Data] | None":
        """How sequences are read, and checked, that are not in memory; None where all are.

        Called with rows as `order` gives them, `[n]` integers, and the network that will read them, it returns data in
        memory whose n sequences are those, a negative row being one of nothing, one behind the other along the first
        axis of all its arrays, so that each device can be given its own. Each compiled call is given such data, in the
        place of all `with_room`.
        """

    def order(self, rng: np.random.Generator) -> "np.ndarray | Computed":
        """Draw in which order an epoch gathers its sequences.

        Args:
            rng: NumPy's random numbers, others in each epoch.

        Returns:
            The row of each for `gather`, `[sequences]` integers from 0 up, of which the first of B mini-batches gets
            those at 0, B, 2B and so on. Where there are no `streams`, they are all numbers below `sequences`. Of data
            that are not in memory it may be computed.
        """

    def gather(self, rows: Any, steps: int, config: LSTMConfig) -> "Batch":
        """Gather the first steps of some sequences, inside a compiled call or out of it.

        Args:
            rows: which sequences, `[batch]` integers.
            steps: how many of their steps; what is left out is padding.
            config: the network that will read them.

        Returns:
            The batch.
        """

    def room(self, *, roomy: bool) -> tuple[int, int]:
        """Return how many sequences and steps data have at the most that are of the same shape `with_room`."""

    def with_room(self, config: LSTMConfig, *, roomy: bool, masked: bool) -> "Data":
        """Return the data in arrays of sizes that others near by have too, so that they need no compilation of theirs.

        Args:
            config: the network that will read them.
            roomy: whether all sizes are powers of two; else only the number of sequences, or of characters, is rounded
                up, by a sixteenth at the most.
            masked: whether lengths are to be known, also where all sequences are of one.

        Returns:
            The same data for `gather`, with nothing behind them; a copy, where there is anything to fill up.
        """


class Batch(NamedTuple):
    """Sequences with their targets, padded to one length.

    Attributes:
        xs: the inputs, `[batch, time, I]`, or ids `[batch, time]`.
        ys: the targets, `[batch, time]` or `[batch, time, C]`; without the time axis where there is one a sequence.
        lengths: how many steps of each sequence are real, `[batch]` integers; all where None.
        resets: where the network's state is zero before the step, `[batch, time]` booleans; nowhere where None.
        weights: how much each target counts, `[batch]`, or `[batch, time]` with a target for each step, or one for each
            output behind that; all alike where None.

    Example:
        >>> Batch(jnp.ones((2, 7, 1)), jnp.zeros((2, 7), int)).lengths is None
        True
    """

    xs: Any
    ys: Any
    lengths: Any = None
    resets: Any = None
    weights: Any = None

    @property
    def sequences(self) -> int:
        """How many sequences there are."""
        return self.xs.shape[0]

    @property
    def steps(self) -> int:
        """How many time steps each of them has, those of padding included."""
        return self.xs.shape[1]

    @property
    def streams(self) -> int:
        """None of them goes on from another."""
        return 0

    @property
    def read(self) -> None:
        """All are in memory."""

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Draw an order of all sequences, `[sequences]`."""
        return rng.permutation(self.sequences)

    def gather(self, rows: Any, steps: int, config: LSTMConfig) -> "Batch":
        """Return the first `steps` steps of the sequences `rows`."""
        of_steps = config.target == "each"
        return Batch(
            self.xs[rows, :steps],
            self.ys[rows, :steps] if of_steps else self.ys[rows],
            None if self.lengths is None else self.lengths[rows],
            None if self.resets is None else self.resets[rows, :steps],
            None if self.weights is None else self.weights[(rows, slice(steps))[: 1 + self._weighs_steps(config)]],
        )

    def rows(self, config: LSTMConfig) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs that are real, `[rows, I]`, and the values to tell, `[rows, C]`, NaN where none counts."""
        real = self._real()
        ys = self.ys if self.weights is None else np.where(behind(self.weights, self.ys) > 0, self.ys, np.nan)
        return self.xs[real], ys[real] if config.target == "each" else ys

    def balanced(self, config: LSTMConfig) -> "Batch":
        """Return the same sequences with weights whose mean over all targets is 1, unknown ones counted as 0.

        Mini-batches whose losses are divided by how many targets they have, of whatever weight, then have on average
        the weighted mean of all, also where each is of few.
        """
        weights, mean = counting(self.ys, self.weights, config), self.mean_weight(config)
        return self if self.weights is None and mean == 1 else self._replace(weights=np.float32(weights / mean))

    def mean_weight(self, config: LSTMConfig) -> float:
        """Return how much a target counts in the mean, unknown ones 0."""
        weights = counting(self.ys, self.weights, config)
        return float((weights[self._real()] if config.target == "each" else weights).mean())

    def _real(self) -> np.ndarray:
        steps = np.full(self.sequences, self.steps) if self.lengths is None else self.lengths
        return np.arange(self.steps) < np.asarray(steps)[:, None]

    def mapped(self, of_inputs: Callable, of_targets: Callable) -> "Batch":
        """Return the same sequences with functions of their inputs and targets in the place of these."""
        return self._replace(xs=of_inputs(self.xs), ys=of_targets(self.ys))

    def _weighs_steps(self, config: LSTMConfig) -> bool:
        return config.target == "each" and np.ndim(self.weights) > 1

    def room(self, *, roomy: bool) -> tuple[int, int]:
        """Return both as powers of two, the steps from 16 up; or only the sequences, a sixteenth more at the most."""
        if not roomy:
            return rounded_up(self.sequences, 5), self.steps
        return rounded_up(self.sequences, 1), max(LEAST_STEPS, rounded_up(self.steps, 1))

    def with_room(self, config: LSTMConfig, *, roomy: bool, masked: bool) -> "Batch":
        """Return the same sequences with sequences and steps of nothing behind them.

        Example:
            >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
            >>> data = Batch(np.ones((5, 20, 1)), np.ones((5, 20), int)).with_room(config, roomy=True, masked=True)
            >>> data.xs.shape, data.lengths
            ((8, 32, 1), array([20, 20, 20, 20, 20,  0,  0,  0], dtype=int32))
        """
        rows, steps = self.room(roomy=roomy)
        lengths = np.full(self.sequences, self.steps) if masked and self.lengths is None else self.lengths
        return Batch(
            filled_up(self.xs, rows, steps),
            filled_up(self.ys, rows, steps) if config.target == "each" else filled_up(self.ys, rows),
            None if lengths is None else filled_up(np.asarray(lengths, np.int32), rows),
            None if self.resets is None else filled_up(self.resets, rows, steps),
            None if self.weights is None else filled_up(self.weights, rows, *[steps] * self._weighs_steps(config)),
        )


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Windows:
    """Overlapping windows over a long text, gathered when they are needed and never built.

    Window k is `ids[k * stride : k * stride + length]`, and its targets are the ids one further on; with one target a
    sequence, that is the id after the window. What a network reads for an id says `inputs_of`.

    A text in a `numpy.memmap` stays on disk: each compiled call of a training is given the windows that it takes, with
    the same result as from memory, and an id out of range ends the training when it is read. Of more than 2^24 such
    windows the order is computed (see `jlstm.orders.shuffled`), and another one than in memory.

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
    streams: ClassVar[int] = 0  # none goes on from another
    lengths: ClassVar[None] = None  # all are of one

    def __post_init__(self) -> None:
        for name in ("length", "stride"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least=1))
        object.__setattr__(self, "ids", _long_text(self.ids, self.length, "length"))
        _read_at_random(self.ids)

    def __len__(self) -> int:
        return -(-(self.ids.shape[0] - self.length) // self.stride)

    @property
    def sequences(self) -> int:
        """How many windows there are."""
        return len(self)

    @property
    def steps(self) -> int:
        """The length of a window."""
        return self.length

    @property
    def read(self) -> Callable[[np.ndarray, LSTMConfig], "Windows"] | None:
        """How windows of a text on disk are read; None where it is in memory."""
        if not isinstance(self.ids, np.memmap):
            return None
        return lambda rows, config: _read_windows(self.ids, rows * self.stride, self.length, config)

    def order(self, rng: np.random.Generator) -> np.ndarray | Computed:
        """Draw an order of all windows, `[sequences]`."""
        if self.read is not None and self.sequences > MOST_SHUFFLED:
            return shuffled(rng, self.sequences)
        return rng.permutation(self.sequences)

    def gather(self, rows: Any, steps: int, config: LSTMConfig) -> Batch:
        """Return the first `steps` steps of the windows `rows`."""
        if self.read is not None:
            return self.read(rows, config).gather(np.arange(len(rows)), steps, config)
        places = (rows * self.stride)[:, None] + jnp.arange(steps + 1)[None]
        return _with_next(self.ids[places], config)

    def room(self, *, roomy: bool) -> tuple[int, int]:
        """Return as many windows as characters with room, or a sixteenth more at the most; and their length."""
        return _characters_with_room(self.ids, True) if roomy else rounded_up(self.sequences, 5), self.steps

    def with_room(self, config: LSTMConfig, *, roomy: bool, masked: bool) -> "Windows":
        """Return the same windows with room behind the text."""
        return _text_with_room(self, roomy)

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

    A text in a `numpy.memmap` stays on disk: each compiled call of a training is given the windows that it takes, with
    the same result as from memory, and an id out of range ends the training when it is read.

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
    lengths: ClassVar[None] = None  # all windows are of one

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

    @property
    def sequences(self) -> int:
        """How many windows all streams have."""
        return self.windows * self.streams

    @property
    def steps(self) -> int:
        """The length of a window."""
        return self.length

    @property
    def read(self) -> Callable[[np.ndarray, LSTMConfig], Windows] | None:
        """How windows of a text on disk are read; None where it is in memory."""
        if not isinstance(self.ids, np.memmap):
            return None
        return lambda rows, config: _read_windows(self.ids, rows, self.length, config)

    def order(self, rng: np.random.Generator) -> np.ndarray | Computed:
        """Draw where the text is cut, and return where each window starts, stream by stream, `[sequences]`."""
        cut, apart = rng.integers(self.characters), (self.characters - 1) // self.streams

        def rows_at(places: np.ndarray) -> np.ndarray:
            stream, window = np.divmod(places, self.windows)
            return (cut + stream * apart + window * self.length) % self.characters

        return rows_at(np.arange(self.sequences)) if self.read is None else Computed(rows_at)

    def gather(self, rows: Any, steps: int, config: LSTMConfig) -> Batch:
        """Return `steps` steps from each of the places `rows` on, the text read as a ring."""
        if self.read is not None:
            return self.read(rows, config).gather(np.arange(len(rows)), steps, config)
        places = rows[:, None] + jnp.arange(steps + 1)[None]
        return _with_next(self.ids[places % self.characters], config)

    def room(self, *, roomy: bool) -> tuple[int, int]:
        """Return as many windows as fit into the characters with room; and their length."""
        return _characters_with_room(self.ids, roomy) // self.length, self.steps

    def with_room(self, config: LSTMConfig, *, roomy: bool, masked: bool) -> "Streams":
        """Return the same streams with room behind the text, which the ring leaves out."""
        return _text_with_room(self, roomy)

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (self.ids, self.characters), (self.streams, self.length)

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: tuple) -> "Streams":
        streams = object.__new__(cls)  # its leaves may be tracers, which can't be checked
        for name, value in zip(("ids", "characters", "streams", "length"), (*leaves, *static), strict=True):
            object.__setattr__(streams, name, value)
        return streams


def take(data: Data, rows: Any, config: LSTMConfig, *, masked: bool = False) -> Batch:
    """Gather a mini-batch, inside a compiled call.

    Args:
        data: all sequences.
        rows: which ones to take, `[batch]` integers, as `order` gives them.
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
    batch = jax.tree.map(jnp.asarray, data).gather(jnp.maximum(rows, 0), data.steps, config)
    if masked:
        lengths = data.steps if batch.lengths is None else batch.lengths
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


def counting(ys: Any, weights: Any, config: LSTMConfig) -> np.ndarray:
    """Return how much each target counts, in float64: its weight, 1 without weights, and 0 where it is unknown.

    Example:
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=1, loss="mse")
        >>> counting(np.array([[[1.0], [np.nan]]]), None, config).tolist()
        [[[1.0], [0.0]]]
    """
    counts = known(ys)
    if config.objective.answers == "classes" and not np.issubdtype(ys.dtype, np.integer):
        counts = counts.all(axis=-1)
    return counts * (1.0 if weights is None else behind(weights, counts).astype(float))


def behind(array: Any, like: Any) -> Any:
    """Return an array with as many axes as another, those that it lacks behind its own.

    Example:
        >>> behind(np.ones(2), np.ones((2, 3))).shape
        (2, 1)
    """
    return array.reshape(*array.shape, *[1] * (like.ndim - array.ndim))


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


def _long_text(ids: Any, length: int, least: str) -> np.ndarray:
    given = numbers("ids", ids)
    on_disk = isinstance(given, np.memmap)
    array = given if on_disk else np.asarray(given)
    if array.ndim != 1:
        raise ValueError(
            f"ids: expected one long text as class ids, [characters], got shape {array.shape}; sequences of numbers "
            "are given to train as X and Y, a table of readings as SeriesWindows"
        )
    if len(array) <= length:
        raise ValueError(f"ids: expected more than {least} = {length} characters, got {len(array)}")
    if on_disk and not is_integer(array):
        raise TypeError(f"ids: expected integers in a numpy.memmap, got {array.dtype}")
    return array if on_disk else class_ids("ids", array, 2**31 - 1)


def _read_at_random(ids: np.ndarray) -> None:
    """Tell the system not to read ahead of what is asked for: with 8 MB each, a window took 4 ms, and now 0.03."""
    file: Any = ids if isinstance(ids, np.memmap) else None
    while isinstance(file, np.ndarray):
        file = file.base
    if hasattr(file, "madvise"):  # which Windows lacks
        file.madvise(mmap.MADV_RANDOM)


def _read_windows(ids: np.memmap, starts: np.ndarray, length: int, config: LSTMConfig) -> Windows:
    """Read windows of a text on disk, a ring, into one in memory, each with the id behind it; zeros for a negative."""
    places = (starts[starts >= 0, None] + np.arange(length + 1)) % len(ids)
    found = ids[places]
    if found.size and not (found.min() >= 0 and found.max() < config.output_size):
        wrong = np.argmax((found < 0) | (found >= config.output_size))
        expected = f"class ids from 0 to {config.output_size - 1}"
        raise ValueError(f"ids: expected {expected}, got {found.flat[wrong]} at index {places.flat[wrong]}")
    text = np.zeros((len(starts), length + 1), np.int32)
    text[starts >= 0] = found
    return Windows.tree_unflatten((length, length + 1), (text.ravel(),))  # they are checked


def _characters_with_room(ids: Any, roomy: bool) -> int:
    return max(LEAST_CHARACTERS, rounded_up(len(ids), 1)) if roomy else rounded_up(len(ids), 5)


def _text_with_room(text: Any, roomy: bool) -> Any:
    (ids, *rest), form = jax.tree.flatten(text)
    return jax.tree.unflatten(form, [filled_up(ids, _characters_with_room(ids, roomy)), *rest])


def _with_next(ids: Any, config: LSTMConfig) -> Batch:
    """Return all ids but the last, `[batch, time]` of `[batch, time + 1]`, with the next ones as their targets."""
    return Batch(inputs_of(ids[:, :-1], config), ids[:, 1:] if config.target == "each" else ids[:, -1])
