"""The network: its configuration, its initial parameters, and its forward pass against the NumPy reference."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import reference
from jlstm.cells import RNN, Cell, RNNState, times
from jlstm.cells.lstm import LSTMParams, LSTMState
from jlstm.config import LSTMConfig
from jlstm.model import ModelParams, Readout, forward, init_params, step, zero_state
from jlstm.regularizers import draw_masks

B, T, INPUTS, H, C = 3, 4, 2, 3, 5
LENGTHS = np.array([2, 0, 3])
EACH = LSTMConfig(INPUTS, H, C)
LAST = LSTMConfig(INPUTS, H, C, target="last")
EACH2 = LSTMConfig(INPUTS, H, C, layers=2)
leaves = jax.tree.leaves


def random(layers=1, dtype="float64"):
    """Parameters of so many layers, inputs, and a state."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    params = ModelParams(
        tuple(LSTMParams(normal(4 * H, H if k else INPUTS), normal(4 * H, H), normal(4 * H)) for k in range(layers)),
        Readout(normal(H, C), normal(C)),
    )
    return params, normal(B, T, INPUTS), tuple(LSTMState(normal(B, H), normal(B, H)) for _ in range(layers))


def assert_close(got, expected, atol):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


# Configuration


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "output_size", "layers", "segment"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "expected at least 1, got 0"),
        (-3, ValueError, "expected at least 1, got -3"),
        (2.0, TypeError, "expected an integer, got 2.0"),
        (np.float32(2), TypeError, "expected an integer, got np.float32(2.0)"),
        (True, TypeError, "expected an integer, got True"),
        (np.True_, TypeError, "expected an integer, got np.True_"),
        ("3", TypeError, "expected an integer, got '3'"),
        ([3], TypeError, "expected an integer, got [3]"),
        (np.array([3, 4]), TypeError, "expected an integer, got int64 of shape (2,)"),
    ],
    ids=repr,
)
def test_config_refuses_sizes(name, value, error, message):
    sizes = {"input_size": 1, "hidden_size": 1, "output_size": 2} | {name: value}
    with pytest.raises(error, match=f"^{name}: {re.escape(message)}$"):
        LSTMConfig(**sizes)


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "output_size"])
def test_config_refuses_sizes_that_are_none(name):
    with pytest.raises(TypeError, match=f"^{name}: expected an integer, got None$"):
        LSTMConfig(**{"input_size": 1, "hidden_size": 1, "output_size": 2} | {name: None})


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ({"loss": "crossentropy"}, ValueError, r"^loss: expected one of .*cross_entropy.*mse.* got 'crossentropy'$"),
        ({"loss": None}, ValueError, "^loss: expected one of .*, got None$"),
        ({"loss": ["mse"]}, ValueError, r"^loss: expected one of .*, got \['mse'\]$"),
        ({"target": "all"}, ValueError, r"^target: expected one of .*each.*last.* got 'all'$"),
        ({"target": True}, ValueError, "^target: expected one of .*, got True$"),
        ({"inputs": "ids"}, ValueError, r"^inputs: expected one of .*features.*tokens.* got 'ids'$"),
        ({"dropout": 1}, ValueError, r"^dropout: expected a number below 1, got 1.0$"),
        ({"dropout": -0.1}, ValueError, "^dropout: expected a finite number from 0 up, got -0.1$"),
        ({"dropout": float("nan")}, ValueError, "^dropout: expected a finite number.*, got nan$"),
        ({"dropout": "0.5"}, TypeError, "^dropout: expected a number, got '0.5'$"),
        ({"dropout": False}, TypeError, "^dropout: expected a number, got False$"),
        ({"input_scale": 0}, ValueError, r"^input_scale: expected a positive number up to 1e\+30, got 0.0$"),
        ({"input_scale": -1.5}, ValueError, "^input_scale: expected .* number.*, got -1.5$"),
        ({"input_scale": float("nan")}, ValueError, "^input_scale: expected a finite number.*, got nan$"),
        ({"input_scale": float("inf")}, ValueError, "^input_scale: expected a finite number.*, got inf$"),
        ({"input_scale": "2"}, TypeError, "^input_scale: expected a number, got '2'$"),
        ({"input_scale": None}, TypeError, "^input_scale: expected a number, got None$"),
        ({"input_scale": True}, TypeError, "^input_scale: expected a number, got True$"),
        ({"input_scale": 1j}, TypeError, "^input_scale: expected a number, got 1j$"),
    ],
    ids=str,
)
def test_config_refuses(argument, error, message):
    with pytest.raises(error, match=message):
        LSTMConfig(1, 1, 2, **argument)


