"""What is said about what was handed in, by the checks themselves and by the functions that people call."""

import re
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jlstm
from jlstm import Batch, LSTMConfig, LSTMState
from jlstm.checks import alike, class_only, describe, library, numbers, prng_key, shaped, whole_seed, whole_size
from jlstm.evaluation import evaluate_text
from jlstm.gradcheck import gradcheck, random_problem
from jlstm.losses import summed_loss

CONFIG = LSTMConfig(3, 4, 5, layers=2)
GIVEN = random_problem(CONFIG, 2, 6)
PARAMS, XS, YS, STATE, LENGTHS = (GIVEN[name] for name in ("params", "xs", "ys", "state", "lengths"))
LAYER = PARAMS.layers[0]
ONE, VALUE = LSTMConfig(1, 4, 5), LSTMConfig(3, 4, 1, loss="mse")
IDS = np.zeros((2, 6), int)


def with_bias(bias):
    return PARAMS._replace(layers=(LAYER._replace(bias=bias), PARAMS.layers[1]))


def with_state(h):
    return STATE[0], STATE[1]._replace(h=h)


class Lines:
    def __repr__(self):
        return "Lines(\n)"


# The words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        ("a" * 99, "'aaaaaaaaaaaa...aaaaaaaaaaaaa'"),
        (3, "3"),
        (10**5000, "an integer of 16610 bits"),
        (np.ones((2, 3), np.float32), "float32 of shape (2, 3)"),
        (jnp.float32(3), "Array(3., dtype=float32)"),
        ([1, 2], "[1, 2]"),
        ([np.ones(2)] * 3, "a list of 3"),
        (STATE, "a tuple of 2"),
        (LAYER, "LSTMParams"),
        (Lines(), "Lines"),
        ((Lines(), Lines()), "a tuple of 2"),
    ],
    ids=range(12),
)
def test_what_came_is_described_in_a_few_words(value, words):
    assert describe(value) == words


def test_says_which_library_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "has_needs.py").write_text("import none.at_all")
    for name, message, missing in [
        ("none", "none is not installed: pip install 'jlstm[extra]'", "none"),
        ("none.at_all", "none is not installed: pip install 'jlstm[extra]'", "none"),
        ("has_needs", "has_needs needs none, which is not installed", "none"),
    ]:
        with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(message)}$") as caught:
            library(name, extra="extra")
        assert caught.value.name == missing


def test_arrays_of_others_are_read_whatever_they_call_their_dtypes():
    """A tensor of torch, and a column of pandas that may have unknown booleans or strings."""

    class Column:
        def __init__(self, values):
            self.values, self.shape, self.dtype = values, np.shape(values), "a dtype of their own"

        def __array__(self, dtype=None, copy=None):
            return np.array(self.values, dtype)

    np.testing.assert_array_equal(numbers("x", Column([0.5, np.nan])), [0.5, np.nan])
    assert numbers("x", Column([True, False])).dtype == bool
    with pytest.raises(TypeError, match="x: expected numbers, got strings"):
        numbers("x", Column(["yes", "no"]))


def test_axes_are_named_in_what_is_expected():
    message = r"^x: expected \[batch, features = 3\], got float32 of shape \(2, 4\)$"
    with pytest.raises(ValueError, match=message):
        shaped("x", np.ones((2, 4), np.float32), batch=None, features=3)
    assert shaped("x", [[1.0, 2.0, 3.0]], batch=None, features=3).shape == (1, 3)


def test_a_pytree_is_compared_part_by_part():
    expected = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), PARAMS)
    assert isinstance(alike("params", PARAMS, expected).readout.bias, jax.Array)
    as_lists = PARAMS._replace(layers=list(PARAMS.layers))
    assert jax.tree.structure(alike("params", as_lists, expected)) == jax.tree.structure(PARAMS)


def test_a_size_may_be_symbolic():
    [symbol] = jax.export.symbolic_shape("b")
    assert whole_size("batch", symbol) is symbol
    assert whole_size("batch", np.int8(3)) == 3
    with pytest.raises(TypeError, match=r"^batch: expected an integer, got 2\.5$"):
        whole_size("batch", 2.5)


