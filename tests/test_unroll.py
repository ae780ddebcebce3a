"""Many steps: in pieces, of different lengths, with cells of other kinds, under transformations."""

import dataclasses
import functools
import itertools
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given as drawn_from
from hypothesis import settings
from hypothesis import strategies as st
from layers import random_layer, random_state

from jlstm.cells import CELLS as BUILT_IN
from jlstm.cells import LSTM, RNN, Cell, rnn
from jlstm.cells.lstm import LSTMParams, LSTMState, lstm_cell
from jlstm.layouts import FEATURES_FIRST, SEQUENCES_FIRST
from jlstm.unroll import unroll

B, T, INPUTS, H = 3, 5, 2, 3
leaves = jax.tree.leaves
LENGTHS = np.array([3, 0, 4])  # none is T: the last step is padding for all


class RNNState(NamedTuple):
    h: jax.Array


def tanh_cell(params, state, x):
    """A cell that is one plain function."""
    h = jnp.tanh(x @ params["ih"] + state.h @ params["hh"] + params["bias"])
    return RNNState(h), h


class GRUParams(NamedTuple):
    weight_ih: jax.Array
    weight_hh: jax.Array
    bias_ih: jax.Array
    bias_hh: jax.Array


def gru_linear(params, h, x):
    return params.weight_ih @ x + params.bias_ih, params.weight_hh @ h + params.bias_hh


def gru_gates(params, z, state):
    (r_x, u_x, n_x), (r_h, u_h, n_h) = (jnp.split(part, 3) for part in z)
    u = jax.nn.sigmoid(u_x + u_h)
    h = (1 - u) * jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h) + u * state.h
    return RNNState(h), h


def gru_zeros(params):
    return RNNState(jnp.zeros(params.weight_hh.shape[1]))


class PeepholeParams(NamedTuple):
    lstm: LSTMParams
    peepholes: jax.Array  # [3, H]: what the input, the forget and the output gate see of the cell state


def peephole_gates(params, z, state):
    i, f, g, o = jnp.split(z, 4)
    p_i, p_f, p_o = params.peepholes
    c = jax.nn.sigmoid(f + p_f * state.c) * state.c + jax.nn.sigmoid(i + p_i * state.c) * jnp.tanh(g)
    h = jax.nn.sigmoid(o + p_o * c) * jnp.tanh(c)
    return LSTMState(h, c), h


class ProjectedParams(NamedTuple):
    lstm: LSTMParams
    down: jax.Array  # [2, H]
    out: jax.Array  # [1, 2]


def projected_gates(params, z, state):
    """An LSTM whose hidden state is narrower than its cell state and whose output is another vector still."""
    (_, c), h = LSTM.gates(params.lstm, z, state)
    h = params.down @ h
    return LSTMState(h, c), jnp.sin(params.out @ h)


def lstm_linear(params, h, x):
    return LSTM.linear(params.lstm, h, x)


def lstm_zeros(params):
    return LSTMState(jnp.zeros(params.lstm.weight_hh.shape[1]), jnp.zeros(H))


CELLS = {
    "lstm": LSTM,
    "gru": Cell(gru_linear, gru_gates, gru_zeros),
    "peephole": Cell(lstm_linear, peephole_gates, lstm_zeros),
    "projected": Cell(lstm_linear, projected_gates, lstm_zeros),
    "plain lstm": lstm_cell,
    "plain tanh": tanh_cell,
}


