"""What users hand in: every accepted form becomes one form, everything else a clear error."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import (
    IDS,
    LAST,
    NUMBER,
    NUMBER_LAST,
    OF_TOKENS,
    ONE,
    ONE_HOT,
    STREAMS,
    WINDOWS,
    X,
    assert_is,
    parametrize,
    refuses,
)

from jlstm import inputs
from jlstm.config import LSTMConfig
from jlstm.data import Batch, Windows
from jlstm.inputs import as_batch, as_predictions, as_sequences, check_text

TWO = LSTMConfig(2, 4, 3)  # features, as ONE has one
MSE, MSE2 = LSTMConfig(1, 4, 1, loss="mse"), LSTMConfig(1, 4, 2, loss="mse")  # by output_size
MSE_LAST = LSTMConfig(1, 4, 1, loss="mse", target="last")

ASKS, ASKS_LAST = LSTMConfig(1, 4, 2, loss="binary_cross_entropy"), LSTMConfig(1, 4, 1, "binary_cross_entropy", "last")
GAUSSIAN = LSTMConfig(1, 4, 2, loss="gaussian")

HOT = np.eye(3)[IDS]
PROBABILITIES = np.array([[[0.5, 0.25, 0.25], [0, 1, 0]], [[0.25, 0.5, 0.25], [1, 0, 0]]])
HOT_BUT_ONE = HOT * [[[1], [np.nan]], [[1], [1]]]
PREDICTIONS = np.full((2, 2, 3, 1), 1 / 3)


# What is accepted

ACCEPTED_X = {
    "float64": X,
    "float32": X.astype(np.float32),
    "float16": X.astype(np.float16),
    "bfloat16": jnp.asarray(X, jnp.bfloat16),
    "big-endian": X.astype(">f8"),
    "column order": np.asfortranarray(X),
    "view": np.repeat(X, 2, axis=1)[:, ::2],
    "jax": jnp.asarray(X),
    "[N, T, 1]": X[..., None],
    "nested lists": X.tolist(),
    "nested lists [N, T, 1]": X[..., None].tolist(),
    "nested tuples": tuple(map(tuple, X)),
    "list of arrays": list(X),
    "list of arrays [T, 1]": list(X[..., None]),
    "list of jax arrays": list(jnp.asarray(X)),
    "list of lists of numbers and scalars": [[np.float32(0.5), 1], [jnp.float32(2), np.array(0.25)]],
    "list of both ranks": [X[0], X[1][:, None]],
    "list of both kinds": [X[0], X[1].tolist()],
}


@parametrize("x", ACCEPTED_X)
def test_every_form_of_x(x):
    batch = as_batch(x, IDS, ONE)
    assert isinstance(batch, Batch)
    assert_is(batch.xs, X[..., None], np.float32)
    assert batch.lengths is None


@parametrize("x", {"int64": IDS, "uint8": IDS.astype(np.uint8), "bool": IDS > 0, "lists of integers": IDS.tolist()})
def test_numbers_of_every_kind_as_x(x):
    assert_is(as_batch(x, IDS, ONE).xs, np.asarray(x)[..., None], np.float32)


@parametrize(
    "x",
    {
        "lists": [[0.5, 1.0], [2.0]],
        "tuples": ((0.5, 1.0), (2.0,)),
        "arrays": [np.array([0.5, 1.0]), np.array([2.0])],
        "arrays [T, 1]": [np.array([[0.5], [1.0]]), np.array([[2.0]])],
        "jax arrays": [jnp.array([0.5, 1.0]), jnp.array([2.0], jnp.bfloat16)],
        "both ranks": [np.array([0.5, 1.0]), np.array([[2.0]])],
    },
)
def test_x_of_different_lengths_is_padded(x):
    batch = as_batch(x, [[0, 2], [1]], ONE)
    assert_is(batch.xs, [[[0.5], [1.0]], [[2.0], [0.0]]], np.float32)
    assert_is(batch.ys, [[0, 2], [1, 0]], np.int32)
    np.testing.assert_array_equal(batch.lengths, [2, 1])


@parametrize("x", {"array": np.ones((2, 3, 2)), "list": [np.ones((3, 2))] * 2, "lists": np.ones((2, 3, 2)).tolist()})
def test_x_of_two_features(x):
    assert_is(as_batch(x, np.zeros((2, 3), int), TWO).xs, np.ones((2, 3, 2)), np.float32)


def test_x_of_one_step_or_one_sequence():
    assert_is(as_batch([[[0.5]]], [[2]], ONE).xs, [[[0.5]]], np.float32)
    assert_is(as_batch(X[:, :1, None], IDS[:, :1], ONE).xs, X[:, :1, None], np.float32)
    assert_is(as_batch(list(X[:, :1]), IDS[:, :1], ONE).xs, X[:, :1, None], np.float32)


@pytest.mark.parametrize("x", [X[:, :1], X[:, :1].tolist(), [[0.5]]], ids=["an array", "lists", "a number"])
@pytest.mark.parametrize("config", [ONE, LAST], ids=["each", "last"])
def test_x_that_may_be_one_sequence_or_many_of_one_step_is_refused(x, config):
    """To train it was the one, to predict the other."""
    message = rf"^X: .* got shape \({len(x)}, 1\), which may be one sequence, X\[None\], or .*, X\[:, None\]"
    with pytest.raises(ValueError, match=message):
        as_batch(x, [0] * len(x), config)


ACCEPTED_Y = {
    "ids": (ONE, IDS, IDS),
    "ids in uint8": (ONE, IDS.astype(np.uint8), IDS),
    "ids in whole floats": (ONE, IDS.astype(float), IDS),
    "ids in bool, of two classes": (LSTMConfig(1, 4, 2), IDS > 0, IDS > 0),
    "ids as columns": (ONE, IDS[..., None], IDS),
    "ids as columns, one a sequence": (LAST, IDS[:, :1], IDS[:, 0]),
    "ids as objects": (ONE, IDS.astype(object), IDS),
    "ids in big-endian": (ONE, IDS.astype(">i8"), IDS),
    "ids in jax": (ONE, jnp.asarray(IDS), IDS),
    "ids in nested lists": (ONE, IDS.tolist(), IDS),
    "ids in a list of arrays": (ONE, list(IDS), IDS),
    "one-hot columns": (ONE, HOT[..., None], IDS),
    "one-hot": (ONE, HOT, IDS),
    "one-hot in integers": (ONE, HOT.astype(int), IDS),
    "one-hot in booleans": (ONE, HOT.astype(bool), IDS),
    "one-hot in bfloat16": (ONE, jnp.asarray(HOT, jnp.bfloat16), IDS),
    "one-hot in a list of arrays": (ONE, list(HOT), IDS),
    "one-hot columns in nested lists": (ONE, HOT[..., None].tolist(), IDS),
    "probabilities": (ONE, PROBABILITIES, PROBABILITIES),
    "probabilities as columns": (ONE, PROBABILITIES[..., None], PROBABILITIES),
    "probabilities in a list": (ONE, list(PROBABILITIES), PROBABILITIES),
    "last: ids": (LAST, IDS[0], IDS[0]),
    "last: ids in a list": (LAST, [0, 2], IDS[0]),
    "last: ids in a list of scalars": (LAST, [np.int64(0), jnp.int32(2)], IDS[0]),
    "last: one-hot columns": (LAST, HOT[0][..., None], IDS[0]),
    "last: one-hot": (LAST, HOT[0], IDS[0]),
    "last: one-hot in a list": (LAST, list(HOT[0]), IDS[0]),
    "last: probabilities": (LAST, PROBABILITIES[:, 0], PROBABILITIES[:, 0]),
    "mse: one output": (MSE, X, X[..., None]),
    "mse: one output [N, T, 1]": (MSE, X[..., None], X[..., None]),
    "mse: one output in columns": (MSE, X[..., None, None], X[..., None]),
    "mse: one output in lists": (MSE, X.tolist(), X[..., None]),
    "mse: one output in integers": (MSE, IDS, IDS[..., None].astype(float)),
    "mse: two outputs": (MSE2, HOT[..., :2], HOT[..., :2]),
    "mse: two outputs in columns": (MSE2, HOT[..., :2, None], HOT[..., :2]),
    "mse: two outputs in a list": (MSE2, list(HOT[..., :2]), HOT[..., :2]),
    "mse, last: one output": (MSE_LAST, X[0], X[0][:, None]),
    "ids of which one is unknown": (ONE, [[0, -100], [1, 1]], np.array([[0, -100], [1, 1]])),
    "ids of which one is NaN": (ONE, [[0, np.nan], [1, 1]], np.array([[0, -100], [1, 1]])),
    "ids in bool of which one is NaN": (LSTMConfig(1, 4, 2), [[True, np.nan], [1, 0]], np.array([[1, -100], [1, 0]])),
    "ids in a list of which one is unknown": (ONE, [IDS[0], [1, -100]], np.array([[0, 2], [1, -100]])),
    "one-hot of which one is NaN": (ONE, HOT_BUT_ONE, np.array([[0, -100], [1, 1]])),
    "one-hot columns in integers of which one is -100": (
        ONE,
        np.nan_to_num(HOT_BUT_ONE, nan=-100).astype(int)[..., None],
        np.array([[0, -100], [1, 1]]),
    ),
    "probabilities of which one is NaN": (ONE, PROBABILITIES + 0 * HOT_BUT_ONE, PROBABILITIES + 0 * HOT_BUT_ONE),
    "last: ids of which one is unknown": (LAST, [-100, 2], np.array([-100, 2])),
    "mse: one output of which one is NaN": (MSE, [[np.nan, 1], [2, -100]], np.array([[[np.nan], [1]], [[2], [-100]]])),
    "mse: -100 is a value": (MSE, IDS - 100, (IDS[..., None] - 100.0)),
    "questions: booleans": (ASKS, HOT[..., :2] > 0, HOT[..., :2]),
    "questions: integers in columns": (ASKS, HOT[..., :2, None].astype(int), HOT[..., :2]),
    "questions: probabilities": (ASKS, PROBABILITIES[..., 1:], PROBABILITIES[..., 1:]),
    "questions: NaN": (ASKS, np.where(HOT > 0, np.nan, 0)[..., 1:], np.where(HOT > 0, np.nan, 0)[..., 1:]),
    "questions: -100": (ASKS, np.where(HOT > 0, -100, 1)[..., 1:], np.where(HOT > 0, np.nan, 1)[..., 1:]),
    "questions, last: booleans": (ASKS_LAST, [True, False], np.array([[1.0], [0]])),
    "questions, last: one is NaN": (ASKS_LAST, [1, np.nan], np.array([[1], [np.nan]])),
    "distributions: two values": (GAUSSIAN, HOT[..., :2], HOT[..., :2]),
    "mse, last: one output [N, 1]": (MSE_LAST, X[0][:, None], X[0][:, None]),
    "mse, last: one output in columns": (MSE_LAST, X[0][:, None, None], X[0][:, None]),
}


@parametrize(("config", "y", "expected"), ACCEPTED_Y)
def test_every_form_of_y(config, y, expected):
    assert_is(as_batch(X, y, config).ys, expected, np.float32 if expected.dtype == float else np.int32)


@parametrize(
    ("config", "y", "expected"),
    {
        "ids": (ONE, [IDS[0], IDS[1][:1]], [[0, 2], [1, 0]]),
        "one-hot": (ONE, [HOT[0], HOT[1][:1]], [[0, 2], [1, 0]]),
        "one-hot columns": (ONE, [HOT[0][..., None], HOT[1][:1, :, None]], [[0, 2], [1, 0]]),
        "probabilities": (ONE, [PROBABILITIES[0], PROBABILITIES[1][:1]], PROBABILITIES * [[[1], [1]], [[1], [0]]]),
        "mse": (MSE, [[0.5, 1.0], [2.0]], [[[0.5], [1.0]], [[2.0], [0.0]]]),
        "mse in columns": (MSE2, [np.ones((2, 2, 1)), np.ones((1, 2, 1))], [[[1.0] * 2] * 2, [[1.0] * 2, [0.0] * 2]]),
        "last": (LAST, [2, 1], [2, 1]),
    },
)
def test_every_form_of_y_of_different_lengths(config, y, expected):
    batch = as_batch([[0.5, 1.0], [2.0]], y, config)
    assert_is(batch.ys, expected, np.float32 if np.asarray(expected).dtype == float else np.int32)
    np.testing.assert_array_equal(batch.lengths, [2, 1])


@parametrize(
    ("config", "x", "kind", "expected"),
    {
        "list of numbers": (ONE, [0.5, 1.0], "one", [X[:1].T]),
        "list of integers": (ONE, [0, 2], "one", [IDS[:1].T]),
        "list of scalar arrays": (ONE, [np.array(0.5), jnp.float32(1)], "one", [X[:1].T]),
        "tuple of numbers": (ONE, (0.5, 1.0), "one", [X[:1].T]),
        "[T]": (ONE, X[0], "one", [X[:1].T]),
        "[T] of integers": (ONE, IDS[0], "one", [IDS[:1].T]),
        "[T] in jax": (ONE, jnp.asarray(X[0], jnp.bfloat16), "one", [X[:1].T]),
        "[T, 1]": (ONE, X[:1].T, "one", [X[:1].T]),
        "[T, 1] in lists": (ONE, [[0.5], [1.0]], "one", [X[:1].T]),
        "[T, 2]": (TWO, X, "one", [X]),
        "[T, 2] in lists": (TWO, X.tolist(), "one", [X]),
        "[N, T, 1]": (ONE, X[..., None], "batch", list(X[..., None])),
        "[N, T, 1] of integers": (ONE, IDS[..., None], "batch", list(IDS[..., None])),
        "[N, T, 1] in jax": (ONE, jnp.asarray(X[..., None]), "batch", list(X[..., None])),
        "[N, T, 1] in lists": (ONE, X[..., None].tolist(), "batch", list(X[..., None])),
        "[1, T, 2]": (TWO, X[None], "batch", [X]),
        "list of arrays": (ONE, list(X), "list", list(X[..., None])),
        "tuple of arrays": (ONE, tuple(X), "list", list(X[..., None])),
        "list of one array": (ONE, [X[0]], "list", [X[:1].T]),
        "list of jax arrays": (ONE, list(jnp.asarray(X)), "list", list(X[..., None])),
        "list of arrays of both ranks": (ONE, [X[0], X[1][:, None]], "list", list(X[..., None])),
        "list of arrays of different lengths": (ONE, [X[0], X[1][:1]], "list", [X[:1].T, X[1:, :1]]),
        "list of an array and a list": (ONE, [X[0], [2.0]], "list", [X[:1].T, X[1:, :1]]),
        "list of [T, 2]": (TWO, [X, X[:1]], "list", [X, X[:1]]),
    },
)
def test_rank_decides_what_predict_is_asked(config, x, kind, expected):
    sequences, got = as_sequences(x, config)
    assert got == kind
    assert len(sequences) == len(expected)
    for sequence, one in zip(sequences, expected, strict=True):
        assert_is(sequence, one, np.float32)


@parametrize(
    ("config", "predictions", "targets", "expected"),
    {
        "one": (ONE, PREDICTIONS[0], [0, 2], [IDS[0]]),
        "one, one-hot columns": (ONE, PREDICTIONS[0], HOT[0][..., None], [IDS[0]]),
        "one, in jax": (ONE, jnp.asarray(PREDICTIONS[0]), jnp.asarray(IDS[0]), [IDS[0]]),
        "batch": (ONE, PREDICTIONS, IDS, list(IDS)),
        "batch, probabilities": (ONE, PREDICTIONS, PROBABILITIES, list(PROBABILITIES)),
        "list": (ONE, list(PREDICTIONS), HOT, list(IDS)),
        "list of different lengths": (ONE, [PREDICTIONS[0], PREDICTIONS[1][:1]], [[0, 2], [1]], [IDS[0], IDS[1][:1]]),
        "last, one": (LAST, PREDICTIONS[0, 0], 2, [[2]]),
        "last, one, one-hot column": (LAST, PREDICTIONS[0, 0], HOT[0, 1][:, None], [[2]]),
        "last, batch": (LAST, PREDICTIONS[0], [0, 2], [[0], [2]]),
        "last, list": (LAST, list(PREDICTIONS[0]), HOT[0], [[0], [2]]),
        "mse, one": (MSE, PREDICTIONS[0, :, :1], X[0], [X[:1].T]),
        "mse, batch": (MSE2, PREDICTIONS[:, :, :2], HOT[..., :2], list(HOT[..., :2])),
        "mse, last, one": (MSE_LAST, PREDICTIONS[0, 0, :1], 0.5, [[[0.5]]]),
    },
)
def test_every_form_of_predictions(config, predictions, targets, expected):
    pairs = as_predictions(predictions, targets, config)
    assert len(pairs) == len(expected)
    for (prediction, target), one in zip(pairs, expected, strict=True):
        assert_is(prediction, np.full((len(one), config.output_size), np.float32(1 / 3)), np.float64)
        assert_is(target, one, np.float32 if np.asarray(one).dtype == float else np.int32)


# What is not

EVIL = {
    "None": lambda: None,
    "number": lambda: 3,
    "0-d array": lambda: np.array(1.0),
    "string": lambda: "hello",
    "bytes": lambda: b"hello",
    "list of strings": lambda: ["to", "be"],
    "array of strings": lambda: np.array([["1", "2"], ["3", "4"]]),
    "dict": lambda: {"a": [0, 1], "b": [1, 0]},
    "set": lambda: {1, 2},
    "function": lambda: len,
    "generator": lambda: (row for row in IDS),
    "list of generators": lambda: [(i for i in row) for row in IDS],
    "list of dicts": lambda: [{0: 1}, {0: 1}],
    "list with None": lambda: [None, [0, 1]],
    "list with a string": lambda: [[0, 1], [0, "1"]],
    "objects": lambda: np.array([[0, {}], [1, 1]], object),
    "objects of which one is a string": lambda: np.array([[0, "1"], [1, 1]], object),
    "object array of strings": lambda: np.array(["a", np.zeros(3)], object),
    "structured array": lambda: np.zeros((2, 2), [("a", float), ("b", int)]),
    "complex array": lambda: X.astype(complex),
    "list of complex numbers": lambda: [[0j, 1], [1, 0]],
    "dates": lambda: X.astype("datetime64[s]"),
    "durations": lambda: IDS.astype("timedelta64[s]"),
    "random keys": lambda: jax.random.split(jax.random.key(0), (2, 2)),
    "integers of 70 bits": lambda: [[2**70, 0], [0, 0]],
    "empty list": list,
    "empty tuple": tuple,
    "list of an empty list": lambda: [[]],
    "lists of nothing": lambda: [[], []],
    "no sequences": lambda: np.zeros((0, 2)),
    "no steps": lambda: np.zeros((2, 0), int),
    "ragged inside": lambda: [[0, [1]], [0, 1]],
    "five axes": lambda: np.zeros((2, 2, 1, 1, 1)),
    "NaN": lambda: np.array([[0, 1], [np.nan, 0]]),
    "infinity": lambda: [[0, 1], [-np.inf, 0]],
    "beyond float32": lambda: np.array([[0, 1e300]] * 2),
}
ROLES = {
    "X": lambda value: as_batch(value, IDS, ONE),
    "Y": lambda value: as_batch(X, value, ONE),
    "Y, last": lambda value: as_batch(X, value, LAST),
    "Y, mse": lambda value: as_batch(X, value, MSE),
    "x": lambda value: as_sequences(value, ONE),
    "predictions": lambda value: as_predictions(value, IDS, ONE),
    "targets": lambda value: as_predictions(PREDICTIONS, value, ONE),
    "ids": lambda value: Windows(value, length=2),
}


UNKNOWN = {("NaN", role) for role in ("Y", "Y, mse", "targets")}  # there, it stands for a target that is unknown


@pytest.mark.parametrize(
    ("evil", "role"),
    [
        pytest.param(evil, role, id=f"{evil} as {role}")
        for evil in EVIL
        for role in ROLES
        if (evil, role) not in UNKNOWN
    ],
)
def test_nonsense_gives_an_error_that_names_the_argument_and_says_what_was_expected_and_what_came(evil, role):
    name = role.split(",")[0]
    with pytest.raises((ValueError, TypeError), match=rf"(?s)^{name}(\[\d+\])?: expected .+, got .+"):
        ROLES[role](EVIL[evil]())


@parametrize(
    ("config", "x", "error", "name", "expected", "got"),
    {
        "[T]": (ONE, X[0], ValueError, "X", "[N, T] or [N, T, 1]", "shape (2,)"),
        "[N, T] for two features": (TWO, X, ValueError, "X", "[N, T, 2]", "shape (2, 2)"),
        "[N, T, 3]": (ONE, HOT, ValueError, "X", "[N, T, 1]", "shape (2, 2, 3)"),
        "[N, T, 3] for two features": (TWO, HOT, ValueError, "X", "[N, T, 2]", "shape (2, 2, 3)"),
        "[N, T, 2, 1]": (TWO, X[None, ..., None], ValueError, "X", "[N, T, 2]", "shape (1, 2, 2, 1)"),
        "list of numbers": (ONE, [0.5, 1.0], ValueError, "X", "[N, T]", "shape (2,)"),
        "a number among lists": (ONE, [[0.5, 1.0], 2.0], ValueError, "X[1]", "[T] or [T, 1]", "shape ()"),
        "[T, 2] in a list": (ONE, [X, X[0]], ValueError, "X[0]", "I = 1", "shape (2, 2)"),
        "[T, 1] for two features": (TWO, [X, X[:, :1]], ValueError, "X[1]", "I = 2", "shape (2, 1)"),
        "[T, 1, 1] in a list": (ONE, [X[0], X[:1, :1, None]], ValueError, "X[1]", "[T, 1]", "shape (1, 1, 1)"),
        "no sequences": (ONE, [], ValueError, "X", "at least one sequence", "none"),
        "no sequences in an array": (ONE, X[:0], ValueError, "X", "at least one sequence", "shape (0, 2"),
        "no steps": (ONE, X[:, :0], ValueError, "X", "at least one time step", "empty sequences"),
        "no steps in one": (ONE, [X[0], X[0, :0]], ValueError, "X[1]", "at least one time step", "an empty sequence"),
        "NaN": (ONE, X * [[1, np.nan]], ValueError, "X", "finite numbers", "nan at index (0, 1"),
        "NaN in sequence 3": (ONE, [[1, 2], [1], [1], [1, 2, np.nan]], ValueError, "X[3]", "finite", "nan at index (2"),
        "NaN in bfloat16": (ONE, jnp.asarray(X * np.nan, "bfloat16"), ValueError, "X", "finite", "nan at index (0, 0"),
        "infinity": (ONE, X - np.inf, ValueError, "X", "finite", "-inf at index (0, 0"),
        "beyond float32": (ONE, X * 1e300, ValueError, "X", "finite numbers in float32", "5e+299 at index (0, 0"),
        "strings": (ONE, [["1", "2"], ["3", "4"]], TypeError, "X[0]", "numbers", "strings"),
        "complex": (ONE, X + 1j, TypeError, "X", "real numbers", "complex"),
        "ragged inside": (ONE, [[0, [1]], [0, 1]], ValueError, "X[0]", "a regular array", "parts of different shapes"),
    },
)
def test_x_that_does_not_fit(config, x, error, name, expected, got):
    with refuses(error, name, expected, got):
        as_batch(x, IDS, config)


@parametrize(
    ("config", "y", "error", "name", "expected", "got"),
    {
        "one sequence more": (ONE, [[0, 1]] * 3, ValueError, "Y", "the 2 sequences of X", "shape (3, 2)"),
        "one sequence less": (ONE, IDS[:1], ValueError, "Y", "the 2 sequences of X", "shape (1, 2)"),
        "a step more in one": (ONE, [[0, 1], [0, 1, 2]], ValueError, "Y[1]", "2 time steps as in X[1]", "3"),
        "a step less in all": (ONE, IDS[:, :1], ValueError, "Y[0]", "2 time steps as in X[0]", "1"),
        "one a sequence": (ONE, IDS[0], ValueError, "Y", "each time step", "shape (2,); a network"),
        "a column": (
            ONE,
            IDS[:, :1],
            ValueError,
            "Y[0]",
            "2 time steps as in X[0]",
            "1; a network that has one target",
        ),
        "one-hot, one a sequence": (
            ONE,
            HOT[0],
            ValueError,
            "Y[0]",
            "2 time steps",
            "3; a network that has one target",
        ),
        "each, of last": (
            LAST,
            IDS,
            ValueError,
            "Y",
            "[N]",
            "shape (2, 2); a network that has a target for each time step",
        ),
        "two values of one": (
            MSE,
            np.ones((2, 2, 2)),
            ValueError,
            "Y",
            "[N, T, 1]",
            "shape (2, 2, 2); a network for them has output_size=2",
        ),
        "one value of two": (
            MSE2,
            np.ones((2, 2)),
            ValueError,
            "Y",
            "[N, T, 2]",
            "shape (2, 2); a network for them has output_size=1",
        ),
        "a number among lists": (ONE, [[0, 1], 2], (ValueError, TypeError), "Y", "", ""),
        "two classes of three": (ONE, HOT[..., :2], ValueError, "Y", "[N, T, 3]", "shape (2, 2, 2)"),
        "classes that differ": (ONE, [HOT[0], HOT[1, :, :2]], ValueError, "Y", "one shape", "[(2, 2), (2, 3)]"),
        "five axes": (ONE, HOT[..., None, None], ValueError, "Y", "[N, T, 3]", "shape (2, 2, 3, 1, 1)"),
        "wrong columns": (ONE, HOT[..., :2, None], ValueError, "Y", "[N, T, 3, 1]", "shape (2, 2, 2, 1)"),
        "id too high": (ONE, IDS + 1, ValueError, "Y", "class ids from 0 to 2", "3"),
        "id beyond int32": (ONE, IDS + 2**32, ValueError, "Y", "class ids from 0 to 2", "4294967298"),
        "id negative": (ONE, IDS - 1, ValueError, "Y", "class ids from 0 to 2", "-1"),
        "ids in float": (ONE, IDS * 0.5, TypeError, "Y", "class ids as integers", "float64, 0.5 among them"),
        "ids in bool": (
            ONE,
            IDS > 0,
            TypeError,
            "Y",
            "class ids as integers",
            "booleans, which name 2 classes and not 3",
        ),
        "probabilities below 0": (ONE, 3 * HOT - 2 / 3, ValueError, "Y", "probabilities, each from 0 up", ""),
        "probabilities of sum 2": (ONE, 2 * HOT, ValueError, "Y", "probabilities, each from 0 up with sum 1", ""),
        "no class": (ONE, 0 * HOT, ValueError, "Y", "probabilities, each from 0 up with sum 1", ""),
        "NaN alone": (ONE, HOT * np.nan, ValueError, "Y", "at least one known target of a weight above 0", "none"),
        "-100 alone": (ONE, 0 * IDS - 100, ValueError, "Y", "at least one known target", "none"),
        "infinity": (
            ONE,
            HOT - np.inf,
            ValueError,
            "Y",
            "finite numbers in float32, or NaN for unknown ones",
            "-inf at",
        ),
        "questions: above 1": (ASKS, 2 * HOT[..., :2], ValueError, "Y", "booleans, or probabilities of yes", "2.0"),
        "questions: below 0": (ASKS, HOT[..., :2] - 1, ValueError, "Y", "probabilities of yes from 0 to 1", "-1.0"),
        "questions: one of two": (ASKS, IDS > 0, ValueError, "Y", "[N, T, 2]", "shape (2, 2); a network for them"),
        "questions: three of two": (ASKS, HOT, ValueError, "Y", "[N, T, 2]", "shape (2, 2, 3); a network for them"),
        "mse: NaN alone": (MSE, X * np.nan, ValueError, "Y", "at least one known target", "none"),
        "last: one a step": (LAST, IDS, ValueError, "Y", "class ids [N]", "shape (2, 2)"),
        "last: one-hot a step": (LAST, HOT, ValueError, "Y", "[N, 3]", "shape (2, 2, 3)"),
        "last: shapes that differ": (LAST, [1, [0, 1]], ValueError, "Y", "one shape", "[(), (2,)]"),
        "last: one sequence more": (LAST, [0, 1, 2], ValueError, "Y", "the 2 sequences of X", "shape (3,)"),
        "mse: one output of two": (MSE2, X, ValueError, "Y", "[N, T, 2, 1] or [N, T, 2]", "shape (2, 2)"),
        "mse: three outputs of one": (MSE, HOT, ValueError, "Y", "[N, T]", "shape (2, 2, 3)"),
        "mse: infinity": (MSE, X + np.inf, ValueError, "Y", "finite numbers", "inf at index (0, 0"),
        "mse: beyond float32": (MSE, X * 1e300, ValueError, "Y", "finite numbers in float32", "5e+299 at index"),
        "mse, last: one a step": (MSE_LAST, X, ValueError, "Y", "[N]", "shape (2, 2)"),
    },
)
def test_y_that_does_not_fit(config, y, error, name, expected, got):
    with refuses(error, name, expected, got):
        as_batch(X, y, config)


def test_y_of_another_length_where_x_is_ragged():
    with refuses(ValueError, "Y[1]", "1 time steps as in X[1]", "2"):
        as_batch([[0.5, 1.0], [2.0]], IDS, ONE)


def test_errors_call_the_arguments_by_the_names_they_were_given():
    names = ("validation_data[0]", "validation_data[1]", "validation_data[2]")
    with refuses(ValueError, "validation_data[0]", "sequences", "shape"):
        as_batch(HOT, IDS, ONE, names)
    with refuses(ValueError, "validation_data[1]", "the 2 sequences of validation_data[0]", "shape"):
        as_batch(X, IDS[:1], ONE, names)
    with refuses(ValueError, "validation_data[2]", "numbers from 0 up", "-1.0"):
        as_batch(X, IDS, ONE, names, weights=[1, -1])


@parametrize(
    ("config", "x", "error", "name", "expected", "got"),
    {
        "[N, T]": (ONE, X, ValueError, "x", "I = 1", "shape (2, 2); write x[..., None]"),
        "[N, T] in lists": (ONE, X.tolist(), ValueError, "x", "I = 1", "shape (2, 2); write x[..., None]"),
        "[T, 3] for two features": (TWO, HOT[0], ValueError, "x", "I = 2", "shape (2, 3)"),
        "[T] for two features": (TWO, X[0], ValueError, "x", "[T, 2]", "shape (2,)"),
        "[N, T, 3]": (ONE, HOT, ValueError, "x", "[N, T, 1]", "shape (2, 2, 3)"),
        "[N, T, 1, 1]": (ONE, X[..., None, None], ValueError, "x", "[T, 1]", "shape (2, 2, 1, 1)"),
        "no steps": (ONE, [], ValueError, "x", "at least one time step", "an empty sequence"),
        "no sequences": (ONE, X[:0, :, None], ValueError, "x", "at least one sequence", "shape (0, 2, 1)"),
        "no steps in all": (ONE, X[:, :0, None], ValueError, "x", "at least one time step", "empty sequences"),
        "no steps in one": (ONE, [X[0], X[0, :0]], ValueError, "x[1]", "at least one time step", "an empty sequence"),
        "ragged lists": (ONE, [[0.5, 1.0], [2.0]], ValueError, "x", "a regular array", "parts of different shapes"),
        "ragged lists of arrays": (ONE, [[X[0], X[0, :1]]], ValueError, "x", "a regular array", "parts of different"),
        "a number among arrays": (ONE, [X[0], 2.0], ValueError, "x[1]", "[T] or [T, 1]", "shape ()"),
        "[T, 2] in a list": (ONE, [X[0], X], ValueError, "x[1]", "I = 1", "shape (2, 2)"),
        "[N, T, 1] in a list": (ONE, [X[..., None]], ValueError, "x[0]", "[T, 1]", "shape (2, 2, 1)"),
        "NaN": (ONE, [0.5, np.nan], ValueError, "x", "finite numbers", "nan at index (1"),
        "NaN in a list": (ONE, [X[0], X[0] * np.nan], ValueError, "x[1]", "finite numbers", "nan at index (0"),
        "strings": (ONE, ["to", "be"], TypeError, "x", "numbers", "strings"),
        "complex": (ONE, [1j], TypeError, "x", "real numbers", "complex"),
    },
)
def test_what_predict_can_not_be_asked(config, x, error, name, expected, got):
    with refuses(error, name, expected, got):
        as_sequences(x, config)


@parametrize("x", {"[T, 3] for two features": HOT[0], "list of [T, 3]": [HOT[0]], "no features": X[:, :0]})
def test_a_batch_of_one_feature_is_advised_only_where_it_fits(x):
    with pytest.raises(ValueError, match=r"^x(\[0\])?: expected .*, got shape \(2, [03]\)$"):
        as_sequences(x, TWO)


@parametrize(
    ("config", "predictions", "targets", "error", "name", "expected", "got"),
    {
        "rank 2": (ONE, HOT[0], IDS[0], ValueError, "predictions", "[T, C, 1]", "shape (2, 3)"),
        "two classes": (ONE, PREDICTIONS[:, :, :2], IDS, ValueError, "predictions[0]", "C = 3", "shape (2, 2, 1)"),
        "last: rank 1": (LAST, HOT[0, 0], 2, ValueError, "predictions", "[C, 1]", "shape (3,)"),
        "last: one a step": (LAST, list(PREDICTIONS), 2, ValueError, "predictions[0]", "[C, 1]", "shape (2, 3, 1)"),
        "none": (ONE, [], [], ValueError, "predictions", "at least one sequence", "none"),
        "NaN": (ONE, PREDICTIONS * np.nan, IDS, ValueError, "predictions[0]", "finite", "nan at index (0, 0, 0)"),
        "a step more": (
            ONE,
            PREDICTIONS[0],
            [0, 1, 2],
            ValueError,
            "targets[0]",
            "2 time steps as in predictions",
            "3",
        ),
        "a sequence more": (ONE, PREDICTIONS, [[0, 1]] * 3, ValueError, "targets", "2 sequences", "shape (3, 2)"),
        "id too high": (ONE, PREDICTIONS[0], [0, 3], ValueError, "targets", "class ids from 0 to 2", "3"),
        "ids in float": (ONE, PREDICTIONS[0], [0.0, 0.5], TypeError, "targets", "class ids as integers", "float64"),
        "no steps": (ONE, PREDICTIONS[0, :0], IDS[0, :0], ValueError, "predictions", "time step", ""),
        "no steps, mse": (MSE, np.zeros((0, 1, 1)), X[0, :0], ValueError, "predictions", "time step", ""),
    },
)
def test_predictions_that_can_not_be_compared(config, predictions, targets, error, name, expected, got):
    with refuses(error, name, expected, got):
        as_predictions(predictions, targets, config)


# Weights

RAGGED = [np.array([0.5, 1.0]), np.array([2.0])]
RAGGED_IDS = [[0, 2], [1]]
WEIGHTS = np.array([[0.5, 0], [1, 3]])


@parametrize(
    ("config", "y", "weights", "expected"),
    {
        "none": (ONE, IDS, None, None),
        "[N]": (ONE, IDS, [1, 2], [1, 2]),
        "[N, T]": (ONE, IDS, WEIGHTS, WEIGHTS),
        "[N, T] in lists": (ONE, IDS, WEIGHTS.tolist(), WEIGHTS),
        "[N, T] in jax": (ONE, IDS, jnp.asarray(WEIGHTS), WEIGHTS),
        "booleans": (ONE, IDS, WEIGHTS > 0, WEIGHTS > 0),
        "a list of arrays": (ONE, IDS, list(WEIGHTS), WEIGHTS),
        "last: [N]": (LAST, [0, 2], [0, 2], [0, 2]),
        "mse: [N]": (MSE2, HOT[..., :2], [1, 2], [1, 2]),
        "mse: [N, T]": (MSE2, HOT[..., :2], WEIGHTS, WEIGHTS),
        "mse: [N, T, C]": (MSE2, HOT[..., :2], HOT[..., 1:], HOT[..., 1:]),
        "questions, last: [N, C]": (ASKS_LAST, [0, 1], [[1], [2]], [[1], [2]]),
    },
)
def test_every_form_of_weights(config, y, weights, expected):
    found = as_batch(X, y, config, weights=weights).weights
    if expected is None:
        assert found is None
        return
    assert_is(found, np.asarray(expected, np.float32), np.float32)


def test_weights_of_different_lengths_are_padded():
    batch = as_batch(RAGGED, RAGGED_IDS, ONE, weights=[[1, 2], [3]])
    assert_is(batch.weights, [[1, 2], [3, 0]], np.float32)
    assert_is(as_batch(RAGGED, RAGGED_IDS, ONE, weights=[1, 2]).weights, [1, 2], np.float32)
    of_answers = [np.ones((2, 2)), np.full((1, 2), 3)]
    batch = as_batch(RAGGED, of_answers, MSE2, weights=of_answers)
    assert_is(batch.weights, [[[1, 1], [1, 1]], [[3, 3], [0, 0]]], np.float32)


@parametrize(
    ("config", "y", "weights", "class_weights", "expected"),
    {
        "ids": (ONE, IDS, None, [1, 2, 3], [[1, 3], [2, 2]]),
        "unknown ids": (ONE, [[0, -100], [2, 1]], None, [1, 2, 3], [[1, None], [3, 2]]),
        "probabilities": (ONE, PROBABILITIES, None, [1, 2, 4], [[2, 2], [2.25, 1]]),
        "and of sequences": (ONE, IDS, [1, 10], [1, 2, 3], [[1, 3], [20, 20]]),
        "and of steps": (ONE, IDS, WEIGHTS, [1, 2, 3], [[0.5, 0], [2, 6]]),
        "last": (LAST, [0, 2], None, [1, 2, 3], [1, 3]),
        "a class of weight 0": (LAST, [0, 2], None, [0, 0, 3], [0, 3]),
        "questions": (ASKS, HOT[..., :2] > 0, None, [1, 5], [[[5, 1], [1, 1]], [[1, 5], [1, 5]]]),
        "questions, probabilities": (ASKS_LAST, [0.25, 1], None, [1, 5], [[2], [5]]),
        "questions, unknown": (ASKS_LAST, [np.nan, 1], None, [1, 5], [[None], [5]]),
        "questions, and of sequences": (ASKS_LAST, [0, 1], [2, 3], [1, 5], [[2], [15]]),
    },
)
def test_class_weights_are_those_of_the_targets_classes(config, y, weights, class_weights, expected):
    batch = as_batch(X, y, config, weights=weights, class_weights=class_weights)
    expected = np.array(expected, float)  # NaN for None: of an unknown target, any
    assert batch.weights.shape == expected.shape
    assert np.isfinite(batch.weights).all()
    known = ~np.isnan(expected)
    np.testing.assert_allclose(batch.weights[known], expected[known], rtol=1e-6)


@parametrize(
    ("config", "y", "weights", "error", "name", "expected", "got"),
    {
        "a number": (ONE, IDS, 3.0, ValueError, "weights", "shape (2,) or (2, 2)", "shape ()"),
        "[N + 1]": (ONE, IDS, [1, 2, 3], ValueError, "weights", "shape (2,) or (2, 2)", ""),
        "of answers of classes": (ONE, IDS, HOT, ValueError, "weights", "shape (2,) or (2, 2)", "shape (2, 2, 3)"),
        "of steps of one target": (
            LAST,
            [0, 1],
            WEIGHTS,
            ValueError,
            "weights",
            "shape (2,)",
            "shape (2, 2)",
        ),
        "of three of two": (MSE2, HOT[..., :2], HOT, ValueError, "weights", "(2, 2, 2)", "shape (2, 2, 3)"),
        "negative": (ONE, IDS, -WEIGHTS, ValueError, "weights", "numbers from 0 up", "-3"),
        "NaN": (ONE, IDS, [1, np.nan], ValueError, "weights", "finite numbers", "nan at index (1,)"),
        "infinity": (ONE, IDS, [1, np.inf], ValueError, "weights", "finite numbers", "inf at index (1,)"),
        "strings": (ONE, IDS, ["a", "b"], TypeError, "weights[0]", "numbers", "strings"),
        "none": (ONE, IDS, [], ValueError, "weights", "at least one", "none"),
        "too few steps in one": (ONE, IDS, [[1, 2], [1]], ValueError, "weights[1]", "2 time steps", "shape (1,)"),
        "a number among lists": (ONE, IDS, [[1, 2], 1], ValueError, "weights[1]", "2 time steps", "shape ()"),
        "lists of one target": (LAST, [0, 1], [[1, 2], [1]], ValueError, "weights", "one shape", "[(1,), (2,)]"),
        "shapes that differ": (
            MSE2,
            HOT[..., :2],
            [np.ones((2, 2)), np.ones(2)],
            ValueError,
            "weights",
            "one shape",
            "",
        ),
        "all 0": (ONE, IDS, [0, 0], ValueError, "Y", "at least one known target of a weight above 0", "none"),
        "all 0 but of the unknown": (
            ONE,
            [[0, 1], [-100, -100]],
            [0, 1],
            ValueError,
            "Y",
            "at least one known target of a weight above 0",
            "none",
        ),
    },
)
def test_weights_that_do_not_fit(config, y, weights, error, name, expected, got):
    with refuses(error, name, expected, got):
        as_batch(X, y, config, weights=weights)


def test_weights_of_nothing_but_padding_are_refused():
    with refuses(ValueError, "Y", "at least one known target of a weight above 0", "none"):
        as_batch(RAGGED, [[0, -100], [1]], ONE, weights=np.array([[0, 1], [0, 1]]))
    with refuses(ValueError, "weights", "shape (2,) or (2, 2)", "shape (3, 2)"):
        as_batch(RAGGED, RAGGED_IDS, ONE, weights=[[1, 2], [3], [4]])


@parametrize(
    ("config", "y", "class_weights", "error", "expected", "got"),
    {
        "values": (MSE, X, [1, 2], ValueError, "None with loss='mse', which has no classes", ""),
        "two of three": (ONE, IDS, [1, 2], ValueError, "3 numbers, of each class", "[1, 2]"),
        "three of questions": (ASKS, HOT[..., :2], [1, 2, 3], ValueError, "2 numbers, of no and yes", "[1, 2, 3]"),
        "a dict": (ONE, IDS, {0: 1, 1: 2, 2: 3}, TypeError, "numbers", ""),
        "a number": (ONE, IDS, 2.0, ValueError, "3 numbers", "2.0"),
        "negative": (ONE, IDS, [1, -1, 1], ValueError, "numbers from 0 up", "-1"),
        "NaN": (ONE, IDS, [1, np.nan, 1], ValueError, "finite numbers", "nan at index (1,)"),
    },
)
def test_class_weights_that_do_not_fit(config, y, class_weights, error, expected, got):
    with pytest.raises(error, match="^" + ".*".join(map(re.escape, ("class_weights: expected ", expected, got)))):
        as_batch(X, y, config, class_weights=class_weights)


def test_classes_of_no_weight_alone_are_refused():
    with refuses(ValueError, "Y", "at least one known target of a weight above 0", "none"):
        as_batch(X, [0, 1], LAST, class_weights=[0, 0, 3])


# Tokens

TOKENS, TOKENS_LAST = (LSTMConfig(4, 4, 3, inputs="tokens", target=target) for target in ("each", "last"))
A_LIST = [np.array([3, 0, 1]), np.array([2])]


@parametrize(
    ("x", "y", "xs", "lengths"),
    {
        "[N, T]": (IDS + 1, IDS, IDS + 1, None),
        "lists": ((IDS + 1).tolist(), IDS, IDS + 1, None),
        "jax, uint8": (jnp.asarray(IDS, jnp.uint8), IDS, IDS, None),
        "list of arrays": (list(IDS), IDS, IDS, None),
        "of different lengths": (A_LIST, [[0, 1, 2], [1]], [[3, 0, 1], [2, 0, 0]], [3, 1]),
        "lists of different lengths": ([[3, 0, 1], [2]], [[0, 1, 2], [1]], [[3, 0, 1], [2, 0, 0]], [3, 1]),
    },
)
def test_every_form_of_tokens(x, y, xs, lengths):
    batch = as_batch(x, y, TOKENS)
    assert_is(batch.xs, xs, np.int32)
    assert batch.lengths is lengths or batch.lengths.tolist() == lengths
    assert as_batch(x, [0, 1], TOKENS_LAST).ys.tolist() == [0, 1]


@parametrize(
    ("x", "kind", "expected"),
    {
        "list": ([3, 0, 1], "one", [[3, 0, 1]]),
        "array": (np.array([3, 0, 1]), "one", [[3, 0, 1]]),
        "[N, T]": (IDS, "batch", IDS.tolist()),
        "[1, T]": (IDS[:1], "batch", IDS[:1].tolist()),
        "nested lists": (IDS.tolist(), "batch", IDS.tolist()),
        "list of arrays": (A_LIST, "list", [[3, 0, 1], [2]]),
        "list of arrays of one length": (list(IDS), "list", IDS.tolist()),
    },
)
def test_rank_decides_what_predict_is_asked_of_tokens(x, kind, expected):
    sequences, got = as_sequences(x, TOKENS)
    assert got == kind
    for sequence, ids in zip(sequences, expected, strict=True):
        assert_is(sequence, ids, np.int32)


@parametrize(
    ("x", "error", "name", "expected", "got"),
    {
        "floats": (IDS / 2, TypeError, "", "class ids as integers", "float64"),
        "beyond the last": (IDS + 2, ValueError, "", "class ids from 0 to 3", "4"),
        "negative": (IDS - 1, ValueError, "", "class ids from 0 to 3", "-1"),
        "one-hot": (np.eye(4, dtype=int)[IDS], ValueError, "", "[N, T]", "shape (2, 2, 4)"),
        "two columns": (HOT[..., :2], ValueError, "", "[N, T]", "shape (2, 2, 2)"),
        "no step": (IDS[:, :0], ValueError, "", "at least one", "shape (2, 0)"),
        "no sequence": (IDS[:0], ValueError, "", "", ""),
        "in a list: floats": ([np.array([0.5]), np.array([0, 1])], TypeError, "[0]", "class ids", "float64"),
        "in a list: too large": ([[0], [1, 4]], ValueError, "[1]", "class ids from 0 to 3", "4"),
        "in a list: two axes": ([IDS, IDS[:1]], ValueError, "[0]", "[T]", "shape (2, 2)"),
        "in a list: empty": ([[0], []], (TypeError, ValueError), "[1]", "", ""),
    },
)
def test_tokens_that_do_not_fit(x, error, name, expected, got):
    with refuses(error, f"X{name}", expected, got):
        as_batch(x, IDS, TOKENS)


@pytest.mark.parametrize("x", [3, [0.5], [[[0, 1]]], [4], [np.array([0]), np.array([4])], []], ids=str)
def test_tokens_predict_can_not_be_asked_about(x):
    with pytest.raises((TypeError, ValueError), match=r"^x(\[\d\])?: expected .*, got "):
        as_sequences(x, TOKENS)


# Texts


each_text = pytest.mark.parametrize("text", [WINDOWS, STREAMS], ids=["windows", "streams"])


@each_text
@pytest.mark.parametrize("config", [NUMBER, ONE_HOT, OF_TOKENS, LSTMConfig(1, 4, 9)])
def test_check_text_returns_what_fits(text, config):
    assert check_text(text, config) is text
    assert check_text(WINDOWS, NUMBER_LAST) is WINDOWS


def assert_refused(text, config, message):
    for name in ("X", "validation_data"):
        with pytest.raises(ValueError, match=f"^{name}: {message}$"):
            check_text(text, config, *([] if name == "X" else [name]))


@each_text
@parametrize(
    ("config", "message"),
    {
        "mse": (LSTMConfig(1, 4, 5, loss="mse"), "class ids need a network with loss='cross_entropy', got 'mse'"),
        "two features": (
            LSTMConfig(2, 4, 5),
            "class ids need .* one feature .* output_size = 5, got 2 features",
        ),
        "too few tokens": (
            LSTMConfig(1, 4, 5, inputs="tokens"),
            "class ids need .* output_size = 5, got 1 tokens",
        ),
        "too few classes": (LSTMConfig(1, 4, 4), "expected ids below output_size = 4, got 4"),
    },
)
def test_check_text_refuses(text, config, message):
    assert_refused(text, config, message)


def test_check_text_refuses_streams_for_one_target():
    assert_refused(STREAMS, NUMBER_LAST, "a score at each step needs a network with target='each', got 'last'")


def test_one_wrong_probability_among_right_ones_is_refused():
    for target in (1.01, 0.99):
        wrong = PROBABILITIES.copy()
        wrong[1, 0] *= target
        with pytest.raises(
            ValueError, match=r"^Y: expected one-hot vectors or probabilities, each from 0 up with sum 1"
        ):
            as_batch(X, wrong, ONE)


def test_a_list_of_one_sequence():
    for sequence in (X[0], X[0, :1]):
        batch = as_batch([sequence], [IDS[0, : len(sequence)]], ONE)
        assert_is(batch.xs, [sequence[:, None]], np.float32)
        assert batch.lengths is None
    np.testing.assert_array_equal(inputs._pad([X[0]], 3), [[*X[0], 0]])


# Whatever is handed in


DTYPES = "?", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "S2", "U2", "M8[s]", "m8[s]", "O"
scalars = st.one_of(
    st.integers(-2, 6),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.complex_numbers(),
    st.text(max_size=2),
    st.binary(max_size=2),
)


@st.composite
def arrays(draw, shape=None, dtypes=DTYPES):
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if shape is None:
        shape = draw(st.lists(st.integers(0, 3), max_size=4))
    small = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, size=shape)
    array = small.astype(dtype)
    if array.size and dtype.kind in "fiO" and draw(st.integers(0, 3)) == 0:
        array.flat[0] = draw(st.sampled_from([np.nan, np.inf, -1.0] if dtype.kind in "fO" else [-1, 100]))
    return jnp.asarray(array) if dtype.str[1:] in ("i4", "f4") and draw(st.booleans()) else array


@st.composite
def nearly_right(draw, lengths, below, widths, dtypes):
    """Sequences of one length or several, in an array, a list or a list of lists, seldom with something wrong."""
    if draw(st.integers(0, 9)) == 0:
        below, widths, dtypes = 4, [(), (1,), (2,), (3, 1)], ["i8", "f4", "?", "O"]
    width, dtype = draw(st.sampled_from(widths)), draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    parts = [rng.integers(below, size=(n, *width)).astype(dtype) for n in lengths]
    if draw(st.integers(0, 9)) == 0:
        parts[-1] = draw(arrays())
    form = draw(st.sampled_from(["list", "tuple", "lists", "array", "object array"]))
    if form == "lists":
        return [np.asarray(part).tolist() for part in parts]
    if form == "array" and len({(part.shape, part.dtype) for part in parts}) == 1:
        return np.stack(parts)
    if form == "object array":
        boxed = np.empty(len(parts), object)
        for k, part in enumerate(parts):
            boxed[k] = part
        return boxed
    return tuple(parts) if form == "tuple" else parts


nested = st.recursive(
    st.one_of(scalars, arrays()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.text(max_size=1), inner, max_size=2)
    ),
    max_leaves=6,
)
CONFIGS = [
    LSTMConfig(*sizes, loss, target, inputs)
    for sizes in ((1, 2, 3), (3, 2, 1), (2, 2, 2))
    for loss in ("cross_entropy", "mse", "binary_cross_entropy", "gaussian")[sizes == (3, 2, 1) :]
    for target in ("each", "last")
    for inputs in ("features", "tokens")
]


def result_or_error(call, pattern):
    """Return what a call gives, or None where it raises one of the two errors and names the argument."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        message = str(error)
    assert re.match(pattern, message), message
    return None