def test_no_seed_is_another_one_each_time():
    assert whole_seed("seed", 7) == 7
    assert whole_seed("seed", None) != whole_seed("seed", None)
    with pytest.raises(ValueError, match=r"^seed: expected at least 0, got -1$"):
        whole_seed("seed", -1)


def test_a_key_is_one_key():
    assert prng_key("key", jax.random.PRNGKey(3)) == jax.random.key(3)
    with pytest.raises(TypeError, match=r"^key: expected one key of jax\.random\.key, got uint32 of shape \(3,\)$"):
        prng_key("key", np.zeros(3, np.uint32))


def test_what_the_class_alone_has():
    class Model:
        @class_only
        def make(cls, value):
            """Make one."""
            return cls, value

    assert Model.make(3) == (Model, 3)
    with pytest.raises(AttributeError, match=r"^make: makes a new Model .*; write Model\.make\(\.\.\.\)$"):
        Model().make(3)


# The functions. Each case: what is called with what, and the beginning of the message.

forward, unroll, loss_fn, step = jlstm.forward, jlstm.unroll, jlstm.loss_fn, jlstm.step
init, train = jlstm.trainer(CONFIG, optax.sgd(0.1))
MISTAKES = {
    "a sequence without a batch": (
        forward,
        (PARAMS, XS[0], CONFIG),
        "xs: expected [batch, time, features = 3], or class",
    ),
    "... says how to write it": (forward, (PARAMS, XS[0], CONFIG), "xs: .*; write xs\\[None\\] for one sequence"),
    "other features": (forward, (PARAMS, XS[..., :2], CONFIG), "xs: expected [batch, time, features = 3]"),
    "ids in float": (
        forward,
        (PARAMS, IDS * 1.0, CONFIG),
        "xs: expected [batch, time, features = 3], or class ids, int",
    ),
    "ids in bool": (forward, (PARAMS, IDS > 0, CONFIG), "xs: expected"),
    "words": (forward, (PARAMS, [["a"]], CONFIG), "xs: expected numbers, got strings"),
    "ragged": (forward, (PARAMS, [[1], [1, 2]], CONFIG), "xs: expected a regular array, got parts of different shapes"),
    "complex": (forward, (PARAMS, XS * 1j, CONFIG), "xs: expected real numbers, got complex ones"),
    "nothing": (forward, (PARAMS, None, CONFIG), "xs: expected numbers, got None"),
    "a layer for a network": (forward, (LAYER, XS, CONFIG), "params: expected ModelParams, got LSTMParams"),
    "a dict for a network": (forward, (PARAMS._asdict(), XS, CONFIG), "params: expected ModelParams, got {"),
    "a layer too few": (
        forward,
        (PARAMS._replace(layers=PARAMS.layers[:1]), XS, CONFIG),
        "params.layers: expected 2 LSTMParams, got 1",
    ),
    "one layer for layers": (
        forward,
        (PARAMS._replace(layers=LAYER), XS, CONFIG),
        "params.layers: expected a tuple of 2 LSTMParams, got LSTMParams",
    ),
    "a bias of two axes": (
        forward,
        (with_bias(LAYER.bias[:, None]), XS, CONFIG),
        "params.layers[0].bias: expected shape (16,), got float32 of shape (16, 1)",
    ),
    "integers for parameters": (
        forward,
        (with_bias(np.zeros(16, int)), XS, CONFIG),
        "params.layers[0].bias: expected floats of shape (16,), got int",
    ),
    "no bias": (forward, (with_bias(None), XS, CONFIG), "params.layers[0].bias: expected numbers, got None"),
    "a network of another size": (
        forward,
        (PARAMS, XS, replace(CONFIG, hidden_size=5)),
        "params.layers[0].weight_ih: expected shape (20, 3), got float32 of shape (16, 3)",
    ),
    "no configuration": (forward, (PARAMS, XS, None), "config: expected an LSTMConfig, got None"),
    "one layer's state": (
        forward,
        (PARAMS, XS, CONFIG, STATE[0]),
        "state: expected a tuple of 2 states, got LSTMState",
    ),
    "a state too few": (forward, (PARAMS, XS, CONFIG, STATE[:1]), "state: expected 2 states, one a layer, got 1"),
    "tuples for states": (forward, (PARAMS, XS, CONFIG, ((1, 2), (1, 2))), "state[0]: expected LSTMState, got (1, 2)"),
    "a state of another batch": (
        forward,
        (PARAMS, XS, CONFIG, with_state(np.zeros((3, 4)))),
        "state[1].h: expected shape (2, 4), got float64 of shape (3, 4)",
    ),
    "lengths of another batch": (
        forward,
        (PARAMS, XS, CONFIG, None, [1, 2, 3]),
        "lengths: expected integers [batch = 2]",
    ),
    "lengths in float": (
        forward,
        (PARAMS, XS, CONFIG, None, [5.7, 2.0]),
        "lengths: expected integers [batch = 2], or one",
    ),
    "a length in float": (forward, (PARAMS, XS, CONFIG, None, 5.7), "lengths: expected integers"),
    "lengths in bool": (forward, (PARAMS, XS, CONFIG, None, [True, False]), "lengths: expected integers"),
    "a key that is none": (
        forward,
        (PARAMS, XS, CONFIG, None, None, 3),
        "key: expected one key of jax.random.key, got 3",
    ),
    "layers to unroll": (unroll, (PARAMS.layers, XS), "params: expected LSTMParams, got a tuple of 2"),
    "a network to unroll": (unroll, (PARAMS, XS), "params: expected LSTMParams, got ModelParams"),
    "features to unroll": (unroll, (LAYER, XS[..., :2]), "xs: expected [batch, time, features = 3]"),
    "a sequence to unroll": (unroll, (LAYER, XS[0]), "xs: expected"),
    "a turned weight to unroll": (
        unroll,
        (LAYER._replace(weight_hh=LAYER.weight_hh.T), XS),
        "params.weight_ih: expected shape (64, 3), got float32 of shape (16, 3)",
    ),
    "states to unroll": (unroll, (LAYER, XS, STATE), "state: expected LSTMState, got a tuple of 2"),
    "a state to unroll": (unroll, (LAYER, XS, STATE[0]._replace(c=np.zeros((2, 5)))), "state.c: expected shape (2, 4)"),
    "ids and targets": (
        loss_fn,
        (PARAMS, XS, YS[:, :5], CONFIG),
        "ys: expected class ids, integers [batch = 2, time = 6]",
    ),
    "targets in float": (loss_fn, (PARAMS, XS, YS * 1.0, CONFIG), "ys: expected .*; write ys.astype\\(int\\)"),
    "targets in columns": (loss_fn, (PARAMS, XS, YS[..., None], CONFIG), "ys: expected .*; write ys\\[..., 0\\]"),
    "ids for values": (
        loss_fn,
        (PARAMS, XS, YS, replace(CONFIG, loss="mse")),
        "ys: expected [batch = 2, time = 6, C = 5]",
    ),
    "a target a step": (
        loss_fn,
        (PARAMS, XS, YS, replace(CONFIG, target="last")),
        "ys: expected class ids, integers [batch = 2], or probabilities [batch = 2, C = 5]",
    ),
    "summed": (summed_loss, (PARAMS, XS[0], YS, CONFIG), "xs: expected"),
    "a step without a batch": (
        step,
        (PARAMS, XS[0, 0], CONFIG, STATE),
        "x: expected [batch, features = 3], or class ids",
    ),
    "a step of another state": (step, (PARAMS, XS[:, 0], CONFIG, STATE[0]), "state: expected a tuple of 2 LSTMState"),
    "a step of a sequence": (step, (PARAMS, XS, CONFIG, STATE), "x: expected"),
    "a cell's parameters": (
        jlstm.lstm_cell,
        (PARAMS, STATE[0], XS[:, 0]),
        "params: expected LSTMParams, got ModelParams",
    ),
    "a cell's state": (jlstm.lstm_cell, (LAYER, STATE, XS[:, 0]), "state: expected LSTMState, got a tuple of 2"),
    "a cell's states": (
        jlstm.lstm_cell,
        (LAYER, LSTMState(np.zeros((2, 4)), np.zeros(4)), XS[:, 0]),
        "state.c: expected shape (2, 4), got float64 of shape (4,)",
    ),
    "a cell's input": (jlstm.lstm_cell, (LAYER, STATE[0], XS[0, 0]), "x: expected"),
    "a layer's zeros": (jlstm.zero_state, (LAYER, 2), "params: expected ModelParams, got LSTMParams"),
    "half a batch": (jlstm.zero_state, (PARAMS, 2.5), "batch: expected an integer, got 2.5"),
    "logits of four axes": (
        jlstm.cross_entropy,
        (np.ones((1, 1, 1, 2)), IDS, 1),
        "logits: expected [batch, time, C], or",
    ),
    "targets of other logits": (
        jlstm.cross_entropy,
        (np.ones((2, 6, 3)), IDS[:1]),
        "targets: expected class ids, integers",
    ),
    "values": (jlstm.mse, (np.ones((2, 6, 3)), np.ones((2, 6))), "targets: expected [batch = 2, time = 6, C = 3], got"),
    "a length each": (
        jlstm.mse,
        (np.ones((2, 6, 3)), np.ones((2, 6, 3)), [1, 2, 3]),
        "lengths: expected integers [batch = 2]",
    ),
    "no network to train": (jlstm.trainer, (None, optax.sgd(0.1)), "config: expected an LSTMConfig, got None"),
    "no optimiser": (
        jlstm.trainer,
        (CONFIG, 0.1),
        "optimizer: expected it to be an optax GradientTransformation, got 0.1",
    ),
    "parameters of another": (init, (LAYER, jax.random.key(0)), "params: expected ModelParams, got LSTMParams"),
    "no key": (init, (PARAMS, 0), "key: expected one key of jax.random.key, got 0"),
    "a pair for a batch": (
        train,
        (init(PARAMS, jax.random.key(0)), (XS, YS)),
        "batch: expected a Batch, got a tuple of 2",
    ),
    "parameters for a state": (train, (PARAMS, Batch(XS, YS)), "state: expected a TrainState, got ModelParams"),
    "a gradient's targets": (gradcheck, (PARAMS, XS, YS * 1.0, CONFIG), "ys: expected .*; write ys.astype\\(int\\)"),
    "no network to write with": (evaluate_text, (PARAMS, [1, 2], None), "config: expected an LSTMConfig, got None"),
    "a model of a layer": (
        jlstm.CharLM,
        (LAYER, LSTMConfig(5, 4, 5), "abcde"),
        "params: expected ModelParams, got LSTMParams",
    ),
    "a series of one feature": (
        forward,
        (random_problem(ONE, 2, 6)["params"], XS[..., 0], ONE),
        "xs: .*; write xs\\[..., None\\]",
    ),
    "one series of one feature": (
        forward,
        (random_problem(ONE, 2, 6)["params"], XS[0, :, 0], ONE),
        "xs: .*; write xs\\[None, ..., None\\] for one sequence",
    ),
    "values without an axis": (
        loss_fn,
        (random_problem(VALUE, 2, 6)["params"], XS, YS * 1.0, VALUE),
        "ys: expected \\[batch = 2, time = 6, C = 1\\].*; write ys\\[..., None\\]",
    ),
    "one target a sequence": (loss_fn, (PARAMS, XS, YS[:, 0], CONFIG), "ys: .*; with one target a .* is 'last'"),
    "a target for each step": (
        loss_fn,
        (PARAMS, XS, YS, replace(CONFIG, target="last")),
        "ys: .*; with a target for each time step, config.target is 'each'",
    ),
    "no network to draw": (jlstm.init_params, (jax.random.key(0), {"a": 1}), "config: expected an LSTMConfig, got"),
    "integers to draw": (jlstm.init_params, (jax.random.key(0), CONFIG, int), "dtype: expected a dtype of floats, got"),
    "complex to draw": (
        jlstm.init_params,
        (jax.random.key(0), CONFIG, "complex64"),
        "dtype: expected a dtype of floats",
    ),
    "an unknown dtype": (
        jlstm.init_params,
        (jax.random.key(0), CONFIG, "float99"),
        "dtype: expected a dtype of floats",
    ),
    "a layer's zeros in a network": (
        jlstm.zero_state,
        (PARAMS._replace(layers=LAYER), 2),
        "params.layers[0]: expected LSTMParams, got float32 of shape (16, 3)",
    ),
    "no layers' zeros": (jlstm.zero_state, (PARAMS._replace(layers=None), 2), "params.layers: expected a tuple of"),
    "a number for an axis": (
        lambda *given: jlstm.trainer(*given, axis_name=3),
        (CONFIG, optax.sgd(0.1)),
        "axis_name: expected the name of a mapped axis, or several in a tuple, got 3",
    ),
    "a maker of optimisers": (jlstm.trainer, (CONFIG, optax.adam), "optimizer: .*; call it, and give what it returns"),
    "ragged prompts": (
        lambda *given: jlstm.generate(*given, 3, replace(CONFIG, input_size=5), key=jax.random.key(0)),
        (PARAMS, [[0, [1, 2]], [1]]),
        "prompts[0]: expected a regular array, got parts of different shapes",
    ),
    "parameters to write with": (
        lambda *given: jlstm.generate(*given, 3, replace(CONFIG, input_size=5), key=jax.random.key(0)),
        (PARAMS, [[1]]),
        "params.layers[0].weight_ih: expected shape (16, 5), got float32 of shape (16, 3)",
    ),
}


