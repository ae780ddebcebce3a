"""Networks in ONNX, run by ONNX Runtime, beside the networks themselves."""

import json
import re

import jax
import numpy as np
import pytest

from jlstm import CharLM, LSTMConfig, LSTMNetwork, forward
from jlstm.cells import GRUState
from jlstm.checkpoint import Saved
from jlstm.export import export_onnx
from jlstm.model import params_shapes
from jlstm.objectives import told

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

BATCH, TIME, INPUTS, HIDDEN, OUTPUTS = 5, 7, 3, 8, 4
LENGTHS = np.array([7, 1, 3, 0, 5])
BOUND = 2e-5

NETWORKS = {
    "an LSTM": {},
    "a GRU": {"cell": "gru", "layers": 2},
    "a GRU that resets before": {"cell": "gru_before"},
    "a plain network, residual": {"cell": "rnn", "layers": 2, "residual": True},
    "peepholes": {"cell": "peephole", "layers": 2},
    "coupled gates": {"cell": "coupled"},
    "both directions, the last step": {"bidirectional": True, "layers": 2, "target": "last"},
    "both directions, the mean": {"cell": "gru", "bidirectional": True, "target": "mean"},
    "both directions, peepholes": {"cell": "peephole", "bidirectional": True},
    "the last step, residual": {"layers": 3, "residual": True, "target": "last"},
    "questions": {"loss": "binary_cross_entropy"},
    "values": {"loss": "mse"},
    "a distribution": {"loss": "laplace"},
    "tokens": {"inputs": "tokens", "layers": 2},
}


def network(name):
    config, rng = LSTMConfig(INPUTS, HIDDEN, OUTPUTS, **NETWORKS[name]), np.random.default_rng(0)
    draw = lambda leaf: rng.normal(scale=0.5, size=leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, params_shapes(config)), config


def inputs(config):
    rng = np.random.default_rng(1)
    if config.inputs == "tokens":
        return rng.integers(0, INPUTS, size=(BATCH, TIME))
    return rng.normal(size=(BATCH, TIME, INPUTS)).astype(np.float32)


