"""Weights from and to Keras, beside Keras's own layers, on JAX.

In float32 alone: Keras rounds to it in its tanh (3.15).
"""

import functools
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import LSTMConfig, ModelParams, forward
from jlstm.cells import GRU, GRU_BEFORE, LAYER_NORM, LSTM, RNN
from jlstm.interop import Model, from_keras, to_keras
from tests.exchange import (
    BATCH,
    HIDDEN,
    INPUTS,
    LENGTHS,
    OUTPUTS,
    TIME,
    a_model,
    a_state,
    close,
    gradient,
    run,
    same_bits,
    sequences,
)

os.environ.setdefault("KERAS_BACKEND", "jax")  # whoever imports Keras first decides
keras = pytest.importorskip("keras")
kl = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")  # Keras's get_weights

CELLS = {"LSTM": LSTM, "GRU": GRU, "GRU, not reset_after": GRU_BEFORE, "SimpleRNN": RNN}
FORMS = {"one layer": (1, False), "two layers in both directions": (2, True)}
MASK = np.arange(TIME) < LENGTHS[:, None]


def a_layer(name, both=False, units=HIDDEN, **options):
    kind, _, before = name.partition(", ")
    options = {"return_sequences": True} | ({"reset_after": False} if before else {}) | options
    layer = getattr(kl, kind)(units, **options)
    return kl.Bidirectional(layer) if both else layer


def built(layer, features=INPUTS, seed=0):
    """The layer with weights of which none is zero."""
    if not layer.built:
        layer.build((BATCH, TIME, features))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(scale=0.3, size=each.shape) for each in layer.get_weights()])
    return layer


def some_layers(name, form=(1, False), **options):
    layers, both = form
    widths = [INPUTS, *[HIDDEN * (1 + both)] * layers]
    return [built(a_layer(name, both, **options), widths[k], seed=k) for k in range(layers)]


