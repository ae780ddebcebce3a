"""What JAX's users do to a pure function: strict settings, symbolic and empty shapes, donated states, raw keys."""

import functools
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import jlstm
from jlstm import Batch, LSTMConfig, LSTMNetwork, LSTMState, SeriesWindows
from jlstm.gradcheck import gradcheck, random_problem
from jlstm.losses import summed_loss
from jlstm.optimizers import averaged
from jlstm.regularizers import draw_masks

CONFIG = LSTMConfig(3, 2, 5, layers=2)
B, T = 3, 4


def problem(**options):
    """Keyword arguments for `loss_fn`, from NumPy, so that no setting decides them."""
    return random_problem(replace(CONFIG, **options), B, T)


def without(given, *names):
    return {name: value for name, value in given.items() if name not in names}


def gradient(**options):
    given = problem(**options)
    return jax.grad(lambda params: jlstm.loss_fn(params, **without(given, "params")))(given["params"])


def hessian_times_params():
    given = problem()
    params = jax.tree.map(jnp.asarray, given["params"])
    grad = jax.grad(lambda params: jlstm.loss_fn(params, **without(given, "params")))
    return jax.jvp(grad, (params,), (params,))


def mapped():
    given = problem(inputs="tokens")
    each = jax.vmap(lambda x, y: jlstm.loss_fn(given["params"], x[None], y[None], given["config"]))
    return each(given["xs"], given["ys"])


def trained(optimizer, **options):
    given = problem(**options)
    init, step = jlstm.trainer(given["config"], optimizer)
    state, loss = init(given["params"], jax.random.key(5)), None
    for _ in range(2):
        state, loss = step(state, Batch(given["xs"], given["ys"], given["lengths"]))
    return state.params, loss


def written(**choice):
    given = problem(input_size=5, inputs="tokens")
    return jlstm.generate(given["params"], [[1, 2], [3]], 3, given["config"], key=jax.random.key(6), **choice)


def network():
    data = np.ones((4, 3)), np.zeros((4, 3), int)
    made = LSTMNetwork(1, 2, 3, progress=False)
    made.train(*data, epochs=2, decay_rate=0.1, validation=data)
    return made.loss_function(made.predict(data[0][..., None]), data[1])


def forecaster():
    made = LSTMNetwork(1, 2, 1, loss="gaussian", standardize=True, progress=False)
    windows = SeriesWindows(np.arange(9.0), 3, weights=np.arange(9))
    made.train(windows, epochs=2, validation=windows)
    made.predict([1.0, 2.0], return_std=True)
    assert made.forecast([1.0, 2.0], 3).shape == (3, 1, 1)
    assert made.forecast([1.0, 2.0], 3, samples=2).shape == (2, 3, 1, 1)
    return made.evaluate(windows)


def language_model():
    text = "to be or not to be " * 3
    model = jlstm.CharLM.train(text, hidden_size=2, epochs=2, streams=2, window=8, validation=text, progress=False)
    assert len(model.generate("to", 5, top_k=3, top_p=0.9)) == 5
    return model.evaluate("to be").nats, model.evaluate("to be", window=2).nats


def layer(batch):
    given = problem()
    params, state = given["params"].layers[0], LSTMState(*jnp.ones((2, *batch, 2)))
    return functools.partial(jlstm.lstm_cell, params, state)


def over_time(**options):
    given = problem()
    state = LSTMState(*jnp.ones((2, B, 2)))
    return jlstm.unroll(given["params"].layers[0], given["xs"], state, **options)


