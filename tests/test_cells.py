"""One time step against its equations in NumPy, its transformations, its dtypes, the initial parameters; every cell."""

import dataclasses
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from layers import random_layer, random_state, sizes_of

from jlstm import reference
from jlstm.cells import CELLS, GRU, LAYER_NORM, LSTM, RNN, SLSTM, Cell, cell_of
from jlstm.cells.cell import cast_like, checked_step, zero_states
from jlstm.cells.initializers import in_turn
from jlstm.cells.lstm import LSTMParams, LSTMState, lstm_cell
from jlstm.stack import _run_layer
from jlstm.unroll import activations, run, unroll

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
    return LSTM.init(jax.random.key(seed), input_size, hidden_size, **options)


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


# Every cell


every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


def blocks(cell, params, name):
    """The blocks of one of a cell's arrays by the letters of the gates."""
    gates = getattr(cell.blocks, name)
    return dict(zip(gates, np.split(np.asarray(getattr(params, name)), len(gates)), strict=True))


def numpy_draw(cell, hidden=6, scale=1.0):
    def normal(*shape):
        return rng.normal(size=shape)

    rng = np.random.default_rng(0)
    return cell.draw(normal, sizes_of(cell, hidden=hidden), scale, 3)


@every_cell
def test_init_is_what_the_cell_draws(x64, cell):
    inputs, hidden, outputs = sizes_of(cell)
    options = {"projection_size": outputs if cell.projects else None, "input_scale": 2.0, "fan_in": 1}
    params = cell.init(jax.random.key(0), inputs, hidden, **options, dtype=jnp.float64)
    shapes = cell.shapes(sizes_of(cell))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    assert {array.dtype.name for array in params} == {"float64"}
    assert cell.check("params", params) == inputs
    assert cell.sizes(params) == sizes_of(cell)

    taken = []
    cell.draw(lambda *shape: taken.append(np.prod(shape)) or np.ones(shape), sizes_of(cell), 2.0, 1)
    numbers = jax.random.normal(jax.random.key(0), (sum(taken),), jnp.float64)
    assert_close(params, cell.draw(in_turn(np.asarray(numbers)), sizes_of(cell), 2.0, 1), 1e-13)

    again, other = (cell.init(jax.random.key(k), inputs, hidden, **options, dtype=jnp.bfloat16) for k in (0, 1))
    single = cell.init(jax.random.key(0), inputs, hidden, **options)
    for drawn, low, different in zip(single, again, other, strict=True):
        assert (drawn.dtype, low.dtype) == (jnp.float32, jnp.bfloat16)
        assert np.array_equal(drawn.astype(jnp.bfloat16), low)
        assert drawn.ndim == 1 or np.mean(low == different) < 0.1


BIASES = {  # what each block of H starts at, in the order in which they are stacked
    "lstm": {"bias": (0, 1, 0, 0)},
    "peephole": {"bias": (0, 1, 0, 0), "peephole": (0, 0, 0)},
    "coupled": {"bias": (-1, 0, 0)},  # 1 - σ(-1) is σ(1), what the forget gate of the others is
    "projected": {"bias": (0, 1, 0, 0)},
    "layer_norm": {
        "bias": (0, 1, 0, 0),
        "gain_ih": (1, 1, 1, 1),
        "gain_hh": (1, 1, 1, 1),
        "gain_c": (1,),
        "shift_c": (0,),
    },
    "gru": {"bias": (0, 1, 0), "bias_hn": (0,)},
    "gru_before": {"bias": (0, 1, 0)},
    "rnn": {"bias": (0,)},
    "slstm": {"bias": (0, 0, 0, 0)},
}


@every_cell
def test_gates_start_where_the_literature_has_them(cell):
    params = numpy_draw(cell)
    assert BIASES[cell.name].keys() == {name for name, array in params._asdict().items() if array.ndim == 1}
    for name, start in BIASES[cell.name].items():
        np.testing.assert_array_equal(getattr(params, name), np.repeat(np.float64(start), 6))


@every_cell
def test_only_the_candidate_reads_its_input_more_steeply(cell):
    (candidate,) = {*cell.blocks.weight_ih} & set("gnh") or {"z"}
    narrow, wide = (blocks(cell, numpy_draw(cell, scale=scale), "weight_ih") for scale in (1.0, 10.0))
    for gate in narrow:
        np.testing.assert_allclose(wide[gate], narrow[gate] * (10 if gate == candidate else 1), rtol=1e-14)
    of_wide = blocks(cell, numpy_draw(cell, scale=10.0), "bias")
    assert {gate for gate, bias in of_wide.items() if len(np.unique(bias)) > 1} == {candidate}


