"""What training takes its mini-batches from: sequences, windows over a text, and streams."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stored import mostly_zeros, on_disk

from jlstm import data as data_module
from jlstm.config import LSTMConfig
from jlstm.data import (
    Batch,
    Streams,
    Windows,
    inputs_of,
    rounded_up,
    take,
)

ONE, LAST = LSTMConfig(1, 4, 3), LSTMConfig(1, 4, 3, target="last")
X = np.array([[0.5, 1.0], [2.0, 0.25]])  # exact in bfloat16
IDS = np.array([[0, 2], [1, 1]])


def assert_is(array, expected, dtype):
    assert type(array) is np.ndarray
    assert (array.dtype, array.shape) == (dtype, np.shape(expected))
    np.testing.assert_array_equal(array, np.asarray(expected, dtype))


def parametrize(names, cases):
    """Parametrise over a dict from ids to parameters."""
    return pytest.mark.parametrize(names, list(cases.values()), ids=list(cases))


def refuses(error, name, expected, got):
    """Expect an error of the form `name: expected …, got …` whose parts hold the given ones."""
    return pytest.raises(error, match="^" + ".*".join(map(re.escape, (f"{name}: expected ", expected, f", got {got}"))))


# Windows over a text

TEXT = np.random.default_rng(0).integers(5, size=23)
NUMBER, ONE_HOT = LSTMConfig(1, 4, 5), LSTMConfig(5, 4, 5)
OF_TOKENS = LSTMConfig(5, 4, 5, inputs="tokens")
NUMBER_LAST, ONE_HOT_LAST = LSTMConfig(1, 4, 5, target="last"), LSTMConfig(5, 4, 5, target="last")


@pytest.mark.parametrize("length", [1, 4, 22])
@pytest.mark.parametrize("stride", [1, 2, 3, 40])
def test_windows_are_as_many_as_documented(length, stride):
    windows = Windows(TEXT, length, stride)
    assert len(windows) == windows.sequences == len(range(0, len(TEXT) - length, stride))


@parametrize(
    "config",
    {"number": NUMBER, "id": ONE_HOT, "token": OF_TOKENS, "number, last": NUMBER_LAST, "id, last": ONE_HOT_LAST},
)
@pytest.mark.parametrize("stride", [1, 3])
def test_take_gives_the_windows_built_by_hand(config, stride):
    windows = Windows(TEXT, 4, stride)
    starts = range(0, len(TEXT) - 4, stride)
    ids = np.array([TEXT[start : start + 4] for start in starts])
    targets = np.array([TEXT[start + 1 : start + 5] for start in starts])
    batch = jax.jit(take)(windows, np.arange(len(windows)), config)
    assert batch.lengths is None
    np.testing.assert_array_equal(batch.ys, targets[:, -1] if config.target == "last" else targets)
    if config.input_size == 1:
        np.testing.assert_array_equal(batch.xs, np.float32(ids[..., None]) / np.float32(5))
    else:
        np.testing.assert_array_equal(batch.xs, ids)
        assert jnp.issubdtype(batch.xs.dtype, jnp.integer)


@pytest.mark.parametrize("config", [NUMBER, ONE_HOT, OF_TOKENS, LSTMConfig(2, 4, 2, inputs="tokens")])
def test_inputs_of_ids(config):
    ids = jnp.asarray(TEXT[None])
    expected = np.float32(TEXT[None, :, None] / 5) if config is NUMBER else ids
    np.testing.assert_array_equal(inputs_of(ids, config), expected)


def test_take_rows_in_any_order_and_more_than_once():
    rows = np.array([3, 0, 3])
    np.testing.assert_array_equal(take(Windows(TEXT, 4, 2), rows, NUMBER).ys[:, 0], TEXT[2 * rows + 1])
    xs = np.array([[0.5, 1.0], [2.0, 0.0], [0.25, 3.0], [4.0, 0.0]])[..., None]
    batch = Batch(xs, np.array([[0, 1], [2, 0], [1, 0], [2, 0]]), np.array([2, 1, 2, 1]))
    taken = take(batch, rows, ONE)
    for array, whole in zip(taken[:3], batch[:3], strict=True):
        np.testing.assert_array_equal(array, whole[rows])


ROWS = np.array([1, -1, 0])


@parametrize(
    ("data", "lengths"),
    {
        "windows": (Windows(np.arange(5) % 3, 2), [2, 0, 2]),
        "streams": (Streams(np.arange(5) % 3, 2, 2), [2, 0, 2]),
        "batch": (Batch(X[..., None], IDS), [2, 0, 2]),
        "batch of different lengths": (Batch(X[..., None], IDS, np.array([2, 1])), [1, 0, 2]),
    },
)
def test_negative_rows_have_length_zero_where_padded(data, lengths):
    padded, plain = take(data, ROWS, ONE, masked=True), take(data, np.maximum(ROWS, 0), ONE)
    np.testing.assert_array_equal(padded.lengths, lengths)
    for array, whole in zip(padded[:2], plain[:2], strict=True):
        assert array.shape == whole.shape
        np.testing.assert_array_equal(array[::2], whole[::2])


def test_take_leaves_lengths_alone_where_nothing_is_padded():
    assert take(Batch(X[..., None], IDS), np.array([1]), ONE).lengths is None
    np.testing.assert_array_equal(take(Batch(X[..., None], IDS, np.array([2, 1])), np.array([1]), ONE).lengths, [1])
    assert Batch(X[..., None], IDS).sequences == 2


def test_windows_hold_nothing_but_the_ids():
    windows = Windows(TEXT, 4, 2)
    [ids] = jax.tree.leaves(windows)
    assert_is(ids, TEXT, np.int32)
    assert vars(windows).keys() == {"ids", "length", "stride"}


def test_windows_are_a_pytree_that_passes_through_jit():
    windows = Windows(TEXT, np.int64(4), np.uint8(2))
    through = jax.jit(lambda windows: windows)(windows)
    assert (type(through), through.length, through.stride, len(through)) == (Windows, 4, 2, len(windows))
    assert (type(windows.length), type(windows.stride)) == (int, int)
    np.testing.assert_array_equal(through.ids, TEXT)
    traced = []
    lengths = jax.jit(lambda windows: traced.append(1) or jnp.zeros(windows.length))
    assert lengths(windows).shape == lengths(Windows(TEXT[::-1], 4, 2)).shape == (4,)
    assert len(traced) == 1
    assert lengths(Windows(TEXT, 3, 2)).shape == (3,)


@parametrize("ids", {"list": TEXT.tolist(), "uint8": TEXT.astype(np.uint8), "jax": jnp.asarray(TEXT)})
def test_every_form_of_ids(ids):
    assert_is(Windows(ids, 4).ids, TEXT, np.int32)


@parametrize(
    ("arguments", "error", "name", "expected", "got"),
    {
        "as long as the text": ((TEXT, 23), ValueError, "ids", "more than length = 23", "23"),
        "no text": (([], 1), ValueError, "ids", "more than length = 1", "0"),
        "two axes": ((IDS, 1), ValueError, "ids", "one long text", "shape (2, 2)"),
        "negative id": ((TEXT - 1, 4), ValueError, "ids", "class ids from 0", "-1"),
        "id beyond int32": ((TEXT + 2**32, 4), ValueError, "ids", "class ids from 0", "429496"),
        "floats": ((TEXT / 5, 4), TypeError, "ids", "class ids as integers", "float64"),
        "booleans": ((TEXT > 2, 4), TypeError, "ids", "class ids as integers", "bool"),
        "a string": (("to be", 2), TypeError, "ids", "", "strings"),
        "length 0": ((TEXT, 0), ValueError, "length", "at least 1", "0"),
        "length in float": ((TEXT, 4.0), TypeError, "length", "an integer", "4.0"),
        "length True": ((TEXT, True), TypeError, "length", "an integer", "True"),
        "stride 0": ((TEXT, 4, 0), ValueError, "stride", "at least 1", "0"),
        "stride negative": ((TEXT, 4, -2), ValueError, "stride", "at least 1", "-2"),
        "stride a string": ((TEXT, 4, "2"), TypeError, "stride", "an integer", "'2'"),
    },
)
def test_windows_that_can_not_be(arguments, error, name, expected, got):
    with refuses(error, name, expected, got):
        Windows(*arguments)


def test_windows_start_at_every_character_unless_told_otherwise():
    windows = Windows(TEXT, 4)
    assert (windows.stride, len(windows)) == (1, len(TEXT) - 4)


# Streams over a text


@pytest.mark.parametrize(("streams", "length"), [(1, 1), (1, 22), (2, 4), (3, 7), (22, 1), (5, 3)])
def test_windows_of_a_stream_are_as_many_as_fit_with_their_targets(streams, length):
    data = Streams(TEXT, streams, length)
    assert data.windows == (22 // streams) // length >= 1
    assert data.sequences == streams * data.windows


@pytest.mark.parametrize("config", [NUMBER, OF_TOKENS])
def test_take_reads_a_text_as_a_ring(config):
    places = np.array([0, 17, 18, 22, 19])
    batch = jax.jit(take)(Streams(TEXT, len(places), 4), places, config)
    ring = np.array([np.roll(TEXT, -place)[:5] for place in places])
    np.testing.assert_allclose(batch.xs, inputs_of(ring[:, :4], config), rtol=1e-6)
    np.testing.assert_array_equal(batch.ys, ring[:, 1:])
    assert batch.lengths is None


def test_streams_are_a_pytree_of_the_ids_that_passes_through_jit():
    streams = Streams(TEXT.tolist(), np.int64(2), np.uint8(4))
    ids, characters = jax.tree.leaves(streams)
    assert_is(ids, TEXT, np.int32)
    assert characters == streams.characters == len(TEXT)
    assert (type(streams.streams), type(streams.length)) == (int, int)
    through = jax.jit(lambda streams: streams)(streams)
    assert (type(through), through.streams, through.length, through.windows) == (Streams, 2, 4, 2)
    np.testing.assert_array_equal(through.ids, TEXT)


@parametrize(
    ("arguments", "error", "name", "expected", "got"),
    {
        "as long as the text": ((TEXT, 1, 23), ValueError, "ids", "more than streams * length = 1 * 23 = 23", "23"),
        "too many": ((TEXT, 24, 1), ValueError, "ids", "more than streams * length = 24 * 1 = 24", "23"),
        "two axes": ((IDS, 1, 1), ValueError, "ids", "one long text", "shape (2, 2)"),
        "negative id": ((TEXT - 1, 2, 4), ValueError, "ids", "class ids from 0", "-1"),
        "floats": ((TEXT / 5, 2, 4), TypeError, "ids", "class ids as integers", "float64"),
        "a string": (("to be", 1, 2), TypeError, "ids", "", "strings"),
        "streams 0": ((TEXT, 0, 4), ValueError, "streams", "at least 1", "0"),
        "streams in float": ((TEXT, 2.0, 4), TypeError, "streams", "an integer", "2.0"),
        "length 0": ((TEXT, 2, 0), ValueError, "length", "at least 1", "0"),
        "length True": ((TEXT, 2, True), TypeError, "length", "an integer", "True"),
    },
)
def test_streams_that_can_not_be(arguments, error, name, expected, got):
    with refuses(error, name, expected, got):
        Streams(*arguments)


WINDOWS, STREAMS = Windows(TEXT, 4), Streams(TEXT, 2, 4)


# Room for others


def test_sizes_are_rounded_to_so_many_binary_digits():
    assert [rounded_up(n, 1) for n in range(1, 10)] == [1, 2, 4, 4, 8, 8, 8, 8, 16]
    assert [rounded_up(n, 5) for n in (1, 31, 32, 33, 62, 63, 64, 65, 1000)] == [1, 31, 32, 34, 62, 64, 64, 68, 1024]
    for n in range(1, 300):
        assert n <= rounded_up(n, 5) <= 1.0625 * n


@pytest.mark.parametrize("config", [ONE, LAST])
def test_data_with_room_give_the_same_batches(config):
    ys = IDS if config is ONE else IDS[:, 0]
    batch = Batch(np.float32(X)[..., None], ys, None)
    assert batch.with_room(config, roomy=False, masked=False) == batch
    roomy = Batch(*(np.concatenate([a, a[:1]]) for a in batch[:2])).with_room(config, roomy=True, masked=True)
    assert (roomy.xs.shape, roomy.ys.shape) == ((4, 16, 1), (4, 16) if config is ONE else (4,))
    taken = take(roomy, np.array([1, -1]), config, masked=True)
    np.testing.assert_array_equal(taken.lengths, [2, 0])
    np.testing.assert_array_equal(taken.xs[0, :2, 0], X[1])
    np.testing.assert_array_equal(taken.ys[0, :2] if config is ONE else taken.ys[0], ys[1])
    ragged = batch._replace(lengths=np.array([1, 2])).with_room(config, roomy=True, masked=True)
    np.testing.assert_array_equal(ragged.lengths, [1, 2])


def test_texts_with_room_give_the_same_windows():
    places = np.array([0, 17, 18])
    for text in (Windows(TEXT, 4), Streams(TEXT, 3, 4)):
        roomy = text.with_room(NUMBER, roomy=True, masked=False)
        assert roomy.ids.shape == (2**16,)
        assert text.with_room(NUMBER, roomy=False, masked=False).ids.shape == (23,)
        jax.tree.map(np.testing.assert_array_equal, take(roomy, places, NUMBER), take(text, places, NUMBER))


def test_steps():
    for data, steps, with_room in (
        (Batch(np.zeros((3, 5, 1)), np.zeros((3, 5))), 5, 16),
        (Batch(np.zeros((3, 17, 1)), np.zeros((3, 17))), 17, 32),
        (Windows(TEXT, 4, 2), 4, 4),
        (Streams(TEXT, 2, 4), 4, 4),
    ):
        assert (data.steps, data.room(roomy=True)[1], data.room(roomy=False)[1]) == (steps, with_room, steps)


# What every kind of data has to say

OFFSETS = np.arange(8)
LONG = np.random.default_rng(1).integers(5, size=(6, 8))
BATCH = Batch(LONG[:, :-1], LONG[:, 1:])
RAGGED = BATCH._replace(lengths=np.array([7, 2, 3, 7, 1, 5]), resets=np.random.default_rng(2).random((6, 7)) < 0.3)
# Data with the text, `[rows, time + 1]`, that each row reads and has for its targets.
KINDS = {
    "batch": (BATCH, LONG),
    "batch with lengths and resets": (RAGGED, LONG),
    "windows": (Windows(TEXT, 7, 2), np.stack([TEXT[start : start + 8] for start in range(0, 16, 2)])),
    "streams": (Streams(TEXT, 2, 5), np.stack([TEXT[(start + OFFSETS[:6]) % 23] for start in range(23)])),
}
KINDS |= {
    "windows on disk": (Windows(on_disk(TEXT), 7, 2), KINDS["windows"][1]),
    "streams on disk": (Streams(on_disk(TEXT, np.int64), 2, 5), KINDS["streams"][1]),
}
every_kind = parametrize(("data", "texts"), KINDS)


def assert_gathered(batch, data, texts, rows, steps):
    """Assert that a batch has these rows; behind their lengths it may have anything."""
    rows, steps = np.asarray(rows), np.full(len(rows), steps)
    if data.lengths is not None:
        steps = np.minimum(steps, data.lengths[rows])
        np.testing.assert_array_equal(batch.lengths, data.lengths[rows])
    for k, (row, n) in enumerate(zip(rows, steps, strict=True)):
        np.testing.assert_array_equal(batch.xs[k, :n], texts[row, :n])
        np.testing.assert_array_equal(batch.ys[k, :n], texts[row, 1 : n + 1])
        if batch.resets is not None:
            np.testing.assert_array_equal(batch.resets[k, :n], data.resets[row, :n])


@every_kind
def test_what_is_gathered_is_what_was_there(data, texts):
    rows = np.array([3, 0, 3, len(texts) - 1])
    for steps in (1, 3, data.steps):
        batch = data.gather(rows, steps, OF_TOKENS)
        assert batch.xs.shape == batch.ys.shape == (4, steps)
        assert_gathered(batch, data, texts, rows, steps)
    taken = jax.jit(take)(data, rows, OF_TOKENS)
    assert (taken.lengths is None, taken.resets is None) == (data is not RAGGED,) * 2
    assert_gathered(taken, data, texts, rows, data.steps)


@every_kind
def test_gathered_on_the_host_as_within_a_compiled_call(data, texts):
    rows = np.arange(len(texts))[::-1]
    taken, gathered = take(data, rows, NUMBER_LAST), data.gather(rows, data.steps, NUMBER_LAST)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), taken, gathered)


@every_kind
def test_an_order_has_every_sequence_once_and_another_place_in_each_epoch(data, texts):
    places = np.arange(data.sequences)
    first, again, other = (data.order(np.random.default_rng(seed))[places] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    for order in (first, other):
        assert order.shape == np.unique(order).shape == (data.sequences,)
        assert 0 <= order.min() <= order.max() < len(texts)
        if data.streams == 0:
            assert data.sequences == len(texts)
            continue
        batches = order.reshape(data.streams, -1).T  # each row goes on in the next
        assert ((batches[1:] - batches[:-1]) % len(TEXT) == data.steps).all()


@every_kind
@pytest.mark.parametrize("roomy", [True, False], ids=["roomy", "tight"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "all real"])
def test_data_with_room_are_the_same_with_nothing_behind(data, texts, roomy, masked):
    held, rows = data.with_room(OF_TOKENS, roomy=roomy, masked=masked), np.arange(len(texts))
    assert type(held) is type(data)
    assert held.steps == data.room(roomy=roomy)[1]
    assert data.sequences <= data.room(roomy=roomy)[0]
    batch = take(held, rows, OF_TOKENS)
    assert_gathered(batch._replace(lengths=data.lengths), data, texts, rows, data.steps)
    if batch.lengths is not None:
        np.testing.assert_array_equal(batch.lengths, data.steps if data.lengths is None else data.lengths)
    for array, whole in zip(jax.tree.leaves(held), jax.tree.leaves(data), strict=False):
        filled = np.array(array)
        filled[tuple(slice(n) for n in np.shape(whole))] = 0
        assert not filled.any()


@every_kind
def test_data_near_by_in_size_have_the_same_shape_with_room(data, texts):
    fewer = jax.tree.map(lambda array: array[:-1] if np.ndim(array) else array - 1, data)
    held = [kind.with_room(OF_TOKENS, roomy=True, masked=True) for kind in (fewer, data)]
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(one)] for one in held]
    assert fewer.sequences <= data.sequences
    assert fewer.room(roomy=True) == data.room(roomy=True)
    assert shapes[0] == shapes[1]
    assert jax.tree.structure(held[0]) == jax.tree.structure(held[1])


def test_resets_are_gathered_and_padded():
    rows = np.array([2, -1])
    taken = jax.jit(take, static_argnames="masked")(RAGGED, rows, OF_TOKENS, masked=True)
    np.testing.assert_array_equal(taken.resets[0], RAGGED.resets[2])
    roomy = RAGGED.with_room(OF_TOKENS, roomy=True, masked=True)
    assert (roomy.resets.dtype, roomy.resets.shape) == (bool, (8, 16))
    np.testing.assert_array_equal(roomy.resets[:6, :7], RAGGED.resets)
    assert roomy.resets.sum() == RAGGED.resets.sum() > 0
    assert RAGGED.gather(np.array([4, 1]), 2, OF_TOKENS).resets.shape == (2, 2)
    assert BATCH.with_room(OF_TOKENS, roomy=True, masked=True).resets is None


@dataclasses.dataclass(frozen=True)
class Mean(LSTMConfig):
    """A network with a third kind of target."""

    def __post_init__(self):
        pass


@every_kind
def test_whatever_is_no_target_for_each_step_is_one_a_sequence(data, texts):
    mean, last = Mean(1, 4, 5, target="mean"), NUMBER_LAST
    rows = np.array([1, 2])
    data = data._replace(ys=np.arange(6)) if isinstance(data, Batch) else data
    got, expected = data.gather(rows, 2, mean), data.gather(rows, 2, last)
    assert got.ys.shape == (2,)
    np.testing.assert_array_equal(got.ys, expected.ys)
    roomy = data.with_room(mean, roomy=True, masked=True)
    jax.tree.map(np.testing.assert_array_equal, roomy, data.with_room(last, roomy=True, masked=True))


# Texts on disk


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, ">i2", np.int32, np.int64, np.uint64])
def test_what_is_read_from_disk_is_the_same_in_memory(dtype):
    rows = np.array([3, 0, -1, 3])
    for text in (Windows(TEXT, 4, 2), Streams(TEXT, 2, 4)):
        found = dataclasses.replace(text, ids=on_disk(TEXT, dtype)).read(rows, OF_TOKENS)
        assert (type(found), found.sequences, found.steps, found.read) == (Windows, 4, 4, None)
        assert (type(found.ids), found.ids.dtype) == (np.ndarray, np.int32)
        for k, row in enumerate(rows):
            taken, expected = take(found, np.array([k]), OF_TOKENS), take(text, np.array([row]), OF_TOKENS)
            jax.tree.map(np.testing.assert_array_equal, taken, jax.tree.map(lambda a, r=row: a * (r >= 0), expected))
        nothing = dataclasses.replace(text, ids=on_disk(TEXT, dtype)).read(np.array([-1]), OF_TOKENS)
        np.testing.assert_array_equal(nothing.ids, np.zeros(5))


def test_only_what_is_on_disk_is_read():
    memory = (BATCH, Windows(TEXT, 4), Streams(TEXT, 2, 4), Windows(np.asarray(on_disk(TEXT)), 4))
    assert [data.read for data in memory] == [None] * 4


def test_a_text_on_disk_is_not_touched_before_it_is_read():
    ids = mostly_zeros(10**10, {10**10 - 6: range(1, 7), 0: [0, 7]})
    windows, streams = Windows(ids, 4), Streams(ids, 3, 4)
    assert windows.ids is streams.ids is ids
    assert (windows.sequences, streams.sequences) == (10**10 - 4, 3 * ((10**10 - 1) // 12))
    config = LSTMConfig(8, 4, 8, inputs="tokens")
    np.testing.assert_array_equal(windows.gather(np.array([10**10 - 6]), 4, config).xs, [[1, 2, 3, 4]])
    np.testing.assert_array_equal(windows.read(np.array([10**10 - 5]), config).ids, [2, 3, 4, 5, 6])
    np.testing.assert_array_equal(streams.read(np.array([10**10 - 3]), config).ids, [4, 5, 6, 0, 7])  # it is a ring


def test_an_order_of_a_text_on_disk_is_that_of_the_same_in_memory(monkeypatch):
    def order(data):
        return data.order(np.random.default_rng(3))[np.arange(data.sequences)]

    for kind in (lambda ids: Windows(ids, 4), lambda ids: Streams(ids, 2, 3)):
        np.testing.assert_array_equal(order(kind(on_disk(TEXT))), order(kind(TEXT)))
    monkeypatch.setattr(data_module, "MOST_SHUFFLED", 18)
    kept, longer = Windows(on_disk(TEXT), 5), Windows(on_disk(TEXT), 4)
    np.testing.assert_array_equal(order(kept), order(Windows(TEXT, 5)))
    assert (order(longer) != order(Windows(TEXT, 4))).any()
    np.testing.assert_array_equal(np.sort(order(longer)), np.arange(19))


@parametrize(
    ("arguments", "error", "name", "expected", "got"),
    {
        "as long as the text": ((on_disk(TEXT), 23), ValueError, "ids", "more than length = 23", "23"),
        "two axes": ((on_disk(TEXT)[:22].reshape(2, 11), 1), ValueError, "ids", "one long text", "shape (2, 11)"),
        "floats": ((on_disk(TEXT, np.float32), 4), TypeError, "ids", "integers in a numpy.memmap", "float32"),
        "booleans": ((on_disk(TEXT > 2, bool), 4), TypeError, "ids", "integers in a numpy.memmap", "bool"),
    },
)
def test_texts_on_disk_that_can_not_be(arguments, error, name, expected, got):
    with refuses(error, name, expected, got):
        Windows(*arguments)


@pytest.mark.parametrize(("wrong", "dtype"), [(-1, np.int8), (5, np.uint8), (2**40, np.int64), (2**63, np.uint64)])
def test_ids_out_of_range_are_found_when_they_are_read(wrong, dtype):
    ids = TEXT.astype(dtype)
    ids[17] = wrong
    for data in (Windows(on_disk(ids, dtype), 4), Streams(on_disk(ids, dtype), 2, 4)):
        data.read(np.arange(13), NUMBER)
        with refuses(ValueError, "ids", "class ids from 0 to 4", f"{wrong} at index 17"):
            data.read(np.arange(14), NUMBER)