def given(name, dtype="float64"):
    """The cell of that name with its parameters, inputs and a state."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    def lstm(hidden=H):
        return LSTMParams(normal(4 * H, INPUTS), normal(4 * H, hidden), normal(4 * H))

    params = {
        "lstm": lstm,
        "gru": lambda: GRUParams(normal(3 * H, INPUTS), normal(3 * H, H), normal(3 * H), normal(3 * H)),
        "peephole": lambda: PeepholeParams(lstm(), normal(3, H)),
        "projected": lambda: ProjectedParams(lstm(2), normal(2, H), normal(1, 2)),
        "plain lstm": lstm,
        "plain tanh": lambda: {"ih": normal(INPUTS, H), "hh": normal(H, H), "bias": normal(H)},
    }[name]()
    state = RNNState(normal(B, H)) if name in ("gru", "plain tanh") else LSTMState(normal(B, H), normal(B, H))
    if name == "projected":
        state = state._replace(h=normal(B, 2))
    return CELLS[name], params, normal(B, T, INPUTS), state


def plain_scan(step, params, xs, state):
    state, hs = jax.lax.scan(functools.partial(step, params), state, jnp.swapaxes(xs, 0, 1))
    return jnp.swapaxes(hs, 0, 1), state


def over_batch(cell):
    """A step of a whole batch."""
    return jax.vmap(cell.step, in_axes=(None, 0, 0))


def each_alone(step, params, xs, state, lengths):
    """Every sequence by itself, cut to its length, in a plain scan."""
    hs, states = [], []
    for b, length in enumerate(lengths):
        first = jax.tree.map(lambda array, b=b: array[b], state)
        last, outputs = jax.lax.scan(functools.partial(step, params), first, xs[b, :length])
        hs.append(jnp.pad(outputs, ((0, xs.shape[1] - length), (0, 0))))
        states.append(last)
    return jnp.stack(hs), jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)


def with_gradient(run):
    """Return a compiled function to the gradient of a weighted sum of what `run` returns, and to what it returns."""

    def weighted(args):
        outputs = run(*args)
        weights = [jnp.cos(jnp.arange(array.size)).reshape(array.shape) for array in leaves(outputs)]
        return sum(jnp.sum(w * array) for w, array in zip(weights, leaves(outputs), strict=True)), outputs

    return jax.jit(lambda *args: jax.grad(weighted, has_aux=True)(args))


def assert_close(got, expected, atol):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def assert_same_bits(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(got), leaves(expected), strict=True))


@pytest.mark.parametrize("name", ["lstm", "gru", "peephole", "projected"])
def test_whole_batch_and_its_gradient_are_those_of_a_plain_scan(x64, name):
    cell, *args = given(name)
    expected_grads, expected = with_gradient(functools.partial(plain_scan, over_batch(cell)))(*args)
    grads, outputs = with_gradient(functools.partial(unroll, cell=cell))(*args)
    assert_close(outputs, expected, 1e-14)
    assert_close(grads, expected_grads, 1e-12)


@pytest.mark.parametrize(("name", "batch"), [("lstm", 1), ("projected", 1), ("lstm", B)])
def test_second_derivatives_of_several_are_those_of_a_plain_scan(x64, name, batch):
    """Of one sequence and of a batch, whose gradients take different ways, each with vmap over everything."""
    cell, params, xs, state = given(name)
    args = params, xs[:batch], jax.tree.map(lambda array: array[:batch], state)
    along = jax.tree.map(lambda array: np.cos(np.arange(array.size)).reshape(array.shape), args)
    several = jax.tree.map(lambda array, d: np.stack([array, array + d]), args, along)

    def derivatives(run, *args):
        def weighted(*args):
            return sum(jnp.sum(jnp.sin(array + 1)) for array in leaves(run(*args)))

        return jax.jvp(jax.grad(weighted, (0, 1, 2)), args, along)

    got = jax.jit(jax.vmap(functools.partial(derivatives, functools.partial(unroll, cell=cell))))(*several)
    plain = jax.jit(functools.partial(derivatives, functools.partial(plain_scan, over_batch(cell))))
    for k in range(2):
        expected = plain(*jax.tree.map(lambda array, k=k: array[k], several))
        assert_close(jax.tree.map(lambda array, k=k: array[k], got), expected, 1e-11)
        assert all(np.abs(array).max() > 1e-3 for array in leaves(expected))


@pytest.mark.parametrize("name", ["plain lstm", "plain tanh"])
def test_plain_function_takes_the_plain_scan(x64, name):
    cell, *args = given(name)
    outputs = jax.jit(functools.partial(unroll, cell=cell))(*args)
    assert_close(outputs, jax.jit(functools.partial(plain_scan, cell))(*args), 1e-14)
    if name == "plain lstm":
        assert_close(outputs, jax.jit(unroll)(*args), 1e-14)


@pytest.mark.parametrize("name", ["lstm", "gru", "projected", "plain lstm", "plain tanh"])
def test_padded_batch_gives_what_each_sequence_gives_alone(x64, name):
    cell, *args = given(name)
    step = cell.step if isinstance(cell, Cell) else cell
    outputs = jax.jit(functools.partial(unroll, cell=cell, lengths=LENGTHS))(*args)
    assert_close(outputs, jax.jit(functools.partial(each_alone, step, lengths=LENGTHS))(*args), 1e-14)


@pytest.mark.parametrize("name", ["gru", "plain tanh"])
def test_gradient_of_a_padded_batch_is_that_of_each_sequence_alone(x64, name):
    cell, *args = given(name)
    step = cell.step if isinstance(cell, Cell) else cell
    grads, outputs = with_gradient(functools.partial(unroll, cell=cell, lengths=LENGTHS))(*args)
    expected_grads, expected = with_gradient(functools.partial(each_alone, step, lengths=LENGTHS))(*args)
    assert_close(outputs, expected, 1e-14)
    assert_close(grads, expected_grads, 1e-12)


@pytest.mark.parametrize(
    ("name", "dtype", "atol"), [("lstm", "float64", 1e-14), ("lstm", "float32", 1e-6), ("plain lstm", "float64", 1e-14)]
)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
def test_pieces_with_the_state_carried_give_the_whole(x64, name, dtype, atol, lengths):
    cell, params, xs, state = given(name, dtype)

    @jax.jit
    def in_pieces(params, xs, state):
        hs = []
        for start, stop in [(0, 1), (1, T)]:
            left = None if lengths is None else np.clip(lengths - start, 0, stop - start)
            piece, state = unroll(params, xs[:, start:stop], state, cell=cell, lengths=left)
            hs.append(piece)
        return jnp.concatenate(hs, axis=1), state

    whole = jax.jit(lambda *args: unroll(*args, cell=cell, lengths=lengths))(params, xs, state)
    assert {array.dtype.name for array in leaves(whole)} == {dtype}
    assert_close(in_pieces(params, xs, state), whole, atol)


@pytest.mark.parametrize(
    ("name", "segment", "lengths"),
    [("lstm", 2, LENGTHS), ("gru", T, None), ("lstm", T + 2, None), ("lstm", T, LENGTHS)],
    ids=["an odd step before", "one", "longer than all", "one with lengths"],
)
def test_segments_give_what_all_steps_at_once_give(x64, name, segment, lengths):
    cell, *args = given(name)
    run = functools.partial(unroll, cell=cell, lengths=lengths)
    grads, outputs = with_gradient(functools.partial(run, segment=segment))(*args)
    expected_grads, expected = with_gradient(run)(*args)
    assert_close(outputs, expected, 1e-14)
    assert_close(grads, expected_grads, 1e-13)


@pytest.mark.parametrize("name", ["lstm", "plain tanh"])
@pytest.mark.parametrize("length", [0, 3, T])
def test_one_length_for_all_is_that_length_for_each(x64, name, length):
    cell, params, xs, state = given(name)
    dirty = np.where(np.arange(T)[:, None] < length, xs, np.nan)
    for run in (jax.jit, with_gradient):
        one, each = (
            run(functools.partial(unroll, cell=cell, lengths=lengths))(params, dirty, state)
            for lengths in (length, np.full(len(xs), length))
        )
        assert_close(one, each, 1e-14)


@pytest.mark.parametrize("name", ["lstm", "plain tanh"])
def test_padding_is_exactly_nothing(name):
    cell, params, xs, state = given(name, "float32")
    run = with_gradient(functools.partial(unroll, cell=cell, lengths=LENGTHS))
    expected = jax.device_get(run(params, xs, state))
    hs, last = expected[1]
    for b, length in enumerate(LENGTHS):
        assert not np.any(hs[b, length:])
        assert np.all(hs[b, :length] != 0)
    assert_same_bits(*(jax.tree.map(lambda array: array[1], tree) for tree in (last, state)))  # of length 0
    for garbage in (np.nan, np.inf):
        dirty = np.where(np.arange(T)[:, None] < LENGTHS[:, None, None], xs, garbage)
        assert_same_bits(run(params, dirty, state), expected)


def test_segments_keep_fewer_steps_for_the_gradient():
    cell, params, xs, state = given("lstm", "float32")
    xs = np.resize(xs, (B, 64, INPUTS))

    def kept(segment):
        run = functools.partial(unroll, xs=xs, state=state, cell=cell, segment=segment)
        return sum(array.size for array in leaves(jax.eval_shape(lambda: jax.vjp(run, params)[1])))

    assert kept(8) < kept(None) / 3


def test_steps_beyond_the_longest_length_are_not_taken():
    _, params, xs, state = given("lstm", "float32")
    taken = []

    def gates(params, z, state):
        jax.debug.callback(lambda: taken.append(1))
        return LSTM.gates(params, z, state)

    run = jax.jit(
        lambda lengths: unroll(params, xs, state, cell=dataclasses.replace(LSTM, gates=gates), lengths=lengths)
    )
    for lengths in ([3, 0, 4], [0, 0, 0], [1, 2, 1], [T, T, T]):
        taken.clear()
        hs, _ = run(jnp.array(lengths))
        jax.effects_barrier()
        assert len(taken) == max(lengths)
        assert not np.any(hs[:, max(lengths) :])


def test_ids_with_parameters_in_numpy():
    params = LSTM.init(jax.random.key(0), input_size=3, hidden_size=5)
    ids = np.array([[0, 2, 1], [1, 1, 0]])
    hs, _ = unroll(jax.tree.map(np.asarray, params), ids)
    np.testing.assert_allclose(hs, unroll(params, np.eye(3)[ids])[0], rtol=0, atol=1e-6)


def test_other_lengths_compile_nothing_anew():
    _, params, xs, state = given("lstm", "float32")
    traces = []

    def linear(params, h, x):
        traces.append(1)
        return LSTM.linear(params, h, x)

    cell = dataclasses.replace(LSTM, linear=linear)
    run = jax.jit(lambda lengths: unroll(params, xs, state, cell=cell, lengths=lengths))
    slope = jax.jit(jax.grad(lambda xs, lengths: unroll(params, xs, state, cell=cell, lengths=lengths)[0].sum()))
    run(LENGTHS), slope(xs, LENGTHS)
    traced = len(traces)
    assert traced > 0
    for lengths in ([0, 0, 0], [T, T, T]):
        run(np.array(lengths)), slope(xs, np.array(lengths))
    assert len(traces) == traced


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("lengths", [None, np.array([[3, 0, 4], [T, 2, 1]])], ids=["whole", "of different lengths"])
def test_vmap(name, lengths):
    cell, params, xs, state = given(name, "float32")
    params, xs, state = jax.tree.map(lambda array: np.stack([array, array[::-1]]), (params, xs, state))

    def run(*args):
        return unroll(*args[:3], cell=cell, lengths=args[3] if args[3:] else None)

    args = (params, xs, state) if lengths is None else (params, xs, state, lengths)
    expected = [jax.jit(run)(*jax.tree.map(lambda array, k=k: array[k], args)) for k in range(2)]
    assert_close(jax.jit(jax.vmap(run))(*args), jax.tree.map(lambda *arrays: np.stack(arrays), *expected), 1e-6)


def test_without_jit():
    _, *args = given("lstm", "float32")
    assert_close(unroll(*args, lengths=LENGTHS), jax.jit(unroll)(*args, lengths=LENGTHS), 1e-6)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
def test_ids_stand_for_one_hot_vectors(x64, lengths):
    _, params, _, state = given("lstm")
    ids = np.random.default_rng(1).integers(INPUTS, size=(B, T))
    one_hot = np.eye(INPUTS)[ids]
    if lengths is not None:
        ids[np.arange(T) >= lengths[:, None]] = 99
    got, expected = (
        with_gradient(lambda params, state, xs=xs: unroll(params, xs, state, lengths=lengths))(params, state)
        for xs in (ids, one_hot)
    )
    assert_close(got, expected, 1e-13)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_state_none_is_the_zero_state(name):
    cell, params, xs, state = given(name, "float32")
    run = jax.jit(functools.partial(unroll, cell=cell))
    assert_same_bits(run(params, xs), run(params, xs, jax.tree.map(np.zeros_like, state)))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "of different lengths"])
@pytest.mark.parametrize("cell", [lstm_cell, tanh_cell, LSTM.step])
def test_plain_function_needs_a_state(cell, lengths):
    _, params, xs, _ = given("lstm", "float32")
    with pytest.raises(ValueError, match=r"^state: .* plain function needs its state .* got None"):
        unroll(params, xs, cell=cell, lengths=lengths)


@pytest.mark.parametrize("of_params", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("of_rest", ["float64", "int32"])
def test_dtype_of_the_parameters_decides(x64, of_params, of_rest):
    _, params, xs, state = given("lstm")
    params = jax.tree.map(lambda array: array.astype(jnp.dtype(of_params)), params)
    args = jax.tree.map(lambda array: array.astype(of_rest), (xs, state))
    outputs = jax.jit(unroll)(params, *args, lengths=LENGTHS)
    assert {array.dtype.name for array in leaves(outputs)} == {of_params}


class Unhashable:
    """A plain cell that is an object with parameters of its own, which can't be hashed."""

    __hash__ = None

    def __call__(self, params, state, x):
        return lstm_cell(params, state, x)