@every_cell
def test_every_recurrent_matrix_is_orthogonal(cell):
    params = numpy_draw(cell)
    assert {*cell.recurrent} < {*params._fields}
    projection = ("weight_hr",) if cell.projects else ()
    matrices = [block for name in (*cell.recurrent, *projection) for block in blocks(cell, params, name).values()]
    for k, matrix in enumerate(matrices):
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-14)
        others = [other for other in matrices[:k] if other.shape == matrix.shape]
        assert all(abs(matrix - other).max() > 0.1 for other in others), "two were drawn alike"


@every_cell
def test_every_step_is_that_of_the_reference(x64, cell):
    """Of a batch of any axes, checked; in parts; of all steps at once."""
    rng = np.random.default_rng(0)
    params = random_layer(cell, rng)
    state, x = random_state(cell, params, rng, B), rng.normal(size=(B, 3))
    row = [jax.tree.map(lambda array, b=b: array[b], (state, x)) for b in range(B)]
    after = [reference.CELLS[cell.name].step(params, one_x, one.h, one)[0] for one, one_x in row]
    expected = type(state)(*map(np.stack, zip(*after, strict=True)))

    checked = jax.jit(functools.partial(checked_step, cell))
    for axes in ((), (B,), (B, 1)):
        given = jax.tree.map(lambda array, axes=axes: array.reshape(*axes, -1) if axes else array[0], (state, x))
        wanted = jax.tree.map(lambda array, axes=axes: array.reshape(*axes, -1) if axes else array[0], expected)
        assert_close(checked(params, *given), (wanted, wanted.h), 1e-13)

    @jax.jit
    def in_parts(params, states, xs):
        zs = cell.linear_all(params, states.h, xs)
        one_by_one = jax.vmap(cell.linear, in_axes=(None, 0, 0))(params, states.h, xs)
        return zs, one_by_one, jax.vmap(cell.gates, in_axes=(None, 0, 0))(params, zs, states)

    zs, one_by_one, found = in_parts(params, state, x)
    assert_close(zs, one_by_one, 1e-14)
    assert_close(found, (expected, expected.h), 1e-13)

    for low in ("bfloat16", "float32"):
        got = jax.eval_shape(functools.partial(checked_step, cell), arrays(params, low), state, x)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {low}


@every_cell
def test_ids_are_one_hot_vectors_for_every_cell(x64, cell):
    rng = np.random.default_rng(0)
    params = jax.tree.map(jnp.asarray, random_layer(cell, rng))
    state, ids = random_state(cell, params, rng, 4), np.array([2, 0, 1, 2])

    @jax.jit
    def by_params(params, x):
        def weighted(params):
            _, h = checked_step(cell, params, state, x)
            return (h**3).sum(), h

        return jax.grad(weighted, has_aux=True)(params)

    assert_close(by_params(params, ids), by_params(params, np.eye(3)[ids]), 1e-14)
    _, h = by_params(params, np.array([-1, 3, 1, 10**6]))
    assert np.isnan(h[np.array([0, 1, 3])]).all()
    assert np.isfinite(h[2]).all()


def normalised(v):
    return (v - v.mean()) / np.sqrt(v.var() + 1e-5)


def lstm_of(params, gates, state):
    c = gates.f * state.c + gates.i * gates.g
    return {"c": c, "h": gates.o * np.tanh(c)}


def projected_of(params, gates, state):
    seen = lstm_of(params, gates, state)
    return seen | {"h": params.weight_hr @ seen["h"]}


def layer_norm_of(params, gates, state):
    c = lstm_of(params, gates, state)["c"]
    return {"c": c, "h": gates.o * np.tanh(params.gain_c * normalised(c) + params.shift_c)}


def gru_of(params, gates, state):
    return {"h": (1 - gates.z) * gates.n + gates.z * state.h}


def slstm_of(params, gates, state):
    c, n = gates.f * state.c + gates.i * gates.z, gates.f * state.n + gates.i
    return {"c": c, "n": n, "h": gates.o * c / n}


BY_GATES = {  # the state after a step, by the gates' values
    **dict.fromkeys(["lstm", "peephole", "coupled"], lstm_of),
    "projected": projected_of,
    "layer_norm": layer_norm_of,
    **dict.fromkeys(["gru", "gru_before"], gru_of),
    "slstm": slstm_of,
}


