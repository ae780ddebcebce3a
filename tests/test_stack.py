"""Layers on top of each other, in one direction and in both, beside each sequence by itself."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import random_layer, random_state, sizes_of

from jlstm import Bidirectional, stack, unroll
from jlstm.cells import CELLS, GRU, LSTM, PROJECTED
from jlstm.cells.lstm import LSTMState

B, T, INPUTS, H = 3, 5, 3, 4
LENGTHS = np.array([5, 0, 3])


def both_ways(cell, rng, inputs):
    return Bidirectional(*(random_layer(cell, rng, inputs, H) for _ in range(2)))


def problem(cell=LSTM, seed=0):
    """Two layers of both directions, inputs, and a state for each direction."""
    rng = np.random.default_rng(seed)
    width = sizes_of(cell, hidden=H).outputs
    layers = (both_ways(cell, rng, INPUTS), both_ways(cell, rng, 2 * width))
    state = tuple(Bidirectional(*(random_state(cell, own, rng, B) for own in layer)) for layer in layers)
    return layers, rng.normal(size=(B, T, INPUTS)), state


def run_one(cell, params, xs, state):
    """One direction over one sequence, in the order of its steps."""
    end, hs = jax.lax.scan(functools.partial(cell.step, params), state, xs)
    return hs, end


def each_alone(cell, layers, xs, state, lengths, residual=False):
    """Every sequence cut to its length, the backward direction over the flipped one."""
    outputs, ends = [], []
    for b, length in enumerate(lengths):
        read, states = xs[b, :length], []
        for k, (layer, start) in enumerate(zip(layers, jax.tree.map(lambda array, b=b: array[b], state), strict=True)):
            forward, end = run_one(cell, layer.forward, read, start.forward)
            backward, first = run_one(cell, layer.backward, read[::-1], start.backward)
            hs = jnp.concatenate([forward, backward[::-1]], axis=1)
            read = hs + read if residual and k else hs
            states.append(Bidirectional(end, first))
        outputs.append(jnp.pad(read, ((0, xs.shape[1] - length), (0, 0))))
        ends.append(tuple(states))
    return jnp.stack(outputs), jax.tree.map(lambda *arrays: jnp.stack(arrays), *ends)


def assert_close(got, expected, atol):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(("cell", "residual"), [(LSTM, True), (PROJECTED, False), (CELLS["slstm"], True)], ids=str)
def test_both_directions_are_each_sequence_alone(x64, cell, residual):
    """With what lies past the lengths, which no direction may read, and the gradients of all."""
    layers, xs, state = problem(cell)
    dirty = np.where(np.arange(T)[:, None] < LENGTHS[:, None, None], xs, np.nan)

    def with_gradient(run):
        def weighted(layers, xs, state):
            found = run(layers, xs, state)
            weights = [jnp.cos(jnp.arange(array.size)).reshape(array.shape) for array in jax.tree.leaves(found)]
            return sum(jnp.sum(w * array) for w, array in zip(weights, jax.tree.leaves(found), strict=True)), found

        return jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))

    got = with_gradient(functools.partial(stack, cell=cell, lengths=LENGTHS, residual=residual))(layers, dirty, state)
    alone = functools.partial(each_alone, cell, lengths=LENGTHS, residual=residual)
    assert_close(got, with_gradient(alone)(layers, xs, state), 1e-12)


def test_layers_of_one_direction_are_unrolled_one_above_the_other(x64):
    rng = np.random.default_rng(0)
    layers = [random_layer(GRU, rng, inputs, H) for inputs in (INPUTS, H, H)]
    xs, resets = rng.normal(size=(B, T, INPUTS)), rng.random((B, T)) < 0.3
    options = {"cell": "gru", "lengths": LENGTHS, "resets": resets, "residual": True, "segment": 2}
    hs, state = jax.jit(lambda layers, xs: stack(layers, xs, **options))(layers, xs)
    read, ends = xs, []
    for k, layer in enumerate(layers):
        above, end = unroll(layer, read, cell=GRU, lengths=LENGTHS, resets=resets)
        read = above + read if k else above
        ends.append(end)
    assert_close((hs, state), (read, tuple(ends)), 1e-14)
    assert not hs[1].any()


def test_ids_are_read_by_both_directions(x64):
    layers, _, state = problem()
    ids = np.random.default_rng(1).integers(INPUTS, size=(B, T))
    run = jax.jit(functools.partial(stack, lengths=LENGTHS))
    assert_close(run(layers, ids, state), run(layers, np.eye(INPUTS)[ids], state), 1e-14)


def test_a_learned_initial_state_is_one_for_all_and_gets_a_gradient(x64):
    """`[1, H]`, whose gradient is the sum of those of the sequences."""
    layers, xs, state = problem()
    one = jax.tree.map(lambda array: array[:1], state)
    each = jax.tree.map(lambda array: np.concatenate([array] * B), one)

    @jax.jit
    def with_gradient(state):
        def loss(state):
            hs, end = stack(layers, xs, state, lengths=LENGTHS)
            return jnp.sum(hs**2) + sum(jnp.sum(jnp.sin(array)) for array in jax.tree.leaves(end)), (hs, end)

        return jax.grad(loss, has_aux=True)(state)

    (got, outputs), (expected, same) = with_gradient(one), with_gradient(each)
    assert_close(outputs, same, 0)
    assert_close(got, jax.tree.map(lambda array: array.sum(axis=0, keepdims=True), expected), 1e-13)
    assert all(np.abs(array).max() > 1e-2 for array in jax.tree.leaves(got))


def test_no_state_is_the_zero_state(x64):
    layers, xs, state = problem()
    zeros = jax.tree.map(np.zeros_like, state)
    run = jax.jit(stack)
    assert_close(run(layers, xs), run(layers, xs, zeros), 0)
    forwards = (Bidirectional(zeros[0].forward, None), None)
    assert_close(run(layers, xs, forwards), run(layers, xs), 0)


class Pair(NamedTuple):
    forward: object
    backward: object


def mistakes():
    rng = np.random.default_rng(0)
    first, second = (random_layer(LSTM, rng, inputs, H) for inputs in (INPUTS, H))
    wide, gru = random_layer(LSTM, rng, H, H + 1), random_layer(GRU, rng, INPUTS, H)
    (both, above), xs, state = problem()
    one = LSTMState(*np.zeros((2, B, H)))
    return {
        "no layers": (([], xs), {}, "layers: expected a tuple of layers, at least one, got []"),
        "a layer alone": ((first, xs), {}, "layers: expected a tuple of layers, at least one, got LSTMParams"),
        "both directions alone": (
            (both, xs),
            {},
            "layers: expected a tuple of layers, at least one, got Bidirectional",
        ),
        "another cell's": (([gru], xs), {}, "layers[0]: expected LSTMParams, got GRUParams"),
        "another pair": (([Pair(*both)], xs), {}, "layers[0]: expected LSTMParams, got Pair"),
        "another cell backwards": (
            ([Bidirectional(first, gru)], xs),
            {},
            "layers[0].backward: expected LSTMParams, got GRUParams",
        ),
        "a layer that reads one direction": (
            ([both, second], xs),
            {},
            "layers[1]: expected weights for the 8 outputs of the layer below, got weights for 4",
        ),
        "directions that read differently": (
            ([Bidirectional(first, second)], xs),
            {},
            "layers[0].backward: expected ",
        ),
        "one above that reads less": (
            ([both, Bidirectional(above.forward, second)], xs),
            {},
            "layers[1].backward: expected weights for the 8 outputs of the layer below, got weights for 4",
        ),
        "residual of another width": (
            ([first, wide], xs),
            {"residual": True},
            "layers[1]: expected 4 outputs, as many as it reads, with residual=True, got 5",
        ),
        "residual that is none": (([first], xs), {"residual": 1}, "residual: expected True or False, got 1"),
        "an unknown cell": (([first], xs), {"cell": "LSTM"}, "cell: expected one of 'lstm', "),
        "a segment of nothing": (([first], xs), {"segment": 0}, "segment: expected at least 1, got 0"),
        "other features": (([first], xs[..., :2]), {}, "xs: expected [batch, time, features = 3], or class ids"),
        "a state for one layer of two": (
            ([both, above], xs, state[:1]),
            {},
            "state: expected 2 states, one a layer, got 1",
        ),
        "a state without a tuple": (([first], xs, one), {}, "state: expected a tuple of 1 states, got LSTMState"),
        "a state of one direction": (([both], xs, [one]), {}, "state[0]: expected Bidirectional, got LSTMState"),
        "a state of two directions": (([first], xs, [state[0]]), {}, "state[0]: expected LSTMState, got Bidirectional"),
        "a state of another batch": (
            ([both], xs, [Bidirectional(one, jax.tree.map(lambda array: array[:2], one))]),
            {},
            "state[0].backward.h: expected shape (3, 4), got float64 of shape (2, 4)",
        ),
        "too many lengths": (
            ([first], xs),
            {"lengths": [1, 2]},
            "lengths: expected integers [batch = 3], or one for all",
        ),
        "resets of another shape": (
            ([first], xs),
            {"resets": np.zeros((B, 2), bool)},
            "resets: expected booleans [batch = 3, time = 5], got bool of shape (3, 2)",
        ),
    }


MISTAKES = mistakes()


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    args, options, message = MISTAKES[name]
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}"):
        stack(*args, **options)