@pytest.mark.parametrize(("function", "given", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(function, given, message):
    pattern = message if ".*" in message else re.escape(message)
    with pytest.raises((TypeError, ValueError), match=f"^{pattern}"):
        function(*given)


@pytest.mark.parametrize("name", ["a sequence without a batch", "a bias of two axes", "one layer's state"])
def test_mistakes_are_named_when_a_function_is_traced(name):
    function, (params, xs, config, *state), message = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
        jax.jit(function)(params, xs, config, *state)


class Remembering(NamedTuple):
    """A state with more than arrays in it."""

    h: jax.Array
    more: dict
    nothing: None = None


def test_a_cell_of_ones_own_has_the_state_that_it_says():
    def zero_state(params):
        return Remembering(jnp.zeros(4), {"c": jnp.zeros(4)})

    def gates(params, z, state):
        memory, h = jlstm.LSTM.gates(params, z, LSTMState(state.h, state.more["c"]))
        return Remembering(h, {"c": memory.c}), h

    cell = replace(jlstm.LSTM, gates=gates, zero_state=zero_state, blocks=None)
    state = jax.tree.map(lambda array: jnp.stack([array] * 2), zero_state(LAYER))
    for lengths in (None, LENGTHS):
        hs, after = jlstm.unroll(LAYER, XS, state, cell=cell, lengths=lengths)
        expected, last = jlstm.unroll(LAYER, XS, lengths=lengths)
        np.testing.assert_allclose(hs, expected, atol=1e-6)
        np.testing.assert_allclose(after.more["c"], last.c, atol=1e-6)
    with pytest.raises(TypeError, match=r"^state\.more: expected PyTreeDef\(\{'c': \*\}\), got None"):
        jlstm.unroll(LAYER, XS, state._replace(more=None), cell=cell)
    with pytest.raises(ValueError, match=r"^state\.more\['c'\]: expected shape \(2, 4\), got float32 of"):
        jlstm.unroll(LAYER, XS, state._replace(more={"c": jnp.zeros((3, 4))}), cell=cell)


def test_a_plain_function_takes_what_it_likes():
    """Images, numbers without features, a counter in its state, a function among its parameters."""

    def plain(params, state, x):
        h = params["activation"](state["h"] + x.reshape(2, -1).sum(axis=1))
        return {"h": h, "count": state["count"] + 1}, h

    params, state = {"activation": jnp.tanh}, {"h": jnp.zeros(2), "count": 0}
    for xs in (np.ones((2, 3, 4, 4, 2), np.float32), np.ones((2, 3), np.float32)):
        hs, after = jlstm.unroll(params, xs, state, cell=plain)
        assert hs.shape == (2, 3)
        assert after["count"] == 3
        _, after = jlstm.unroll(params, xs, state, cell=plain, lengths=[2, 1])
        np.testing.assert_array_equal(after["h"], [hs[0, 1], hs[1, 0]])
    for wrong, message in (
        ({"h": jnp.zeros((3, 3))}, r"^state\['h'\]: expected \[batch = 2, \.\.\.\], got float32 of shape"),
        (None, "^state: a cell that is a plain function needs its state"),
    ):
        with pytest.raises(ValueError, match=message):
            jlstm.unroll(params, XS, wrong, cell=plain)
    with pytest.raises(ValueError, match=r"^xs: expected \[batch, time, \.\.\.\], got int\d\d of shape \(2,\)"):
        jlstm.unroll(params, np.ones(2, int), state, cell=plain)
    with pytest.raises(TypeError, match=r"^cell: expected a Cell or a function \(params, state, x\)"):
        jlstm.unroll(LAYER, XS, STATE[0], cell=3)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 4)])