def keras_runner(layers):
    """A function that runs them: outputs and states, and the gradients of the weighted sum of the outputs."""

    def loss(weights, xs, state, mask, coefficients):
        hs, ends = xs, []
        for layer, own, start in zip(layers, weights, state, strict=True):
            rest = [variable.value for variable in layer.non_trainable_variables]
            start = jax.tree.leaves(start)
            (hs, *end), _ = layer.stateless_call(own, rest, hs, initial_state=start, mask=mask)
            ends.append(end)
        return (coefficients * hs).sum(), (hs, ends)

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CELLS)
def test_outputs_states_and_gradients_are_those_of_keras(name, form):
    layers = some_layers(name, FORMS[form], return_state=True)
    weights = [layer.get_weights() for layer in layers]
    model = from_keras(layers)
    assert (model.cell, model.target, model.activation) == (CELLS[name], "each", None)
    same_bits(from_keras(weights), model)
    xs, state = sequences(), a_state(model)
    runner = keras_runner(layers)
    coefficients = np.random.default_rng(3).normal(size=(BATCH, TIME, HIDDEN * (1 + FORMS[form][1])))
    coefficients = coefficients.astype("float32")

    for lengths in (LENGTHS, np.full(BATCH, TIME)):
        mask = np.arange(TIME) < lengths[:, None]
        _, (hs, ends) = runner(weights, xs, state, mask, coefficients)
        got, reached = run(model, xs, state, lengths)
        close(got[mask], hs[mask], "float32")
        close(reached, ends, "float32")

    zeros = jax.tree.map(np.zeros_like, state)
    (by_weights, by_inputs), _ = runner(weights, xs, zeros, np.ones_like(MASK), coefficients)
    by_layers, by_xs = gradient(model, xs, coefficients)
    close(by_xs, by_inputs, "float32")
    got, _ = to_keras(Model(model.cell, jax.tree.map(np.asarray, by_layers)))
    if model.cell is GRU:
        # Of a sum, both biases have the same gradient; to_keras has put it in the first, but for the candidate.
        for bias in [layer[k] for layer in got for k in range(2, len(layer), 3)]:
            bias[1, : 2 * HIDDEN] = bias[0, : 2 * HIDDEN]
    close(got, by_weights, "float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CELLS)
def test_there_and_back_gives_the_same_bits(name, form, dtype):
    layers, both = FORMS[form]
    model = a_model(CELLS[name], jnp.dtype(dtype), layers=layers, both=both, readout=True)
    same_bits(from_keras(*to_keras(model)), model)
    if dtype == "float32":
        theirs, dense = some_layers(name, FORMS[form]), built(kl.Dense(OUTPUTS), HIDDEN * (1 + both))
        weights, on_top = to_keras(model)
        for layer, arrays in zip([*theirs, dense], [*weights, on_top], strict=True):
            layer.set_weights(arrays)
        same_bits(from_keras(theirs, dense), model)
        same_bits(from_keras([*theirs, kl.TimeDistributed(dense)]), model)


@pytest.mark.parametrize("name", CELLS)
def test_without_biases_they_are_zero(name):
    layer = built(a_layer(name, both=True, use_bias=False))
    model = from_keras(layer, built(kl.Dense(OUTPUTS, use_bias=False), 2 * HIDDEN))
    for params in (*model.layers[0], model.readout):
        assert {field: bool(each.any()) for field, each in params._asdict().items()} == {
            field: field.startswith("weight") for field in params._fields
        }
        assert {each.dtype.name for each in params} == {"float32"}
    if "GRU" not in name:
        same_bits(from_keras([layer.get_weights()]), model._replace(readout=None))
        same_bits(from_keras(layer.get_weights()), model._replace(readout=None))


def test_a_single_layer_needs_no_list():
    layer, dense = built(a_layer("LSTM", both=True)), built(kl.Dense(OUTPUTS), 2 * HIDDEN)
    wanted = from_keras([layer], dense)
    same_bits(from_keras(layer, dense), wanted)
    same_bits(from_keras(layer.get_weights(), dense.get_weights()), wanted)
    same_bits(from_keras(tuple(layer.get_weights()), tuple(dense.get_weights())), wanted)


def test_directions_may_differ():
    backward = a_layer("LSTM", units=5, go_backwards=True, use_bias=False)
    layer = built(kl.Bidirectional(a_layer("LSTM"), backward_layer=backward))
    [params] = from_keras(layer).layers
    assert (params.forward.weight_hh.shape, params.backward.weight_hh.shape) == ((32, 8), (20, 5))
    close(run(from_keras(layer), sequences())[0], layer(sequences()), "float32")


# Whether the top layer gives each step, the layers above it, and what they are here: the target and the activation.
TOPS = {
    "each": (True, [kl.TimeDistributed(kl.Dense(OUTPUTS, activation="softmax"))], "each", "softmax"),
    "dense at each": (True, [kl.Dense(OUTPUTS), kl.Activation("sigmoid")], "each", "sigmoid"),
    "last": (False, [kl.Dropout(0.3), kl.Dense(OUTPUTS), kl.Softmax()], "last", "softmax"),
    "mean": (True, [kl.GlobalAveragePooling1D(), kl.Dense(OUTPUTS, activation="linear")], "mean", None),
}
AFTER = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, None: lambda scores: scores}


