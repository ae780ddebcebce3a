"""Weights from and to Equinox, beside its own modules."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import Bidirectional
from jlstm.cells import GRU, LSTM, RNN
from jlstm.interop import from_equinox, to_equinox
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

eqx = pytest.importorskip("equinox")

CELLS = {"LSTMCell": LSTM, "GRUCell": GRU}
KEY = jax.random.key(0)


def a_cell(kind, size=INPUTS, dtype="float32", seed=0, **options):
    cell = getattr(eqx.nn, kind)(size, HIDDEN, dtype=jnp.dtype(dtype), key=KEY, **options)
    return jax.tree.map(jnp.asarray, drawn(cell, dtype, np.random.default_rng(seed)))


def two_layers(kind, dtype, **options):
    """The first reads in both directions."""
    sizes = INPUTS, INPUTS, 2 * HIDDEN
    forward, backward, upper = (a_cell(kind, size, dtype, seed, **options) for seed, size in enumerate(sizes))
    return [Bidirectional(forward, backward), upper]


def scan(cell, xs, start, reverse=False):
    """Run one direction over a batch, as Equinox's documentation does over a sequence."""

    def of_one(xs, start):
        def step(state, x):
            state = cell(x, state)
            return state, state[0] if isinstance(state, tuple) else state

        return jax.lax.scan(step, start, xs, reverse=reverse)

    end, hs = jax.vmap(of_one)(xs, start)
    return hs, end


def outputs(layers, hs, starts):
    ends = []
    for layer, start in zip(layers, starts, strict=True):
        ways = zip(directions(layer), directions(start), strict=True)
        found = [scan(cell, hs, each, reverse=k == 1) for k, (cell, each) in enumerate(ways)]
        hs = jnp.concatenate([each for each, _ in found], axis=-1)
        ends.append(Bidirectional(*(end for _, end in found)) if len(found) > 1 else found[0][1])
    return hs, ends


def of_equinox(states):
    """The states of each layer as Equinox has them."""
    of = lambda state: tuple(state) if len(state) > 1 else state.h  # noqa: E731
    return [Bidirectional(*map(of, layer)) if isinstance(layer, Bidirectional) else of(layer) for layer in states]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", CELLS)