def test_plain_function_that_can_not_be_hashed():
    _, *args = given("lstm", "float32")
    outputs = unroll(*args, cell=Unhashable(), lengths=LENGTHS)
    assert_close(outputs, unroll(*args, cell=lstm_cell, lengths=LENGTHS), 1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_lengths_are_integers_of_any_width(dtype):
    _, *args = given("lstm", "float32")
    run = jax.jit(unroll)
    assert_same_bits(run(*args, lengths=LENGTHS.astype(dtype)), run(*args, lengths=LENGTHS))


# Every cell


def random_problem(cell, seed=0):
    """Parameters, inputs, a state that the cell reaches, lengths of which one is 0, and resets."""
    rng = np.random.default_rng(seed)
    params = random_layer(cell, rng)
    xs, resets = rng.normal(size=(4, 6, 3)), rng.random((4, 6)) < 0.3
    resets[0, [0, 3]], resets[3, [2, 4]], resets[1, 5] = True, True, True  # at once, in the middle, in the padding
    return params, xs, random_state(cell, params, rng, 4), np.array([6, 3, 0, 5]), resets


def step_by_step(cell, params, xs, state, lengths, resets, reverse):
    """A plain scan of a whole batch over its steps, in the order in which they are read."""
    batch, time = xs.shape[:2]
    real = np.arange(time) < (time if lengths is None else lengths[:, None])
    starts = np.zeros((batch, time + 1), bool)
    starts[:, :-1] = resets & real
    order = np.arange(time)[::-1] if reverse else np.arange(time)
    fresh, real = starts[:, order + reverse], np.broadcast_to(real, (batch, time))[:, order]

    def where(condition, new, old):
        return jax.tree.map(lambda new, old: jnp.where(condition[:, None], new, old), new, old)

    def step(params, state, given):
        x, fresh, real = given
        after, h = over_batch(cell)(params, where(fresh, cell.zero_state(params), state), x)
        return where(real, after, state), where(real, h, jnp.zeros_like(h))

    steps = jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), (xs[:, order], fresh, real))
    state, hs = jax.lax.scan(functools.partial(step, params), state, steps)
    if reverse:  # an episode that is left at the first step leaves nothing to what comes before
        state = where(starts[:, 0], cell.zero_state(params), state)
    return jnp.swapaxes(hs, 0, 1)[:, np.argsort(order)], state