@pytest.mark.parametrize("kind", ["Sequential", "functional"])
@pytest.mark.parametrize("top", TOPS)
def test_a_model_is_a_network(top, kind):
    each, above, target, activation = TOPS[top]
    name, both = ("GRU", True) if top != "mean" else ("LSTM", False)
    below = [kl.SpatialDropout1D(0.2), a_layer(name, both, recurrent_dropout=0.5), kl.GaussianNoise(0.1)]
    below += [a_layer(name, both, return_sequences=each)]
    above = [type(layer).from_config(layer.get_config()) for layer in above]
    parts = [kl.Input((TIME, INPUTS)), *below, *above]
    if kind == "Sequential":
        theirs = keras.Sequential(parts)
    else:
        theirs = keras.Model(parts[0], functools.reduce(lambda xs, layer: layer(xs), parts[1:], parts[0]))
    built(theirs)

    model = from_keras(theirs)
    assert (model.target, model.activation) == (target, activation)
    same_bits(from_keras(theirs.layers), model)
    masked = keras.Sequential([kl.Input((TIME, INPUTS)), kl.Masking(-9), *below, *above])
    same_bits(from_keras(masked.layers[1:]), model)
    config = LSTMConfig(INPUTS, HIDDEN, OUTPUTS, cell=model.cell.name, layers=2, bidirectional=both, target=target)
    xs = sequences()
    scores, _ = jax.jit(forward)(ModelParams(model.layers, model.readout), xs, config, lengths=LENGTHS)
    wanted = masked(np.where(MASK[..., None], xs, np.float32(-9)))
    real = MASK if target == "each" else slice(None)
    close(AFTER[activation](scores)[real], wanted[real], "float32")


def test_what_belongs_to_running_a_layer_is_not_in_it():
    layer = built(a_layer("LSTM"))
    options = {"dropout": 0.5, "stateful": True, "return_state": True, "unroll": True, "recurrent_dropout": 0.5}
    other = built(a_layer("LSTM", **options))
    other.set_weights(layer.get_weights())
    same_bits(from_keras(other), from_keras(layer))
    other = built(a_layer("LSTM", dtype="mixed_bfloat16"))
    other.set_weights(layer.get_weights())
    same_bits(from_keras(other), from_keras(layer))


def test_what_was_taken_over_is_a_copy():
    model = a_model(LSTM, readout=True)
    [arrays], dense = to_keras(model)
    for each in [*arrays, *dense]:
        each[:] = 0
    assert all(each.all() for each in jax.tree.leaves(model[1:3]))
    [arrays], dense = to_keras(model)
    taken = from_keras(arrays, dense)
    for each in [*arrays, *dense]:
        each[:] = 0
    same_bits(taken, model)


WEIGHTS = to_keras(a_model(LSTM, layers=2))[0]
BOTH = to_keras(a_model(GRU, both=True))[0][0]


def changed(k, array):
    """The arrays of two layers, with another k-th one in the second."""
    return [WEIGHTS[0], [*WEIGHTS[1][:k], array, *WEIGHTS[1][k + 1 :]]]


def with_state():
    """A functional model in which a layer starts from the state that another reached."""
    xs = kl.Input((TIME, INPUTS))
    hs, *state = a_layer("LSTM", return_state=True)(xs)
    return keras.Model(xs, a_layer("LSTM")(hs, initial_state=state))


def with_residual():
    xs = kl.Input((TIME, HIDDEN))
    return keras.Model(xs, kl.Dense(2)(kl.Add()([xs, a_layer("LSTM")(xs)])))


def with_two_outputs():
    xs = kl.Input((TIME, INPUTS))
    return keras.Model(xs, a_layer("LSTM", return_state=True)(xs))


def with_operation():
    xs = kl.Input((TIME, INPUTS))
    return keras.Model(xs, kl.Dense(2)(2 * a_layer("LSTM")(xs)))


def with_layer_twice():
    xs, layer = kl.Input((TIME, HIDDEN)), a_layer("LSTM")
    return keras.Model(xs, layer(layer(xs)))


def tanh(xs):
    return xs


class Other(kl.LSTM):
    pass


