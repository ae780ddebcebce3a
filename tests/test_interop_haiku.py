"""Weights from and to Haiku, beside its own cores."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import Bidirectional
from jlstm.cells import GRU, GRU_BEFORE, LSTM
from jlstm.interop import Model, from_haiku, to_haiku
from jlstm.stack import directions
from tests.exchange import (
    BATCH,
    BOUNDS,
    HIDDEN,
    INPUTS,
    OUTPUTS,
    TIME,
    a_model,
    a_state,
    close,
    drawn,
    gradient,
    run,
    same_bits,
    sequences,
)

hk = pytest.importorskip("haiku")

CELLS = {"LSTM": LSTM, "GRU": GRU_BEFORE}
LAYERS = [Bidirectional("net/~/core", "net/~/core_1"), "net/~/core_2"]


class Net(hk.Module):
    """Two layers, the first of which reads in both directions."""

    def __init__(self, kind):
        super().__init__(name="net")
        cores = [getattr(hk, kind)(HIDDEN, name="core") for _ in range(3)]
        self.layers = [Bidirectional(*cores[:2]), cores[2]]

    def __call__(self, hs, starts):
        ends = []
        for layer, start in zip(self.layers, starts, strict=True):
            ways = zip(directions(layer), directions(start), strict=True)
            found = [
                hk.dynamic_unroll(core, hs, each, time_major=False, reverse=k == 1)
                for k, (core, each) in enumerate(ways)
            ]
            hs = jnp.concatenate([each for each, _ in found], axis=-1)
            ends.append(Bidirectional(*(end for _, end in found)) if len(found) > 1 else found[0][1])
        return hs, ends


def of_haiku(states):
    """The states of each layer as Haiku has them."""
    of = lambda state: hk.LSTMState(*state) if len(state) > 1 else state.h  # noqa: E731
    return [Bidirectional(*map(of, layer)) if isinstance(layer, Bidirectional) else of(layer) for layer in states]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", CELLS)
def test_outputs_states_and_gradients_are_those_of_haiku(x64, kind, dtype):
    init, apply = hk.without_apply_rng(hk.transform(lambda xs, starts: Net(kind)(xs, starts)))
    [state] = a_state(a_model(CELLS[kind]), dtype)
    both, xs = Bidirectional(state, state), sequences(dtype)
    shapes = jax.eval_shape(init, jax.random.key(0), xs, of_haiku([both, state]))
    params = drawn(shapes, dtype, np.random.default_rng(0))
    model = from_haiku(params, LAYERS)
    assert model.cell is CELLS[kind]
    state = a_state(model, dtype)
    weights = np.random.default_rng(3).normal(size=(BATCH, TIME, HIDDEN)).astype(dtype)

    @jax.jit
    def theirs(params, xs, starts):
        def loss(params, xs):
            return (weights * apply(params, xs, jax.tree.map(jnp.zeros_like, starts))[0]).sum()

        return apply(params, xs, starts), jax.grad(loss, argnums=(0, 1))(params, xs)

    wanted, (by_params, by_xs) = theirs(params, xs, of_haiku(state))
    got, reached = run(model, xs, state)
    close((got, of_haiku(reached)), wanted, dtype)

    of_layers, of_xs = gradient(model, xs, weights)
    close(of_xs, by_xs, dtype)
    one = jax.tree.map(np.zeros_like, model.layers)  # what a gradient has not: it is of b, and of b + 1
    gradients = to_haiku(Model(model.cell, jax.tree.map(np.asarray, of_layers)), LAYERS)
    shift = to_haiku(Model(model.cell, one), LAYERS)
    close(jax.tree.map(np.subtract, gradients, shift), by_params, dtype)


def test_a_linear_layer_is_the_readout():
    init, apply = hk.without_apply_rng(hk.transform(lambda hs: hk.Linear(OUTPUTS, name="top")(hs)))
    hs = np.random.default_rng(0).normal(size=(BATCH, HIDDEN)).astype("float32")
    linear = drawn(jax.eval_shape(init, jax.random.key(0), hs), "float32", np.random.default_rng(1))
    readout = from_haiku(to_haiku(a_model(LSTM), "lstm") | linear, "lstm", "top").readout
    close(hs @ readout.weight + readout.bias, apply(linear, hs), "float32")
    del linear["top"]["b"]
    assert not from_haiku(to_haiku(a_model(LSTM), "lstm") | linear, "lstm", "top").readout.bias.any()


DTYPES = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_there_and_back_gives_the_same_bits(kind, both, dtype):
    model = a_model(CELLS[kind], jnp.dtype(dtype), layers=2, both=both, readout=True)
    if model.cell is LSTM:  # with forget biases as training starts from
        model = model._replace(layers=tuple(map(remembering, model.layers)))
    names = [Bidirectional("lstm", "lstm_1"), Bidirectional("lstm_2", "lstm_3")] if both else ("lstm", "lstm_1")
    same_bits(from_haiku(to_haiku(model, names, "linear"), names, "linear"), model)


def remembering(layer):
    if isinstance(layer, Bidirectional):
        return Bidirectional(*map(remembering, layer))
    i, f, g, o = np.split(layer.bias, 4)
    return layer._replace(bias=np.concatenate([i, (0.5 + abs(f)).astype(f.dtype), g, o]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back_a_small_forget_bias_is_rounded_once(dtype):
    dtype = jnp.dtype(dtype)
    rng = np.random.default_rng(0)
    forget = np.concatenate([rng.normal(size=400), rng.uniform(-100, 100, size=400), -np.geomspace(1e-4, 100, 400)])
    layer = a_model(LSTM, dtype).layers[0]
    wide = [np.zeros((4 * len(forget), each), dtype) for each in (3, len(forget))]
    bias = np.concatenate([forget, forget, forget, forget]).astype(dtype)
    back = from_haiku(to_haiku(Model(LSTM, (type(layer)(*wide, bias),)), "lstm"), "lstm").layers[0].bias
    (_, got, _, _), (_, b, _, _) = np.split(back, 4), np.split(bias, 4)
    assert np.array_equal(np.delete(back.reshape(4, -1), 1, 0), np.delete(bias.reshape(4, -1), 1, 0))
    assert np.array_equal(got[b >= 0.5], b[b >= 0.5])
    got, b = got.astype("float64"), b.astype("float64")
    assert (abs(got - b) <= float(jnp.finfo(dtype).eps) / 2 * (1 + abs(b))).all()
    assert (got != b).any()


def test_modules_take_the_parameters():
    """Those that have the names which Haiku gives them."""

    def net(xs):
        core = hk.DeepRNN([hk.LSTM(HIDDEN), hk.LSTM(HIDDEN)])
        hs, _ = hk.dynamic_unroll(core, xs, core.initial_state(BATCH), time_major=False)
        return hk.Linear(OUTPUTS)(hs)

    model, xs = a_model(LSTM, layers=2, readout=True), sequences()
    params = to_haiku(model, ["lstm", "lstm_1"], "linear")
    init, apply = hk.without_apply_rng(hk.transform(net))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, jax.eval_shape(init, jax.random.key(0), xs))
    close(run(model, xs)[0], jax.jit(apply)(params, xs), "float32")
    mapped = {f"agent/~/{name}": arrays for name, arrays in params.items()}
    same = from_haiku(mapped, ("agent/~/lstm", "agent/~/lstm_1"), "agent/~/linear")
    same_bits(same, from_haiku(params, ["lstm", "lstm_1"], "linear"))


def test_what_was_given_is_a_copy():
    for cell, name, part in ((LSTM, "core/linear", "w"), (GRU_BEFORE, "core", "w_i")):
        model = a_model(cell, readout=True)
        params = to_haiku(model, "core", "top")
        for arrays in (params[name], params["top"]):
            for each in arrays.values():
                each[:] = 0
        assert all(each.all() for each in (*model.layers[0], *model.readout))
        assert part in params[name]


LSTM_TREE = to_haiku(a_model(LSTM), "lstm")
GRU_TREE = to_haiku(a_model(GRU_BEFORE), "gru")


def changed(tree, **arrays):
    [(name, own)] = tree.items()
    return {name: {key: each for key, each in (own | arrays).items() if each is not None}}


def ones(*shape):
    return np.ones(shape, np.float32)


WHOLE = (
    LSTM_TREE | GRU_TREE | {"linear": {"w": ones(8, 2)}, "head/linear": {"w": ones(8, 3)}, "norm": {"scale": ones(8)}}
)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: (3, "lstm"), TypeError, "params: expected a dictionary of dictionaries of arrays, got 3"),
        (lambda: (LSTM_TREE, []), ValueError, "layers: expected at least one, got an empty list"),
        (lambda: (LSTM_TREE, ["lstm", 1]), TypeError, "layers[1]: expected the name of a module, got 1"),
        (
            lambda: (LSTM_TREE, ["lstm", "lstm_1"]),
            ValueError,
            "layers[1]: expected the name of an hk.LSTM or an hk.GRU, one of ['lstm'], got 'lstm_1'",
        ),
        (
            lambda: (LSTM_TREE, Bidirectional("lstm", "other")),
            ValueError,
            "layers.backward: expected the name of an hk.LSTM or an hk.GRU, one of ['lstm'], got 'other'",
        ),
        (
            lambda: (vanilla(), "vanilla_rnn"),
            ValueError,
            "layers: expected an hk.LSTM or an hk.GRU, got 'vanilla_rnn', an hk.VanillaRNN, which has a ReLU",
        ),
        (
            lambda: (LSTM_TREE | GRU_TREE, ["lstm", "gru"]),
            ValueError,
            "layers: expected layers of one kind, got lstm and gru_before",
        ),
        (
            lambda: (LSTM_TREE, ["lstm", "lstm"]),
            ValueError,
            "layers[1]: expected weights for the 8 outputs of the layer below, got weights for 4",
        ),
        (
            lambda: ({"lstm/linear": 3}, "lstm"),
            TypeError,
            "params['lstm/linear']: expected a dictionary of arrays, got 3",
        ),
        (
            lambda: (changed(LSTM_TREE, w=None), "lstm"),
            ValueError,
            "params['lstm/linear']: expected an array 'w', got ['b']",
        ),
        (
            lambda: (changed(LSTM_TREE, w=ones(12, 31)), "lstm"),
            ValueError,
            "params['lstm/linear']['w']: expected shape [inputs + hidden, 4 hidden], of an LSTM, got shape [12, 31]",
        ),
        (
            lambda: (changed(LSTM_TREE, w=ones(8, 32)), "lstm"),
            ValueError,
            "params['lstm/linear']['w']: expected shape [inputs + hidden, 4 hidden], of an LSTM, got shape [8, 32]",
        ),
        (
            lambda: (changed(LSTM_TREE, b=None), "lstm"),
            ValueError,
            "params['lstm/linear']: expected 2 names, got 1, with ['b'] missing and [] unknown",
        ),
        (
            lambda: (changed(LSTM_TREE, b=ones(31)), "lstm"),
            ValueError,
            "params['lstm/linear']['b']: expected shape [32], got float32 of shape (31,)",
        ),
        (
            lambda: (changed(GRU_TREE, w_i=None), "gru"),
            ValueError,
            "params['gru']: expected an array 'w_i', got ['b', 'w_h']",
        ),
        (
            lambda: (changed(GRU_TREE, offset=ones(8)), "gru"),
            ValueError,
            "params['gru']: expected 3 names, got 4, with [] missing and ['offset'] unknown",
        ),
        (
            lambda: (changed(GRU_TREE, w_h=ones(8, 23)), "gru"),
            ValueError,
            "params['gru']['w_h']: expected shape [8, 24], got float32 of shape (8, 23)",
        ),
        (
            lambda: (changed(GRU_TREE, w_i=ones(4, 21)), "gru"),
            ValueError,
            "params['gru']['w_i']: expected shape [4, 24], got float32 of shape (4, 21)",
        ),
        (
            lambda: (changed(GRU_TREE, b=np.full(24, np.inf)), "gru"),
            ValueError,
            "params['gru']['b']: expected finite numbers, got NaN or infinity",
        ),
        (
            lambda: (changed(GRU_TREE, b=np.ones(24, int)), "gru"),
            TypeError,
            "params['gru']['b']: expected floats, got int64 of shape (24,)",
        ),
        (
            lambda: (changed(GRU_TREE, b=np.ones(24)), "gru"),
            TypeError,
            "layers and readout: expected arrays of one dtype, got float32 and float64",
        ),
        (
            lambda: (LSTM_TREE, "lstm", "linear"),
            ValueError,
            "linear: expected the name of an hk.Linear, of which there is none, got 'linear'",
        ),
        (
            lambda: (WHOLE, "lsm", "linear"),
            ValueError,
            "layers: expected the name of an hk.LSTM or an hk.GRU, one of ['gru', 'lstm'], got 'lsm'",
        ),
        (
            lambda: (WHOLE, "lstm/linear"),
            ValueError,
            "layers: expected the name of an hk.LSTM or an hk.GRU, one of ['gru', 'lstm'], got 'lstm/linear'",
        ),
        (
            lambda: (WHOLE, "lstm", "linea"),
            ValueError,
            "linear: expected the name of an hk.Linear, one of ['head/linear', 'linear'], got 'linea'",
        ),
        (lambda: (LSTM_TREE, "lstm", ["linear"]), TypeError, "linear: expected the name of a module, got a list of 1"),
        (
            lambda: ("m.pickle", "lstm"),
            TypeError,
            "params: expected what haiku has, got the path 'm.pickle'; hand over what pickle or NumPy reads from it",
        ),
        (lambda: (a_model(LSTM), "lstm"), TypeError, "params: expected what haiku has, got a Model; to_haiku takes th"),
        (
            lambda: (LSTM_TREE | {"linear": {"w": ones(7, 2)}}, "lstm", "linear"),
            ValueError,
            "readout: expected weights for the 8 outputs of the layer below, got weights for 7",
        ),
        (
            lambda: (LSTM_TREE | {"linear": 3}, "lstm", "linear"),
            TypeError,
            "params['linear']: expected a dictionary of arrays, got 3",
        ),
        (
            lambda: (LSTM_TREE | {"linear": {"w": ones(8, 2), "scale": ones(2)}}, "lstm", "linear"),
            ValueError,
            "params['linear']: expected 2 names, got 3, with [] missing and ['scale'] unknown",
        ),
    ],
)
def test_names_what_can_not_be_taken_over(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_haiku(*given())


def vanilla():
    net = hk.transform(lambda xs: hk.VanillaRNN(HIDDEN)(xs, jnp.zeros((BATCH, HIDDEN))))
    return net.init(jax.random.key(0), ones(BATCH, INPUTS))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            lambda: (a_model(GRU), "gru"),
            ValueError,
            "cell: expected one that Haiku has, 'lstm', 'gru_before', got 'gru'",
        ),
        (
            lambda: (a_model(LSTM, layers=2), "lstm"),
            ValueError,
            "layers: expected names for layers of [1, 1] directions, such as ['lstm', 'lstm_1'], got some for [1]",
        ),
        (
            lambda: (a_model(LSTM, both=True), ["lstm"]),
            ValueError,
            "layers: expected names for layers of [2] directions, such as [jlstm.Bidirectional('lstm', 'lstm_1')], ",
        ),
        (
            lambda: (a_model(GRU_BEFORE, layers=2, both=True), ["gru", "gru_1"]),
            ValueError,
            "layers: expected names for layers of [2, 2] directions, such as [jlstm.Bidirectional('gru', 'gru_1'), "
            "jlstm.Bidirectional('gru_2', 'gru_3')], got some for [1, 1]",
        ),
        (lambda: (a_model(LSTM), [None]), TypeError, "layers[0]: expected the name of a module, got None"),
        (
            lambda: (a_model(LSTM, readout=True), "lstm"),
            ValueError,
            "linear: expected a name for the readout, got None",
        ),
        (
            lambda: (a_model(LSTM), "lstm", "linear"),
            ValueError,
            "linear: expected None, as there is no readout, got 'linear'",
        ),
        (
            lambda: (a_model(LSTM, both=True), Bidirectional("lstm", "lstm")),
            ValueError,
            "layers and linear: expected a name for each, got ['lstm/linear', 'lstm/linear']",
        ),
        (
            lambda: (a_model(LSTM, readout=True), "lstm", "lstm/linear"),
            ValueError,
            "layers and linear: expected a name for each, got ['lstm/linear', 'lstm/linear']",
        ),
    ],
)
def test_names_what_haiku_does_not_have(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        to_haiku(*given())
