"""One time step against its equations in NumPy, its transformations, its dtypes, and the initial parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jlstm.cell import LSTM, LSTMParams, LSTMState, cast_like, init_lstm, lstm_cell, widen

INPUTS, H, B = 3, 4, 2


@pytest.fixture
def step():
    """Parameters, a state and an input of a batch, in float64 NumPy."""
    rng = np.random.default_rng(0)
    params = LSTMParams(rng.normal(size=(4 * H, INPUTS)), rng.normal(size=(4 * H, H)), rng.normal(size=4 * H))
    return params, LSTMState(*rng.normal(size=(2, B, H))), rng.normal(size=(B, INPUTS))


jit_cell = jax.jit(lstm_cell)  # one small compilation, where step by step there are twenty


def equations(params, state, x):
    """The step as the docstring has it, gate by gate in float64."""
    W, U, b = (np.split(np.asarray(array, np.float64), 4) for array in params)
    h, c, x = (np.asarray(array, np.float64) for array in (*state, x))
    z = [x @ W[k].T + h @ U[k].T + b[k] for k in range(4)]
    i, f, o = (1 / (1 + np.exp(-z[k])) for k in (0, 1, 3))
    c = f * c + i * np.tanh(z[2])
    h = o * np.tanh(c)
    return LSTMState(h, c), h


def arrays(tree, dtype):
    return jax.tree.map(lambda array: np.asarray(array).astype(jnp.dtype(dtype)), tree)


def assert_close(got, expected, atol):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-14), ("float32", 1e-6)])
@pytest.mark.parametrize("batch", [(), (B,), (B, 1)], ids=["no batch axis", "one", "two"])
def test_step_is_the_equations(x64, step, batch, dtype, atol):
    params, state, x = arrays(step, dtype)
    state, x = jax.tree.map(lambda array: array.reshape(*batch, -1) if batch else array[0], (state, x))
    got = jit_cell(params, state, x)
    assert {array.dtype.name for array in jax.tree.leaves(got)} == {dtype}
    assert_close(got, equations(params, state, x), atol)


def test_lstm_is_the_same_step_in_parts(step):
    params, states, xs = arrays(step, "float32")
    state, x = jax.tree.map(lambda array: array[0], (states, xs))
    z = LSTM.linear(params, state.h, x)
    assert_close(z, params.weight_ih @ x + params.weight_hh @ state.h + params.bias, 1e-6)
    assert_close(LSTM.linear_all(params, states.h, xs)[0], z, 1e-6)
    assert_close(LSTM.gates(params, z, state), jit_cell(params, state, x), 1e-6)
    assert_close(LSTM.step(params, state, x), jit_cell(params, state, x), 1e-6)


@pytest.mark.parametrize("ids", [np.array([2, 0]), np.array(1)], ids=["batch", "no batch axis"])
def test_ids_stand_for_one_hot_vectors(x64, step, ids):
    params, state, _ = arrays(step, "float64")
    state = state if ids.ndim else jax.tree.map(lambda array: array[0], state)

    by_params = jax.jit(jax.value_and_grad(lambda params, x: (lstm_cell(params, state, x)[1] ** 3).sum()))
    assert_close(by_params(params, ids), by_params(params, np.eye(INPUTS)[ids]), 1e-14)


def test_a_widened_layer_is_the_same_with_units_that_stay_zero(x64, step):
    params, state, x = arrays(step, "float64")
    wide_state, wide_h = jit_cell(widen(params, 3), widen(state, 3), x)
    got = jax.tree.map(lambda array: array[:, :H], (wide_state, wide_h))
    assert_close(got, jit_cell(params, state, x), 1e-15)
    assert not any(np.any(array[:, H:]) for array in (*wide_state, wide_h))


@pytest.mark.parametrize("z", [1e4, -1e4])
def test_gates_saturate_without_overflow(z):
    params = LSTMParams(jnp.zeros((4, 1)), jnp.zeros((4, 1)), jnp.full(4, z))
    _, h = jit_cell(params, LSTMState(jnp.zeros(1), jnp.full(1, 0.5)), jnp.zeros(1))
    np.testing.assert_allclose(h, np.tanh(1.5) if z > 0 else 0, rtol=1e-6)


def scanned(params, state, x):
    state, hs = jax.lax.scan(functools.partial(lstm_cell, params), state, x[None])
    return state, hs[0]


@jax.jit
def mapped_over_params(params, state, x):
    both = jax.tree.map(lambda array: jnp.stack([-array, array]), params)
    return jax.tree.map(lambda array: array[1], jax.vmap(lstm_cell, in_axes=(0, None, None))(both, state, x))


@pytest.mark.parametrize(
    "transformed",
    [
        pytest.param(jit_cell, id="jit"),
        pytest.param(jax.jit(jax.vmap(lstm_cell, in_axes=(None, 0, 0))), id="vmap over the batch"),
        pytest.param(mapped_over_params, id="vmap over parameters"),
        pytest.param(jax.jit(jax.checkpoint(lstm_cell)), id="checkpoint"),
        pytest.param(scanned, id="scan"),
    ],
)
def test_step_under(step, transformed):
    args = arrays(step, "float32")
    assert_close(transformed(*args), lstm_cell(*args), 1e-6)


def test_grad_jvp_and_hessian_agree(x64, step):
    point, unravel = ravel_pytree(step)
    point, along = np.asarray(point), np.random.default_rng(1).normal(size=point.shape) * 1e-4

    def loss(point):
        state, h = lstm_cell(*unravel(point))
        return jnp.sum(h**2 + state.c**3)

    @jax.jit
    def derivatives(point):
        slope = jax.jvp(loss, (point,), (along,))[1]
        return loss(point), slope, jax.grad(loss)(point), jax.hessian(loss)(point)

    _, slope, grad, hessian = jax.device_get(derivatives(point))
    (above, _, grad_above, _), (below, _, grad_below, _) = map(
        jax.device_get, map(derivatives, (point + along, point - along))
    )
    np.testing.assert_allclose(slope, grad @ along, rtol=1e-12)
    np.testing.assert_allclose(slope, (above - below) / 2, rtol=1e-6)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    np.testing.assert_allclose(hessian @ along, (grad_above - grad_below) / 2, atol=1e-9)


def test_grad_through_checkpoint_and_scan(step):
    args = arrays(step, "float32")

    def grad(cell):
        return jax.jit(jax.grad(lambda args: (cell(*args)[1] ** 2).sum()))(args)

    assert_close(grad(jax.checkpoint(scanned)), grad(lstm_cell), 1e-6)


@pytest.mark.parametrize("of_params", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("of_rest", ["float64", "bfloat16", "int32"])
def test_dtype_of_the_parameters_decides(x64, step, of_params, of_rest):
    params, (state, x) = arrays(step[0], of_params), arrays(step[1:], of_rest)
    got = jit_cell(params, state, x)
    assert {array.dtype.name for array in jax.tree.leaves(got)} == {of_params}
    eps = float(jnp.finfo(of_params).eps)
    assert_close(got, jit_cell(params, *arrays((state, x), of_params)), 4 * eps)


def test_cast_like_takes_numpy_and_python_numbers():
    cast = cast_like(jnp.zeros(1, "bfloat16"), {"numpy": np.arange(2), "python": 1.5, "none": None})
    assert (cast["numpy"].dtype, cast["python"].dtype, cast["none"]) == (jnp.bfloat16, jnp.bfloat16, None)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_zero_state(x64, step, dtype):
    state = LSTM.zero_state(arrays(step[0], dtype))
    assert isinstance(state, LSTMState)
    for array in state:
        assert (array.shape, array.dtype.name, float(abs(array).max())) == ((H,), dtype, 0)


def init(seed=0, input_size=50, hidden_size=32, **options):
    return init_lstm(jax.random.key(seed), input_size, hidden_size, **options)


def gates(array):
    """The input gate's, the forget gate's, the candidate's and the output gate's part."""
    return np.split(np.asarray(array, np.float64), 4)


def test_init_shapes():
    assert jax.tree.map(jnp.shape, init()) == LSTMParams((4 * 32, 50), (4 * 32, 32), (4 * 32,))


def test_init_same_key_same_bits_other_key_other_bits():
    first, again, other = (init(seed, input_scale=3.0) for seed in (0, 0, 1))
    for one, same, different in zip(first, again, other, strict=True):
        assert np.array_equal(one, same)
        assert np.mean(one == different) < 0.8  # three quarters of the bias are always 0 or 1


def test_init_weight_hh_is_orthogonal_gate_by_gate():
    drawn = gates(init().weight_hh)
    for k, gate in enumerate(drawn):
        np.testing.assert_allclose(gate.T @ gate, np.eye(32), atol=1e-5)
        assert all(abs(gate - other).max() > 0.1 for other in drawn[:k]), "two gates were drawn alike"


@pytest.mark.parametrize("input_size", [10, 50])
@pytest.mark.parametrize("input_scale", [1.0, 0.25, 10.0])
def test_init_weight_ih_is_normal_with_std_by_root_of_inputs(input_size, input_scale):
    for k, gate in enumerate(gates(init(input_size=input_size, input_scale=input_scale).weight_ih)):
        normal = gate * np.sqrt(input_size) / (input_scale if k == 2 else 1)  # the candidate's alone are wider
        # 320 draws at the least: the standard error is 4 % of the std, 5.6 % of the mean, and 2.6 % of the share.
        assert normal.std() == pytest.approx(1, abs=0.16)
        assert normal.mean() == pytest.approx(0, abs=0.22)
        assert np.mean(abs(normal) < 1) == pytest.approx(0.683, abs=0.1)


def test_init_input_scale_widens_the_same_draws():
    narrow, wide = (gates(init(input_scale=scale).weight_ih) for scale in (1.0, 10.0))
    for k, factor in enumerate([1, 1, 10, 1]):
        np.testing.assert_allclose(wide[k], factor * narrow[k], rtol=1e-6)
    assert np.array_equal(init(input_scale=10.0).weight_hh, init().weight_hh)


def test_init_bias():
    assert np.array_equal(init().bias, np.repeat([0.0, 1.0, 0.0, 0.0], 32))
    i, f, g, o = np.concatenate([init(seed, input_scale=11.0).bias.reshape(4, 32) for seed in range(4)], axis=1)
    assert (set(i), set(f), set(o)) == ({0}, {1}, {0})
    assert g.std() == pytest.approx(10 / np.sqrt(50), rel=0.25)  # 128 draws: a standard error of 6 %
    assert g.mean() == pytest.approx(0, abs=4 * 10 / np.sqrt(50 * 128))


def test_init_draws_bfloat16_as_float32_rounded():
    for drawn, expected in zip(init(dtype=jnp.bfloat16), arrays(init(), "bfloat16"), strict=True):
        assert drawn.dtype == jnp.bfloat16
        assert np.array_equal(drawn, expected)


def test_init_draws_float64_in_full(x64):
    params = init(dtype=jnp.float64)
    assert {array.dtype.name for array in params} == {"float64"}
    for weight in params[:2]:
        assert np.mean(weight == np.float32(weight)) < 0.01, "drawn in float32"
    gate = gates(params.weight_hh)[0]
    np.testing.assert_allclose(gate.T @ gate, np.eye(32), atol=1e-13)
