"""One time step against its equations in NumPy, its transformations, its dtypes, and the initial parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm.cell import LSTM, LSTMParams, LSTMState, cast_like, init_lstm, lstm_cell

I, H = 3, 4


@pytest.fixture
def step():
    """Parameters, a state and an input with a batch axis of 2, in float64 NumPy."""
    rng = np.random.default_rng(0)
    params = LSTMParams(rng.normal(size=(I, 4 * H)), rng.normal(size=(H, 4 * H)), rng.normal(size=4 * H))
    return params, LSTMState(*rng.normal(size=(2, 2, H))), rng.normal(size=(2, I))


def equations(params, state, x):
    """The step as the docstring has it, gate by gate in float64."""
    W, U, b = (np.split(np.asarray(array, np.float64), 4, axis=-1) for array in params)
    h, c, x = (np.asarray(array, np.float64) for array in (*state, x))
    z = [x @ W[k] + h @ U[k] + b[k] for k in range(4)]
    i, f, o = (1 / (1 + np.exp(-z[k])) for k in (0, 1, 3))
    c = f * c + i * np.tanh(z[2])
    return LSTMState(o * np.tanh(c), c)


def arrays(tree, dtype):
    return jax.tree.map(lambda array: jnp.asarray(array, dtype), tree)


def assert_close(got, expected, atol):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=0, atol=atol), got, expected)


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-14), ("float32", 1e-6)])
@pytest.mark.parametrize("batch", [(), (2,), (2, 1)], ids=["no batch axis", "one", "two"])
def test_step_is_the_equations(x64, step, batch, dtype, atol):
    params, state, x = arrays(step, dtype)
    state, x = jax.tree.map(lambda array: array[0] if batch == () else array.reshape(*batch, -1), (state, x))
    got, h = lstm_cell(params, state, x)
    assert {a.dtype.name for a in (*got, h)} == {dtype}
    assert_close((got, h), (equations(params, state, x), equations(params, state, x).h), atol)


def test_lstm_is_the_same_cell_in_three_parts(step):
    params, state, x = arrays(step, "float32")
    z = LSTM.linear(params, state.h, x)
    np.testing.assert_allclose(z, x @ params.weight_ih + state.h @ params.weight_hh + params.bias, rtol=1e-6, atol=1e-6)
    expected = lstm_cell(params, state, x)
    assert_close(LSTM.gates(params, z, state), expected, 0)
    assert_close(LSTM.step(params, state, x), expected, 0)


@pytest.mark.parametrize("z", [1e4, -1e4])
def test_gates_saturate_without_overflow(z):
    params = LSTMParams(jnp.zeros((1, 4)), jnp.zeros((1, 4)), jnp.full(4, z))
    _, h = lstm_cell(params, LSTMState(jnp.zeros(1), jnp.full(1, 0.5)), jnp.zeros(1))
    np.testing.assert_allclose(h, np.tanh(1.5) if z > 0 else 0, rtol=1e-6)


TRANSFORMED = {
    "jit": lambda params, state, x: jax.jit(lstm_cell)(params, state, x),
    "vmap": lambda params, state, x: jax.vmap(lstm_cell, in_axes=(None, 0, 0))(params, state, x),
    "checkpoint": lambda params, state, x: jax.checkpoint(lstm_cell)(params, state, x),
    "vmap of params": lambda params, state, x: jax.tree.map(
        lambda array: array[1], jax.vmap(lstm_cell, in_axes=(0, None, None))(stack(0 * params[0], params), state, x)
    ),
    "scan": lambda params, state, x: jax.tree.map(
        lambda array: array[0] if array.ndim == 3 else array,
        jax.lax.scan(functools.partial(lstm_cell, params), state, x[None]),
    ),
}


def stack(zero, params):
    return jax.tree.map(lambda array: jnp.stack([zero.sum() + jnp.zeros_like(array), array]), params)


@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED.keys())
def test_step_under(step, transform):
    args = arrays(step, "float32")
    assert_close(transform(*args), lstm_cell(*args), 1e-6)


def test_grad_jvp_and_hessian_agree(x64, step):
    args = arrays(step, "float64")
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda array: jnp.asarray(rng.normal(size=array.shape)), args)

    def loss(args):
        state, h = lstm_cell(*args)
        return jnp.sum(h**2 + state.c**3)

    def moved(by):
        return jax.tree.map(lambda array, d: array + by * d, args, direction)

    flat, unravel = jax.flatten_util.ravel_pytree(args)
    along, _ = jax.flatten_util.ravel_pytree(direction)
    grad = jax.grad(lambda flat: loss(unravel(flat)))
    slope = jax.jvp(loss, (args,), (direction,))[1]
    np.testing.assert_allclose(slope, grad(flat) @ along, rtol=1e-12)
    np.testing.assert_allclose(slope, (loss(moved(1e-5)) - loss(moved(-1e-5))) / 2e-5, rtol=1e-7)
    hessian = jax.hessian(lambda flat: loss(unravel(flat)))(flat)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    np.testing.assert_allclose(
        hessian @ along, (grad(flat + 1e-5 * along) - grad(flat - 1e-5 * along)) / 2e-5, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("of_params", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("of_rest", ["float64", "bfloat16", "int32", "bool"])
def test_dtype_of_the_parameters_decides(x64, step, of_params, of_rest):
    params, (state, x) = arrays(step[0], of_params), arrays(step[1:], of_rest)
    got = lstm_cell(params, state, x)
    assert {array.dtype.name for array in jax.tree.leaves(got)} == {of_params}
    assert_close(got, lstm_cell(params, *arrays((state, x), of_params)), 0)


def test_cast_like_takes_numpy_and_python_numbers():
    cast = cast_like(jnp.zeros(1, "bfloat16"), {"numpy": np.arange(2), "python": 1.5, "none": None})
    assert (cast["numpy"].dtype, cast["python"].dtype, cast["none"]) == (jnp.bfloat16, jnp.bfloat16, None)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_zero_state(x64, step, dtype):
    state = LSTM.zero_state(arrays(step[0], dtype), (5, 2))
    assert isinstance(state, LSTMState)
    for array in state:
        assert (array.shape, array.dtype.name, float(abs(array).max())) == ((5, 2, H), dtype, 0)


def init(seed=0, input_size=50, hidden_size=64, **options):
    return init_lstm(jax.random.key(seed), input_size, hidden_size, **options)


def test_init_shapes():
    shapes = jax.tree.map(jnp.shape, init(input_size=I, hidden_size=H))
    assert shapes == LSTMParams((I, 4 * H), (H, 4 * H), (4 * H,))


def test_init_same_key_same_bits_other_key_other_bits():
    first, again, other = init(), init(), init(seed=1)
    for name in ("weight_ih", "weight_hh"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert not np.isclose(getattr(first, name), getattr(other, name)).any(axis=0).all()
    wide, again, other = (init(seed, input_scale=3.0).bias for seed in (0, 0, 1))
    assert np.array_equal(wide, again)
    assert not np.isclose(wide, other).any()


def test_init_weight_hh_is_orthogonal_gate_by_gate():
    gates = np.split(np.asarray(init().weight_hh, np.float64), 4, axis=1)
    for k, gate in enumerate(gates):
        np.testing.assert_allclose(gate.T @ gate, np.eye(64), atol=1e-5)
        assert all(abs(gate - other).max() > 0.1 for other in gates[:k]), "two gates were drawn alike"


@pytest.mark.parametrize("input_size", [1, 50])
@pytest.mark.parametrize("input_scale", [1.0, 0.25, 10.0])
def test_init_weight_ih_is_normal_with_std_input_scale_by_root_of_inputs(input_size, input_scale):
    weight = np.asarray(init(input_size=input_size, hidden_size=3200 // input_size, input_scale=input_scale).weight_ih)
    std = input_scale / np.sqrt(input_size)
    assert weight.size == 12800  # so the standard error of its std is 0.6 %, that of its mean 0.9 % of the std
    assert weight.std() == pytest.approx(std, rel=0.03)
    assert weight.mean() == pytest.approx(0, abs=0.04 * std)
    assert np.mean(abs(weight) < std) == pytest.approx(0.683, abs=0.02)  # normal, not uniform (0.577)


def test_init_bias():
    forget = np.repeat([0.0, 1.0, 0.0, 0.0], 64)
    assert np.array_equal(init().bias, forget)
    wide = init(input_scale=11.0).bias - forget
    assert np.std(wide) == pytest.approx(10 / np.sqrt(50), rel=0.2)  # 256 draws: its standard error is 4 %
    np.testing.assert_allclose(init(input_scale=2.0).bias - forget, wide / 10, atol=1e-6)


def test_init_draws_bfloat16_as_float32_rounded():
    draws, rounded = init(dtype=jnp.bfloat16), arrays(init(), "bfloat16")
    for drawn, expected in zip(draws, rounded, strict=True):
        assert drawn.dtype == jnp.bfloat16
        assert np.array_equal(drawn, expected)


def test_init_draws_float64_in_full(x64):
    params = init(dtype=jnp.float64)
    assert {array.dtype.name for array in params} == {"float64"}
    assert not np.isin(params.weight_ih, np.float32(params.weight_ih)).any()
    gate = np.asarray(params.weight_hh[:, :64])
    np.testing.assert_allclose(gate.T @ gate, np.eye(64), atol=1e-13)