@pytest.mark.parametrize("cell", BUILT_IN.values(), ids=BUILT_IN)
def test_every_cell_is_its_plain_function_step_by_step(x64, monkeypatch, cell):
    """In values, and in the gradients by parameters, inputs and state."""
    *args, lengths, resets = random_problem(cell)
    for case in ({}, {"reverse": True, "segment": 4, "axis": FEATURES_FIRST}):
        axis, options = case.get("axis", SEQUENCES_FIRST), {name: case[name] for name in case if name != "axis"}
        monkeypatch.setattr(sys.modules["jlstm.unroll"], "batch_axis", lambda *_, axis=axis: axis)
        run = functools.partial(unroll, cell=cell, lengths=lengths, resets=resets, **options)
        plain = functools.partial(step_by_step, cell, lengths=lengths, resets=resets, reverse="reverse" in case)
        (grads, outputs), (expected_grads, expected) = with_gradient(run)(*args), with_gradient(plain)(*args)
        assert_close(outputs, expected, 1e-13)
        assert_close(grads, expected_grads, 1e-12)


@pytest.mark.parametrize("axis", [SEQUENCES_FIRST, FEATURES_FIRST])
@pytest.mark.parametrize("lengths", [None, 4], ids=["whole", "one length"])
def test_every_step_alike_for_all_sequences(x64, monkeypatch, lengths, axis):
    """Where no sequence is shorter than another, in reverse and with resets."""
    cell = BUILT_IN["slstm"]
    *args, _, resets = random_problem(cell)
    monkeypatch.setattr(sys.modules["jlstm.unroll"], "batch_axis", lambda *_: axis)
    run = functools.partial(unroll, cell=cell, lengths=lengths, resets=resets, reverse=True)
    each = None if lengths is None else np.full(4, lengths)
    plain = functools.partial(step_by_step, cell, lengths=each, resets=resets, reverse=True)
    for got, expected in zip(with_gradient(run)(*args), with_gradient(plain)(*args), strict=True):
        assert_close(got, expected, 1e-12)