@pytest.mark.parametrize("cell", [cell for cell in CELLS.values() if cell is not RNN], ids=str)
def test_activations_are_what_the_gates_use(x64, cell):
    rng = np.random.default_rng(0)
    params = random_layer(cell, rng)
    state = jax.tree.map(lambda array: array[0], random_state(cell, params, rng, 1))
    x = rng.normal(size=3)

    @jax.jit
    def step(params):
        z = cell.linear(params, state.h, x)
        return cell.activations(params, z, state), cell.gates(params, z, state)

    seen, (after, _) = jax.tree.map(np.asarray, step(params))
    for name, expected in BY_GATES[cell.name](params, seen, state).items():
        np.testing.assert_allclose(getattr(after, name), expected, rtol=0, atol=1e-13)
    for name, gate in seen._asdict().items():
        candidate = name in ("g", "n") or (name == "z" and cell is SLSTM)
        assert gate.shape == (6,)
        assert (-1 if candidate else 0) <= gate.min() <= gate.max() <= 1
        assert len(np.unique(gate)) > 1
    for k, name in enumerate(cell.blocks.bias):  # each by its own name
        other, _ = step(params._replace(bias=params.bias + 0.1 * np.repeat(np.arange(len(cell.blocks.bias)) == k, 6)))
        assert abs(getattr(other, name) - getattr(seen, name)).max() > 1e-3


def test_activations_of_a_cell_that_names_none_are_its_state(x64):
    rng = np.random.default_rng(0)
    params, xs = random_layer(RNN, rng), rng.normal(size=(2, 4, 3))
    seen = activations(params, xs, cell=RNN, lengths=[4, 2])
    hs, _ = run(params, xs, zero_states(RNN, params, (2,)), np.array([4, 2]), cell=RNN)
    assert seen.keys() == {"h"}
    np.testing.assert_allclose(seen["h"], hs, rtol=0, atol=1e-14)


@every_cell
def test_a_cell_pads_where_it_says_so_and_only_there(x64, cell):
    """Six units as the first of sixteen, in values and gradients; where it says that it doesn't, it could not."""
    rng = np.random.default_rng(0)
    params, xs, lengths = random_layer(cell, rng), rng.normal(size=(3, 5, 3)), np.array([5, 0, 3])
    state, resets = random_state(cell, params, rng, 3), rng.random((3, 5)) < 0.3
    weights = rng.normal(size=(3, 5, sizes_of(cell).outputs))

    def with_gradient(run):
        def weighted(params, xs, state):
            hs, end = run(params, xs, state)
            return jnp.sum(weights * hs) + sum(jnp.sum(jnp.sin(array)) for array in end), (hs, end)

        return jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(params, xs, state)

    def wide(params, xs, state):
        options = {"cell": dataclasses.replace(cell, pads=True), "reverse": False, "segment": None, "zoneout": 0.0}
        return _run_layer(params, xs, state, lengths, resets, None, **options)

    got = with_gradient(wide)
    expected = with_gradient(lambda *args: run(*args, jnp.asarray(lengths), jnp.asarray(resets), cell=cell))
    if cell.pads:
        assert_close(got, expected, 1e-12)
    else:
        assert abs(got[1][0] - expected[1][0]).max() > 1e-3


