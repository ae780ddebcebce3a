"""The gradient, our promise: against the reference, finite differences and the plain scan; and what a report tells."""

import dataclasses
import functools
import os
import subprocess
import sys
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import random_layer

from jlstm import gradcheck as module
from jlstm import reference
from jlstm.cells import CELLS, GRU_BEFORE, LSTM, SLSTM
from jlstm.cells.cell import Sizes, zero_states
from jlstm.cells.lstm import LSTMParams, lstm_cell
from jlstm.config import Loss, LSTMConfig, Target
from jlstm.gradcheck import BOUNDS, check, combinations, gradcheck, random_problem
from jlstm.losses import loss_fn
from jlstm.reference.losses import LOSSES
from jlstm.unroll import unroll

FLOAT64, DIFFERENCES, FLOAT32 = BOUNDS


def draw(batch, time, sizes, targets, target, *given, seed=0):
    """Draw a problem with targets of one kind and, of "tokens", "layers", "dropout", "state", "lengths", "resets",
    "weights", the given."""
    loss = "mse" if targets == "values" else "cross_entropy"
    inputs = "tokens" if "tokens" in given else "features"
    layers, dropout = 2 if "layers" in given else 1, 0.4 if "dropout" in given else 0.0
    problem = random_problem(LSTMConfig(*sizes, loss, target, inputs, layers, dropout), batch, time, seed)
    if targets == "probabilities":
        problem["ys"] = np.random.default_rng(seed).dirichlet(np.ones(sizes[2]), size=problem["ys"].shape)
    return problem | {name: None for name in ("state", "lengths", "resets", "weights") if name not in given}


def worst(report):
    """Return the largest difference of each comparison, relative to the whole gradient."""
    return {name: np.max([row.of_gradient for row in report.rows if row.comparison == name]) for name in BOUNDS}


def broken(report):
    return {(row.comparison, row.array) for row in report.rows if not row.holds}


def flat(tree):
    return np.concatenate([np.ravel(array) for array in jax.tree.leaves(tree)])