def test_outputs_states_and_gradients_are_those_of_equinox(x64, kind, dtype):
    layers = two_layers(kind, dtype)
    model = from_equinox(layers)
    assert model.cell is CELLS[kind]
    xs, state = sequences(dtype), a_state(model, dtype)
    weights = np.random.default_rng(3).normal(size=(BATCH, TIME, HIDDEN)).astype(dtype)

    @jax.jit
    def theirs(layers, xs, starts):
        def loss(layers, xs):
            return (weights * outputs(layers, xs, jax.tree.map(jnp.zeros_like, starts))[0]).sum()

        return outputs(layers, xs, starts), jax.grad(loss, argnums=(0, 1))(layers, xs)

    wanted, (by_layers, by_xs) = theirs(layers, xs, of_equinox(state))
    got, reached = run(model, xs, state)
    close((got, of_equinox(reached)), wanted, dtype)

    of_layers, of_xs = gradient(model, xs, weights)
    close(of_xs, by_xs, dtype)
    close(of_layers, from_equinox(by_layers).layers, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_there_and_back_gives_the_same_bits(x64, kind, both, dtype):
    model = a_model(CELLS[kind], jnp.dtype(dtype), layers=2, both=both, readout=True)
    layers, linear = to_equinox(model)
    same_bits(from_equinox(layers, linear), model)
    for layer in layers:
        assert isinstance(layer, Bidirectional) == both
        for cell in directions(layer):
            size = 2 * HIDDEN if both else HIDDEN
            like = getattr(eqx.nn, kind)(
                INPUTS if layer is layers[0] else size, HIDDEN, dtype=jnp.dtype(dtype), key=KEY
            )
            assert eqx.filter_eval_shape(lambda cell: cell, cell) == eqx.filter_eval_shape(lambda cell: cell, like)
    assert isinstance(linear, eqx.nn.Linear)
    assert (linear.in_features, linear.out_features) == (HIDDEN * (1 + both), OUTPUTS)


@pytest.mark.parametrize("kind", CELLS)
def test_without_biases_they_are_zero(kind):
    linear = eqx.nn.Linear(HIDDEN, OUTPUTS, use_bias=False, key=KEY)
    cell = a_cell(kind, use_bias=False)
    model = from_equinox(cell, linear)
    assert not any(bias.any() for bias in (*model.layers[0][2:], model.readout.bias))
    xs = sequences()
    [state] = of_equinox(a_state(model))
    hs, _ = scan(cell, xs, state)
    close(run(model, xs, a_state(model))[0], jax.vmap(jax.vmap(linear))(hs), "float32")


def test_a_linear_layer_is_the_readout():
    linear = eqx.nn.Linear(HIDDEN, "scalar", key=KEY)
    model = from_equinox(a_cell("GRUCell"), linear)
    hs = np.random.default_rng(0).normal(size=HIDDEN).astype("float32")
    close(hs @ model.readout.weight + model.readout.bias, linear(hs)[None], "float32")


def test_a_dictionary_stands_for_a_module():
    layers = two_layers("GRUCell", "float32")
    linear = eqx.nn.Linear(HIDDEN, OUTPUTS, key=KEY)
    fields = [[vars(cell) for cell in directions(layer)] for layer in layers]
    arrays = [[{name: each for name, each in cell.items() if eqx.is_array(each)} for cell in ways] for ways in fields]
    given = [Bidirectional(*arrays[0]), arrays[1][0]]
    readout = {"weight": np.asarray(linear.weight), "bias": np.asarray(linear.bias)}
    same_bits(from_equinox(tuple(given), readout), from_equinox(layers, linear))


class OwnCell(eqx.nn.LSTMCell):
    def __call__(self, input, hidden, *, key=None):
        return hidden


class Own(eqx.Module):
    cell: eqx.nn.LSTMCell
    linear: eqx.nn.Linear

    def __init__(self):
        self.cell, self.linear = a_cell("LSTMCell"), eqx.nn.Linear(HIDDEN, 2, key=KEY)


def arrays(**changed):
    shapes = {"weight_ih": (32, 4), "weight_hh": (32, 8), "bias": (32,)}
    found = {name: np.ones(shape, np.float32) for name, shape in shapes.items()} | changed
    return {name: each for name, each in found.items() if each is not None}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: ([],), ValueError, "layers: expected at least one, got an empty list"),
        (lambda: (3,), TypeError, "layers: expected an eqx.nn.LSTMCell or eqx.nn.GRUCell, got 3"),
        (
            lambda: ([eqx.nn.Linear(3, 4, key=KEY)],),
            TypeError,
            "layers[0]: expected an eqx.nn.LSTMCell or eqx.nn.GRUCell, got Linear",
        ),
        (
            lambda: ([OwnCell(4, 8, key=KEY)],),
            TypeError,
            "layers[0]: expected an eqx.nn.LSTMCell or eqx.nn.GRUCell, got OwnCell",
        ),
        (
            lambda: ([(a_cell("LSTMCell"), a_cell("LSTMCell"))],),
            TypeError,
            "layers[0]: expected an eqx.nn.LSTMCell or eqx.nn.GRUCell, got a tuple of 2",
        ),
        (
            lambda: (Bidirectional(a_cell("LSTMCell"), a_cell("GRUCell")),),
            ValueError,
            "layers: expected layers of one kind, got lstm and gru",
        ),
        (
            lambda: ([arrays(), arrays()],),
            ValueError,
            "layers[1]: expected weights for the 8 outputs of the layer below, got weights for 4",
        ),
        (
            lambda: (Bidirectional(arrays(), arrays(weight_hh=np.ones((32, 7)))),),
            ValueError,
            "layers.backward['weight_hh']: expected 28 or 21 rows, of an LSTM or a GRU, got shape [32, 7]",
        ),
        (
            lambda: (arrays(weight_ih=None),),
            ValueError,
            "layers: expected an array 'weight_ih', got ['bias', 'weight_hh']",
        ),
        (
            lambda: (arrays(weight_hr=np.ones((8, 8), np.float32)),),
            ValueError,
            "layers: expected 3 names, got 4, with [] missing and ['weight_hr'] unknown",
        ),
        (
            lambda: ({"weight_ih": np.ones((24, 4)), "weight_hh": np.ones((24, 8)), "bias": np.ones(24)},),
            ValueError,
            "layers: expected 4 names, got 3, with ['bias_n'] missing and [] unknown",
        ),
        (
            lambda: ([arrays(bias=np.ones(31, np.float32))],),
            ValueError,
            "layers[0]['bias']: expected shape [32], got float32 of shape (31,)",
        ),
        (
            lambda: (nan_cell(),),
            ValueError,
            "layers['weight_hh']: expected finite numbers, got NaN or infinity",
        ),
        (
            lambda: (arrays(bias=np.ones(32, int)),),
            TypeError,
            "layers['bias']: expected floats, got int64 of shape (32,)",
        ),
        (
            lambda: (arrays(bias=np.ones(32)),),
            TypeError,
            "layers and readout: expected arrays of one dtype, got float32 and float64",
        ),
        (
            lambda: (arrays(), eqx.nn.Linear(7, 2, key=KEY)),
            ValueError,
            "readout: expected weights for the 8 outputs of the layer below, got weights for 7",
        ),
        (lambda: (arrays(), 3), TypeError, "linear: expected an eqx.nn.Linear, got 3"),
        (lambda: (arrays(), {"bias": np.ones(2)}), ValueError, "linear: expected an array 'weight', got ['bias']"),
        (lambda: (Own(),), TypeError, "got Own; of a module of your own, m, hand over its parts: m.cell"),
        (lambda: (arrays(), Own()), TypeError, "got Own; of a module of your own, m, hand over its parts: m.linear"),
        (
            lambda: ([eqx.nn.Embedding(3, 4, key=KEY), a_cell("LSTMCell")],),
            TypeError,
            "; fold the embedding in, weight_ih @ embedding.T for the first weight_ih",
        ),
        (
            lambda: ("m.eqx",),
            TypeError,
            "layers: expected what equinox has, got the path 'm.eqx'; hand over what eqx.tree_deserialise_leaves reads",
        ),
        (lambda: (a_model(LSTM),), TypeError, "layers: expected what equinox has, got a Model; to_equinox takes that"),
        (
            lambda: (arrays(), {"weight": np.ones((2, 8)), "scale": np.ones(2)}),
            ValueError,
            "linear: expected 2 names, got 3, with [] missing and ['scale'] unknown",
        ),
    ],
)
def test_names_what_can_not_be_taken_over(given, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_equinox(*given())


def nan_cell():
    return eqx.tree_at(lambda cell: cell.weight_hh, a_cell("LSTMCell"), jnp.full((32, 8), jnp.nan))


def test_names_what_equinox_does_not_have():
    with pytest.raises(ValueError, match="cell: expected one that Equinox has, 'lstm', 'gru', got 'rnn'"):
        to_equinox(a_model(RNN))
    with pytest.raises(
        ValueError,
        match="model: expected a dtype of 32 bits or less, got float64, which needs jax_enable_x64; write as",
    ):
        to_equinox(a_model(LSTM, "float64"))