def check_batch_or_error(config, X, Y):
    batch = result_or_error(lambda: as_batch(X, Y, config), r"[XY](\[\d+\])?: ")
    if batch is None:
        return
    rows, time = batch.xs.shape[:2]
    tokens = config.inputs == "tokens"
    assert (batch.xs.dtype, batch.xs.ndim) == ((np.int32, 2) if tokens else (np.float32, 3))
    assert np.isfinite(batch.xs).all()
    assert batch.xs.shape == ((rows, time) if tokens else (rows, time, config.input_size))
    assert rows > 0
    assert time > 0
    expected = (rows, time) if config.target == "each" else (rows,)
    if batch.ys.dtype == np.int32:
        assert (config.loss, batch.ys.shape) == ("cross_entropy", expected)
        assert batch.ys[batch.ys != -100].min() >= 0
        assert batch.ys.max() < config.output_size
    else:
        assert (batch.ys.dtype, batch.ys.shape) == (np.float32, (*expected, config.output_size))
    if batch.lengths is not None:
        assert batch.lengths.shape == (rows,)
        assert 1 <= batch.lengths.min() < batch.lengths.max() == time


def check_sequences_or_error(config, x):
    found = result_or_error(lambda: as_sequences(x, config), r"x(\[\d+\])?: ")
    if found is None:
        return
    sequences, kind = found
    rank, dtype = (1, np.int32) if config.inputs == "tokens" else (2, np.float32)
    assert kind in ("one", "batch", "list")
    assert isinstance(sequences, list) == (kind == "list")
    assert kind != "one" or len(sequences) == 1
    for sequence in sequences:
        assert (sequence.ndim, sequence.dtype) == (rank, dtype)
        assert len(sequence) > 0
        assert rank == 1 or sequence.shape[1] == config.input_size
        assert np.isfinite(sequence).all()


