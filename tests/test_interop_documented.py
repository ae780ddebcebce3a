"""Weights from and to the JSON of the NumPy program, beside its equations and the witness."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import LSTMConfig, ModelParams, reference
from jlstm.cells import GRU, LSTM, LSTMParams
from jlstm.interop import Model, from_documented, to_documented
from tests.exchange import (
    BATCH,
    BOUNDS,
    HIDDEN,
    INPUTS,
    OUTPUTS,
    TIME,
    a_model,
    close,
    gradient,
    run,
    same_bits,
    sequences,
)

KEYS = ["Wf", "Wi", "Wc", "Wo", "Wy", "bf", "bi", "bc", "bo", "by"]


def weights(dtype="float64", seed=5):
    """Weights as the program has them."""
    rng = np.random.default_rng(seed)
    shapes = {f"W{gate}": (HIDDEN, HIDDEN + INPUTS) for gate in "fico"} | {"Wy": (OUTPUTS, HIDDEN)}
    shapes |= {f"b{gate}": (HIDDEN, 1) for gate in "fico"} | {"by": (OUTPUTS, 1)}
    return {key: rng.normal(scale=0.5, size=shape).astype(dtype) for key, shape in shapes.items()}


def program(weights, xs):
    """The program's outputs for a sequence, and its states at the end, as columns."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h = c = np.zeros((HIDDEN, 1))
    ys = []
    for x in xs:
        hx = np.concatenate([h, x.reshape(-1, 1)])
        f, i, o = (sigmoid(weights[f"W{gate}"] @ hx + weights[f"b{gate}"]) for gate in "fio")
        c = f * c + i * np.tanh(weights["Wc"] @ hx + weights["bc"])
        h = o * np.tanh(c)
        ys.append(weights["Wy"] @ h + weights["by"])
    return np.array(ys)[..., 0], h[:, 0], c[:, 0]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_outputs_and_states_are_those_of_the_program_and_the_witness(x64, dtype):
    given, xs = weights(dtype), sequences(dtype)
    model = from_documented(given)
    ys, [(h, c)] = run(model, xs)
    wanted = [np.stack(each).astype(dtype) for each in zip(*(program(given, each) for each in xs), strict=True)]
    close((ys, h, c), wanted, dtype)
    config = LSTMConfig(input_size=INPUTS, hidden_size=HIDDEN, output_size=OUTPUTS)
    scores, [ends] = reference.forward(ModelParams(model.layers, model.readout), xs, config)
    close((ys, h, c), [each.astype(dtype) for each in (scores, *ends)], dtype)


def test_gradients_are_those_of_finite_differences(x64):
    given, xs = weights(), sequences("float64")
    factors = np.random.default_rng(6).normal(size=(BATCH, TIME, HIDDEN))
    [layer], _ = gradient(from_documented(given), xs, factors)
    got = to_documented(Model(LSTM, (jax.tree.map(np.asarray, layer),), from_documented(given).readout))

    def loss(key, place, more):
        changed = given | {key: given[key] + more * place} | {"Wy": np.eye(HIDDEN), "by": np.zeros((HIDDEN, 1))}
        return sum((each * program(changed, x)[0]).sum() for each, x in zip(factors, xs, strict=True))

    for key in (key for key in KEYS if not key.endswith("y")):
        way = np.random.default_rng(7).normal(size=given[key].shape)
        slope = (loss(key, way, 1e-5) - loss(key, way, -1e-5)) / 2e-5
        np.testing.assert_allclose((np.array(got[key]) * way).sum(), slope, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_there_and_back_gives_the_same_numbers(tmp_path, dtype):
    model = a_model(LSTM, jnp.dtype(dtype), readout=True)
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(to_documented(model)))
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), model[1:3])
    for source in (path, str(path), to_documented(model)):
        found = from_documented(source)
        same_bits(found, model._replace(layers=wide[0], readout=wide[1]))
        same_bits(from_documented(source, jnp.dtype(dtype)), model)


def test_what_the_program_has_comes_back():
    given = weights()
    found = to_documented(from_documented(given))
    assert list(found) == KEYS
    assert found == {key: given[key].tolist() for key in KEYS}


def test_biases_are_columns_or_rows_and_numbers_may_be_whole():
    given = weights()
    rows = {key: each.reshape(-1) if key[0] == "b" else each for key, each in given.items()}
    same_bits(from_documented(rows), from_documented(given))
    whole = json.loads(json.dumps({key: np.zeros_like(each, int).tolist() for key, each in given.items()}))
    same_bits(from_documented(whole), from_documented({key: np.zeros_like(each) for key, each in given.items()}))