@pytest.mark.parametrize("cell", [BUILT_IN["gru_before"], BUILT_IN["slstm"], "plain tanh"], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_each_episode_is_as_if_alone(x64, cell, reverse):
    """The pieces of all sequences as sequences of their own, from zeros where no state reaches them."""
    if isinstance(cell, str):
        cell, params, xs, state = given(cell)
        xs, lengths = np.random.default_rng(1).normal(size=(4, 6, INPUTS)), np.array([6, 3, 0, 5])
        state = jax.tree.map(lambda array: np.concatenate([array, array[:1]]), state)
        resets, zeros = random_problem(LSTM)[4], jax.tree.map(lambda array: 0 * array[0], state)
    else:
        params, xs, state, lengths, resets = random_problem(cell)
        zeros = cell.zero_state(params)
    run = jax.jit(functools.partial(unroll, cell=cell, reverse=reverse))
    hs, end = run(params, xs, state, lengths=lengths, resets=resets)

    pieces = []
    for b, length in enumerate(lengths):
        cuts = [0, *(t for t in range(1, length) if resets[b, t]), length]
        pieces += [(b, *cut) for cut in itertools.pairwise(cuts)]
    padded, first = np.zeros((len(pieces), *xs.shape[1:])), []
    for k, (b, start, stop) in enumerate(pieces):
        padded[k, : stop - start] = xs[b, start:stop]
        reached = stop == lengths[b] if reverse else start == 0 and not (stop and resets[b, 0])
        first.append(jax.tree.map(lambda array, b=b: array[b], state) if reached else zeros)
    of_pieces = np.array([stop - start for _, start, stop in pieces])
    first = jax.tree.map(lambda *arrays: jnp.stack(arrays), *first)
    alone, ends = run(params, padded, first, lengths=of_pieces)

    assert len(pieces) >= 7
    for k, (b, start, stop) in enumerate(pieces):
        np.testing.assert_allclose(hs[b, start:stop], alone[k, : stop - start], rtol=0, atol=1e-14)
        if reverse and start == 0 < stop and resets[b, 0]:  # the episode is left: what comes before it starts anew
            assert_close(jax.tree.map(lambda array, b=b: array[b], end), zeros, 0)
        elif (start == 0) if reverse else (stop == lengths[b]):
            assert_close(*(jax.tree.map(lambda array, at=at: array[at], s) for s, at in ((end, b), (ends, k))), 1e-14)


@pytest.mark.parametrize("name", ["lstm", "projected"])
def test_a_state_of_one_is_that_of_all_sequences(x64, name):
    cell, params, xs, state = given(name)
    one = jax.tree.map(lambda array: array[:1], state)
    each = jax.tree.map(lambda array: np.concatenate([array[:1]] * B), state)
    run = jax.jit(functools.partial(unroll, cell=cell))
    assert_same_bits(run(params, xs, one), run(params, xs, each))
    two = jax.tree.map(lambda array: array[:2], state)
    with pytest.raises(ValueError, match=r"^state\.h: expected shape \(3, \d\), got float64 of shape \(2, "):
        unroll(params, xs, two, cell=cell)
    mixed = state._replace(h=state.h[:1])
    with pytest.raises(ValueError, match=r"^state\.h: expected shape \(3, \d\), got float64 of shape \(1, "):
        unroll(params, xs, mixed, cell=cell)


def test_outputs_of_a_plain_function_are_any_pytree(x64):
    _, params, xs, state = given("plain tanh")

    def step(params, state, x):
        after, h = tanh_cell(params, state, x)
        return after, {"h": h, "sums": (h.sum(axis=-1), jnp.arange(B)), "none": None}

    hs, last = unroll(params, xs, state, cell=tanh_cell, lengths=LENGTHS, reverse=True)
    outputs, same = unroll(params, xs, state, cell=step, lengths=LENGTHS, reverse=True)
    real = np.arange(T) < LENGTHS[:, None]
    expected = {"h": hs, "sums": (hs.sum(axis=-1), real * np.arange(B)[:, None]), "none": None}
    assert_close((outputs, same), (expected, last), 1e-14)


@pytest.mark.parametrize("name", ["lstm", "plain tanh"])
def test_resets_and_reverse_that_do_not_fit(name):
    cell, *args = given(name, "float32")
    expected = r"^resets: expected booleans \[batch = 3, time = 5\], got "
    for resets, error, message in (
        (np.zeros((B, T), int), TypeError, r"int64 of shape \(3, 5\); write resets\.astype\(bool\)$"),
        (np.zeros((B, T)), TypeError, r"float64 of shape \(3, 5\); write resets\.astype\(bool\)$"),
        (np.zeros((T, B), bool), ValueError, r"bool of shape \(5, 3\)$"),
        (np.zeros(B, bool), ValueError, r"bool of shape \(3,\)$"),
        (True, ValueError, r"array\(True\)"),
    ):
        with pytest.raises(error, match=expected + message):
            unroll(*args, cell=cell, resets=resets)
    with pytest.raises(TypeError, match=r"^reverse: expected True or False, got 'yes'"):
        unroll(*args, cell=cell, reverse="yes")


# Of any sequences


ROWS, STEPS = 3, 6  # always the same, so that few shapes are compiled
run_gru = jax.jit(functools.partial(unroll, cell=CELLS["gru"]))


@st.composite
def sequences(draw):
    """Parameters of a GRU, inputs, a state and lengths, with garbage in the padding."""
    rng, scale = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from([0.01, 1.0, 30.0]))
    shapes = GRUParams((3 * H, INPUTS), (3 * H, H), (3 * H,), (3 * H,))
    params = GRUParams(*(scale * rng.normal(size=shape).astype(np.float32) for shape in shapes))
    lengths = np.array(draw(st.lists(st.integers(0, STEPS), min_size=ROWS, max_size=ROWS)))
    xs = rng.normal(size=(ROWS, STEPS, INPUTS)).astype(np.float32)
    garbage = draw(st.sampled_from([0.0, np.nan, np.inf, 1e30]))
    xs = np.where((np.arange(STEPS) < lengths[:, None])[..., None], xs, np.float32(garbage))
    return params, xs, RNNState(np.tanh(rng.normal(size=(ROWS, H)).astype(np.float32))), lengths