@st.composite
def handed_in(draw):
    config = draw(st.sampled_from(CONFIGS))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    if draw(st.booleans()):
        lengths = [lengths[0]] * len(lengths)
    features, classes = config.input_size, config.output_size
    if config.inputs == "tokens":
        X = nearly_right(lengths, features, [()], ["i8", "u2", "i4"])
    else:
        X = nearly_right(lengths, 3, [(), (1,)] if features == 1 else [(features,)], ["f8", "f4", "f2", "i8", "?"])
    steps = lengths if config.target == "each" else [1] * len(lengths)
    if config.objective.answers == "questions":
        Y = nearly_right(steps, 2, [(classes,), (classes, 1)], ["?", "f4", "i8"])
    elif config.objective.answers == "values":
        Y = nearly_right(steps, 3, [(classes,), (classes, 1)], ["f8", "f4", "i8"])
    else:
        Y = nearly_right(steps, classes, [()], ["i8", "i4", "u2"])
    given_x, given_y = draw(X), draw(Y)
    if config.target == "last" and not isinstance(given_y, np.ndarray):
        given_y = [y[0] if np.ndim(y) else y for y in given_y if np.ndim(y) == 0 or len(y)]
    if draw(st.integers(0, 9)) == 0:
        given_x = draw(nested)
    if draw(st.integers(0, 9)) == 0:
        given_y = draw(nested)
    return config, given_x, given_y