@pytest.mark.parametrize("value", [10**400, np.longdouble("1e4000")], ids=["int", "long double"])
def test_config_refuses_an_input_scale_beyond_float(value):
    with pytest.raises(ValueError, match=r"^input_scale: expected .*, got"):
        LSTMConfig(1, 1, 2, input_scale=value)


def test_config_takes_numpy_numbers_as_pythons():
    floats = {"input_scale": np.float32(2), "dropout": np.float16(0.5)}
    config = LSTMConfig(np.int64(1), np.uint8(2), np.int32(3), layers=np.int8(5), segment=np.int16(4), **floats)
    assert config == LSTMConfig(1, 2, 3, layers=5, input_scale=2.0, dropout=0.5, segment=4)
    types = [type(getattr(config, name)) for name in ("input_size", "hidden_size", "output_size", "layers", "segment")]
    assert types == [int] * 5
    assert [type(getattr(config, name)) for name in floats] == [float] * 2
    assert type(LSTMConfig(1, 1, 2, input_scale=3).input_scale) is float


def test_config_is_hashable_and_frozen():
    assert hash(LSTMConfig(1, 2, 3)) == hash(LSTMConfig(1, 2, 3, "cross_entropy", "each", "features", 1, 0, 1))
    others = {"loss": "mse"}, {"inputs": "tokens"}, {"layers": 2}, {"dropout": 0.5}
    assert len({LSTMConfig(1, 2, 3), LSTMConfig(1, 2, 3), *(LSTMConfig(1, 2, 3, **other) for other in others)}) == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        EACH.loss = "mse"


def test_config_is_a_static_argument_and_equal_ones_retrace_nothing():
    traced = []

    @jax.jit
    def size(x, config):
        traced.append(config)
        return x + config.hidden_size  # static, or it would have to be an array

    assert leaves(EACH) == []
    assert size(0.0, LSTMConfig(1, 2, 3)) == size(0.0, LSTMConfig(np.int64(1), np.int8(2), 3, input_scale=1)) == 2
    assert len(traced) == 1
    assert size(0.0, LSTMConfig(1, 2, 3, target="last")) == 2
    assert size(0.0, LSTMConfig(1, 5, 3)) == 5
    assert len(traced) == 3


# Initial parameters


def initial(seed=0, dtype=jnp.float32, **options):
    return init_params(jax.random.key(seed), LSTMConfig(50, 32, 20, **options), dtype)


def test_init_shapes():
    shapes = jax.tree.map(jnp.shape, initial())
    assert shapes == ModelParams((LSTMParams((128, 50), (128, 32), (128,)),), Readout((32, 20), (20,)))


def test_init_same_key_same_bits_other_key_other_bits():
    for one, same in zip(leaves(initial()), leaves(initial()), strict=True):
        assert np.array_equal(one, same)
    drawn = [array for seed in (0, 1) for array in (*initial(seed).layers[0][:2], initial(seed).readout.weight)]
    for k, one in enumerate(drawn):
        assert all(np.isin(one, other).mean() < 0.01 for other in drawn[:k])


def test_init_float64(x64):
    assert {array.dtype.name for array in leaves(initial(dtype=jnp.float64))} == {"float64"}


def test_init_draws_bfloat16_as_float32_rounded():
    for drawn, full in zip(leaves(initial(dtype=jnp.bfloat16)), leaves(initial()), strict=True):
        assert (drawn.dtype, full.dtype) == (jnp.bfloat16, jnp.float32)
        assert np.array_equal(drawn, full.astype(jnp.bfloat16))


def test_init_readout():
    weight, bias = initial().readout
    normal = weight * np.sqrt(32)
    # 640 draws: the standard error is 2.8 % of the std and 4 % of the mean
    assert np.std(normal) == pytest.approx(1, abs=0.11)
    assert np.mean(normal) == pytest.approx(0, abs=0.16)
    assert not np.any(bias)


def test_init_passes_the_input_scale_on():
    wide, narrow = initial(input_scale=10.0).layers[0].weight_ih, initial().layers[0].weight_ih
    np.testing.assert_allclose(wide[:, 64:96], 10 * narrow[:, 64:96], rtol=1e-6)


def test_init_of_tokens():
    """Of all inputs one is at work, so that it is drawn as wide as a single one."""
    tokens, features = initial(inputs="tokens"), initial()
    np.testing.assert_allclose(tokens.layers[0].weight_ih, 50**0.5 * features.layers[0].weight_ih, rtol=1e-5)
    assert_close((tokens.layers[0][1:], tokens.readout), (features.layers[0][1:], features.readout), 0)