def check_that_sequences_are_on_their_own(problem, order, cut):
    params, xs, state, lengths = problem
    order = np.array(order)
    hs, last = jax.device_get(run_gru(params, xs, state, lengths=lengths))
    assert_close(
        run_gru(params, xs[order], RNNState(state.h[order]), lengths=lengths[order]),
        (hs[order], RNNState(last.h[order])),
        1e-6,
    )
    for k, n in enumerate(lengths):
        alone, after = run_gru(params, xs[[k] * ROWS], RNNState(state.h[[k] * ROWS]), lengths=np.full(ROWS, n))
        assert_close((alone[0], after.h[0]), (hs[k], last.h[k]), 1e-6)
        assert not np.any(hs[k, n:])
        if n == 0:
            np.testing.assert_array_equal(last.h[k], state.h[k])
    first, middle = run_gru(params, xs[:, :cut], state, lengths=np.minimum(lengths, cut))
    second, end = run_gru(params, xs[:, cut:], middle, lengths=np.maximum(lengths - cut, 0))
    assert_close((np.concatenate([first, second], axis=1), end), (hs, last), 1e-6)


of_any = drawn_from(sequences(), st.permutations(range(ROWS)), st.integers(1, STEPS - 1))


@of_any
@settings(max_examples=50)
def test_any_batch_is_its_sequences_alone_in_any_order_and_in_pieces(problem, order, cut):
    check_that_sequences_are_on_their_own(problem, order, cut)