@every_cell
def test_check_names_the_array_that_does_not_fit(cell):
    params = numpy_draw(cell)
    for name, array in params._asdict().items():
        for wrong, kind in ((array[..., None, None], ValueError), (array.astype(int), TypeError)):
            with pytest.raises(kind, match=rf"^layer\.{name}: expected "):
                cell.check("layer", params._replace(**{name: wrong}))
        with pytest.raises(ValueError, match=r"^layer\.\w+: expected shape \(\d+(, \d+)?,?\), got float64 of shape"):
            cell.check("layer", params._replace(**{name: np.concatenate([array, array[:1]])}))
    with pytest.raises(TypeError, match=rf"^layer: expected {type(params).__name__}, got Other"):
        cell.check("layer", Other(*params[:3]))
    state = jax.tree.map(np.asarray, zero_states(cell, arrays(params, "float32"), (2,)))
    with pytest.raises(TypeError, match=rf"^state: expected {type(state).__name__}, got a tuple of"):
        checked_step(cell, params, tuple(state), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^x: expected \[batch = 2, features = 3\], or class ids, integers"):
        checked_step(cell, params, state, np.ones((2, 4)))


class Other(NamedTuple):
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias: np.ndarray


def test_nothing_is_checked_of_a_cell_of_which_nothing_is_known():
    assert Cell(LSTM.linear, LSTM.gates, LSTM.zero_state).check("layer", "anything") is None


def test_cell_of():
    own = dataclasses.replace(LSTM, name="own")
    assert cell_of("cell", own) is own
    assert all(cell_of("cell", name) is cell and cell_of("cell", cell) is cell for name, cell in CELLS.items())
    assert repr(GRU) == "Cell('gru')"


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("GRU", ValueError, "cell: expected one of 'lstm', 'peephole', .*'slstm', or a Cell, got 'GRU'"),
        (None, TypeError, "cell: expected the name of a cell or a Cell, got None"),
        (lstm_cell, TypeError, "cell: expected the name of a cell or a Cell, got <function lst"),
        (Cell(LSTM.linear, LSTM.gates, LSTM.zero_state, name="own"), ValueError, "cell: .* draws its parameters"),
        (dataclasses.replace(LSTM, name=""), ValueError, "cell: expected a cell with a name of its own, .* got ''"),
        (dataclasses.replace(LSTM, name="gru"), ValueError, "cell: expected a cell with a name of its own, .* 'gru'"),
        (dataclasses.replace(GRU, pads=False), ValueError, "cell: expected a cell with a name of its own, .* 'gru'"),
    ],
    ids=["unknown", "none", "function", "draws nothing", "no name", "a name that is taken", "another of that name"],
)
def test_cell_of_refuses(value, error, message):
    with pytest.raises(error, match=f"^{message}"):
        cell_of("cell", value)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0, 4), ValueError, "input_size: expected at least 1, got 0"),
        ((3, 4.0), TypeError, "hidden_size: expected an integer, got 4.0"),
        ((3, 4, -2), ValueError, "projection_size: expected at least 1, got -2"),
    ],
)
def test_init_refuses(given, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        CELLS["projected"].init(jax.random.key(0), *given)
    with pytest.raises(TypeError, match=r"^key: expected one key of jax\.random\.key, got 0"):
        LAYER_NORM.init(0, 3, 4)
    with pytest.raises(TypeError, match=r"^dtype: expected a dtype of floats, got 'int32'"):
        RNN.init(jax.random.key(0), 3, 4, dtype="int32")


def test_slstm_does_not_overflow_where_its_exponentials_do():
    """Gates of e**500, of which the reference's own are infinite: what it gives is the mean of its candidates."""
    params = SLSTM.init(jax.random.key(0), 3, 4)
    params = params._replace(bias=params.bias.at[:8].add(500.0))
    xs = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    hs, state = run(params, xs, zero_states(SLSTM, params, (2,)), None, cell=SLSTM)
    assert np.isfinite(hs).all()
    assert all(np.isfinite(array).all() for array in state)
    assert abs(hs).max() < 1
    assert state.n.min() >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"linear": 1}, "linear: expected a function, got 1"),
        ({"draw": "normal"}, "draw: expected a function, got 'normal'"),
        ({"name": 5}, "name: expected a string, got 5"),
        ({"recurrent": "weight_hh"}, "recurrent: expected a tuple of names, got 'weight_hh'"),
        ({"blocks": GRU.zero_state}, "blocks: expected a NamedTuple like the parameters, got <function"),
    ],
)
def test_a_cell_is_made_of_functions_and_names(options, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        dataclasses.replace(LSTM, **options)


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        (
            LSTM,
            {"projection_size": 2},
            "projection_size: expected None with cell='lstm', which projects nothing, got 2",
        ),
        (CELLS["projected"], {}, "projection_size: expected the width of the hidden state of cell='projected', got"),
        (CELLS["projected"], {"projection_size": 5}, "projection_size: expected less than hidden_size = 5, got 5"),
        (LSTM, {"fan_in": 0}, "fan_in: expected at least 1, got 0"),
        (Cell(LSTM.linear, LSTM.gates, LSTM.zero_state), {}, "draw: expected a cell that draws its parameters"),
    ],
)
def test_init_names_what_does_not_fit(cell, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        cell.init(jax.random.key(0), 3, 5, **options)


def test_layer_norm_is_trained_in_float16():
    """Where h is 0, the slope of 1 / sqrt(variance) is beyond what 16 bits hold."""
    params = CELLS["layer_norm"].init(jax.random.key(0), 3, 5, dtype=jnp.float16)
    xs = 1000 * jnp.ones((2, 2, 3), jnp.float16)
    gradient = jax.grad(lambda params: unroll(params, xs, cell="layer_norm")[0].astype(jnp.float32).sum())(params)
    assert all(np.isfinite(array).all() for array in gradient)
    assert np.abs(unroll(params, xs, cell="layer_norm")[0]).max() > 0.01
