"""The ways to lay a batch out: each gives what a sequence alone gives, with its gradient; the rule that chooses."""

import dataclasses
import functools
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm import unroll
from jlstm.cells import LSTM, Cell
from jlstm.cells.lstm import LSTMParams, LSTMState
from jlstm.layouts import ALONE, FEATURES_FIRST, SEQUENCES_FIRST, Turned, batch_axis, laid, unlaid

INPUTS, H, T = 3, 4, 6


class Hidden(NamedTuple):
    h: jax.Array


def problem(rows, tokens):
    rng = np.random.default_rng(0)
    params = LSTMParams(rng.normal(size=(4 * H, INPUTS)), rng.normal(size=(4 * H, H)), rng.normal(size=4 * H))
    xs = rng.integers(INPUTS, size=(rows, T)) if tokens else rng.normal(size=(rows, T, INPUTS))
    return params, xs, LSTMState(*rng.normal(size=(2, rows, H)))


def outputs_and_gradient(params, xs, state, lengths):
    def weighted(params, state):
        outputs = unroll(params, xs, state, lengths=lengths)
        leaves = jax.tree.leaves(outputs)
        return sum(jnp.sum(jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape) * leaf) for leaf in leaves), outputs

    grads, outputs = jax.grad(weighted, argnums=(0, 1), has_aux=True)(params, state)
    return grads, outputs, unroll(params, xs, state, lengths=lengths)


@pytest.mark.parametrize("lengths", [None, "one each"])
@pytest.mark.parametrize("tokens", [False, True], ids=["features", "tokens"])
@pytest.mark.parametrize(("rows", "axis"), [(1, ALONE), (1, FEATURES_FIRST), (5, FEATURES_FIRST), (16, FEATURES_FIRST)])
def test_every_layout_gives_the_same(x64, monkeypatch, rows, axis, tokens, lengths):
    args = problem(rows, tokens)
    lengths = None if lengths is None else np.arange(rows) % (T + 1)
    found = []
    for chosen in (SEQUENCES_FIRST, axis):
        monkeypatch.setattr(sys.modules["jlstm.unroll"], "batch_axis", lambda *_, chosen=chosen: chosen)
        found.append(jax.jit(functools.partial(outputs_and_gradient, lengths=lengths))(*args))
    for got, expected in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


def test_rule():
    assert batch_axis(1, [1024]) == ALONE
    assert [batch_axis(rows, [384]) for rows in (4, 25, 32)] == [0, -1, -1]
    assert batch_axis(32, [256]) == SEQUENCES_FIRST
    rows, hidden = jax.export.symbolic_shape("b, h")
    assert {batch_axis(*sizes) for sizes in ((rows, [512]), (32, [hidden]))} == {SEQUENCES_FIRST}


def test_a_batch_that_is_laid_out_is_filled_up_and_comes_back():
    xs = np.arange(2 * 5 * 3).reshape(2, 5, 3)  # [time, batch, features]
    turned = laid(xs, FEATURES_FIRST, batch=1)
    assert turned.shape == (2, 3, 8)
    assert np.array_equal(unlaid(turned, FEATURES_FIRST, 5, batch=1), xs)
    assert np.array_equal(unlaid(laid(xs[:, :1], ALONE, batch=1), ALONE, 1, batch=1), xs[:, :1])


def test_a_turned_matrix_is_the_matrix():
    matrix, h = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), np.ones(3, np.float32)
    turned = Turned(jnp.asarray(matrix.T))
    np.testing.assert_allclose(turned @ h, matrix @ h, rtol=1e-6)
    np.testing.assert_array_equal(turned.T, matrix.T)


def test_the_layout_of_a_large_layer_is_that_of_the_rule():
    """Nine sequences of 384 units, features first by themselves, beside each alone."""
    rng = np.random.default_rng(0)
    params = LSTMParams(*(rng.normal(size=s).astype(np.float32) / 20 for s in ((1536, 2), (1536, 384), 1536)))
    xs, state = rng.normal(size=(9, 3, 2)).astype(np.float32), LSTMState(*np.zeros((2, 9, 384), np.float32))
    assert batch_axis(9, [384]) == FEATURES_FIRST

    def gradient(params, xs, state):
        return jax.grad(lambda params: (unroll(params, xs, state)[0] ** 2).sum())(params)

    got = jax.jit(gradient)(params, xs, state)
    alone = jax.jit(gradient)
    each = [alone(params, xs[k : k + 1], LSTMState(*(array[:1] for array in state))) for k in range(9)]
    for a, *parts in zip(got, *each, strict=True):
        np.testing.assert_allclose(a, sum(parts), rtol=0, atol=1e-5 * float(abs(a).max()))
    exported = jax.export.export(jax.jit(gradient))(params, xs, state)
    np.testing.assert_array_equal(exported.call(params, xs, state).bias, got.bias)


@pytest.mark.parametrize("axis", [SEQUENCES_FIRST, FEATURES_FIRST])
def test_hidden_states_and_inputs_may_have_any_rank(x64, monkeypatch, axis):
    """A cell that multiplies a matrix of three columns, and one whose hidden state is a number."""
    monkeypatch.setattr(sys.modules["jlstm.unroll"], "batch_axis", lambda *_: axis)
    rng = np.random.default_rng(0)
    for size in ((4, 3), ()):
        params = {"weight": rng.normal(size=(4, 4)), "scale": rng.normal()}

        def linear(params, h, x):
            return params["weight"] @ h + x if h.ndim else params["scale"] * h + x

        def gates(params, z, state):
            h = jnp.tanh(z)
            return Hidden(h), h

        cell = Cell(linear, gates, lambda params, size=size: Hidden(jnp.zeros(size)))
        xs = rng.normal(size=(2, 5, *size))

        def loss(params, cell=cell, xs=xs):
            return (unroll(params, xs, cell=cell)[0] ** 2).sum()

        def plain(params, cell=cell, xs=xs):
            def one(xs):
                return jax.lax.scan(lambda state, x: cell.step(params, state, x), cell.zero_state(params), xs)[1]

            return (jax.vmap(one)(xs) ** 2).sum()

        got, expected = (jax.value_and_grad(function)(params) for function in (loss, plain))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_cell_may_do_anything_with_its_matrices(x64):
    """A product by another name, of a matrix that is no array here, is computed as it is written."""

    def linear(params, h, x):
        return jnp.dot(params.weight_ih, x) + jnp.einsum("gh,h->g", params.weight_hh, h) + params.bias

    cell, args = dataclasses.replace(LSTM, linear=linear), problem(5, tokens=False)
    got, expected = (unroll(*args, cell=cell) for cell in (cell, LSTM))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)
