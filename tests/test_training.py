"""Learning: one step against its gradient, the learning rate against its formula, and the mini-batches of `fit`."""

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stored import mostly_zeros, on_disk

from jlstm import data as data_module
from jlstm import reference, training
from jlstm.cells.lstm import LSTMParams
from jlstm.config import LSTMConfig
from jlstm.data import Batch, Streams, Windows, rounded_up, take
from jlstm.losses import loss_fn, summed_loss
from jlstm.model import ModelParams, Readout, forward, init_params, zero_state
from jlstm.network import LSTMNetwork
from jlstm.optimizers import IDLE, Schedule, constant, cosine
from jlstm.training import batches_of, evaluate, fit, trainer

D, H, C, N, T = 2, 4, 3, 5, 6  # inputs, hidden units, classes, sequences, steps
CONFIG = LSTMConfig(D, H, C)
LENGTHS = np.array([6, 3, 1, 6, 2])
RNG = np.random.default_rng(0)
BATCH = Batch(RNG.normal(size=(N, T, D)).astype(np.float32), RNG.integers(C, size=(N, T)).astype(np.int32))


def params_of(config=CONFIG):
    rng, (features, classes) = np.random.default_rng(2), (config.input_size, config.output_size)

    def normal(*shape):
        return rng.normal(size=shape, scale=0.5).astype(np.float32)

    reads = [features] + [H] * (config.layers - 1)
    layers = tuple(LSTMParams(normal(4 * H, size), normal(4 * H, H), normal(4 * H)) for size in reads)
    return ModelParams(layers, Readout(normal(H, classes), normal(classes)))


@jax.jit
@jax.value_and_grad
def loss_and_grad(params, batch):
    return loss_fn(params, batch.xs, batch.ys, CONFIG, lengths=batch.lengths)


def assert_close(got, expected, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), got, expected)


def assert_same_bits(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def minus(params, factor, grads):
    return jax.tree.map(lambda p, g: np.asarray(p) - factor * np.asarray(g), params, grads)


def norm(tree):
    return math.sqrt(sum(float((np.asarray(leaf, float) ** 2).sum()) for leaf in jax.tree.leaves(tree)))


with_and_without_lengths = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all steps", "lengths"])


@with_and_without_lengths
def test_sgd_step_is_params_minus_rate_times_gradient(lengths):
    batch, params = BATCH._replace(lengths=lengths), params_of()
    init, step = trainer(CONFIG, optax.sgd(0.5))
    before = init(params, jax.random.key(7))
    after, loss = jax.jit(step)(before, batch)
    expected_loss, grads = loss_and_grad(params, batch)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert_close(after.params, minus(params, 0.5, grads))
    assert (int(before.step), int(after.step)) == (0, 1)
    assert_same_bits(jax.random.key_data(after.key), jax.random.key_data(before.key))


def test_weights_decide_the_update_by_their_ratios_alone():
    """And what none has does not move anything."""
    weights = np.float32([[1], [0], [3], [2], [1]]) * RNG.uniform(size=(N, T)).astype(np.float32)
    init, step = trainer(CONFIG, optax.sgd(0.5))
    state, step = init(params_of(), jax.random.key(7)), jax.jit(step)
    after, loss = step(state, BATCH._replace(weights=weights))
    value, grads = jax.jit(jax.value_and_grad(lambda params: loss_fn(params, *BATCH[:2], CONFIG, weights=weights)))(
        state.params
    )
    assert loss == pytest.approx(float(value), rel=1e-6)
    assert_close(after.params, minus(params_of(), 0.5, grads))
    small, same = step(state, BATCH._replace(weights=np.float32(1e-6) * weights))
    assert_close((small.params, same), (after.params, loss))
    idle, nothing = step(state, BATCH._replace(weights=0 * weights))
    assert nothing == 0
    assert_same_bits(idle.params, state.params)


def test_an_evaluation_weighs_its_batches():
    """One of which has no target that counts."""
    weights = np.float32([0, 0, 1e-6, 2e-6, 3e-6])
    data = BATCH._replace(weights=weights)
    found = evaluate(params_of(), data, batch_size=2, config=CONFIG)
    value = jax.jit(loss_fn)(params_of(), *BATCH[:2], CONFIG, weights=weights)
    assert found.loss == pytest.approx(float(value), rel=1e-5)
    scores, _ = forward(params_of(), BATCH.xs, CONFIG)
    assert found.accuracy == pytest.approx(float((scores.argmax(-1) == BATCH.ys)[2:].mean()), rel=1e-6)
    nothing = evaluate(params_of(), data._replace(weights=0 * weights), batch_size=2, config=CONFIG)
    assert nothing == (0, 0)


def two_steps(optimizer):
    """The parameters before and after each of two steps, and the gradients that the steps should have used."""
    init, step = trainer(CONFIG, optimizer)
    state, params, grads = init(params_of(), jax.random.key(0)), [params_of()], []
    for _ in range(2):
        grads.append(loss_and_grad(state.params, BATCH)[1])
        state, _ = jax.jit(step)(state, BATCH)
        params.append(state.params)
    return params, grads


def test_clipping_bounds_the_global_norm():
    params, grads = two_steps(optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0)))
    assert norm(grads[0]) > 0.1
    assert norm(minus(params[0], 1, params[1])) == pytest.approx(0.01, rel=1e-3)
    assert_close(params[1], minus(params[0], 0.01 / norm(grads[0]), grads[0]))