@settings(max_examples=300)
@given(handed_in())
def test_whatever_is_handed_in_is_a_batch_or_an_error_that_names_it(drawn):
    check_batch_or_error(*drawn)
    check_sequences_or_error(*drawn[:2])


@pytest.mark.slow
@settings(max_examples=20_000, derandomize=False)
@given(handed_in())
def test_whatever_is_handed_in_for_long(drawn):
    check_batch_or_error(*drawn)
    check_sequences_or_error(*drawn[:2])


# Arrays of objects


def boxed(*sequences):
    """As `numpy.load` and what splits data into parts give sequences of different length."""
    array = np.empty(len(sequences), object)
    array[:] = sequences
    return array


def test_an_object_array_of_sequences_is_a_list_of_them():
    sequences, targets = [np.array([0.5, 1.0]), np.array([2.0])], [np.array([0, 2]), np.array([1])]
    batch, expected = as_batch(boxed(*sequences), boxed(*targets), ONE), as_batch(sequences, targets, ONE)
    for got, wanted in zip(batch, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    found, kind = as_sequences(boxed(*sequences), ONE)
    assert (kind, [len(sequence) for sequence in found]) == ("list", [2, 1])
    table = as_batch(X.astype(object), IDS, ONE)  # as a table of several kinds of columns gives numbers
    assert_is(table.xs, X[..., None], np.float32)


def test_tokens_as_keras_has_them():
    batch = as_batch(IDS[..., None], IDS, TOKENS)
    assert_is(batch.xs, IDS, np.int32)
    assert_is(as_batch(IDS.astype(float), IDS, TOKENS).xs, IDS, np.int32)
    assert_is(as_sequences(IDS[..., None], TOKENS)[0], IDS, np.int32)
    [one, other] = as_sequences([IDS[0][:, None], IDS[1]], TOKENS)[0]
    assert_is(np.stack([one, other]), IDS, np.int32)
    with pytest.raises(ValueError, match=r"^X: expected ids \[N, T\].*; write X\.argmax\(-1\) for one-hot vectors"):
        as_batch(np.eye(4)[IDS], IDS, TOKENS)


@pytest.mark.parametrize(
    ("x", "config", "advice"),
    [
        (X[0], ONE, r"; write X\[None\] for one sequence"),
        (X, TWO, r"; write X\[None\] for one sequence, X\[:, None\] for 2 of one step"),
        (np.ones((2, 3)), TWO, "; a network that reads one feature has input_size=1"),
        (np.ones((2, 3, 4)), TWO, "; a network for them has input_size=4"),
    ],
    ids=["one sequence", "one of two features", "one feature", "four features"],
)
def test_the_remedy_is_named(x, config, advice):
    with pytest.raises(ValueError, match=f"^X: expected .*, got shape .*{advice}"):
        as_batch(x, np.zeros(len(x), int), config)


def test_none_among_targets_is_unknown():
    batch = as_batch(np.zeros((2, 2)), np.array([[0, None], [1, 1]], object), LSTMConfig(1, 4, 3))
    np.testing.assert_array_equal(batch.ys, [[0, -100], [1, 1]])
