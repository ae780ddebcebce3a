"""What a user may hand in, what it becomes, and what each mistake is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm.data import Batch, Windows, as_batch, as_predictions, as_sequences, check_windows, count, inputs_of, take
from jlstm.model import LSTMConfig

ONE, TWO = LSTMConfig(1, 4, 3), LSTMConfig(2, 4, 3)
LAST = LSTMConfig(1, 4, 3, target="last")
VALUES = LSTMConfig(1, 4, 1, loss="mse")
X = np.array([[0.0, 0.5, 1.0, 0.5], [1.0, 0.0, 0.5, 0.0]])
IDS = np.array([[0, 1, 2, 1], [2, 0, 1, 0]])
HOT = np.eye(3)[IDS]
SOFT = np.full((2, 4, 3), 1 / 3)


@pytest.mark.parametrize(
    "x",
    [X, X[..., None], X.tolist(), list(X), list(X[..., None]), jnp.asarray(X), tuple(X)],
    ids=lambda x: str(type(x)),
)
@pytest.mark.parametrize(
    "y", [IDS, HOT, HOT[..., None], IDS.tolist(), list(HOT[..., None]), jnp.asarray(IDS)], ids=lambda y: str(type(y))
)
def test_each_form_becomes_the_same_batch(x, y):
    batch = as_batch(x, y, ONE)
    np.testing.assert_array_equal(batch.xs, X[..., None].astype(np.float32))
    np.testing.assert_array_equal(batch.ys, IDS)
    assert (batch.xs.dtype, batch.ys.dtype, batch.lengths) == (np.float32, np.int32, None)


@pytest.mark.parametrize(
    "y", [IDS[:, 0], HOT[:, 0], HOT[:, 0, :, None], IDS[:, 0].tolist()], ids=lambda y: str(type(y))
)
def test_each_form_of_one_target_a_sequence(y):
    np.testing.assert_array_equal(as_batch(X, y, LAST).ys, IDS[:, 0])


@pytest.mark.parametrize("y", [X, X[..., None], X[..., None, None]], ids=["[N, T]", "[N, T, 1]", "[N, T, 1, 1]"])
def test_each_form_of_values(y):
    np.testing.assert_array_equal(as_batch(X, y, VALUES).ys, X[..., None].astype(np.float32))


def test_probabilities_stay_probabilities():
    assert as_batch(X, SOFT, ONE).ys.shape == (2, 4, 3)


def test_sequences_of_different_length_are_padded():
    batch = as_batch([[0.5, 1.0, 0.0], np.array([0.5])], [[0, 1, 2], HOT[0, 1:2].argmax(-1)], ONE)
    np.testing.assert_array_equal(batch.lengths, [3, 1])
    np.testing.assert_array_equal(batch.xs[..., 0], np.array([[0.5, 1.0, 0.0], [0.5, 0.0, 0.0]], np.float32))
    np.testing.assert_array_equal(batch.ys, [[0, 1, 2], [1, 0, 0]])
    soft = as_batch([np.ones(3), np.ones(1)], [SOFT[0, :3, :, None], SOFT[0, :1, :, None]], ONE)
    assert soft.ys.shape == (2, 3, 3)


def swap(array, index, value):
    array = np.array(array, dtype=np.result_type(np.asarray(array), np.asarray(value)))
    array[index] = value
    return array


BAD = {
    "Y shorter": (X, IDS[:1], ONE, ValueError, r"Y: expected targets for the 2 sequences of X, got shape \(1, 4\)"),
    "Y one step short": (X, IDS[:, :3], ONE, ValueError, r"Y\[0\]: expected 4 time steps as in X\[0\], got 3"),
    "Y one step long": (
        [[0.5, 1.0], [0.5]],
        [[0, 1], [0, 1]],
        ONE,
        ValueError,
        r"Y\[1\]: expected 1 time steps as in X\[1\], got 2",
    ),
    "other features": (np.ones((2, 4, 3)), IDS, TWO, ValueError, r"X: expected .*\[N, T, 2\], got shape \(2, 4, 3\)"),
    "features missing": (X, IDS, TWO, ValueError, r"X: expected .*\[N, T, 2\], got shape \(2, 4\)"),
    "other classes": (X, np.eye(5)[IDS], ONE, ValueError, r"Y: expected .*\[N, T, 3\].*got shape \(2, 4, 5\)"),
    "id too high": (X, IDS + 1, ONE, ValueError, "Y: expected class ids from 0 to 2, got 3"),
    "id negative": (X, IDS - 1, ONE, ValueError, "Y: expected class ids from 0 to 2, got -1"),
    "ids as floats": (X, IDS + 0.5, ONE, TypeError, "Y: expected class ids as integers, got float64"),
    "ids as booleans": (X, IDS > 0, ONE, TypeError, "Y: expected class ids as integers, got bool"),
    "no X": (np.zeros((0, 4)), np.zeros((0, 4), int), ONE, ValueError, r"X: expected at least one sequence, got"),
    "no X in a list": ([], [], ONE, ValueError, "X: expected at least one sequence, got none"),
    "empty sequences": (np.zeros((2, 0)), np.zeros((2, 0), int), ONE, ValueError, "X: expected at least one time step"),
    "an empty sequence": ([[0.5], []], [[0], []], ONE, ValueError, r"X\[1\]: expected at least one time step"),
    "empty lists": ([[]], [[]], ONE, ValueError, "X: expected at least one time step"),
    "NaN in X": (swap(X, (1, 2), np.nan), IDS, ONE, ValueError, r"X: expected finite .*got nan at index \(1, 2"),
    "NaN in one of X": ([[0.5, np.nan], [0.5]], [[0, 1], [0]], ONE, ValueError, r"X\[0\]: expected finite.*got nan"),
    "infinity in X": (swap(X, (0, 0), np.inf), IDS, ONE, ValueError, "X: expected finite numbers in float32, got inf"),
    "too large for float32": (X + 1e300, IDS, ONE, ValueError, "X: expected finite numbers in float32, got 1e\\+300"),
    "NaN in Y": (X, swap(X, (0, 3), np.nan), VALUES, ValueError, "Y: expected finite numbers"),
    "negative probabilities": (X, SOFT - 1, ONE, ValueError, "Y: expected one-hot vectors or probabilities"),
    "scores for probabilities": (X, SOFT * 7, ONE, ValueError, "Y: expected one-hot vectors or probabilities"),
    "strings in X": (X.astype(str), IDS, ONE, TypeError, "X: expected numbers, got strings"),
    "a string for X": ("abcd", IDS, ONE, TypeError, "X: expected numbers, got strings"),
    "strings in a list": (["ab", "cd"], IDS, ONE, TypeError, r"X\[0\]: expected numbers, got strings"),
    "objects": (X.astype(object), IDS, ONE, TypeError, "X: expected numbers, got objects"),
    "None": (None, IDS, ONE, TypeError, "X: expected numbers, got objects"),
    "a dictionary": ({"x": X}, IDS, ONE, TypeError, "X: expected numbers, got objects"),
    "a generator": ((x for x in X), IDS, ONE, TypeError, "X: expected numbers, got objects"),
    "no Y": (X, None, ONE, TypeError, "Y: expected numbers, got objects"),
    "complex": (X + 1j, IDS, ONE, TypeError, "X: expected real numbers, got complex"),
    "complex Y": (X, HOT + 0j, ONE, TypeError, "Y: expected real numbers, got complex"),
    "too many axes": (np.ones((2, 4, 1, 1)), IDS, ONE, ValueError, r"X: expected .*got shape \(2, 4, 1, 1\)"),
    "too many axes of Y": (X, np.ones((2, 4, 3, 1, 1)), ONE, ValueError, r"Y: expected .*got shape \(2, 4, 3, 1, 1\)"),
    "a number for X": (0.5, IDS, ONE, ValueError, r"X: expected .*got shape \(\)"),
    "a number for Y": (X, 1, ONE, ValueError, "Y: expected targets of shape .*got 1"),
    "one sequence for X": (X[0], IDS, ONE, ValueError, r"X: expected .*\[N, T\].*got shape \(4,\)"),
    "mixed ranks": ([X[0], X[1, :, None, None]], IDS, ONE, ValueError, r"X\[1\]: expected a sequence"),
    "ragged inside": ([[[0.5], [0.5, 1.0]]], IDS, ONE, ValueError, r"X\[0\]: expected a regular array"),
    "targets of every step": (X, IDS, LAST, ValueError, r"Y: expected .*\[N, 3\].*got shape \(2, 4\)"),
    "one target a sequence": (X, IDS[:, 0], ONE, ValueError, r"Y: expected targets for the 2 sequences of X"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_in_training_data_are_told(name):
    x, y, config, error, message = BAD[name]
    with pytest.raises(error, match=message):
        as_batch(x, y, config)


@pytest.mark.parametrize(
    ("x", "config", "kind", "shapes"),
    [
        ([0.1, 0.2], ONE, "one", [(2, 1)]),
        ([np.float64(0.1), 1], ONE, "one", [(2, 1)]),
        (np.array([1, 2, 3]), ONE, "one", [(3, 1)]),
        (np.ones((3, 1)), ONE, "one", [(3, 1)]),
        (np.ones((3, 2)), TWO, "one", [(3, 2)]),
        ([[1, 2], [3, 4], [5, 6]], TWO, "one", [(3, 2)]),
        (np.ones((4, 3, 2)), TWO, "batch", [(3, 2)] * 4),
        (np.ones((4, 3, 2)).tolist(), TWO, "batch", [(3, 2)] * 4),
        ([np.ones(3), np.ones((2, 1))], ONE, "list", [(3, 1), (2, 1)]),
        ([jnp.ones((3, 2)), np.ones((3, 2))], TWO, "list", [(3, 2)] * 2),
    ],
)
def test_rank_decides_never_dtype_or_container(x, config, kind, shapes):
    sequences, found = as_sequences(x, config)
    assert (found, [sequence.shape for sequence in sequences]) == (kind, shapes)
    assert all(sequence.dtype == np.float32 for sequence in sequences)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((5, 4)), ValueError, r"x: .*got shape \(5, 4\); write x\[..., None\] for a batch"),
        (np.ones((5, 4, 2)), ValueError, "x: expected sequences"),
        (np.ones((1, 1, 1, 1)), ValueError, r"x: .*got shape \(1, 1, 1, 1\)"),
        (np.zeros((0, 4, 1)), ValueError, "x: expected at least one sequence"),
        ([], ValueError, "x: expected at least one time step"),
        (0.5, ValueError, r"x: .*got shape \(\)"),
        ("text", TypeError, "x: expected numbers, got strings"),
        (None, TypeError, "x: expected numbers, got objects"),
        ([0.5, np.nan], ValueError, "x: expected finite numbers"),
        ([np.ones(2), np.array(["a"])], TypeError, r"x\[1\]: expected numbers, got strings"),
        ([[0.5], [0.5, 1.0]], ValueError, "x: expected a regular array.*list of arrays"),
    ],
    ids=str,
)
def test_mistakes_in_what_predict_is_asked_are_told(x, error, message):
    with pytest.raises(error, match=message):
        as_sequences(x, ONE)


def test_low_precision_arrays_are_numbers():
    np.testing.assert_array_equal(as_sequences(jnp.ones(3, jnp.bfloat16), ONE)[0][0], np.ones((3, 1)))


def test_predictions_pair_with_targets():
    [(first, ids), _] = as_predictions(np.ones((2, 4, 3, 1)), IDS, ONE)
    assert (first.shape, ids.tolist()) == ((4, 3), IDS[0].tolist())
    [(only, _)] = as_predictions([np.ones((3, 1))], [2], LAST)
    assert only.shape == (1, 3)


@pytest.mark.parametrize("config", [ONE, LSTMConfig(3, 4, 3), LAST, LSTMConfig(3, 4, 3, target="last")])
@pytest.mark.parametrize(("length", "stride"), [(4, 1), (3, 2), (9, 5)])
def test_windows_are_the_ones_built_by_hand(config, length, stride):
    ids = np.random.default_rng(0).integers(0, 3, 10)
    windows = check_windows(Windows(ids, length, stride), config)
    starts = range(0, len(ids) - length, stride)
    assert len(windows) == count(windows) == len(starts)
    batch = jax.jit(take)(windows, jnp.arange(len(starts)), config)
    built = np.array([ids[k : k + length + 1] for k in starts])
    expected = built[:, :-1, None] / np.float32(3) if config.input_size == 1 else built[:, :-1]
    np.testing.assert_allclose(batch.xs, expected, rtol=1e-7)
    np.testing.assert_array_equal(batch.ys, built[:, -1] if config.target == "last" else built[:, 1:])
    assert batch.lengths is None
    assert sum(leaf.size for leaf in jax.tree.leaves(windows)) == len(ids)


def test_negative_rows_are_sequences_of_length_zero():
    rows = jnp.array([1, -1])
    assert take(Windows(np.arange(3), 2), rows, ONE, padded=True).lengths.tolist() == [2, 0]
    data = Batch(np.ones((2, 3, 1)), np.zeros((2, 3), int), np.array([3, 2]))
    assert take(data, rows, ONE, padded=True).lengths.tolist() == [2, 0]
    assert inputs_of(jnp.array([[3]]), ONE).shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.arange(4), 4), ValueError, "ids: expected more than length = 4 characters, got 4"),
        ((np.arange(4), 0), ValueError, "length: expected at least 1, got 0"),
        ((np.arange(4), 2, 0), ValueError, "stride: expected at least 1, got 0"),
        ((np.arange(4), 2.0), TypeError, "length: expected an integer"),
        ((np.arange(4.0), 2), TypeError, "ids: expected class ids as integers"),
        ((np.ones((4, 2), int), 2), ValueError, "ids: expected one axis"),
        ((np.array([1, -2, 3]), 2), ValueError, "ids: expected class ids from 0 .*got -2"),
        (("text", 2), TypeError, "ids: expected numbers, got strings"),
    ],
    ids=str,
)
def test_windows_that_make_no_sense_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Windows(*arguments)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (VALUES, "X: Windows are of class ids and need loss='cross_entropy', got 'mse'"),
        (TWO, "X: Windows need a network with input_size 1 .*got input_size 2"),
        (LSTMConfig(1, 4, 2), "X: expected ids below output_size = 2, got 2"),
    ],
    ids=str,
)
def test_windows_that_do_not_fit_the_network_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        check_windows(Windows(np.arange(3), 1), config)