@pytest.mark.slow
@of_any
@settings(max_examples=5_000, derandomize=False)
def test_any_batch_for_long(problem, order, cut):
    check_that_sequences_are_on_their_own(problem, order, cut)


class Learned(NamedTuple):
    """The parameters of an RNN, and the state that it starts from."""

    weight_ih: jax.Array
    weight_hh: jax.Array
    bias: jax.Array
    start: jax.Array


LEARNED = Cell(RNN.linear, RNN.gates, lambda params: rnn.RNNState(params.start), name="learned")


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_a_learned_start_has_its_gradient_at_every_reset(x64, reverse):
    rng = np.random.default_rng(3)
    params = Learned(*(rng.normal(size=shape) for shape in ((4, 3), (4, 4), (4,), (4,))))
    xs, resets = rng.normal(size=(3, 6, 3)), rng.random((3, 6)) < 0.4
    run = functools.partial(unroll, cell=LEARNED, resets=resets, reverse=reverse)
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3, 4)), LEARNED.zero_state(params))
    plain = functools.partial(step_by_step, LEARNED, lengths=None, resets=resets, reverse=reverse)
    for got, expected in zip(
        with_gradient(run)(params, xs, state), with_gradient(plain)(params, xs, state), strict=True
    ):
        assert_close(got, expected, 1e-12)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_pieces_with_resets_are_the_whole(x64, reverse):
    """Also where an episode starts at the first step of a piece."""
    cell = BUILT_IN["gru"]
    params, xs, state, _, _ = random_problem(cell)
    resets = np.arange(xs.shape[1]) % 2 == np.arange(len(xs))[:, None] % 2
    run = functools.partial(unroll, params, cell="gru", reverse=reverse)
    hs, end = run(xs, state, resets=resets)
    halves = [slice(0, 3), slice(3, None)]
    found = {}
    for k in (1, 0) if reverse else (0, 1):
        found[k], state = run(xs[:, halves[k]], state, resets=resets[:, halves[k]])
    assert_close((jnp.concatenate([found[0], found[1]], axis=1), state), (hs, end), 1e-14)


def test_a_plain_function_s_state_stands_for_the_whole_batch_but_in_no_number():
    def step(params, state, x):
        h = state["h"] + x
        return {"h": h}, h

    hs, _ = unroll(None, jnp.ones((2, 3, 1)), {"h": jnp.ones((1, 1))}, cell=step)
    assert hs[..., 0].tolist() == [[2, 3, 4], [2, 3, 4]]
    resets = np.zeros((2, 3), bool)
    with pytest.raises(ValueError, match=r"state\['h'\]: expected \[batch = 2, ...\] with resets, got one for all"):
        unroll(None, jnp.ones((2, 3)), {"h": jnp.ones(())}, cell=step, resets=resets)
    with pytest.raises(ValueError, match="segment: expected None for a cell that is a plain function, got 2"):
        unroll(None, jnp.ones((2, 3, 1)), {"h": jnp.ones((1, 1))}, cell=step, segment=2)