def test_losses_take_scores_of_any_axes(shape):
    rng = np.random.default_rng(0)
    logits, ids = rng.normal(size=(*shape, 5)), rng.integers(5, size=shape)
    flat = jlstm.cross_entropy(logits.reshape(-1, 5), ids.reshape(-1))
    np.testing.assert_allclose(jlstm.cross_entropy(logits, ids), flat, rtol=1e-6)
    np.testing.assert_allclose(jlstm.mse(logits, logits + 2), 4, rtol=1e-6)


def test_ids_and_lengths_of_few_bits():
    """256 is 0 in a byte."""
    config = LSTMConfig(256, 4, 256, inputs="tokens")
    given = random_problem(config, 2, 6)
    expected = jlstm.loss_fn(**given)
    for dtype in ("uint8", "int16", "uint32"):
        of_few = {name: given[name].astype(dtype) for name in ("xs", "ys", "lengths")}
        with jax.numpy_dtype_promotion("strict"):
            assert jlstm.loss_fn(**given | of_few) == expected
    assert jlstm.cross_entropy(np.zeros((2, 256)), np.uint8([0, 255])) == pytest.approx(np.log(256))


# What only values tell


@pytest.mark.parametrize("wrong", [-1, 5, -99, 10**6])
def test_ids_that_are_none_give_nan(wrong):
    """JAX and optax take -1 for the last class, others they clip, or give zeros in the gradient alone."""
    ys = YS.copy()
    ys[1, 2] = wrong
    gradient = jax.jit(jax.value_and_grad(jlstm.loss_fn))
    loss, grads = gradient(PARAMS, XS, ys, CONFIG)
    assert np.isnan(loss)
    assert np.isnan(grads.readout.bias).all()
    assert np.isnan(jlstm.cross_entropy(np.ones((1, 2, 5)), np.array([[0, wrong]])))
    assert np.isfinite(jlstm.loss_fn(PARAMS, XS, ys, CONFIG, lengths=[6, 2]))  # it lies in the padding

    config = replace(CONFIG, input_size=5, inputs="tokens")
    params = random_problem(config, 2, 6)["params"]
    scores, state = jlstm.forward(params, ys, config)
    assert np.isfinite(scores[0]).all()
    assert np.isfinite(scores[1, :2]).all()
    assert np.isnan(scores[1, 2:]).all()
    assert np.isnan(state[0].h[1]).all()
    assert np.isfinite(state[0].h[0]).all()
    assert np.isnan(jlstm.step(params, ys[:, 2], config, state)[0][1]).all()
    assert np.isnan(gradient(params, ys, YS, config)[1].layers[0].weight_hh).any()
    assert np.isfinite(jlstm.forward(params, ys, config, lengths=[6, 2])[0]).all()


@pytest.mark.parametrize("options", [{}, {"target": "last"}], ids=["each", "last"])
def test_lengths_beyond_what_there_is_are_the_nearest_that_there_is(options):
    given = random_problem(replace(CONFIG, **options), 2, 6)
    params, gradient = given.pop("params"), jax.jit(jax.value_and_grad(jlstm.loss_fn))
    for strange, sensible in (([9, 2**31 - 1], [6, 6]), ([-3, 4], [0, 4]), (99, 6), (-1, 0)):
        losses = [gradient(params, **given | {"lengths": np.asarray(n)}) for n in (strange, sensible)]
        for one, other in zip(*map(jax.tree.leaves, losses), strict=True):
            np.testing.assert_array_equal(one, other)
            assert np.isfinite(one).all()