def test_weight_decay_sees_the_parameters():
    params, grads = two_steps(optax.adamw(0.01, weight_decay=0.5))
    moved = jax.tree.map(lambda p, g: p - 0.01 * (g / (abs(g) + 1e-8) + 0.5 * p), params[0], grads[0])
    assert_close(params[1], moved)  # the first step of Adam is the gradient's sign


def test_schedule_of_optax_counts_the_steps():
    params, grads = two_steps(optax.sgd(optax.piecewise_constant_schedule(1.0, {1: 0.25})))
    assert_close(params[1], minus(params[0], 1.0, grads[0]))
    assert_close(params[2], minus(params[1], 0.25, grads[1]))


def test_vmap_trains_eight_networks_at_once():
    init, step = trainer(CONFIG, optax.adam(0.01))
    rng, keys = np.random.default_rng(3), jax.random.split(jax.random.key(0), 8)
    first = jax.vmap(init)(jax.tree.map(lambda leaf: rng.normal(size=(8, *leaf.shape)), params_of()), keys)
    together, alone = first, [jax.tree.map(lambda leaf, k=k: leaf[k], first) for k in range(8)]
    steps, step = jax.jit(jax.vmap(step, in_axes=(0, None))), jax.jit(step)
    for _ in range(3):
        together, losses = steps(together, BATCH)
        alone = [step(state, BATCH)[0] for state in alone]
    assert losses.shape == (8,)
    assert len(np.unique(losses)) == 8
    for k in range(8):
        assert_close(jax.tree.map(lambda leaf, k=k: leaf[k], together.params), alone[k].params, atol=2e-6)


def documented_rate(learning_rate, decay_rate, shape, calls):
    """The rate at each step of some calls, each of so many epochs of so many steps, as the documentation has it."""
    rates, epochs_before = [], 0
    for epochs, epoch_steps in calls:
        for k in range(epochs * epoch_steps):
            factor = (1 + math.cos(math.pi * k / (epochs * epoch_steps))) / 2 if shape is cosine else 1
            rates.append(learning_rate * factor / (1 + decay_rate * (epochs_before + k / epoch_steps)))
        epochs_before += epochs
    return rates


# What `fit` does at every step, seen from inside: with zero parameters and one sequence a batch, the gradient of the
# squared error with respect to the readout's bias is -2 times the target, so it tells which sequence was visited.
ROWS, MOST_STEPS = 7, 64
TOLD_APART = LSTMConfig(D, H, 1, loss="mse", target="last")
NUMBERED = Batch(np.ones((ROWS, T, D), np.float32), np.arange(ROWS, dtype=np.float32)[:, None])


def recorder(schedule):
    def init(params):
        return jnp.zeros((2, MOST_STEPS)), jnp.zeros((), int)

    def update(grads, state, params=None):
        seen, k = state
        seen = seen.at[:, k].set(jnp.array([grads.readout.bias[0] / -2, schedule(k)]))
        return jax.tree.map(jnp.zeros_like, grads), (seen, k + 1)

    return optax.GradientTransformation(init, update)


@functools.cache
def visits(seed=0):
    """Which sequence each step of three epochs visited, `[epochs, steps]`, and with which learning rate."""
    zeros = jax.tree.map(np.zeros_like, params_of(TOLD_APART))
    state = trainer(TOLD_APART, recorder(constant)).init(zeros, jax.random.key(seed))
    schedule = Schedule(0.1, 0.5, 0, 0.0, ROWS, 3 * ROWS)
    reports = list(
        fit(state, schedule, NUMBERED, epochs=3, batch_size=1, config=TOLD_APART, optimizer=recorder, shape=cosine)
    )
    rows, rates = np.asarray(reports[-1].state.opt_state[0])[:, : 3 * ROWS]
    return np.rint(rows).astype(int).reshape(3, ROWS), rates


def test_every_sequence_is_visited_once_an_epoch_in_an_order_of_its_own():
    orders, _ = visits()
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(ROWS), (3, 1)))
    assert len({tuple(order) for order in orders}) == 3
    assert tuple(np.arange(ROWS)) not in {tuple(order) for order in orders}


def test_order_depends_on_the_key_alone():
    other = visits(seed=1)[0]
    np.testing.assert_array_equal(visits()[0], visits.__wrapped__()[0])
    assert (visits()[0] != other).any(axis=1).all()


def test_fit_uses_the_documented_rate():
    np.testing.assert_allclose(visits()[1], documented_rate(0.1, 0.5, cosine, [(3, ROWS)]), rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "batch_size"), [(7, 1), (7, 3), (7, 7), (7, 64), (150, 10), (65, 64), (130, 64)], ids=lambda n: str(n)
)
def test_batches_hold_every_row_once_and_are_even(rows, batch_size):
    data = Batch(np.zeros((rows, 1, 1)), np.zeros((rows, 1), int))
    part = training._lay_out(data, batch_size, params_of(), 10**9)
    batches, width = part.batches, part.width
    order = training._draw_order(training._rng(jax.random.key(3), 0), part)
    assert order.shape == (part.most, width)
    assert (order[batches:] == 0).all()
    order = order[:batches]
    sizes = (order >= 0).sum(axis=1)
    np.testing.assert_array_equal(np.sort(order[order >= 0]), np.arange(rows))
    assert batches == math.ceil(rows / batch_size)
    assert sizes.max() <= batch_size
    assert sizes.max() - sizes.min() <= 1