PURE = {
    "init_params": lambda: jlstm.init_params(jax.random.key(0), CONFIG),
    "zero_state": lambda: jlstm.zero_state(problem()["params"], B),
    "lstm_cell": lambda: layer((B,))(jnp.ones((B, 3))),
    "lstm_cell of one": lambda: layer(())(jnp.ones(3)),
    "lstm_cell of an id": lambda: layer(())(2),
    "unroll": lambda: over_time(lengths=np.array([1, 4, 2]), segment=3),
    "unroll of one length": lambda: over_time(lengths=3),
    "unroll of a plain function": lambda: over_time(cell=jlstm.lstm_cell, lengths=np.array([1, 4, 2])),
    "forward": lambda: jlstm.forward(**without(problem(), "ys", "weights"), key=jax.random.key(7)),
    "step": lambda: jlstm.step(problem()["params"], jnp.ones((B, 3)), CONFIG, problem()["state"]),
    "cross_entropy": lambda: jlstm.cross_entropy(jnp.ones((2, 3, 4)), jnp.zeros((2, 3), int), 2),
    "cross_entropy of probabilities": lambda: jlstm.cross_entropy(jnp.ones((2, 4)), jnp.ones((2, 4)) / 4),
    "mse": lambda: jlstm.mse(jnp.ones((2, 3, 4)), jnp.zeros((2, 3, 4)), np.array([1, 2])),
    "binary_cross_entropy": lambda: jlstm.binary_cross_entropy(jnp.ones((2, 3, 4)), jnp.ones((2, 3, 4), bool), 2),
    "gaussian": lambda: jlstm.losses.gaussian(jnp.ones((2, 3, 4)), jnp.zeros((2, 3, 2)), None, np.array([1, 2])),
    "laplace": lambda: jlstm.losses.laplace(jnp.ones((2, 4)), jnp.zeros((2, 2)), weights=np.ones((2, 2), bool)),
    "gradient": gradient,
    "gradient of tokens": lambda: gradient(inputs="tokens", dropout=0.5, segment=3, target="last"),
    "gradient of values": lambda: gradient(loss="mse", target="last"),
    "jvp of the gradient": hessian_times_params,
    "vmap": mapped,
    "trainer": lambda: trained(optax.adam(0.1), dropout=0.5),
}
PROGRAMS = {
    "generate": written,
    "generate with top_k, top_p and stop": lambda: written(top_k=2, top_p=0.9, stop=[1]),
    "evaluate_text": lambda: jlstm.evaluate_text(
        problem(input_size=5)["params"], np.arange(9) % 5, replace(CONFIG, input_size=5)
    ),
    "LSTMNetwork": network,
    "LSTMNetwork that forecasts": forecaster,
    "CharLM": language_model,
}
TRACED = {  # these ask something only while a function is traced
    "numpy_rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "numpy_dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "check_tracer_leaks": jax.checking_leaks,
}
RUN = {
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_key_reuse": lambda: jax.debug_key_reuse(True),
    "enable_x64": lambda: jax.enable_x64(True),
    "disable_jit": jax.disable_jit,
}
OTHER_DRAWS = ("init_params", "trainer")  # with floats of 64 bits


def assert_close(got, expected, bound=1e-5):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one, float), np.asarray(other, float), rtol=0, atol=bound)


@pytest.mark.parametrize("setting", TRACED)
@pytest.mark.parametrize("name", PURE)
def test_functions_are_traced_under_strict_settings(setting, name):
    with TRACED[setting]():
        jax.eval_shape(PURE[name])


@pytest.mark.parametrize("name", PURE)
def test_functions_give_the_same_under_other_settings(name):
    expected = jax.jit(PURE[name])()
    for setting, switched in RUN.items():
        with switched():
            got = (PURE[name] if setting == "disable_jit" else jax.jit(PURE[name]))()
        if setting != "enable_x64" or name not in OTHER_DRAWS:
            assert_close(got, expected)


def programs():
    for setting in TRACED | RUN:
        piecewise = setting in ("check_tracer_leaks", "disable_jit")  # where all is compiled piece by piece
        for name in PROGRAMS:
            slow = piecewise or (name == "CharLM" and setting in RUN)
            yield pytest.param(setting, name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("setting", "name"), list(programs()))
def test_programs_run_under_strict_settings(setting, name):
    with (TRACED | RUN)[setting]():
        PROGRAMS[name]()