class Own(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.lstm, self.dense = a_layer("LSTM"), kl.Dense(OUTPUTS)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        # What is no such layer, or not at that place
        (lambda: (3,), TypeError, "layers: expected LSTM, GRU, SimpleRNN or Bidirectional layers, then at most a Gl"),
        (lambda: ([],), TypeError, "a Dense and its Activation or Softmax, got none of them"),
        (lambda: (Own(),), TypeError, "got Own 'own'; of a module of your own, m, hand over its parts: m.lstm"),
        (
            lambda: ("m.keras",),
            TypeError,
            "layers: expected what keras has, got the path 'm.keras'; hand over what keras.models.load_model reads ",
        ),
        (lambda: (WEIGHTS, Path("d")), TypeError, "dense: expected what keras has, got the path 'd'; hand over"),
        (lambda: (a_model(LSTM),), TypeError, "layers: expected what keras has, got a Model; to_keras takes that"),
        (lambda: (kl.LSTM,), TypeError, "a Dense and its Activation or Softmax, got <class"),
        (lambda: (Other(5, name="other"),), TypeError, "Activation or Softmax, got Other 'other'"),
        (lambda: (type("LSTM", (), {})(),), TypeError, "Activation or Softmax, got <"),
        (lambda: ([kl.RNN(kl.LSTMCell(5), name="a")],), TypeError, "layers[0]: expected LSTM, GRU, SimpleRNN or"),
        (lambda: (WEIGHTS, kl.LSTM(5, name="a")), TypeError, "dense: expected LSTM, GRU, SimpleRNN or Bidirectional"),
        (
            lambda: ([WEIGHTS[0], kl.Embedding(3, 4, name="a"), WEIGHTS[1]],),
            TypeError,
            "layers[1]: expected LSTM, GRU, SimpleRNN or Bidirectional layers, then at most a GlobalAveragePooling1D, "
            "a Dense and its Activation or Softmax, got Embedding 'a'; fold the embedding in, weight_ih @ embedding.T",
        ),
        (
            lambda: ([WEIGHTS[0], kl.Dense(4, activation="relu", name="a"), kl.Dense(2, name="b")],),
            ValueError,
            "layers: expected one Dense on top, got 2, Dense 'a' and Dense 'b'",
        ),
        (
            lambda: (keras.Sequential([a_layer("LSTM"), top := kl.Dense(4, name="a")]), top),
            ValueError,
            "dense: expected None, as layers has Dense 'a' on top, got Dense 'a'; leave it out",
        ),
        (
            lambda: ([WEIGHTS[0], built(kl.Dense(4, activation="softmax"), 8), kl.Softmax(name="a")],),
            TypeError,
            "Activation or Softmax, got Softmax 'a'",
        ),
        (lambda: ([WEIGHTS[0], kl.Softmax(name="a")],), TypeError, "Activation or Softmax, got Softmax 'a'"),
        (
            lambda: (keras.Sequential([kl.Input((TIME, INPUTS)), kl.Masking(name="m"), kl.LSTM(5)]),),
            ValueError,
            "model.layers[0]: expected no Masking, which has no weights, got Masking 'm'; hand over model.layers[1:], "
            "and lengths to what runs the layers",
        ),
        (
            lambda: (WEIGHTS[0], kl.TimeDistributed(kl.LSTM(5, name="a"))),
            TypeError,
            "dense.layer: expected a Dense, got LSTM 'a'",
        ),
        (
            lambda: (kl.Bidirectional(kl.RNN(kl.LSTMCell(5), name="a")),),
            TypeError,
            "layers.forward_layer: expected one of LSTM, GRU, SimpleRNN, got RNN 'forward_a'",
        ),
        # Models that are no chain
        (
            lambda: (with_state(),),
            ValueError,
            "model.layers[2]: expected to be called once, on what the layer below gives, got",
        ),
        (
            lambda: (with_residual(),),
            ValueError,
            "model.layers[2]: expected to be called once, on what the layer below gives, got",
        ),
        (
            lambda: (with_operation(),),
            ValueError,
            "model.layers[2]: expected to be called once, on what the layer below gives, got",
        ),
        (
            lambda: (with_two_outputs(),),
            ValueError,
            "model.layers[1]: expected to be called once, for the model's only output, got LSTM",
        ),
        (
            lambda: (with_layer_twice(),),
            ValueError,
            "model.layers[1]: expected to be called once, for the model's only output, got LSTM",
        ),
        # Settings that have no equal
        (lambda: (a_layer("LSTM", activation="relu"),), ValueError, "layers.activation: expected 'tanh', got 'relu'"),
        (lambda: (a_layer("GRU", activation=None),), ValueError, "layers.activation: expected 'tanh', got 'linear'"),
        (
            lambda: ([a_layer("SimpleRNN", activation=tanh)],),
            ValueError,
            "layers[0].activation: expected 'tanh', got <fu",
        ),
        (
            lambda: ([WEIGHTS[0], a_layer("GRU", recurrent_activation="hard_sigmoid")],),
            ValueError,
            "layers[1].recurrent_activation: expected 'sigmoid', got 'hard_sigmoid'",
        ),
        (lambda: (a_layer("LSTM", go_backwards=True),), ValueError, "layers.go_backwards: expected False, got True"),
        (
            lambda: (kl.Bidirectional(a_layer("LSTM", go_backwards=True), backward_layer=a_layer("LSTM")),),
            ValueError,
            "layers.forward_layer.go_backwards: expected False, got True",
        ),
        (
            lambda: (
                built(
                    kl.Bidirectional(
                        a_layer("LSTM"), backward_layer=a_layer("LSTM", go_backwards=True, activation="relu")
                    )
                ),
            ),
            ValueError,
            "layers.backward_layer.activation: expected 'tanh', got 'relu'",
        ),
        (
            lambda: (built(kl.Bidirectional(a_layer("LSTM"), backward_layer=a_layer("GRU", go_backwards=True))),),
            ValueError,
            "layers: expected layers of one kind, got lstm and gru",
        ),
        (
            lambda: (kl.Bidirectional(a_layer("LSTM"), merge_mode="sum"),),
            ValueError,
            "layers.merge_mode: expected 'concat', got 'sum'",
        ),
        (
            lambda: ([a_layer("LSTM", return_sequences=False), WEIGHTS[1]],),
            ValueError,
            "layers[0].return_sequences: expected True, got False",
        ),
        (
            lambda: ([WEIGHTS[0], kl.GlobalAveragePooling1D(keepdims=True)],),
            ValueError,
            "layers[1].keepdims: expected False, got True",
        ),
        (
            lambda: ([WEIGHTS[0], kl.GlobalAveragePooling1D(data_format="channels_first")],),
            ValueError,
            "layers[1].data_format: expected 'channels_last', got 'channels_first'",
        ),
        (
            lambda: ([built(a_layer("LSTM", return_sequences=False)), kl.GlobalAveragePooling1D(name="a")],),
            TypeError,
            "layers[1]: expected LSTM, GRU, SimpleRNN or Bidirectional layers, then at most a Global",
        ),
        (
            lambda: ([WEIGHTS[0], built(kl.Dense(4), 8), kl.Softmax(axis=1)],),
            ValueError,
            "layers[2].axis: expected -1, got 1",
        ),
        (
            lambda: ([WEIGHTS[0], built(kl.Dense(4), 8), kl.Activation("relu")],),
            ValueError,
            "layers[2].activation: expected 'linear' or 'softmax' or 'sigmoid', got 'relu'",
        ),
        (
            lambda: (WEIGHTS[0], kl.Dense(4, activation="relu")),
            ValueError,
            "dense.activation: expected 'linear' or 'softmax' or 'sigmoid', got 'relu'",
        ),
        # Arrays that are not there, or not as they should be
        (
            lambda: (keras.Sequential([kl.LSTM(5, name="a")]),),
            ValueError,
            "model.layers[0]: expected a layer that was built, which its first inputs do, got LSTM 'a'",
        ),
        (
            lambda: (WEIGHTS[0], kl.Dense(4, name="a")),
            ValueError,
            "dense: expected a layer that was built, which its f",
        ),
        (
            lambda: (kl.Bidirectional(a_layer("LSTM")),),
            ValueError,
            "layers.forward_layer: expected a layer that was built, which its first inputs do, got LSTM 'forward_lstm",
        ),
        (
            lambda: (BOTH[:5],),
            ValueError,
            "layers: expected the 2 or 3 arrays of a layer, with a bias or none, or the 4 or 6 of a Bidirectional, "
            "got 5; of several layers hand over a list of the get_weights() of each layer",
        ),
        (
            lambda: ([[*BOTH[:2], *BOTH[3:5]]],),
            ValueError,
            "layers[0]: expected a bias, whose shape tells the two forms of a GRU apart, or the layer itself, got none",
        ),
        (
            lambda: ([*BOTH[:3], *WEIGHTS[0]],),
            ValueError,
            "layers: expected layers of one kind, got gru and lstm",
        ),
        (lambda: ([BOTH, WEIGHTS[1]],), ValueError, "layers: expected layers of one kind, got gru and lstm"),
        (
            lambda: (changed(1, np.ones((7, 32), np.float32)),),
            ValueError,
            "layers[1][1]: expected 28 or 21 or 7 columns, of an LSTM, a GRU or a SimpleRNN, got shape [7, 32]",
        ),
        (
            lambda: (changed(0, np.ones((8, 31), np.float32)),),
            ValueError,
            "layers[1][0]: expected shape [inputs, 32], got float32 of shape (8, 31)",
        ),
        (
            lambda: (changed(2, np.ones(31, np.float32)),),
            ValueError,
            "layers[1][2]: expected shape [32], got float32 of shape (31,)",
        ),
        (
            lambda: ([*BOTH[:5], np.ones((3, 24), np.float32)],),
            ValueError,
            "layers[5]: expected shape [2, 24], got float32 of shape (3, 24)",
        ),
        (
            lambda: (changed(2, np.full(32, np.nan, np.float32)),),
            ValueError,
            "layers[1][2]: expected finite numbers, got NaN or infinity",
        ),
        (
            lambda: (changed(1, np.ones((8, 32), int)),),
            TypeError,
            "layers[1][1]: expected floats, got int64 of shape (8, 32)",
        ),
        (
            lambda: (changed(2, np.ones(32)),),
            TypeError,
            "layers and readout: expected arrays of one dtype, got float32 and float64",
        ),
        (
            lambda: (changed(0, np.ones((7, 32), np.float32)),),
            ValueError,
            "layers[1]: expected weights for the 8 outputs of the layer below, got weights for 7",
        ),
        (lambda: (WEIGHTS, []), ValueError, "dense: expected 1 or 2 arrays, with a bias or none, got 0"),
        (
            lambda: (WEIGHTS, [np.ones((8, 2)), np.ones(3)]),
            ValueError,
            "dense[1]: expected shape [2], got float64 of shape (3,)",
        ),
        (
            lambda: (WEIGHTS, built(kl.Dense(2), 7)),
            ValueError,
            "readout: expected weights for the 8 outputs of the layer below, got weights for 7",
        ),
    ],
)
def test_names_what_can_not_be_taken_over(given, error, message):
    arguments = given()
    with pytest.raises(error, match=re.escape(message)):
        from_keras(*arguments)


def test_names_the_arrays_of_a_layer():
    layer = built(a_layer("LSTM", both=True))
    layer.backward_layer.cell.bias.assign(np.full(4 * HIDDEN, np.inf))
    message = "model.layers[0].backward_layer.get_weights()[2]: expected finite numbers, got NaN or infinity"
    with pytest.raises(ValueError, match=re.escape(message)):
        from_keras(keras.Sequential([kl.Input((TIME, INPUTS)), layer]))


def test_names_what_keras_does_not_have():
    with pytest.raises(ValueError, match=r"cell: expected one that Keras has, 'lstm', .*'rnn', got 'layer_norm'"):
        to_keras(a_model(LAYER_NORM))