def session(path):
    """A session in which that an input may be left out is no warning."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(of, **given):
    names = [output.name for output in of.get_outputs()]
    return dict(zip(names, of.run(names, given), strict=True))


def close(got, wanted):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=BOUND * max(1, np.abs(wanted).max()))


def named(outputs, states, config):
    """What `forward` gives, as the file names it."""
    outputs, deviations = (outputs, None) if config.objective.noise is None else np.split(outputs, 2, axis=-1)
    found = {"outputs": outputs} | ({} if deviations is None else {"deviations": deviations})
    if config.in_pieces:
        found |= {f"{name}_n": np.stack([getattr(own, name) for own in states]) for name in states[0]._fields}
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_states_are_those_of_the_network(tmp_path, name):
    params, config = network(name)
    soft = config.objective.probabilities is not None
    export_onnx(tmp_path / "model.onnx", Saved(params, config, None, apply_softmax=soft))
    theirs, xs = session(tmp_path / "model.onnx"), inputs(config)

    @jax.jit
    def wanted(lengths):
        scores, states = forward(params, xs, config, lengths=lengths)
        return told(scores, config.objective, probabilities=soft), states

    for lengths in (np.full(BATCH, TIME), LENGTHS, np.full(BATCH, 4)):
        expected = named(*jax.device_get(wanted(lengths)), config)
        given = {} if lengths[3] == TIME else {"lengths": lengths if lengths[3] == 0 else lengths[:1]}
        got = run(theirs, x=xs, **given)
        assert list(got) == list(expected)
        for key, value in expected.items():
            close(got[key], value)


@pytest.mark.parametrize("name", ["an LSTM", "a GRU", "tokens", "the last step, residual"])
def test_goes_on_from_a_state(tmp_path, name):
    params, config = network(name)
    export_onnx(tmp_path / "model.onnx", Saved(params, config, None, apply_softmax=False))
    theirs, xs = session(tmp_path / "model.onnx"), inputs(config)
    whole, first = run(theirs, x=xs), run(theirs, x=xs[:, :3])
    state = {key.replace("_n", "_0"): value for key, value in first.items() if key.endswith("_n")}
    assert set(state) == ({"h_0"} if name == "a GRU" else {"h_0", "c_0"})
    second = run(theirs, x=xs[:, 3:], **state)
    for key in state:
        close(second[key.replace("_0", "_n")], whole[key.replace("_0", "_n")])
    close(second["outputs"], whole["outputs"][:, 3:] if config.target == "each" else whole["outputs"])
    # One state for all sequences.
    one = run(theirs, x=xs[:1], **{key: value[:, :1] for key, value in state.items()})
    all_alike = run(theirs, x=xs[[0, 0]], **{key: value[:, :1] for key, value in state.items()})
    close(all_alike["outputs"], one["outputs"].repeat(2, axis=0))


def test_keeps_the_state_of_a_sequence_without_steps(tmp_path):
    params, config = network("a GRU")
    export_onnx(tmp_path / "model.onnx", Saved(params, config, None, apply_softmax=False))
    state = np.random.default_rng(2).normal(size=(config.layers, BATCH, HIDDEN)).astype(np.float32)
    got = run(session(tmp_path / "model.onnx"), x=inputs(config), lengths=LENGTHS, h_0=state)
    _, states = forward(params, inputs(config), config, tuple(map(GRUState, state)), LENGTHS)
    close(got["h_n"], np.stack([own.h for own in states]))
    np.testing.assert_array_equal(got["h_n"][:, 3], state[:, 3])


def test_a_network_that_will_scale_reads_numbers_of_the_same_kind(tmp_path):
    untrained = LSTMNetwork(2, 8, 1, loss="mse", standardize=True, progress=False)
    untrained.export_onnx(tmp_path / "model.onnx")
    xs = np.random.default_rng(0).normal(size=(2, 5, 2))
    close(run(session(tmp_path / "model.onnx"), x=xs)["outputs"], untrained.predict(xs)[..., 0])


def test_a_trained_network_tells_what_predict_does(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 6, 2)) * [1, 1e-3] + [1e9, 5]  # such as seconds since 1970
    Y = X.sum(axis=-1, keepdims=True) * 100
    trained = LSTMNetwork(2, 8, 1, loss="gaussian", standardize=True, progress=False)
    trained.train(X, Y, epochs=2)
    trained.export_onnx(tmp_path / "model.onnx")
    theirs = session(tmp_path / "model.onnx")
    means, deviations = trained.predict(X, return_std=True)
    got = run(theirs, x=X)
    for mine, wanted in ((got["outputs"], means), (got["deviations"], deviations)):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine - Y.mean(), wanted[..., 0] - Y.mean(), rtol=0, atol=BOUND * Y.std())


def test_a_language_model_writes_on(tmp_path):
    text = "to be or not to be, " * 10
    model = CharLM.train(text, hidden_size=16, layers=2, dropout=0, epochs=2, streams=1, window=20, progress=False)
    model.export_onnx(tmp_path / "model.onnx")
    theirs = session(tmp_path / "model.onnx")
    vocabulary = json.loads(theirs.get_modelmeta().custom_metadata_map["vocabulary"])
    assert vocabulary == model.vocabulary
    ids, state, written = np.array([[vocabulary.index(character) for character in text[:9]]]), {}, ""
    for _ in range(20):
        found = run(theirs, x=ids, **state)
        ids, state = found["outputs"][:, -1:].argmax(axis=-1), {"h_0": found["h_n"], "c_0": found["c_n"]}
        written += vocabulary[ids.item()]
    assert written == model.generate(text[:9], 20, temperature=0)
    for unknown in (len(vocabulary), -1):
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="out of data bounds"):
            run(theirs, x=np.array([[0, unknown]]))


def test_weights_of_other_dtypes_are_those_in_float32(tmp_path):
    params, config = network("an LSTM")
    half = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16), params)
    files = [tmp_path / "half.onnx", tmp_path / "single.onnx"]
    export_onnx(files[0], Saved(half, config, None, apply_softmax=False))
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float32), half)
    export_onnx(files[1], Saved(exact, config, None, apply_softmax=False))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_names_what_is_wrong_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    of_three = LSTMNetwork(3, 8, 4, cell="projected", projection_size=2, progress=False)
    with pytest.raises(ValueError, match=re.escape("cell: expected one that ONNX has")):
        of_three.export_onnx(path)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'jlstm[onnx]'")):
        LSTMNetwork(3, 8, 4, progress=False).export_onnx(path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["an LSTM", "tokens", "both directions, the last step", "both directions, the mean"])
def test_what_was_exported_comes_back(tmp_path, name):
    params, config = network(name)
    export_onnx(tmp_path / "model.onnx", Saved(params, config, None, apply_softmax=True))
    back = LSTMNetwork.from_onnx(tmp_path / "model.onnx", progress=False)
    assert (back.config.inputs, back.config.target, back.apply_softmax) == (config.inputs, config.target, True)
    for got, wanted in zip(jax.tree.leaves(back.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(got, wanted)
