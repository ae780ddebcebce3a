"""The gradient, our promise: against the reference, finite differences and the plain scan; and what a report tells."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import gradcheck as module
from jlstm.cell import LSTM, LSTMParams, init_lstm, lstm_cell
from jlstm.gradcheck import BOUNDS, check, gradcheck, random_problem
from jlstm.losses import loss_fn
from jlstm.model import LSTMConfig
from jlstm.unroll import unroll

FLOAT64, DIFFERENCES, FLOAT32 = BOUNDS


def draw(batch, time, sizes, targets, target, *given, seed=0):
    """Draw a problem with targets of one kind and, of "ids in", "state" and "lengths", what is given."""
    features, hidden, outputs = sizes
    loss = "mse" if targets == "values" else "cross_entropy"
    problem = random_problem(LSTMConfig(features, hidden, outputs, loss=loss, target=target), batch, time, seed)
    rng = np.random.default_rng(seed)
    if targets == "probabilities":
        problem["ys"] = rng.dirichlet(np.ones(outputs), size=problem["ys"].shape)
    if "ids in" in given:
        problem["xs"] = rng.integers(features, size=(batch, time))
    return problem | {name: None for name in ("state", "lengths") if name not in given}


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


CASES = {
    "one of everything": (1, 1, (1, 1, 2), "ids", "each"),
    "one unit, last": (3, 30, (1, 1, 1), "values", "last", "state", "lengths"),
    "one sequence": (1, 40, (2, 6, 3), "ids", "each", "state"),
    "values, last": (5, 9, (2, 6, 3), "values", "last", "lengths"),
    "probabilities": (3, 17, (4, 12, 5), "probabilities", "each", "state", "lengths"),
    "probabilities, last": (6, 4, (4, 12, 5), "probabilities", "last"),
    "values": (2, 33, (4, 12, 5), "values", "each", "lengths"),
    "ids in and out": (4, 12, (4, 12, 5), "ids", "each", "ids in", "state", "lengths"),
    "large": (8, 60, (7, 40, 4), "ids", "each", "state", "lengths"),
    "large, last": (7, 25, (7, 40, 4), "ids", "last", "state"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_bound_holds(case):
    report = gradcheck(**draw(*CASES[case], seed=list(CASES).index(case)))
    assert [row.comparison for row in report.rows] == [FLOAT64] * 5 + [DIFFERENCES] * 6 + [FLOAT32] * 5
    assert report.largest > 1e-3
    assert report.passed, f"\n{report}"


def test_sequences_without_a_real_step():
    problem = draw(3, 6, (2, 6, 3), "ids", "last", "state", "lengths")
    some = gradcheck(**problem | {"lengths": [6, 0, 3]})
    assert some.passed, f"\n{some}"
    assert some.largest > 0
    none = gradcheck(**problem | {"lengths": [0, 0, 0]})
    assert none.passed
    assert none.largest == 0


def test_saturated_gates():
    problem = draw(4, 15, (2, 6, 3), "ids", "each", "state")
    layer = problem["params"].layers[0]
    layer = layer._replace(weight_ih=100 * layer.weight_ih, bias=100 * layer.bias)
    assert np.median(np.abs(problem["xs"] @ layer.weight_ih + layer.bias)) > 50
    # The usual bounds, relative to the whole gradient: gates that are shut have a gradient of 0 on both sides, and of
    # those that are not z is the same up to |z| eps. Measured 5e-16, 1e-9 and 3e-7.
    report = gradcheck(**problem | {"params": problem["params"]._replace(layers=(layer,))})
    assert report.passed, f"\n{report}"


def test_steep_recurrence():
    problem = draw(4, 15, (2, 6, 3), "ids", "each", "state")
    params = problem["params"]
    params = params._replace(layers=jax.tree.map(lambda array: 50 * array, params.layers))
    # With weight_hh steep too, each step magnifies the rounding errors of the step before it, in either precision and
    # in the reference: what is lost is a share of eps. Finite differences span more than the loss is straight over.
    report = worst(gradcheck(**problem | {"params": params}))
    assert report[FLOAT64] <= 1e-9
    assert report[FLOAT32] <= 1e-1


def test_memory_of_a_thousand_steps():
    problem = draw(2, 1000, (2, 4, 3), "ids", "last")
    layer = problem["params"].layers[0]
    layer = layer._replace(bias=layer.bias + np.repeat(np.float32([-4, 7, 0, 0]), 4))
    # σ(-4) into a cell that keeps σ(8) of itself: the first inputs still matter at the end, and float32 rounds the cell
    # state a thousand times over. Measured, relative to the whole gradient: MEASURE.
    report = worst(gradcheck(**problem | {"params": problem["params"]._replace(layers=(layer,))}))
    print(report)


@functools.partial(jax.jit, static_argnames="cell")
def outputs_loss(params, xs, state, lengths, cell):
    """A loss of all outputs and of the last state, which none of them leaves out."""
    hs, state = unroll(params, xs, state, cell=cell, lengths=lengths)
    return jnp.sum(jnp.sin(3 * hs)) + jnp.sum(jnp.cos(2 * state.h) * state.c)


@pytest.fixture
def unrolled(x64):
    """Return float64 parameters, inputs and zero states of a layer."""
    params = init_lstm(jax.random.key(1), 2, 3, dtype=jnp.float64)
    return params, np.random.default_rng(1).normal(size=(4, 6, 2)), LSTM.zero_state(params, (4,))


LENGTHS = pytest.mark.parametrize("lengths", [None, np.array([6, 0, 3, 5])], ids=["full", "lengths"])


@LENGTHS
def test_gradient_is_that_of_the_plain_scan(unrolled, lengths):
    hoisted, plain = (jax.grad(outputs_loss, (0, 1, 2))(*unrolled, lengths, cell) for cell in (LSTM, lstm_cell))
    assert_close(hoisted, plain, 1e-12)


@LENGTHS
def test_forward_mode_is_reverse_mode(unrolled, lengths):
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda array: rng.normal(size=array.shape), unrolled)
    _, forward = jax.jvp(lambda *args: outputs_loss(*args, lengths, LSTM), unrolled, direction)
    reverse = flat(jax.grad(outputs_loss, (0, 1, 2))(*unrolled, lengths, LSTM)) @ flat(direction)
    assert forward == pytest.approx(reverse, rel=1e-12)


@LENGTHS
def test_second_derivatives(unrolled, lengths):
    params, xs, state = unrolled
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda array: rng.normal(size=array.shape), params)

    def gradient(params, cell=LSTM):
        return jax.grad(outputs_loss)(params, xs, state, lengths, cell)

    def moved(step):
        return gradient(jax.tree.map(lambda array, along: array + step * along, params, direction))

    hoisted, plain = (jax.jacfwd(gradient)(params, cell) for cell in (LSTM, lstm_cell))
    assert_close(hoisted, plain, 1e-12)
    _, along = jax.jvp(gradient, (params,), (direction,))
    differences = jax.tree.map(lambda up, down: (up - down) / 2e-5, moved(1e-5), moved(-1e-5))
    assert_close(along, differences, 1e-7)
    reverse = jax.grad(lambda params: jnp.vdot(*map(jnp.array, (0, 0))))