def test_init_of_layers():
    """Only the first is of the inputs' size and scale, and each has numbers of its own."""
    wide, narrow = (initial(input_scale=scale, layers=2).layers for scale in (10.0, 1.0))
    assert jax.tree.map(jnp.shape, narrow)[1:] == (LSTMParams((128, 32), (128, 32), (128,)),)
    np.testing.assert_allclose(wide[0].weight_ih[64:96], 10 * narrow[0].weight_ih[64:96], rtol=1e-6)
    assert_close(wide[1:], narrow[1:], 0)
    assert np.isin(narrow[0].weight_hh, narrow[1].weight_hh).mean() < 0.01


def test_zero_state():
    params, _, state = random(2, "float32")
    assert_close(zero_state(params, B), jax.tree.map(np.zeros_like, state), 0)
    assert {array.dtype for array in leaves(zero_state(params, B))} == {np.dtype("float32")}


# Forward


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
@pytest.mark.parametrize("given", [True, False], ids=["state", "no state"])
def test_forward_agrees_with_the_reference(x64, layers, lengths, given):
    params, xs, state = random(layers)
    state = state if given else None
    config = LSTMConfig(INPUTS, H, C, layers=layers)
    scores, last = jax.jit(forward)(params, xs, config, state, lengths)
    start = state or tuple(LSTMState(*np.zeros((2, B, H))) for _ in range(layers))
    expected, expected_last = reference.forward(params, xs, config, state=start, lengths=lengths)
    assert (scores.dtype, scores.shape) == (np.float64, (B, T, C))
    assert_close((scores, last), (expected, expected_last), 1e-12)


@pytest.mark.parametrize("lengths", [None, LENGTHS + 1], ids=["whole", "of different lengths"])
def test_last_reads_the_last_real_step(x64, lengths):
    params, xs, state = random()
    scores, last = jax.jit(forward)(params, xs, LAST, state, lengths)
    assert_close((scores, last), reference.forward(params, xs, LAST, state=state, lengths=lengths), 1e-12)


def test_forward_in_float32_agrees_with_the_reference():
    params, xs, state = random(dtype="float32")
    scores, last = forward(params, xs, EACH, state)
    assert {array.dtype.name for array in leaves((scores, last))} == {"float32"}
    assert_close((scores, last), reference.forward(params, xs, EACH, state=state), 2e-6)


def test_dtype_of_the_parameters_decides(x64):
    params, xs, state = random()
    low = jax.tree.map(lambda array: array.astype(jnp.bfloat16), params)
    scores, last = jax.jit(forward)(low, xs, EACH, state)
    assert {array.dtype.name for array in leaves((scores, last))} == {"bfloat16"}


def test_pieces_with_the_state_carried_give_the_whole(x64):
    params, xs, state = random(2)
    whole, last = jax.jit(forward)(params, xs, EACH2, state)
    first, state = jax.jit(forward)(params, xs[:, :1], EACH2, state)
    second, state = jax.jit(forward)(params, xs[:, 1:], EACH2, state)
    assert_close((jnp.concatenate([first, second], axis=1), state), (whole, last), 1e-14)


def test_steps_one_by_one_give_the_whole(x64):
    params, xs, state = random(2)
    whole, last = reference.forward(params, xs, EACH2, state=state)
    one = jax.jit(step)
    for t in range(T):
        scores, state = one(params, xs[:, t], EACH2, state)
        assert_close(scores, whole[:, t], 1e-12)
    assert_close(state, last, 1e-12)


@pytest.mark.parametrize("run", [forward, step])
def test_ids_stand_for_one_hot_vectors(x64, run):
    params, _, state = random(2)
    ids = np.random.default_rng(1).integers(INPUTS, size=(B, T) if run is forward else B)
    got, expected = (jax.jit(run)(params, xs, EACH2, state) for xs in (ids, np.eye(INPUTS)[ids]))
    assert_close(got, expected, 1e-14)
    if run is forward:
        assert_close(got, reference.forward(params, ids, EACH2, state=state), 1e-12)


def test_segments_give_the_same(x64):
    params, xs, state = random(2)
    got = jax.jit(forward)(params, xs, dataclasses.replace(EACH2, segment=3), state)
    assert_close(got, jax.jit(forward)(params, xs, EACH2, state), 1e-14)


# Dropout

DROPPING = dataclasses.replace(EACH2, dropout=0.25)
KEY = jax.random.key(3)


def test_masks_leave_out_the_documented_share():
    config = LSTMConfig(1, 64, 2, layers=2, dropout=0.25)
    first, second = (np.asarray(mask) for mask in draw_masks(KEY, config, batch=40, time=1).outputs)
    assert first.shape == second.shape == (40, 1, 64)
    assert first.dtype == np.float32
    for mask in (first, second):
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
        assert np.mean(mask) == pytest.approx(1, abs=0.05)  # 2560 draws: the standard error is 1.1 %
        assert len(np.unique(mask, axis=0)) == 40  # each sequence has its own
    assert (first != second).any(axis=(1, 2)).all()