def assert_close(got, expected, bound):
    """Assert that two pytrees differ by no more than `bound`, relative to the largest entry of all."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    got, expected = flat(got).astype(np.float64), flat(expected).astype(np.float64)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound * np.abs(expected).max())


SMALLEST, SMALL, LARGE = (1, 1, 2), (3, 6, 4), (7, 40, 5)
CASES = {
    "one of everything": (1, 1, SMALLEST, "ids", "each"),
    "one unit": (3, 30, SMALLEST, "values", "last", "state", "lengths", "resets"),
    "state": (4, 15, SMALL, "ids", "each", "state"),
    "values": (2, 33, SMALL, "values", "each", "lengths"),
    "probabilities": (3, 17, SMALL, "probabilities", "each", "state", "lengths"),
    "ids in and out": (4, 12, SMALL, "ids", "each", "tokens", "state", "lengths"),
    "dropout": (3, 9, SMALL, "values", "last", "dropout", "lengths"),
    "layers of tokens with dropout": (4, 7, SMALL, "ids", "each", "layers", "tokens", "dropout", "state", "lengths"),
    "large": (8, 12, LARGE, "ids", "each", "state", "lengths"),
    "large, last": (2, 60, LARGE, "ids", "last", "tokens"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_bound_holds(case):
    for seed in range(3):
        report = gradcheck(**draw(*CASES[case], seed=seed))
        parts = 26 if "layers" in CASES[case] else 14  # three arrays a layer, of four gates each, and the readout
        comparisons = [FLOAT64] * parts + [DIFFERENCES] * (parts + 1) + [FLOAT32] * parts
        assert [row.comparison for row in report.rows] == comparisons
        assert report.largest > 1e-3
        assert report.passed, f"seed {seed}\n{report}"


def test_saturated_gates():
    for seed in range(3):
        problem = draw(*CASES["state"], seed=seed)
        layer = problem["params"].layers[0]
        layer = layer._replace(weight_ih=100 * layer.weight_ih, bias=100 * layer.bias)
        assert np.median(np.abs(problem["xs"] @ layer.weight_ih.T + layer.bias)) > 40
        # The usual bounds, relative to the whole gradient: a shut gate has a derivative of 0 on both sides, and where
        # one is not shut z is small, so that its rounding is too. Measured over 8 seeds: 4e-16, 2e-9 and 3e-7.
        report = gradcheck(**problem | {"params": problem["params"]._replace(layers=(layer,))})
        assert report.passed, f"seed {seed}\n{report}"


def test_steep_recurrence():
    for seed in range(8):
        problem = draw(*CASES["state"], seed=seed)
        params = problem["params"]
        params = params._replace(layers=jax.tree.map(lambda array: 50 * array, params.layers))
        # With weight_hh steep too, each step magnifies the rounding of the step before it, in both precisions alike,
        # and the loss bends within the step of a finite difference. Measured, relative to the whole gradient, over
        # these seeds: 8e-14, 5e-5 and 4e-4.
        report = gradcheck(**problem | {"params": params})
        assert worst(report)[FLOAT64] <= 1e-12, f"seed {seed}\n{report}"
        assert worst(report)[DIFFERENCES] <= 1e-3, f"seed {seed}\n{report}"
        assert worst(report)[FLOAT32] <= 1e-2, f"seed {seed}\n{report}"


def test_memory_of_a_thousand_steps():
    problem = draw(1, 1000, SMALL, "ids", "last")
    layer = problem["params"].layers[0]
    layer = layer._replace(bias=layer.bias + np.repeat(np.float32([-4, 8, 0, 0]), 6))
    # The cell takes up little, σ(-4), and keeps nearly all, σ(8): the first inputs matter at the end, and float32
    # rounds the cell state a thousand times. Measured, relative to the whole gradient, over 8 seeds: 9e-15, 6e-9, 4e-6.
    report = gradcheck(**problem | {"params": problem["params"]._replace(layers=(layer,))})
    assert worst(report)[FLOAT64] <= BOUNDS[FLOAT64], f"\n{report}"
    assert worst(report)[DIFFERENCES] <= BOUNDS[DIFFERENCES], f"\n{report}"
    assert worst(report)[FLOAT32] <= 1e-4, f"\n{report}"


@jax.jit
def gradient_of(problem):
    return jax.grad(lambda params: loss_fn(**problem | {"params": params}))(problem["params"])


@pytest.mark.parametrize(("targets", "target"), [("ids", "each"), ("values", "each"), ("ids", "last")])
def test_padding_is_in_no_gradient(targets, target):
    lengths = np.array([5, 0, 2, 4])
    problem = draw(4, 6, SMALL, targets, target, "state") | {"lengths": lengths}
    padding = np.arange(6) >= lengths[:, None]
    xs, ys = problem["xs"].copy(), problem["ys"].copy()
    xs[padding] = np.nan
    other = padding if target == "each" else lengths == 0
    ys[other] = 3 - ys[other]
    assert not np.array_equal(ys, problem["ys"])
    with_garbage = gradient_of(problem | {"xs": xs, "ys": ys})
    jax.tree.map(np.testing.assert_array_equal, with_garbage, gradient_of(problem))
    assert np.abs(flat(with_garbage)).max() > 1e-3
    assert not flat(gradient_of(problem | {"xs": xs, "lengths": 0 * lengths})).any()


def test_bfloat16():
    problem = draw(4, 6, SMALL, "ids", "each", "state", "lengths")
    params = jax.tree.map(lambda array: array.astype(jnp.bfloat16), problem["params"])
    low = gradient_of(problem | {"params": params})
    assert {array.dtype for array in jax.tree.leaves(low)} == {np.dtype(jnp.bfloat16)}
    same = jax.tree.map(lambda array: array.astype(jnp.float32), params)
    # Four times bfloat16's eps of 2**-7, relative to the whole gradient. Measured: at most 0.016 in 16 problems.
    assert_close(low, gradient_of(problem | {"params": same}), 4 * 2**-7)


@functools.partial(jax.jit, static_argnames="cell")
def outputs_loss(params, xs, state, lengths, cell):
    """A loss that every output and both parts of the last state have a share in."""
    hs, state = unroll(params, xs, state, cell=cell, lengths=lengths)
    return jnp.sum(jnp.sin(3 * hs)) + jnp.sum(jnp.cos(2 * state.h) * state.c)


@pytest.fixture
def arguments(x64):
    """Draw the parameters of a layer, its inputs and a state of zeros, in float64."""
    rng = np.random.default_rng(1)
    params = LSTMParams(*(rng.normal(size=shape) for shape in ((12, 2), (12, 3), 12)))
    return params, rng.normal(size=(4, 6, 2)), zero_states(LSTM, params, (4,))


def random_like(tree):
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda array: rng.normal(size=array.shape), tree)


each_lengths = pytest.mark.parametrize("lengths", [None, np.array([5, 0, 3, 4])], ids=["full", "lengths"])


@each_lengths
def test_gradient_is_that_of_the_plain_scan(arguments, lengths):
    hoisted, plain = (jax.grad(outputs_loss, (0, 1, 2))(*arguments, lengths, cell) for cell in (LSTM, lstm_cell))
    assert_close(hoisted, plain, 1e-12)


@each_lengths
def test_forward_mode_is_reverse_mode(arguments, lengths):
    direction = random_like(arguments)
    _, forward = jax.jvp(lambda *args: outputs_loss(*args, lengths, LSTM), arguments, direction)
    reverse = flat(jax.grad(outputs_loss, (0, 1, 2))(*arguments, lengths, LSTM)) @ flat(direction)
    assert forward == pytest.approx(reverse, rel=1e-12)


def test_second_derivatives(arguments):
    params, *rest = arguments
    rest.append(np.array([5, 0, 3, 4]))
    direction = random_like(params)

    def gradient(step):
        moved = jax.tree.map(lambda array, along: array + step * along, params, direction)
        return flat(jax.grad(outputs_loss)(moved, *rest, LSTM))

    hoisted, plain = (
        jax.jit(jax.hessian(outputs_loss), static_argnums=4)(params, *rest, cell) for cell in (LSTM, lstm_cell)
    )
    assert_close(hoisted, plain, 1e-12)
    along = flat([sum(map(np.tensordot, row, direction, map(np.ndim, direction))) for row in hoisted])
    assert_close(along, (gradient(1e-5) - gradient(-1e-5)) / 2e-5, 1e-7)


def test_vmap_over_parameters(arguments):
    params, xs, state = arguments
    several = jax.tree.map(lambda *arrays: np.stack(arrays), params, random_like(params))

    @jax.jit
    def one(params):
        return jax.grad(outputs_loss)(params, xs, state, np.array([5, 0, 3, 4]), LSTM)

    each = [one(jax.tree.map(lambda array, k=k: array[k], several)) for k in range(2)]
    assert_close(jax.vmap(one)(several), jax.tree.map(lambda *arrays: np.stack(arrays), *each), 1e-12)


def with_gradient_times(factor):
    """Return the identity with a gradient that is not 1."""
    identity = jax.custom_jvp(lambda array: array)
    identity.defjvp(lambda primals, tangents: (primals[0], factor * tangents[0]))
    return identity


A, B = np.float32([0.5, -1.0, 2.0]), np.float32([[1.0, -2.0]])
GRADIENT = {"a": np.cos(A.astype(float)), "b": 2 * B.astype(float)}


def a_loss(identity=lambda array: array):
    return lambda params: jnp.sum(jnp.sin(params["a"])) + jnp.sum(identity(params["b"]) ** 2)


ALL = [(FLOAT64, "['b']"), (DIFFERENCES, "['b']"), (DIFFERENCES, "(a random direction)"), (FLOAT32, "['b']")]


@pytest.mark.parametrize(("error", "expected"), [(0, []), (1e-11, ALL[:1]), (1e-6, ALL[:3]), (1e-4, ALL)])
def test_report_tells_a_wrong_gradient_from_a_right_one(error, expected):
    loss = a_loss(with_gradient_times(1 + error))
    report = check(loss, {"a": A, "b": B}, reference_gradient=GRADIENT)
    assert broken(report) == set(expected)
    assert report.passed is (not expected)
    *_, verdict = str(report).splitlines()
    assert verdict.startswith(f"FAILED: {len(expected)} of 7" if expected else "PASSED: all 7 bounds hold")
    assert all(f"{comparison} in {array}" in verdict for comparison, array in expected)


def test_rows_are_the_differences():
    report = check(
        a_loss(), {"a": A, "b": B}, reference_gradient={"a": GRADIENT["a"] + [0, 0.5, 0], "b": GRADIENT["b"]}
    )
    (row,) = [row for row in report.rows if (row.comparison, row.array) == (FLOAT64, "['a']")]
    assert report.largest == 4
    assert (row.shape, row.entries, row.bound, row.holds) == ((3,), 3, 1e-12, False)
    got, largest_of_a = (row.difference, row.of_array, row.of_gradient), GRADIENT["a"].max()
    assert got == pytest.approx((0.5, 0.5 / largest_of_a, 0.125), rel=1e-12)


def test_direction_tells_what_the_sample_leaves_out():
    factor = np.ones(2000)
    factor[999] = 1.001
    loss = with_gradient_times(factor)
    report = check(lambda params: jnp.sum(loss(params) ** 2), np.ones(2000, np.float32))
    assert [(row.array, row.entries) for row in report.rows] == [("params", 200), ("(a random direction)", 1)]
    assert broken(report) == {(DIFFERENCES, "(a random direction)")}
    assert "200 of 2000" in str(report)


def test_nan_breaks_a_bound():
    report = check(lambda params: jnp.sum(jnp.where(params > 0, jnp.sqrt(params), 0)), np.float32([0, 1]))
    assert np.isnan(report.rows[0].difference)
    assert not report.rows[0].holds
    assert not report.passed


def test_parts_have_the_names_that_python_gives_them():
    layer = LSTMParams(np.ones((4, 2), np.float32), B, A)  # the last two can't be cut into four gates
    params = {"lstm": layer, "readout": [A, B]}
    report = check(lambda params: sum(jnp.sum(array**2) for array in jax.tree.leaves(params)), params)
    first = [f"['lstm'].weight_ih ({gate})" for gate in "ifgo"]
    names = [*first, "['lstm'].weight_hh", "['lstm'].bias", "['readout'][0]", "['readout'][1]"]
    assert [row.array for row in report.rows] == [*names, "(a random direction)"]
    assert [row.shape for row in report.rows][:5] == [(1, 2)] * 4 + [(1, 2)]

    layers = random_layer(GRU_BEFORE, np.random.default_rng(0), hidden=2)
    report = check(lambda params: sum(jnp.sum(array**2) for array in jax.tree.leaves(params)), [layers])
    names = [f"weight_ih ({gate})" for gate in "rzn"] + ["weight_hh (r)", "weight_hh (z)"]
    names += [f"bias ({gate})" for gate in "rzn"] + ["weight_hn"]
    assert [row.array for row in report.rows] == [*(f"[0].{name}" for name in names), "(a random direction)"]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float32, np.float64])
def test_any_float_is_checked_in_float64_and_float32(dtype):
    seen = set()

    def loss(params):
        seen.add(params.dtype)
        return jnp.sum(params**2)

    assert check(loss, A.astype(dtype), reference_gradient=2 * A).passed
    assert seen == {np.dtype(np.float64), np.dtype(np.float32)}


def test_wider_arguments_are_rounded_to_float32_first(monkeypatch):
    monkeypatch.setattr(module, "check", lambda loss, *given, **reference: (given, reference))
    problem = draw(2, 3, SMALL, "values", "each", "state")
    names = ("params", "xs", "ys", "state")
    wide = problem | {name: jax.tree.map(lambda array: array * np.float64(1 + 1e-9), problem[name]) for name in names}
    assert wide["xs"].dtype == np.float64
    jax.tree.map(np.testing.assert_array_equal, gradcheck(**wide), gradcheck(**problem))


@pytest.mark.parametrize(
    ("loss", "params", "gradient", "error", "message"),
    [
        (jnp.sum, {}, None, ValueError, "params: .* without arrays"),
        (jnp.sum, {"a": A, "step": np.int32(3)}, None, TypeError, r"params: .* int32 in \['step'\]"),
        (jnp.sum, {"name": "a"}, None, TypeError, "params: .* floating arrays"),
        (jnp.sin, A, None, ValueError, r"loss: .* shape \(3,\)"),
        (lambda params: (jnp.sum(params), 0), A, None, TypeError, "loss: expected a scalar"),
        (lambda params: jnp.sum(params).astype(jnp.float32), A, None, TypeError, "loss: .* float64, got .*float32"),
        (jnp.sum, A, {"a": A}, ValueError, "reference_gradient: expected a pytree like params"),
        (jnp.sum, A, B, ValueError, r"reference_gradient: .*\(3,\).*\(1, 2\)"),
    ],
    ids=["no array", "integer", "string", "vector", "pair", "float32", "other tree", "other shape"],
)
def test_errors_name_the_argument(loss, params, gradient, error, message):
    with pytest.raises(error, match=message):
        check(loss, params, reference_gradient=gradient)


@pytest.mark.parametrize("setting", [False, True])
def test_x64_is_afterwards_as_it_was(setting):
    def fail(params):
        raise RuntimeError(params.dtype)

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", setting)
    try:
        assert check(a_loss(), {"a": A, "b": B}, reference_gradient=GRADIENT).passed
        assert jax.config.jax_enable_x64 is setting
        with pytest.raises(RuntimeError, match="float64"):
            check(fail, A)
        assert jax.config.jax_enable_x64 is setting
    finally:
        jax.config.update("jax_enable_x64", before)


def test_random_problem_has_what_the_network_needs():
    problem = draw(50, 6, SMALL, "ids", "each", "tokens", "layers", "dropout", "state", "lengths")
    assert [layer.weight_ih.shape for layer in problem["params"].layers] == [(24, 3), (24, 6)]
    assert np.unique(problem["xs"]).tolist() == [0, 1, 2]
    assert (problem["xs"].shape, problem["xs"].dtype.kind) == ((50, 6), "i")
    assert [np.shape(state) for state in problem["state"]] == [(2, 50, 6)] * 2
    assert jax.random.key_data(problem["key"]).tolist() == [0, 0]
    assert "key" not in draw(*CASES["state"])
    resets = random_problem(LSTMConfig(*SMALL), 50, 40)["resets"]
    assert (resets.dtype, resets.shape) == (bool, (50, 40))
    assert resets.mean() == pytest.approx(0.3, abs=0.052)  # five standard errors of 2,000 draws


def test_random_problem_starts_from_a_state_that_the_cell_can_be_in():
    (state,) = random_problem(LSTMConfig(*SMALL, cell="slstm"), 50, 1)["state"]
    assert isinstance(state, type(jax.eval_shape(SLSTM.zero_state, SLSTM.shapes(Sizes(3, 6, 6)))))
    assert {array.dtype.name for array in state} == {"float32"}
    assert state.n.min() > 0.99  # of those that add up, one has the factor 1
    assert abs(state.c / state.n).max() <= 1
    assert random_problem(LSTMConfig(*SMALL, bidirectional=True), 2, 1)["state"] is None


def test_random_problem_is_that_of_its_seed():
    config = LSTMConfig(*SMALL)
    one, same, other = (random_problem(config, 5, 6, seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    for name in ("params", "xs", "ys", "state", "lengths"):
        assert not np.array_equal(flat(one[name]), flat(other[name]))
    with pytest.raises(ValueError, match="time: expected at least 1, got 0"):
        random_problem(config, 5, 0)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_every_bound_holds_for_every_cell(cell):
    """In both directions, with resets and lengths, and for one cell in two layers."""
    layers = 2 if cell is CELLS["gru"] else 1
    options = {"cell": cell, "projection_size": 3 if cell.projects else None, "layers": layers}
    problem = random_problem(LSTMConfig(3, 5, 4, bidirectional=True, **options), 4, 7)
    problem |= {"resets": np.random.default_rng(0).random((4, 7)) < 0.3, "lengths": np.array([7, 2, 5, 6])}
    assert problem["resets"][:, 1:][np.arange(1, 7) < problem["lengths"][:, None]].any()
    report = gradcheck(**problem)
    assert report.passed, f"\n{report}"
    assert report.largest > 1e-2
    rows = [row.array for row in report.rows if row.comparison == FLOAT64]
    gates = sum(map(len, cell.blocks))
    assert len(rows) == len({*rows}) == layers * 2 * gates + 2  # two directions a layer, and the readout


def test_all_checks_every_cell_in_every_combination():
    found = {(name, words.removesuffix(" but zoneout")) for name, words, _ in combinations()}
    assert found == {(name, words) for name in CELLS for words in module.COMBINATIONS}
    assert all(config.cell is CELLS[name] for name, _, config in combinations())
    assert {config.zoneout for _, words, config in combinations() if "regularisers" in words} == {0.0, 0.3}
    assert [name for name, words, _ in combinations() if "but zoneout" in words] == ["slstm"]


@pytest.mark.parametrize("wrong", [False, True])
def test_all_prints_a_line_each_and_tells_what_fails(monkeypatch, capsys, wrong):
    config = LSTMConfig(2, 3, 2)
    monkeypatch.setattr(module, "combinations", lambda: [("lstm", "one", config), ("lstm", "another", config)])
    if wrong:
        monkeypatch.setitem(BOUNDS, FLOAT64, 1e-20)
    assert module.main(["--all"]) == wrong
    head, one, another, *_, verdict = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "cell"
    assert [line.split()[0] for line in (one, another)] == ["lstm", "lstm"]
    assert [line.split()[-1] for line in (one, another)] == (["NO", "NO"] if wrong else ["yes", "yes"])
    assert verdict == f"{'FAILED: 2' if wrong else 'PASSED: none'} of 2 networks break a bound"


@pytest.mark.parametrize("name", ["lstm", "gru_before"])
def test_a_wrong_gate_is_told_from_the_right_ones(monkeypatch, name):
    """Each gate of each array in turn, 1 % too large in the reference: its rows alone break the bounds."""
    problem, right = random_problem(LSTMConfig(*SMALL, cell=name), 4, 9), reference.loss_and_grad
    cell = CELLS[name]
    for field, gates in cell.blocks._asdict().items():
        for k, gate in enumerate(gates):

            def wrong(params, *, field=field, k=k, gates=gates, **data):
                loss, gradient = right(params, **data)
                (layer,) = gradient.layers
                factor = np.ones(len(gates))
                factor[k] = 1.01
                array = getattr(layer, field)
                factor = np.repeat(factor, len(array) // len(gates)).reshape(-1, *[1] * (array.ndim - 1))
                return loss, gradient._replace(layers=(layer._replace(**{field: factor * array}),))

            monkeypatch.setattr(reference, "loss_and_grad", wrong)
            row = f"layers[0].{field}{f' ({gate})' if len(gates) > 1 else ''}"
            assert broken(gradcheck(**problem)) == {(FLOAT64, row), (FLOAT32, row)}


class Stacked(NamedTuple):
    weight: jax.Array
    scale: jax.Array


def test_the_gates_of_ones_own_cell_have_rows_where_it_is_handed_over():
    params = {"layer": Stacked(np.ones((4, 2), np.float32), A), "other": B}
    own = dataclasses.replace(LSTM, name="own", blocks=Stacked("ab", "c"))

    def loss(params):
        return sum(jnp.sum(jnp.sin(array)) for array in jax.tree.leaves(params))

    names = [[row.array for row in check(loss, params, cell=cell).rows] for cell in (own, None)]
    rest = ["['layer'].scale", "['other']", "(a random direction)"]
    assert names[0] == ["['layer'].weight (a)", "['layer'].weight (b)", *rest]
    assert names[1] == ["['layer'].weight", *rest]


LARGER = ["--layers", "2", "--dropout", "0.5", "--inputs", "tokens"]
SIZES = ["--batch", "2", "--time", "3", "--features", "3", "--hidden", "6", "--classes", "4"]


def run(*arguments, **variables):
    environment = os.environ | variables
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_command_line_where_x64_is_on():
    done = run("-m", "jlstm.gradcheck", *SIZES, *LARGER, "--lengths", "random", JAX_ENABLE_X64="1")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    command, _, _, *lines = done.stdout.splitlines()
    assert command.startswith(
        "python -m jlstm.gradcheck --batch 2 --time 3 --features 3 --hidden 6 --classes 4 --layers 2 --seed 0 "
    )
    assert {"--inputs tokens", "--dropout 0.5", "--lengths random"} <= {f"--{part}" for part in command.split(" --")}
    assert {len(line) for line in lines[:80]} == {len(lines[0])}
    assert [line.split()[-1] for line in lines[:80]] == ["holds"] + 79 * ["yes"]
    assert lines[-1] == "PASSED: all 79 bounds hold"


def test_command_line_fails_on_a_wrong_gradient(monkeypatch, capsys):
    def wrong(params, data):
        layer = params.layers[0]
        layer = layer._replace(bias=with_gradient_times(1.1)(layer.bias))
        return loss_fn(params._replace(layers=(layer,)), **data)

    monkeypatch.setattr(module, "_loss", wrong)
    assert module.main(SIZES) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED: 13 of 43 bounds broken: float64 vs reference in layers[0].bias (i), ")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "--hidden N"),
        (["--hidden", "0"], 2, "got 0"),
        (["--layers", "0"], 2, "layers: expected at least 1, got 0"),
        (["--dropout", "1"], 2, "dropout: expected a number below 1, got 1.0"),
        (["--inputs", "ids"], 2, "invalid choice: 'ids'"),
    ],
)
def test_command_line_without_a_check(arguments, status, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        module.main(arguments)
    assert exit_.value.code == status
    assert said in "".join(capsys.readouterr())


def test_import_starts_no_device():
    done = run(
        "-c", "import jlstm.gradcheck; from jax._src import xla_bridge as x; print(x.backends_are_initialized())"
    )
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("lengths", [3, 99, [-2, 2, 2**31 - 1]], ids=str)
def test_lengths_for_all_and_beyond_what_there_is_are_read_as_the_reference_reads_them(target, lengths):
    problem = random_problem(LSTMConfig(2, 3, 4, target=target), 3, 5)
    assert gradcheck(**problem | {"lengths": lengths}).passed


# Every loss, with weights, lengths and unknown targets


def unknown_in(ys, loss):
    """Return targets of which the first one is unknown: a class, or one answer of several."""
    ids = loss == "cross_entropy"
    ys = ys.copy() if ids else ys.astype(np.float32)
    ys.flat[0] = -100 if ids else np.nan
    return ys


@functools.partial(jax.jit, static_argnames="config")
def loss_and_gradient(params, given, config):
    return jax.value_and_grad(lambda params: loss_fn(params, **given, config=config))(params)


@pytest.mark.parametrize("target", get_args(Target))
@pytest.mark.parametrize("loss", get_args(Loss))
def test_every_loss_is_that_of_the_reference(x64, loss, target):
    config = LSTMConfig(3, 4, 5, loss=loss, target=target)
    problem = random_problem(config, 6, 5)
    params = jax.tree.map(lambda array: array.astype(float), problem["params"])
    problem["weights"][:2], problem["lengths"][:2] = 2.0, (5, 3)
    given = {name: problem[name] for name in ("xs", "ys", "state", "lengths", "resets", "weights")}
    given |= {"ys": unknown_in(given["ys"], loss)}
    got, expected = loss_and_gradient(params, given, config), reference.loss_and_grad(params, config=config, **given)
    assert got[0] == pytest.approx(expected[0], rel=1e-12)
    assert_close(got[1], expected[1], 1e-12)
    seen, _ = reference.loss_and_grad(params, config=config, **given | {"ys": problem["ys"]})
    assert abs(seen - expected[0]) > 1e-4  # what is unknown would make a difference


@pytest.mark.parametrize("loss", get_args(Loss))
def test_every_bound_holds_for_every_loss_and_a_wrong_one_is_noticed(monkeypatch, loss):
    """A derivative by the last score, one percent too large: that of a scale, where there is one."""
    problem = random_problem(LSTMConfig(2, 3, 2, loss=loss), 3, 5)
    problem["weights"][0], problem["ys"] = 1, unknown_in(problem["ys"], loss)
    report = gradcheck(**problem)
    assert report.passed, f"\n{report}"
    right = LOSSES[loss]

    def wrong(*given):
        losses, ds = right(*given)
        return losses, ds * np.append(np.ones(ds.shape[1] - 1), 1.01)

    monkeypatch.setitem(LOSSES, loss, wrong)
    assert {(FLOAT64, "readout.bias"), (FLOAT32, "readout.bias")} <= broken(gradcheck(**problem))


def test_targets_and_weights_that_do_not_count_may_be_anything():
    """Ids in the padding, and unknown ones, are read by neither."""
    problem = draw(4, 6, SMALL, "ids", "each", "lengths", "weights") | {"lengths": np.array([5, 1, 2, 4])}
    ys = problem["ys"].copy()
    ys[np.arange(6) >= problem["lengths"][:, None]] = 99
    assert gradcheck(**problem | {"ys": ys}).passed
    one_hot = np.eye(SMALL[2], dtype=int)[problem["ys"]]
    one_hot[0, 0] = -100
    assert gradcheck(**problem | {"ys": one_hot}).passed


def test_random_weights_leave_some_out():
    problem = random_problem(LSTMConfig(*SMALL), 50, 40)
    assert (problem["weights"].dtype, problem["weights"].shape) == (np.float32, (50, 40))
    assert (problem["weights"] == 0).mean() == pytest.approx(0.2, abs=0.045)  # five standard errors of 2,000 draws
    assert 0 <= problem["weights"].min() < 0.05 < 0.95 < problem["weights"].max() < 1
    assert random_problem(LSTMConfig(*SMALL, target="last"), 7, 4)["weights"].shape == (7,)
    assert random_problem(LSTMConfig(*SMALL, loss="binary_cross_entropy"), 7, 4)["ys"].dtype == bool
