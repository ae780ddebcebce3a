"""What all libraries have in common, and networks of the class that come from them."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import CharLM, LSTMConfig, LSTMNetwork, Readout, interop
from jlstm.cells import GRU, LSTM, RNN, Cell
from jlstm.model import ModelParams
from tests.exchange import HIDDEN, INPUTS, a_model, close, run, same_bits, sequences


def with_negative_zeros(model):
    return model._replace(layers=jax.tree.map(lambda leaf: np.where(leaf < 0, -0.0, leaf), model.layers))


BOTH_WAYS = {
    "torch": (interop.to_torch, interop.from_torch),
    "Keras": (interop.to_keras, interop.from_keras),
    "Flax": (interop.to_flax, interop.from_flax),
    "ONNX": (interop.to_onnx, interop.from_onnx),
}


@pytest.mark.parametrize("name", BOTH_WAYS)
@pytest.mark.parametrize("cell", [LSTM, GRU, RNN], ids=lambda cell: cell.name)
def test_there_and_back_keeps_the_sign_of_zero(name, cell):
    model = with_negative_zeros(a_model(cell, readout=True))
    assert np.signbit(model.layers[0].bias[model.layers[0].bias == 0]).all()
    there, back = BOTH_WAYS[name]
    same_bits(back(*there(model)), model)


def test_imports_no_other_library():
    others = ["torch", "keras", "flax", "equinox", "haiku", "onnx", "onnxruntime", "safetensors", "matplotlib"]
    program = f"import sys, jlstm, jlstm.interop; print([name for name in {others} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_model_is_written_without_its_weights():
    assert repr(a_model(LSTM)) == "Model(Cell('lstm'), layers=(4 -> 8), readout=None, target='each', activation=None)"
    model = a_model(GRU, layers=2, both=True, readout=True)._replace(target="last", activation="softmax")
    sizes = "layers=(4 -> 8 + 8, 16 -> 8 + 8), readout=16 -> 2"
    assert repr(model) == f"Model(Cell('gru'), {sizes}, target='last', activation='softmax')"
    own = interop.Model(Cell(LSTM.linear, LSTM.gates, LSTM.zero_state), ({},))
    assert "layers=(?), readout=None" in repr(own)


def test_layers_that_are_not_alike_are_a_model_and_no_network():
    below, above = a_model(LSTM, both=True), a_model(LSTM, readout=True)
    [layer] = above.layers
    layer = layer._replace(weight_ih=np.ones((4 * HIDDEN, 2 * HIDDEN), np.float32))
    message = "layers: expected the same units and directions in all, got 8 + 8, 8; otherwise, interop.from_... "
    with pytest.raises(ValueError, match=re.escape(message)):
        interop.network_of(above._replace(layers=(*below.layers, layer)))


def test_a_residual_network_is_more_than_its_weights():
    network = LSTMNetwork(4, 4, 2, layers=2, residual=True, progress=False)
    with pytest.raises(ValueError, match="residual: expected False, since weights alone do not tell of it, got True"):
        interop.of_network(network)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_what_comes_in_is_a_copy(name):
    there, back = BOTH_WAYS[name]
    model = a_model(LSTM, readout=True)
    arrays = there(model)
    found = back(*arrays)
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf, np.ndarray):
            leaf[...] = 0
    same_bits(found, model)


# --- networks of the class ---


def a_network(model, **options):
    """The network that a model becomes, to compare with one that took another way."""
    params, sizes = interop.network_of(model)
    network = LSTMNetwork(**sizes, **options, progress=False)
    network.params = params
    return network


def test_a_network_goes_to_torch_and_comes_back():
    torch = pytest.importorskip("torch")
    network = a_network(a_model(LSTM, layers=2, both=True, readout=True), target="last", apply_softmax=True)
    lstm, linear = network.to_torch()
    back = LSTMNetwork.from_torch(lstm, linear, target="last", apply_softmax=True, progress=False)
    assert back.config == network.config
    xs = sequences()
    np.testing.assert_array_equal(back.predict(xs), network.predict(xs))
    each = LSTMNetwork.from_torch(lstm, linear, loss="mse", progress=False)
    close(each.predict(xs)[..., 0], linear(lstm(torch.tensor(xs))[0]).detach(), "float32")
    history = back.train(xs, np.array([0, 1, 1]), epochs=2)
    assert len(history.loss) == 2


def test_a_network_with_a_distribution_goes_to_torch_and_comes_back():
    pytest.importorskip("torch")
    network = LSTMNetwork(INPUTS, HIDDEN, 1, loss="gaussian", progress=False)
    back = LSTMNetwork.from_torch(*network.to_torch(), loss="gaussian", progress=False)
    assert (back.config.output_size, back.config.loss) == (1, "gaussian")
    np.testing.assert_array_equal(back.predict(sequences()), network.predict(sequences()))


def test_a_network_that_scales_is_more_than_its_weights():
    network = LSTMNetwork(INPUTS, HIDDEN, 1, loss="mse", standardize=True, progress=False)
    for given in (network.to_torch, lambda: interop.of_network(network)):
        with pytest.raises(ValueError, match="standardize: expected False, since weights alone do not tell of it, got"):
            given()


@pytest.mark.parametrize(
    "name", ["to_torch", "to_keras", "to_flax", "to_nnx", "to_equinox", "to_onnx", "to_documented"]
)
def test_a_network_is_no_model_but_becomes_one(name):
    network = LSTMNetwork(INPUTS, HIDDEN, 2, progress=False)
    message = "model: expected a Model, got LSTMNetwork; write interop.of_network(network)"
    with pytest.raises(TypeError, match=re.escape(message)):
        getattr(interop, name)(network)
    with pytest.raises(TypeError, match="network: expected an LSTMNetwork or a CharLM, got 3"):
        interop.of_network(3)


def test_what_keras_says_is_taken_over_and_what_is_asked_for_has_its_way():
    model = a_model(GRU, readout=True)._replace(target="last", activation="softmax")
    network = LSTMNetwork._of(model, {"progress": False})
    assert (network.config.target, network.config.loss, network.apply_softmax) == ("last", "cross_entropy", True)
    questions = LSTMNetwork._of(model._replace(activation="sigmoid"), {"progress": False, "apply_softmax": False})
    assert (questions.config.loss, questions.apply_softmax) == ("binary_cross_entropy", False)
    assert LSTMNetwork._of(model, {"progress": False, "target": "each"}).config.target == "each"


TAKEN = {
    "from_torch": lambda model: interop.to_torch(model),
    "from_keras": lambda model: interop.to_keras(model),
    "from_flax": lambda model: interop.to_flax(model),
    "from_haiku": lambda model: (interop.to_haiku(model, "lstm", "linear"), "lstm", "linear"),
    "from_onnx": lambda model: interop.to_onnx(model),
    "from_documented": lambda model: [interop.to_documented(model)],
    "from_equinox": lambda model: interop.to_equinox(model),
}


@pytest.mark.parametrize("name", TAKEN)
def test_each_library_has_its_line(name):
    if name == "from_equinox":
        pytest.importorskip("equinox")
    model = a_model(LSTM, readout=True)
    network = getattr(LSTMNetwork, name)(*TAKEN[name](model), progress=False, apply_softmax=True)
    assert (network.config.cell, network.config.hidden_size, network.apply_softmax) == (LSTM, HIDDEN, True)
    assert network.params.readout.weight.dtype == np.float32
    wanted = jax.nn.softmax(run(model, sequences())[0])
    np.testing.assert_allclose(network.predict(sequences())[..., 0], wanted, rtol=0, atol=2e-6)


def test_a_file_of_the_documented_program(tmp_path):
    model = a_model(LSTM, readout=True)
    path = tmp_path / "lstm.json"
    path.write_text(json.dumps(interop.to_documented(model)))
    same_bits(interop.Model(LSTM, *LSTMNetwork.from_documented(path, progress=False).params), model)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (
            lambda: [a_model(LSTM)],
            {},
            ValueError,
            "readout: expected the dense layer on top of the layers, got None; without one, interop.from_... gives the "
            "layers, and jlstm.stack(model.layers, xs, cell=model.cell) runs them",
        ),
        (
            lambda: [a_model(LSTM, jnp.dtype("float64"), readout=True)],
            {},
            TypeError,
            "weights: expected float32, in which networks compute, got float64; write lstm.float(), or ",
        ),
        (
            lambda: [a_model(LSTM, readout=True)],
            {"layers": 2},
            TypeError,
            "layers: expected none, as the layers say it, got 2",
        ),
        (
            lambda: [a_model(LSTM, readout=True)._replace(readout=a_readout(3))],
            {"loss": "gaussian"},
            ValueError,
            "loss: expected one with one score for each of 3 outputs, got 'gaussian', which has 2",
        ),
        (lambda: [a_model(LSTM, readout=True)], {"loss": ["mse"]}, ValueError, "loss: expected one of"),
        (lambda: [a_model(LSTM, readout=True)], {"lss": "mse"}, TypeError, "'lss'"),
        (lambda: [a_model(LSTM, readout=True)], {"loss": "mae"}, ValueError, "loss: expected one of"),
    ],
)
def test_names_what_is_no_network(given, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        LSTMNetwork.from_torch(*interop.to_torch(*given()), **options)


def test_a_language_model_comes_from_other_weights():
    params, sizes = interop.network_of(a_model(LSTM, readout=True)._replace(readout=a_readout(INPUTS)))
    model = CharLM(params, LSTMConfig(**sizes, inputs="tokens"), "abcd")
    assert isinstance(model.params, ModelParams)
    assert set(model.generate("ab", 5)) <= set("abcd")


def a_readout(outputs):
    rng = np.random.default_rng(0)
    return Readout(*(rng.normal(size=shape).astype(np.float32) for shape in ((HIDDEN, outputs), (outputs,))))


def test_a_network_is_made_by_the_class():
    with pytest.raises(AttributeError, match="from_torch: makes a new LSTMNetwork"):
        LSTMNetwork(INPUTS, HIDDEN, 2, progress=False).from_torch(None, None)