def test_masks_are_those_of_the_key_and_of_no_setting():
    masks = draw_masks(KEY, DROPPING, B, T).outputs
    assert_close(masks, draw_masks(KEY, DROPPING, B, T).outputs, 0)
    assert any(
        (a != b).any() for a, b in zip(masks, draw_masks(jax.random.key(4), DROPPING, B, T).outputs, strict=True)
    )
    with jax.enable_x64(True):
        double = draw_masks(KEY, DROPPING, B, T, np.float64).outputs
        single = draw_masks(KEY, DROPPING, B, T).outputs
    assert {mask.dtype.name for mask in double} == {"float64"}
    assert_close(single, masks, 0)
    for mask, same in zip(masks, double, strict=True):
        np.testing.assert_array_equal(np.asarray(mask) > 0, np.asarray(same) > 0)


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("lengths", [None, LENGTHS + 1], ids=["whole", "of different lengths"])
def test_forward_with_a_key_is_the_reference_with_its_masks(x64, lengths, target):
    params, xs, state = random(2)
    config = dataclasses.replace(DROPPING, target=target)
    masks = draw_masks(KEY, config, B, T, np.float64)
    scores, last = jax.jit(forward)(params, xs, config, state, lengths, KEY)
    expected = reference.forward(params, xs, config, state=state, lengths=lengths, masks=masks)
    assert_close((scores, last), expected, 1e-12)
    assert np.abs(scores - jax.jit(forward)(params, xs, config, state, lengths)[0]).max() > 1e-3


def test_nothing_is_left_out_without_a_key_or_a_share():
    params, xs, state = random(2, "float32")

    def program(config, key=None):
        return str(jax.make_jaxpr(lambda *args: forward(*args, config, state, key=key))(params, xs))

    assert program(DROPPING) == program(EACH2, KEY) == program(EACH2)
    assert program(DROPPING, KEY) != program(EACH2)


def test_every_layer_has_draws_of_its_own():
    config = LSTMConfig(input_size=4, hidden_size=4, output_size=4, layers=3)
    params = init_params(jax.random.key(0), config)
    drawn = np.stack([weight for layer in params.layers for weight in (layer.weight_ih, layer.weight_hh)])
    assert len(np.unique(drawn)) == drawn.size
    assert not np.isin(params.readout.weight, drawn).any()


def test_a_cell_of_ones_own_that_does_not_fit_is_named_before_anything_is_trained():
    def cell(linear, size=4):
        def draw(normal, sizes, scale, fan_in):
            return {"w": normal(size, sizes.inputs)}

        def zero_state(params):
            return RNNState(jnp.zeros(size))

        return Cell(linear, RNN.gates, zero_state, name="own", draw=draw)

    matrix = cell(lambda params, h, x: params["w"] @ x + h)
    assert init_params(jax.random.key(0), LSTMConfig(3, 4, 2, cell=matrix)).layers[0]["w"].shape == (4, 3)
    message = r"cell: expected linear of Cell\('own'\) to take a class id, a scalar, as jlstm.cells.times does, got "
    with pytest.raises(ValueError, match=message):
        init_params(jax.random.key(0), LSTMConfig(3, 4, 2, cell=matrix, inputs="tokens"))
    either = cell(lambda params, h, x: times(params["w"], x) + h)
    assert init_params(jax.random.key(0), LSTMConfig(3, 4, 2, cell=either, inputs="tokens"))
    wide = cell(lambda params, h, x: times(params["w"], x) + h, size=5)
    with pytest.raises(ValueError, match=r"cell: expected Cell\('own'\) to give h of shape \(4,\), got float32 of sha"):
        init_params(jax.random.key(0), LSTMConfig(3, 4, 2, cell=wide))


def test_no_single_step_tells_a_mean():
    config = LSTMConfig(3, 4, 2, target="mean")
    params = init_params(jax.random.key(0), config)
    with pytest.raises(ValueError, match="config: expected target='each' or 'last', got 'mean', which no single step"):
        step(params, np.ones((1, 3)), config, zero_state(params, 1))


def test_a_mean_of_thousands_of_steps_in_16_bits():
    config = LSTMConfig(1, 2, 2, target="mean")
    params = init_params(jax.random.key(0), config, jnp.bfloat16)
    xs = np.ones((1, 3000, 1))
    wide = jax.tree.map(lambda array: array.astype(jnp.float32), params)
    np.testing.assert_allclose(
        forward(params, xs, config)[0].astype(jnp.float32), forward(wide, xs, config)[0], rtol=0, atol=0.02
    )