# Symbolic shapes


def symbolic(tree, sizes):
    """Return the shapes of arrays, with the axes of these sizes symbolic."""
    scope = export.SymbolicScope()
    symbols = {size: export.symbolic_shape(name, scope=scope)[0] for size, name in sizes.items()}

    def of(array):
        array = np.asarray(array)
        shape = [symbols.get(size, size) for size in array.shape]
        return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(array.dtype))

    return jax.tree.map(of, tree)


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ({7: "batch"}, "none"),
        ({6: "time"}, "none"),
        ({7: "batch", 6: "time"}, "none"),
        ({7: "batch", 6: "time"}, "one for all"),
        ({7: "batch", 6: "time"}, "one each"),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{"segment": 4}, {"inputs": "tokens", "target": "last", "dropout": 0.5}], ids=repr)
def test_any_axis_may_be_symbolic(sizes, lengths, options):
    given = random_problem(replace(CONFIG, **options), 7, 6)
    given["lengths"] = {"none": None, "one for all": np.int32(4), "one each": given["lengths"]}[lengths]
    key, config = given.pop("key", None), given.pop("config")

    def function(params, rest):
        state = jlstm.zero_state(params, rest["xs"].shape[0])
        scores = jlstm.forward(params, rest["xs"], config, rest["state"], rest["lengths"], key)
        loss = jax.value_and_grad(jlstm.loss_fn)(params, **rest, config=config, key=key)
        return scores, loss, jlstm.step(params, rest["xs"][:, 0], config, state)

    params, rest = given["params"], without(given, "params")
    exported = export.export(jax.jit(function))(params, symbolic(rest, sizes))
    assert_close(exported.call(params, rest), jax.jit(function)(params, rest), 1e-6)


# Empty batches and sequences


@pytest.mark.parametrize(("batch", "time"), [(0, T), (B, 0), (0, 0)])
@pytest.mark.parametrize("lengths", ["none", "one for all", "one each"])
@pytest.mark.parametrize("options", [{"segment": 3}, {"inputs": "tokens", "target": "last"}, {"loss": "mse"}], ids=repr)
def test_empty_sequences_and_batches_give_empty_arrays_and_no_gradient(batch, time, lengths, options):
    given, params = problem(**options), problem(**options)["params"]
    config = given["config"]
    xs, state = given["xs"][:batch, :time], jax.tree.map(lambda array: array[:batch], given["state"])
    ys = given["ys"][:batch, :time] if config.target == "each" else given["ys"][:batch]
    lengths = {"none": None, "one for all": 2, "one each": given["lengths"][:batch]}[lengths]
    scores, after = jlstm.forward(params, xs, config, state, lengths)
    assert scores.shape == ((batch, time, 5) if config.target == "each" else (batch, 5))
    assert_close(after, state, 0)
    hs, after = jlstm.unroll(params.layers[0], xs, state[0], lengths=lengths, segment=config.segment)
    assert hs.shape == (batch, time, 2)
    assert_close(after, state[0], 0)
    loss, grads = jax.value_and_grad(jlstm.loss_fn)(params, xs, ys, config, state=state, lengths=lengths)
    if batch == 0 or config.target == "each" or (lengths is not None and batch == 0):
        assert loss == 0
        assert_close(grads, jax.tree.map(np.zeros_like, params), 0)
    assert np.isfinite(loss)


def test_one_length_for_all_is_that_length_for_each():
    given = problem()
    for options in ({}, {"target": "last"}):
        given = problem(**options)
        one, each = (jlstm.loss_fn(**given | {"lengths": lengths}) for lengths in (3, [3, 3, 3]))
        assert_close(one, each, 1e-6)
    logits, targets = given["params"].readout.weight[None], np.zeros((1, 2), int)
    assert_close(jlstm.cross_entropy(logits, targets, 1), jlstm.cross_entropy(logits, targets, [1]), 0)


# Donated arguments


OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "an average": optax.chain(optax.sgd(0.1), averaged(0.9)),
    "schedule-free": optax.contrib.schedule_free_adamw(0.1),
    "lbfgs": optax.lbfgs(),
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 2),
}


def buffers(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    return [leaf.unsafe_buffer_pointer() for leaf in leaves]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_training_state_can_be_donated(optimizer, compiled):
    given, key = problem(), jax.random.key(0)
    params = jax.tree.map(jnp.asarray, given["params"])
    init, step = jlstm.trainer(CONFIG, optimizer)
    state = (jax.jit(init) if compiled else init)(params, key)
    assert len({*buffers(state), *buffers(params)}) == len(buffers(state)) + len(buffers(params))
    donating, batch = jax.jit(step, donate_argnums=0), Batch(given["xs"], given["ys"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        for _ in range(2):
            state, loss = donating(state, batch)
    assert np.isfinite(loss)
    assert_close(params, given["params"], 0)  # they are still there
    assert jax.random.key_data(key).shape == (2,)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_state_can_be_donated(compiled):
    given = problem()
    params, xs = jax.tree.map(jnp.asarray, given["params"]), given["xs"]
    made = jax.jit(jlstm.zero_state, static_argnums=1) if compiled else jlstm.zero_state
    state = made(params, B)
    donating = jax.jit(lambda params, state: jlstm.forward(params, xs, CONFIG, state), donate_argnums=1)
    for _ in range(3):
        assert len({*buffers(state), *buffers(params)}) == len(buffers(state)) + len(buffers(params))
        _, state = donating(params, state)


# Keys and dtypes


def test_a_raw_key_is_the_same_key_everywhere():
    tokens = random_problem(replace(CONFIG, input_size=5, inputs="tokens", dropout=0.5), B, T)
    config, params, prompts = tokens["config"], tokens["params"], tokens["xs"]
    batch = Batch(prompts, tokens["ys"])
    _, train = jlstm.trainer(config, optax.sgd(0.1))
    functions = {
        "init_params": lambda key: jlstm.init_params(key, config),
        "LSTM.init": lambda key: jlstm.LSTM.init(key, 3, 2),
        "draw_masks": lambda key: draw_masks(key, config, B, T),
        "forward": lambda key: jlstm.forward(params, prompts, config, key=key),
        "loss_fn": lambda key: jlstm.loss_fn(params, prompts, batch.ys, config, key=key),
        "trainer": lambda key: train(jlstm.trainer(config, optax.sgd(0.1)).init(params, key), batch)[1],
        "generate": lambda key: jlstm.generate(params, prompts, 5, config, key=key),
        "stream": lambda key: list(jlstm.stream(params, prompts, 5, config, key=key)),
    }
    for name, function in functions.items():
        assert_close(function(jax.random.PRNGKey(3)), function(jax.random.key(3)), 0)
        for wrong in (3, None, "key", jax.random.split(jax.random.key(0)), np.zeros(2)):
            if wrong is None and name in ("forward", "loss_fn"):
                continue
            with pytest.raises(TypeError, match=r"^key: expected one key of jax\.random\.key, got "):
                function(wrong)
    assert gradcheck(**tokens | {"key": jax.random.PRNGKey(3)}).passed


def test_float64_from_numpy_brings_no_warning():
    """Warnings are errors in the tests."""
    given = problem()
    for name in ("params", "xs", "state"):
        given[name] = jax.tree.map(lambda array: np.asarray(array, np.float64), given[name])
    scores, _ = jlstm.forward(**without(given, "ys", "weights"))
    assert scores.dtype == jnp.float32
    assert summed_loss(**given)[0].dtype == jnp.float32
    assert jlstm.unroll(given["params"].layers[0], given["xs"])[0].dtype == jnp.float32
    assert jlstm.step(given["params"], given["xs"][:, 0], CONFIG, given["state"])[0].dtype == jnp.float32
    assert jlstm.zero_state(given["params"], 2)[0].h.dtype == jnp.float32