def test_arrays_keep_their_dtype():
    model = from_documented(weights("float32"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model[1:3])} == {"float32"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: 3, TypeError, "source: expected the path of a JSON file or a dictionary, got 3"),
        (lambda: [1.0], TypeError, "source: expected the path of a JSON file or a dictionary, got [1.0]"),
        (
            lambda: weights() | {"sizes": [1]},
            ValueError,
            "source: expected 10 names, got 11, with [] missing and ['sizes'] unknown",
        ),
        (
            lambda: {key: each for key, each in weights().items() if key != "bc"},
            ValueError,
            "source: expected 10 names, got 9, with ['bc'] missing and [] unknown",
        ),
        (
            lambda: weights() | {"Wf": np.ones((8, 8))},
            ValueError,
            "source['Wf']: expected shape [H, H + I], got shape [8, 8]",
        ),
        (lambda: weights() | {"Wf": [1.0]}, ValueError, "source['Wf']: expected shape [H, H + I], got float64 of s"),
        (
            lambda: weights() | {"Wo": np.ones((12, 8))},
            ValueError,
            "source['Wo']: expected shape [8, 12], got float64 of shape (12, 8)",
        ),
        (
            lambda: weights() | {"Wy": np.ones((8, 2))},
            ValueError,
            "source['Wy']: expected shape [C, 8], got float64 of shape (8, 2)",
        ),
        (
            lambda: weights() | {"by": np.ones((1, 2))},
            ValueError,
            "source['by']: expected shape [2, 1], got float64 of shape (1, 2)",
        ),
        (
            lambda: weights() | {"bi": np.ones(7)},
            ValueError,
            "source['bi']: expected shape [8], got float64 of shape (7,)",
        ),
        (lambda: weights() | {"bo": [np.nan] * 8}, ValueError, "source['bo']: expected finite numbers, got NaN or inf"),
        (lambda: weights() | {"bo": ["0.5"] * 8}, TypeError, "source['bo']: expected numbers, got strings"),
        (lambda: weights() | {"bo": [True] * 8}, TypeError, "source['bo']: expected floats, got bool of shape (8,)"),
        (lambda: weights() | {"bo": None}, TypeError, "source['bo']: expected numbers, got None"),
        (lambda: weights() | {"bo": np.ones(8, int)}, TypeError, "source['bo']: expected floats, got int64 of shape"),
        (
            lambda: weights() | {"bo": [[0.5]] * 7 + [[]]},
            ValueError,
            "source['bo']: expected a regular array, got parts",
        ),
        (lambda: weights() | {"bo": [10**400] * 8}, TypeError, "source['bo']: expected numbers, got "),
        (
            lambda: weights() | {"bo": np.ones(8, np.float32)},
            TypeError,
            "source: expected arrays of one dtype, got float32 and float64",
        ),
    ],
)
def test_names_what_can_not_be_taken_over(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_documented(given())


def test_weights_are_rounded_where_that_is_asked_for():
    given = weights()
    wanted = from_documented({key: each.astype(np.float32) for key, each in given.items()})
    for source in (given, {key: each.tolist() for key, each in given.items()}):
        same_bits(from_documented(source, np.float32), wanted)
    with pytest.raises(ValueError, match=re.escape("source['Wo']: expected finite numbers, got NaN or infinity")):
        from_documented(given | {"Wo": np.full_like(given["Wo"], 1e300)}, np.float32)
    with pytest.raises(TypeError, match=re.escape("source['Wo']: expected floats, got int64 of shape (8, 12)")):
        from_documented(given | {"Wo": np.ones((8, 12), int)}, np.float32)
    with pytest.raises(TypeError, match="dtype: expected a dtype of floats, got "):
        from_documented(given, int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "source: expected JSON, got JSONDecodeError: "),
        (b"\xff", "source: expected JSON, got UnicodeDecodeError: "),
        (b"[" * 10**6, "source: expected JSON, got RecursionError: "),
        (b"1" * 10**5, "source: expected JSON, got ValueError: "),
        (b"[1]", "source: expected an object of JSON, got [1]"),
        (b'{"Wf": [[1.0]], "Wf": [[2.0]]}', "source: expected JSON, got ValueError: ['Wf'] more than once"),
        (b'{"Wf": NaN}', "source: expected 10 names, got 1, with ['Wc', 'Wi', "),
        (
            json.dumps({key: [[float("inf")]] for key in KEYS}).encode(),
            "source['Wf']: expected finite numbers, got NaN",
        ),
        (json.dumps({key: {"a": 1} for key in KEYS}).encode(), "source['Wf']: expected numbers, got objects"),
    ],
)
def test_names_what_a_file_has(tmp_path, text, message):
    (tmp_path / "weights.json").write_bytes(text)
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        from_documented(tmp_path / "weights.json")
    with pytest.raises(FileNotFoundError):
        from_documented(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: a_model(GRU, readout=True), "cell: expected one that the program has, 'lstm', got 'gru'"),
        (
            lambda: a_model(LSTM, layers=2, readout=True),
            "model.layers: expected one in one direction, as the program has it, got 2 layers",
        ),
        (
            lambda: a_model(LSTM, both=True, readout=True),
            "model.layers: expected one in one direction, as the program has it, got one in both directions",
        ),
        (lambda: a_model(LSTM), "model.readout: expected one, as the program has it, got None"),
        (
            lambda: a_model(LSTM, readout=True)._replace(target="last"),
            "model.target: expected 'each', as the program has it, got 'last'",
        ),
        (
            lambda: a_model(LSTM, readout=True)._replace(activation="sigmoid"),
            "model.activation: expected None or 'softmax', as the program has it, got 'sigmoid'",
        ),
    ],
)
def test_names_what_the_program_does_not_have(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        to_documented(given())


def test_a_softmax_is_not_in_the_weights():
    model = a_model(LSTM, readout=True)
    assert to_documented(model._replace(activation="softmax")) == to_documented(model)
    assert isinstance(from_documented(to_documented(model)).layers[0], LSTMParams)