def fitting(state, schedule, data=BATCH, *, epochs, batch_size=3, optimizer=optax.sgd, shape=constant, config=CONFIG):
    return fit(
        state, schedule, data, epochs=epochs, batch_size=batch_size, config=config, optimizer=optimizer, shape=shape
    )


def start(optimizer=optax.sgd, config=CONFIG):
    return trainer(config, optimizer(IDLE)).init(params_of(config), jax.random.key(5))


def schedule_of(learning_rate, epochs):
    return Schedule(learning_rate, 0.0, np.int32(0), 0.0, epoch_steps=2, steps=2 * epochs)


def lay_out(rows, batch_size):
    data = Batch(np.zeros((rows, 1, 1)), np.zeros((rows, 1), int))
    return training._lay_out(data, batch_size, params_of(), 1)


@pytest.mark.parametrize("digits", [1, 5], ids=["roomy", "tight"])
def test_data_that_are_compiled_alike_have_room_for_all_their_batches(monkeypatch, digits):
    monkeypatch.setattr(training, "ADDED_SECONDS", math.inf if digits == 1 else -1)
    for rows in [*range(1, 200), 1000, 1023, 1024, 1025]:
        for batch_size in {1, 2, 3, 5, 8, 33, 64, rows, max(1, rows // 15)}:
            layout, next_one = lay_out(rows, batch_size), lay_out(rows + 1, batch_size)
            assert layout.batches == math.ceil(rows / batch_size) <= layout.most
            assert layout.batches * layout.width >= rows
            assert layout.most * layout.width <= 4 * max(rows, 2)
            if rounded_up(rows, digits) == rounded_up(rows + 1, digits) and next_one.width == layout.width:
                assert next_one.most == layout.most


def test_there_is_room_where_it_costs_little(monkeypatch):
    """Three batches of two rows and six steps become two of two and sixteen; there are 127 weights."""
    monkeypatch.setattr(training, "STEP_SECONDS", 10.0)
    monkeypatch.setattr(training, "FLOPS", 6 * 127)
    monkeypatch.setattr(training, "MASKED", 1.5)
    for data, steps in ((BATCH, 16), (WINDOWS, 6)):  # windows keep their steps
        added = 7 * 3 * (1.5 * steps * (10 + 2) - 6 * (10 + 2))
        for most, roomy in ((added, False), (added + 1, True)):
            monkeypatch.setattr(training, "ADDED_SECONDS", most)
            assert training._lay_out(data, 2, params_of(), 7).roomy is roomy


def test_room_is_left_no_longer_than_a_second_program_takes(monkeypatch):
    """A loop of trainings of one epoch each pays for it as one long training does."""
    seen, lay_out = [], training._lay_out
    monkeypatch.setattr(training, "_lay_out", lambda *args: seen.append(lay_out(*args)) or seen[-1])
    monkeypatch.setattr(training, "ADDED_SECONDS", 0.001)
    for first_epoch in range(0, 12, 4):
        list(fitting(start(), schedule_of(0.1, 1)._replace(first_epoch=float(first_epoch)), epochs=1))
    assert [layout.roomy for layout in seen] == [True, False, False]
    roomy, tight, _ = seen
    assert (roomy.width, tight.width, roomy.masked, tight.masked) == (4, 3, True, True)


def test_streams_are_computed_as_they_are():
    layout = training._lay_out(STREAMS, 1, params_of(), 10**9)
    assert layout[1:] == (STREAMS.windows, 2**16 // 15, STREAMS.streams, None, False, True)
    assert layout.most >= layout.batches


def test_tight_data_have_few_rows_more_and_no_step(monkeypatch):
    monkeypatch.setattr(training, "ADDED_SECONDS", -1)
    for rows in range(1, 257):
        layout = lay_out(rows, rows)
        assert rows <= layout.width <= 1.0625 * rows
        assert layout.masked == (layout.width > rows)
    tight = BATCH.with_room(CONFIG, roomy=False, masked=False)
    assert tight.xs.shape == (N, T, D)
    assert tight.lengths is None


@with_and_without_lengths
def test_padded_batch_gives_the_step_of_the_unpadded_one(lengths):
    """Five sequences in batches of three: the second batch is one short."""
    data = BATCH._replace(lengths=lengths)
    report = list(fitting(start(), schedule_of(0.5, 1), data, epochs=1))[-1]
    part = training._Part(BATCH, batches=2, most=2, width=3, mesh=None, masked=True, roomy=False)
    order = training._draw_order(training._rng(jax.random.key(5), 0), part)
    params, losses = params_of(), []
    for rows in np.asarray(order):
        loss, grads = loss_and_grad(params, jax.tree.map(lambda array, rows=rows: array[rows[rows >= 0]], data))
        params, losses = minus(params, 0.5, grads), [*losses, loss]
    assert sorted((np.asarray(order) < 0).sum(axis=1)) == [0, 1]
    assert_close(report.state.params, params)
    assert report.loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_reports_reach_the_end_of_each_epoch():
    reports = list(fitting(start(), schedule_of(0.1, 3), epochs=3))
    assert [r.epoch for r in reports if r.part == 1] == [0, 1, 2]
    assert all(0 < r.part <= 1 for r in reports)
    assert [r.epoch + r.part for r in reports] == sorted({r.epoch + r.part for r in reports})
    assert [int(r.state.step) for r in reports] == [round(2 * (r.epoch + r.part)) for r in reports]


def test_same_seed_gives_the_same_bits():
    first, second = (list(fitting(start(), schedule_of(0.1, 2), epochs=2))[-1] for _ in range(2))
    assert_same_bits(first.state.params, second.state.params)
    assert first.loss == second.loss


CALLS = (0.0, 1e9)  # seconds: one step a call, and all that are left


def test_how_many_steps_a_call_takes_changes_no_bit_of_a_training(monkeypatch):
    """It depends on the clock, and the same seed gives the same bits."""
    ends = []
    for seconds in CALLS:
        monkeypatch.setattr(training, "CALL_SECONDS", seconds)
        reports = [report for report in fitting(start(), schedule_of(0.1, 4), epochs=4) if report.part == 1]
        ends.append(([report.loss for report in reports], reports[-1].state.params))
    assert_same_bits(*ends)


def test_how_many_steps_a_call_takes_changes_no_bit_of_an_evaluation(monkeypatch):
    losses = []
    for seconds in CALLS:
        monkeypatch.setattr(training, "CALL_SECONDS", seconds)
        scaled = (BATCH._replace(xs=BATCH.xs * factor) for factor in (1, 2, 3, 4))
        losses.append([evaluate(params_of(), data, batch_size=2, config=CONFIG) for data in scaled])
    assert losses[0] == losses[1]


def test_other_numbers_compile_nothing_anew():
    state = list(fitting(start(), schedule_of(0.1, 1), epochs=1))[-1].state
    compiled = training._train_steps.__wrapped__._cache_size()
    list(fitting(state, Schedule(0.3, 0.25, state.step, 1.0, epoch_steps=2, steps=6), epochs=3))
    assert training._train_steps.__wrapped__._cache_size() == compiled


def test_nan_stops_and_leaves_a_finite_state():
    def breaks_in_the_second_half(part):
        return jnp.where(part < 0.5, 1.0, jnp.nan)

    reports = []
    with pytest.raises(FloatingPointError, match="in epoch 3"):
        reports.extend(fitting(start(), schedule_of(0.1, 4), epochs=4, shape=breaks_in_the_second_half))
    assert reports[-1].epoch == 1
    assert reports[-1].part == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((reports[-1].state.params, reports[-1].loss)))


@pytest.mark.parametrize(
    ("lengths", "batch_size"), [(None, 2), (None, 64), (LENGTHS, 2)], ids=["in twos", "at once", "lengths, in twos"]
)
def test_evaluate_is_the_loss_over_all_sequences(lengths, batch_size):
    data = BATCH._replace(lengths=lengths)
    expected, _ = loss_and_grad(params_of(), data)
    found = evaluate(params_of(), data, batch_size=batch_size, config=CONFIG)
    assert found.loss == pytest.approx(float(expected), rel=1e-6)


WINDOWS = Windows(np.random.default_rng(1).integers(C, size=30), length=T, stride=5)  # five, the last of them whole


def built(config):
    """The same windows as arrays."""
    starts = np.arange(len(WINDOWS))[:, None] * WINDOWS.stride
    xs, ys = (WINDOWS.ids[starts + np.arange(T) + k] for k in (0, 1))
    ys = ys if config.target == "each" else ys[:, -1]
    xs = np.eye(C)[xs] if config.input_size == C else xs[..., None] / C
    return Batch(xs.astype(np.float32), ys)


@pytest.mark.parametrize(
    "config", [LSTMConfig(1, H, C), LSTMConfig(C, H, C, target="last")], ids=["number", "one-hot, last"]
)
def test_windows_train_as_built_windows_do(config):
    both = [
        list(fitting(start(config=config), schedule_of(0.5, 2), data, epochs=2, config=config))[-1]
        for data in (WINDOWS, built(config))
    ]
    assert_close(both[0].state.params, both[1].state.params)
    assert both[0].loss == pytest.approx(both[1].loss, rel=1e-6)
    params = both[0].state.params
    xs, ys, *_ = built(config)
    expected = jax.jit(loss_fn)(params, xs, ys, config)
    found = evaluate(params, WINDOWS, batch_size=2, config=config)
    assert found.loss == pytest.approx(float(expected), rel=1e-5)


# Streams over a text: truncated backpropagation through time

TOKENS = LSTMConfig(C, H, C, inputs="tokens")
DROPPING = LSTMConfig(C, H, C, inputs="tokens", layers=2, dropout=0.5)
STREAMS = Streams(np.random.default_rng(4).integers(C, size=50), streams=3, length=5)  # three windows each, four left
LONG = Streams(np.arange(1000), streams=7, length=10)


def streams_order(key, step, data, width=None):
    part = training._lay_out(data, 1, params_of(), 1)
    part = part._replace(most=part.batches, width=width or data.streams)
    return training._draw_order(training._rng(jax.random.key(key), step), part)


def test_every_stream_is_read_once_and_in_order():
    """The text is a ring: what each window reads follows what the window before it read, and no two streams overlap."""
    order = streams_order(0, 0, LONG)
    assert order.shape == (LONG.windows, LONG.streams) == (14, 7)
    read = np.stack([take(LONG, rows, LSTMConfig(1000, H, 1000, inputs="tokens")).xs for rows in order], axis=1)
    texts = read.reshape(LONG.streams, -1)  # each stream's windows behind one another
    np.testing.assert_array_equal((texts[:, 1:] - texts[:, :-1]) % 1000, 1)
    assert len(np.unique(texts)) == texts.size == 980
    gaps = (np.roll(texts[:, 0], -1) - texts[:, -1] - 1) % 1000
    assert gaps.min() >= 0
    assert gaps[:-1].max() < LONG.length  # streams are of equal length, and the last gap has the rest of the text


@pytest.mark.parametrize(("characters", "streams", "length"), [(11, 2, 5), (31, 3, 5), (13, 3, 4)])
def test_streams_follow_one_another_where_they_use_up_the_text(characters, streams, length):
    order = streams_order(0, 0, Streams(np.arange(characters), streams, length))
    np.testing.assert_array_equal((order[0, 1:] - order[0, :-1]) % characters, (characters - 1) // streams)


def test_streams_start_anywhere_and_elsewhere_in_each_epoch():
    firsts = [streams_order(key, step, LONG)[0, 0] for key in range(2) for step in range(0, 14 * 20, 14)]
    assert len(set(firsts)) > 35
    assert np.histogram(firsts, bins=4, range=(0, 1000))[0].min() >= 4
    np.testing.assert_array_equal(streams_order(1, 14, LONG), streams_order(1, 14, LONG))


def test_streams_are_filled_up_with_rows_of_nothing():
    wide = streams_order(0, 0, LONG, width=9)
    np.testing.assert_array_equal(wide[:, :7], streams_order(0, 0, LONG))
    np.testing.assert_array_equal(wide[:, 7:], -1)


@functools.partial(jax.jit, static_argnames="config")
def window_loss(params, xs, ys, state, key, *, config):
    def mean(params):
        total, (count, after) = summed_loss(params, xs, ys, config, state=state, key=key)
        return total / count, after

    return jax.value_and_grad(mean, has_aux=True)(params)


def by_hand(config, epochs):
    """Each epoch's mean loss, the parameters and the state at the end: gradient descent, window by window."""
    params, losses, step, key, ids = params_of(config), [], 0, jax.random.key(5), STREAMS.ids
    for _ in range(epochs):
        memory = jax.tree.map(np.asarray, zero_state(params, STREAMS.streams))
        losses.append([])
        for starts in streams_order(5, step, STREAMS):
            texts = np.array([np.roll(ids, -start)[: STREAMS.length + 1] for start in starts])
            key_step = jax.random.fold_in(key, step)
            (loss, memory), grads = window_loss(
                params, texts[:, :-1], texts[:, 1:], jax.device_get(memory), key_step, config=config
            )
            params, step = minus(params, 0.5, grads), step + 1
            losses[-1].append(float(loss))
    return [np.mean(of_epoch) for of_epoch in losses], params, memory


def test_streams_train_window_by_window_with_the_state_carried():
    """Dropout's masks are other ones at each step."""
    reports = list(fitting(start(config=DROPPING), schedule_of(0.5, 2), STREAMS, epochs=2, config=DROPPING))
    losses, params, memory = by_hand(DROPPING, 2)
    assert [report.loss for report in reports if report.part == 1] == pytest.approx(losses, rel=1e-5)
    assert_close(reports[-1].state.params, params)
    assert_close(reports[-1].state.memory, memory)
    assert [array.shape for array in jax.tree.leaves(memory)] == [(STREAMS.streams, H)] * 4
    assert int(reports[-1].state.step) == 6


def test_how_many_steps_a_call_takes_changes_no_bit_with_streams(monkeypatch):
    ends = []
    for seconds in CALLS:
        monkeypatch.setattr(training, "CALL_SECONDS", seconds)
        reports = list(fitting(start(config=DROPPING), schedule_of(0.5, 3), STREAMS, epochs=3, config=DROPPING))
        ends.append((reports[-1].state.params, reports[-1].state.memory))
    assert_same_bits(*ends)


def test_streams_after_other_data_and_back():
    """A state holds the memory of the streams it was trained on last, and none after anything else."""
    state = list(fitting(start(config=DROPPING), schedule_of(0.5, 2), STREAMS, epochs=2, config=DROPPING))[-1].state
    compiled = training._train_steps.__wrapped__._cache_size()
    again = list(fitting(state, schedule_of(0.1, 1), STREAMS, epochs=1, config=DROPPING))[-1].state
    assert training._train_steps.__wrapped__._cache_size() == compiled
    assert again.memory[0].h.shape == (STREAMS.streams, H)
    fewer = Streams(STREAMS.ids, streams=2, length=5)
    other = list(fitting(state, schedule_of(0.1, 1), fewer, epochs=1, config=DROPPING))[-1].state
    assert other.memory[0].h.shape == (2, H)
    batch = Batch(STREAMS.ids[:10].reshape(2, 5), STREAMS.ids[1:11].reshape(2, 5))
    assert list(fitting(state, schedule_of(0.1, 1), batch, epochs=1, config=DROPPING))[-1].state.memory is None


# Texts on disk, of which each compiled call is given what it takes

OF_DISK = np.random.default_rng(6).integers(C, size=700)
LAST = LSTMConfig(1, H, C, target="last")


@pytest.mark.parametrize(
    ("data", "config", "room", "read_steps"),
    [
        (Windows(OF_DISK, length=T, stride=3), DROPPING, math.inf, 200),
        (Windows(OF_DISK, length=T, stride=9), LAST, -1, 1),
        (Streams(OF_DISK, streams=3, length=T), DROPPING, math.inf, 200),
    ],
    ids=["windows", "windows, last, a mini-batch a call", "streams"],
)
def test_a_text_trains_from_disk_as_from_memory(monkeypatch, data, config, room, read_steps):
    """To the bits, in calls that are given no more than so many steps or one mini-batch, in arrays of one size."""
    monkeypatch.setattr(training, "ADDED_SECONDS", room)
    monkeypatch.setattr(training, "READ_STEPS", read_steps)
    monkeypatch.setattr(training, "CALL_SECONDS", 1e9)
    read_windows, sizes = data_module._read_windows, set()
    monkeypatch.setattr(
        data_module,
        "_read_windows",
        lambda ids, starts, *args: sizes.add(len(starts)) or read_windows(ids, starts, *args),
    )
    ends = []
    for text in (data, dataclasses.replace(data, ids=on_disk(OF_DISK))):
        reports = list(fitting(start(config=config), schedule_of(0.5, 2), text, epochs=2, batch_size=7, config=config))
        params, memory = reports[-1].state.params, reports[-1].state.memory
        found = None if data.streams else evaluate(params, text, batch_size=7, config=config)
        ends.append((params, memory, reports[-1].loss, found))
    assert_same_bits(*ends)
    width = data.streams or training._lay_out(data, 7, params, 2).width
    assert sizes == {width * max(1, read_steps // (width * T))}


def test_what_is_read_in_another_order_trains_too(monkeypatch):
    """Every window once an epoch, as the loss of all at a learning rate of 0 tells."""
    monkeypatch.setattr(data_module, "MOST_SHUFFLED", 1)
    kept = Windows(on_disk(OF_DISK), length=T)
    reports = list(fitting(start(config=TOKENS), schedule_of(0.0, 2), kept, epochs=2, batch_size=2, config=TOKENS))
    expected = evaluate(params_of(TOKENS), kept, batch_size=64, config=TOKENS).loss
    assert [report.loss for report in reports if report.part == 1] == pytest.approx([expected] * 2, rel=1e-5)


def test_an_order_of_what_is_read_goes_to_no_device():
    for kept in (Windows(on_disk(OF_DISK), length=T), Streams(on_disk(OF_DISK), streams=3, length=T)):
        [part] = training._parts(kept, 3, params_of(TOKENS), 1, TOKENS)
        order = training._draw_order(np.random.default_rng(0), part)
        assert jax.tree.leaves(order) == []
        assert order[np.array([[0, 1]])].shape == (1, 2)


def test_an_epoch_of_more_windows_than_fit_into_memory_starts_at_once():
    kept = Windows(mostly_zeros(10**10, {}), length=T)
    [part] = training._parts(kept, 64, params_of(TOKENS), 1, TOKENS)
    assert batches_of(kept, 64, params_of(TOKENS), 1) == part.batches == -(-(10**10 - T) // 64)
    report = next(
        iter(fitting(start(config=TOKENS), schedule_of(0.1, 1), kept, epochs=1, batch_size=64, config=TOKENS))
    )
    assert report.part == 1 / part.batches
    [*runs] = training._runs(training._rng(jax.random.key(0), 0), [part])
    assert runs == [(0, 0, part.batches)]


def larger_than_memory(path):
    """Train on a text of 10 GB in a process of its own, and write what it took as JSON."""
    before, most, done = resident(), {}, threading.Event()

    def watch():
        while not done.wait(0.002):
            most.update({name: max(most.get(name, 0), megabytes) for name, megabytes in resident().items()})

    def after_some_calls(moment):
        reports.append(time.perf_counter() - began)
        if reports[-1] > reports[0] + 5:
            raise StopIteration

    found, watching = {"before": before}, threading.Thread(target=watch, daemon=True)
    watching.start()
    for name, kind in {"windows": lambda ids: Windows(ids, 100), "streams": lambda ids: Streams(ids, 64, 100)}.items():
        reports, began = [], time.perf_counter()
        network = LSTMNetwork(256, 128, 256, inputs="tokens", progress=False, seed=0)
        text = kind(np.memmap(path, np.uint8, "r"))
        network.train(text, epochs=1, periodic_callback=after_some_calls, callback_every=1e-12)
        steps = int(network._trained.state.step)
        found[name] = {"first step": reports[0], "calls": len(reports), "steps": steps, "seconds": reports[-1]}
    few, began = Windows(np.memmap(path, np.uint8, "r"), 100, 10**7), time.perf_counter()
    network.train(few, epochs=1, validation=few)
    found["all of it"] = {
        "windows": len(few),
        "loss": network.evaluate(few).loss,
        "seconds": time.perf_counter() - began,
    }
    done.set()
    watching.join()
    print(json.dumps(found | {"most": most}))


def resident():
    """Return how many megabytes this process has in memory: its own, and of files, which the system drops at will."""
    with open("/proc/self/status") as file:
        lines = [line.split() for line in file if line.startswith(("RssAnon", "RssFile"))]
    return {name.rstrip(":"): int(kilobytes) // 1024 for name, kilobytes, _ in lines}


@pytest.mark.slow
def test_a_text_of_ten_gigabytes_trains_within_one(tmp_path):
    """Of zeros, which take no room on disk. What counts is the process's own memory, which the system can't drop."""
    with open(tmp_path / "text", "wb") as file:
        file.truncate(10**10)
    tests = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]), "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        "-c",
        f"import test_training as test; test.larger_than_memory({str(tmp_path / 'text')!r})",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found = json.loads(done.stdout)
    assert found["most"]["RssAnon"] < 1000
    assert min(found[name]["steps"] for name in ("windows", "streams")) > 1
    assert found["all of it"]["windows"] == 1000
    assert math.isfinite(found["all of it"]["loss"])


def test_row_of_nothing_changes_no_step():
    """With more rows than streams, as where devices share them: the rest is of length 0 and stays as it was."""
    init, step = trainer(TOKENS, optax.sgd(0.5))
    ends = []
    for width in (3, 4):
        state = init(params_of(TOKENS), jax.random.key(0))
        assert state.memory is None
        state, losses = state._replace(memory=zero_state(state.params, width)), []
        for rows in streams_order(0, 0, STREAMS, width)[:2]:
            state, loss = jax.jit(step)(state, take(STREAMS, rows, TOKENS, masked=width > 3))
            losses.append(loss)
        ends.append((state.params, [array[:3] for array in jax.tree.leaves(state.memory)], losses))
    assert_close(*ends)
    assert not any(np.any(array[3:]) for array in jax.tree.leaves(state.memory))
    assert np.any(state.memory[0].h[:3])


def test_evaluate_leaves_nothing_out():
    """Dropout is for training."""
    params, config = params_of(TOKENS), dataclasses.replace(TOKENS, dropout=0.5)
    xs, ys, *_ = built(LSTMConfig(C, H, C))
    expected, _ = reference.loss_and_grad(params, xs, ys, config)
    assert evaluate(params, WINDOWS, batch_size=5, config=config).loss == pytest.approx(expected, rel=1e-6)


def test_batches_of(monkeypatch):
    monkeypatch.setattr(training, "START_SECONDS", 0)

    def of(data, size, epochs=1):
        return batches_of(data, size, params_of(), epochs)

    assert of(STREAMS, 64) == STREAMS.windows == 3
    assert [of(BATCH, size) for size in (1, 2, 5, 64)] == [5, 3, 1, 1]
    assert of(WINDOWS, 2) == 3
    assert [of(RAGGED, 8), of(RAGGED, 8, epochs=10**9)] == [2, 2]
    assert [of(RAGGED, 5), of(RAGGED, 5, epochs=10**9)] == [2, 3]


@pytest.fixture
def cut(monkeypatch):
    """One more shape, or call, takes nothing, so that there are as many parts as can save a step."""
    monkeypatch.setattr(training, "COMPILE_SECONDS", 0)
    monkeypatch.setattr(training, "START_SECONDS", 0)


RNG = np.random.default_rng(6)
RAGGED = Batch(
    RNG.normal(size=(9, 40, CONFIG.input_size)).astype(np.float32),
    RNG.integers(CONFIG.output_size, size=(9, 40)),
    np.array([3, 40, 4, 11, 4, 3, 12, 4, 3]),
)


def test_parts_hold_every_sequence_once_without_its_padding(cut):
    parts = [part.data for part in training._parts(RAGGED, 1, params_of(), 1, CONFIG)]
    assert [part.xs.shape[1] for part in parts] == [3, 4, 12, 40]
    assert np.concatenate([part.lengths for part in parts]).tolist() == [3] * 3 + [4] * 3 + [11, 12, 40]
    for part in parts:
        for x, y, n in zip(part.xs, part.ys, part.lengths, strict=True):
            [row] = [k for k in range(9) if np.array_equal(RAGGED.xs[k, :n], x[:n])]
            assert (RAGGED.lengths[row], np.array_equal(RAGGED.ys[row, :n], y[:n])) == (n, True)


def test_parts_carry_resets_along(cut):
    resets = np.random.default_rng(7).random((9, 40)) < 0.2
    parts = training._parts(RAGGED._replace(resets=resets), 1, params_of(), 1, CONFIG)
    for part, rows in zip(parts, ([0, 5, 8], [2, 4, 7], [3, 6], [1]), strict=True):
        np.testing.assert_array_equal(part.data.resets, resets[rows, : part.data.steps])


def test_there_are_more_parts_where_they_save_more_than_they_take(monkeypatch):
    monkeypatch.setattr(training, "START_SECONDS", 0)

    def cuts(epochs):
        return [steps for _, steps in training._divided(RAGGED, 1, params_of(), epochs)]

    assert cuts(1) == [40]
    assert cuts(300) == [12, 40]
    assert cuts(10**9) == [3, 4, 12, 40]
    assert {tuple(cuts(epochs)) for epochs in range(257, 513)} == {(12, 40)}  # which share their compiled shapes
    monkeypatch.setattr(training, "START_SECONDS", 1)
    assert cuts(10**9) == [40]


def test_what_goes_on_from_batch_to_batch_is_not_divided(cut):
    streams = SimpleNamespace(sequences=9, steps=40, lengths=RAGGED.lengths, streams=3)
    [(rows, steps)] = training._divided(streams, 1, params_of(), 10**9)
    assert (list(rows), steps) == (list(range(9)), 40)
    assert batches_of(streams, 1, params_of(), 10**9) == 3


def test_training_in_parts_takes_the_steps_of_their_mini_batches(cut):
    """Every sequence once an epoch, in mini-batches of one part, the loss the mean of theirs."""
    report = list(fitting(start(), schedule_of(0.5, 1), RAGGED, epochs=1))[-1]
    parts = training._parts(RAGGED, 3, params_of(), 1, CONFIG)
    key, params, losses = jax.random.key(5), params_of(), []
    orders = [training._draw_order(training._rng(key, 0, k), part) for k, part in enumerate(parts)]
    runs = list(training._runs(training._rng(key, 0, len(parts)), parts))
    assert sorted(k for k, first, last in runs for _ in range(first, last)) == [0, 1, 2]
    for k, first, last in runs:
        for rows in orders[k][first:last]:
            batch = jax.tree.map(lambda array, rows=rows: array[rows[rows >= 0]], parts[k].data)
            loss, grads = loss_and_grad(params, batch)
            params, losses = minus(params, 0.5, grads), [*losses, loss]
    assert_close(report.state.params, params)
    assert report.loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("counts", [(100, 100), (5, 100)], ids=str)
def test_all_parts_are_for_the_same_devices(monkeypatch, cut, counts):
    """Those of the widest part, of which each gets 8 rows: by themselves, the others would have fewer."""
    lengths = np.repeat([4, 200], counts)
    data = Batch(np.zeros((len(lengths), 200, 1), np.float32), np.zeros((len(lengths), 200), int), lengths)
    config = LSTMConfig(1, 512, 3)
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), config))

    class Devices(NamedTuple):
        size: int

    for devices in (2, 3, 8):

        def mesh_for(rows, weights, devices=devices):
            return Devices(min(devices, rows // 8)) if rows > 15 else None

        monkeypatch.setattr(training, "mesh_of_all", mesh_for)
        for batch_size in (20, 33):
            parts = training._parts(data, batch_size, params, 1, config)
            assert len(parts) == 2
            assert {part.mesh for part in parts} == {mesh_for(max(part.width for part in parts), 1)}
            assert all(part.width % parts[0].mesh.size == 0 for part in parts)
            assert all(part.masked or part.batches * part.width == len(part.data.xs) for part in parts)


def test_runs_are_in_another_order_in_each_epoch(cut):
    parts = training._parts(RAGGED, 1, params_of(), 1, CONFIG)
    orders = {tuple(training._runs(training._rng(jax.random.key(0), step), parts)) for step in range(0, 90, 9)}
    assert len(orders) > 5
    every = [(k, batch) for k, part in enumerate(parts) for batch in range(part.batches)]
    for runs in orders:
        taken = [(k, batch) for k, first, last in runs for batch in range(first, last)]
        assert sorted(taken) == every
        assert [k for k, _, _ in runs] != sorted({k for k, _, _ in runs}), "each part is one run"


def test_evaluation_in_parts_is_that_of_the_whole(cut):
    padded = evaluate(params_of(), RAGGED._replace(lengths=None), batch_size=3, config=CONFIG).loss
    whole, _ = loss_and_grad(params_of(), RAGGED)
    assert evaluate(params_of(), RAGGED, batch_size=3, config=CONFIG).loss == pytest.approx(float(whole), rel=1e-6)
    assert padded != pytest.approx(float(whole), rel=1e-3)


# A kind of data that the library does not know


class Waves(NamedTuple):
    """Sine waves of any phase, computed when they are needed; the target at each step is the next value."""

    phases: np.ndarray
    lengths: np.ndarray | None = None

    sequences = property(lambda self: len(self.phases))
    steps = property(lambda self: 12)
    streams = property(lambda self: 0)
    read = property(lambda self: None)

    def order(self, rng):
        return rng.permutation(self.sequences)

    def gather(self, rows, steps, config):
        values = jnp.sin(self.phases[rows][:, None] + jnp.arange(steps + 1) / 2)[..., None]
        return Batch(values[:, :-1], values[:, 1:], None if self.lengths is None else self.lengths[rows])

    def room(self, *, roomy):
        return self.sequences, self.steps

    def with_room(self, config, *, roomy, masked):
        return self


@pytest.mark.parametrize("lengths", [None, np.array([12, 3, 2, 12, 3])], ids=["all steps", "in parts"])
def test_a_new_kind_of_data_is_one_class(cut, lengths):
    config, waves = LSTMConfig(1, H, 1, loss="mse"), Waves(np.linspace(0, 6, 5, dtype=np.float32), lengths)
    batch = waves.gather(np.arange(5), 12, config)
    ends = []
    for data in (waves, Batch(*map(np.asarray, batch[:2]), lengths)):
        reports = list(
            fitting(start(config=config), schedule_of(0.1, 20), data, epochs=20, batch_size=2, config=config)
        )
        losses = [report.loss for report in reports if report.part == 1]
        params = reports[-1].state.params
        ends.append((params, losses, evaluate(params, data, batch_size=2, config=config).loss))
    assert_close(*ends)
    assert losses[-1] < losses[0] / 2
    parts = training._parts(waves, 2, params, 20, config)
    assert [part.data.steps for part in parts] == ([12] if lengths is None else [2, 3, 12])
    assert batches_of(waves, 2, params, 20) == sum(part.batches for part in parts)
