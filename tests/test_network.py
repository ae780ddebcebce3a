"""The documented class: what it takes, what it gives back, what it keeps, and what it says when something is wrong."""

import functools
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stored import on_disk

from jlstm import (
    Batch,
    History,
    LSTMConfig,
    LSTMNetwork,
    Moment,
    SeriesWindows,
    Streams,
    Windows,
    forward,
    network,
    trainer,
)
from jlstm.cells import Cell, times
from jlstm.losses import loss_fn
from jlstm.network import default_input_scale
from jlstm.optimizers import constant
from jlstm.training import _train_steps

H, C, N, T = 4, 3, 6, 5  # hidden units, classes, sequences, steps
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, T)), RNG.integers(C, size=(N, T))
LENGTHS = [5, 1, 3, 5, 2, 4]
LISTS = [x[:n] for x, n in zip(X, LENGTHS, strict=True)], [y[:n] for y, n in zip(Y, LENGTHS, strict=True)]
ONE_HOT = np.eye(C)[Y]
VALUES = RNG.normal(size=(N, T, 1))
BATCH = 3


def new(input_size=1, output_size=C, **options):
    return LSTMNetwork(input_size, H, output_size, **{"progress": False, "batch_size": BATCH} | options)


def bits(net):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((net.params, net._trained.state.opt_state))]


def assert_same_bits(first, second):
    for a, b in zip(bits(first), bits(second), strict=True):
        np.testing.assert_array_equal(a, b)


def same_params(first, second):
    leaves = zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def softmax(scores):
    exps = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def test_inputs_are_read_as_widely_as_classes_need():
    sizes = (1, 50), (1, 2), (1, 3), (3, 12), (50, 10)
    assert [default_input_scale(LSTMConfig(i, 4, c)) for i, c in sizes] == [25, 1, 1.5, 2, 1]
    assert default_input_scale(LSTMConfig(1, 4, 50, loss="mse")) == 1
    assert new(output_size=50).config.input_scale == 25


# What predict takes and gives.

RANKS = {
    "list of numbers": ([0.5, -1.0, 2.0], (3, C, 1)),
    "list of integers": ([0, 1, 2, 1], (4, C, 1)),
    "tuple": ((0.5, -1.0), (2, C, 1)),
    "list of NumPy numbers": (list(np.array([0.5, -1.0])), (2, C, 1)),
    "[T]": (X[0], (T, C, 1)),
    "[T] of integers": (Y[0], (T, C, 1)),
    "[T] of JAX": (jnp.asarray(X[0], jnp.float32), (T, C, 1)),
    "[T] of booleans": (Y[0] > 0, (T, C, 1)),
    "[T, 1]": (X[0][:, None], (T, C, 1)),
    "[T, 1] of integers": (Y[0][:, None], (T, C, 1)),
    "list of lists [T, 1]": (X[0][:, None].tolist(), (T, C, 1)),
    "[N, T, 1]": (X[..., None], (N, T, C, 1)),
    "[N, T, 1] of integers": (Y[..., None], (N, T, C, 1)),
    "[1, T, 1]": (X[:1, :, None], (1, T, C, 1)),
    "lists of lists of lists": (X[..., None].tolist(), (N, T, C, 1)),
    "list of arrays": (LISTS[0], [(n, C, 1) for n in LENGTHS]),
    "list of arrays of one length": (list(X), [(T, C, 1)] * N),
    "list of arrays [T, 1]": ([x[:, None] for x in LISTS[0]], [(n, C, 1) for n in LENGTHS]),
    "tuple of JAX arrays": (tuple(jnp.asarray(y) for y in LISTS[1][:2]), [(n, C, 1) for n in LENGTHS[:2]]),
}


@pytest.mark.parametrize("target", ["each", "last"])
@pytest.mark.parametrize("form", RANKS)
def test_rank_decides_what_predict_gives(form, target):
    x, shapes = RANKS[form]
    outputs = new(target=target).predict(x)
    assert isinstance(outputs, list if isinstance(shapes, list) else np.ndarray)
    got = [y.shape for y in outputs] if isinstance(shapes, list) else outputs.shape
    without_time = (lambda s: (*s[:-3], C, 1)) if target == "last" else (lambda s: s)
    assert got == ([without_time(s) for s in shapes] if isinstance(shapes, list) else without_time(shapes))
    assert {y.dtype for y in outputs} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (np.ones((T, 2)), (T, C, 1)),
        (np.ones((2, 2)).tolist(), (2, C, 1)),
        (np.ones((N, T, 2)), (N, T, C, 1)),
        ([np.ones((T, 2)), np.ones((1, 2))], None),
    ],
    ids=["[T, 2]", "list of pairs", "[N, T, 2]", "list of arrays"],
)
def test_two_features(x, shape):
    outputs = new(input_size=2).predict(x)
    assert [y.shape for y in outputs] == [(T, C, 1), (1, C, 1)] if shape is None else outputs.shape == shape


def test_predict_before_training_is_the_forward_pass_in_every_form():
    net = new()
    scores = np.asarray(jax.jit(forward)(net.params, X[..., None], net.config)[0])
    np.testing.assert_allclose(net.predict(X[..., None])[..., 0], scores, atol=1e-6)
    np.testing.assert_allclose(net.predict(X[1])[..., 0], scores[1], atol=1e-6)
    np.testing.assert_allclose(net.predict(X[1].tolist())[..., 0], scores[1], atol=1e-6)
    for output, whole, n in zip(net.predict(LISTS[0]), scores, LENGTHS, strict=True):
        np.testing.assert_allclose(output[..., 0], whole[:n], atol=1e-6)
    np.testing.assert_array_equal(net.predict(Y[0]), net.predict(Y[0].astype(float)))


@pytest.mark.parametrize("target", ["each", "last"])
def test_apply_softmax_turns_logits_into_probabilities(target):
    logits, probabilities = (new(target=target, apply_softmax=on).predict(X[..., None])[..., 0] for on in (False, True))
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-6)
    assert abs(logits.sum(axis=-1) - 1).min() > 1e-3


# What train takes.

FORMS = {
    "X [N, T]": (X, ONE_HOT[..., None]),
    "columns": (X[..., None], ONE_HOT[..., None]),
    "integer columns": (X[..., None], ONE_HOT[..., None].astype(int)),
    "one-hot rows": (X[..., None], ONE_HOT),
    "ids": (X[..., None], Y),
    "lists of numbers": (X.tolist(), Y.tolist()),
    "lists of arrays": (list(X), list(Y)),
    "lists of lists of columns": (X.tolist(), [[list(column) for column in y] for y in ONE_HOT[..., None]]),
    "JAX arrays": (jnp.asarray(X, jnp.float32), jnp.asarray(Y)),
}
LAST_FORMS = {
    "columns": ONE_HOT[:, -1, :, None],
    "one-hot rows": ONE_HOT[:, -1],
    "ids": Y[:, -1],
    "list of ids": Y[:, -1].tolist(),
    "list of columns": list(ONE_HOT[:, -1, :, None]),
}
VALUE_FORMS = {
    "columns": VALUES[..., None],
    "rows": VALUES,
    "lists of rows": VALUES.tolist(),
    "lists of numbers": VALUES[..., 0].tolist(),
    "list of arrays": list(VALUES),
}


@pytest.fixture(scope="module")
def of_forms():
    """Networks that were trained on the forms' first entry, one for each kind of target."""
    return {
        "each": trained(new(), X, Y),
        "last": trained(new(target="last"), X, Y[:, -1]),
        "mse": trained(new(output_size=1, loss="mse"), X, VALUES[..., 0]),
    }


def trained(net, *data, epochs=2, **options):
    net.train(*data, epochs=epochs, learning_rate=0.05, **options)
    return net


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_sequences_and_targets_trains_alike(of_forms, form):
    assert_same_bits(trained(new(), *FORMS[form]), of_forms["each"])


@pytest.mark.parametrize("form", LAST_FORMS)
def test_each_form_of_last_targets_trains_alike(of_forms, form):
    assert_same_bits(trained(new(target="last"), X, LAST_FORMS[form]), of_forms["last"])


@pytest.mark.parametrize("form", VALUE_FORMS)
def test_each_form_of_values_trains_alike(of_forms, form):
    assert_same_bits(trained(new(output_size=1, loss="mse"), X, VALUE_FORMS[form]), of_forms["mse"])


def test_probabilities_are_targets_too():
    shares = RNG.dirichlet(np.ones(C), size=(N, T))
    history = new(batch_size=N).train(X, shares, epochs=1, learning_rate=0)
    logs = np.log(softmax(new().predict(X[..., None])[..., 0].astype(float)))
    assert history.loss == (pytest.approx(-(shares * logs).sum(axis=-1).mean(), rel=1e-5),)


def test_sequences_of_different_lengths_count_by_their_real_steps():
    net = new(batch_size=N)
    [loss] = net.train(*LISTS, epochs=1, learning_rate=0).loss
    logs = [np.log(softmax(scores[..., 0].astype(float))) for scores in net.predict(LISTS[0])]
    losses = [-row[k] for log, ids in zip(logs, LISTS[1], strict=True) for row, k in zip(log, ids, strict=True)]
    assert len(losses) == sum(LENGTHS)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert loss == pytest.approx(net.loss_function(net.predict(LISTS[0]), LISTS[1]), rel=1e-5)


def test_windows_train_as_built_windows_do():
    windows = Windows(RNG.integers(C, size=20), length=T, stride=3)
    rows = np.arange(len(windows))[:, None] * 3 + np.arange(T)
    xs, ys = windows.ids[rows] / C, windows.ids[rows + 1]
    by_windows = trained(new(), windows, validation=windows)
    by_arrays = trained(new(), xs, ys, validation=(xs, ys))
    for a, b in zip(bits(by_windows), bits(by_arrays), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(by_windows.history, by_arrays.history, rtol=1e-6)


def test_texts_train_and_validate_from_disk_as_from_memory():
    ends = []
    for text in (TEXT, on_disk(TEXT)):
        net = trained(new(), Windows(text, T), validation=Windows(text, T, 3))
        net.train(Streams(text, 3, T), epochs=1)
        ends.append(([*bits(net)], net.history, net.evaluate(Windows(text, T))))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_validation_is_the_loss_after_each_epoch():
    net, losses = new(), []
    history = trained(
        net,
        X,
        Y,
        epochs=3,
        validation=LISTS,
        callback_every=1,
        periodic_callback=lambda: losses.append(net.loss_function(net.predict(LISTS[0]), LISTS[1])),
    ).history
    assert len(history.loss) == 3
    np.testing.assert_allclose(history.validation, losses, rtol=1e-5)
    assert len(set(losses)) == 3
    assert_same_bits(net, trained(new(), X, Y, epochs=3))  # it does not take part in the training


# Larger networks: layers, dropout, tokens, and streams of a long text.

TEXT = np.random.default_rng(1).integers(C, size=50)
STREAMS = Streams(TEXT, streams=3, length=5)  # three windows each
LARGER = {"input_size": C, "inputs": "tokens", "layers": 2, "dropout": 0.25}


@pytest.fixture(scope="module")
def on_streams():
    return trained(new(**LARGER), STREAMS, validation=Windows(TEXT, T, T))


def test_larger_networks_are_what_was_asked_for():
    net = new(**LARGER)
    asked = {"input_size": C, "hidden_size": H, "inputs": "tokens", "layers": 2, "dropout": 0.25}
    assert {name: getattr(net.config, name) for name in asked} == asked
    assert [layer.weight_ih.shape for layer in net.params.layers] == [(4 * H, C), (4 * H, H)]
    scores = np.asarray(jax.jit(forward)(net.params, Y, net.config)[0])  # without dropout
    np.testing.assert_allclose(net.predict(Y)[..., 0], scores, atol=1e-6)
    np.testing.assert_allclose(net.predict(Y[1])[..., 0], scores[1], atol=1e-6)
    np.testing.assert_allclose(net.predict(LISTS[1])[1][..., 0], scores[1, :1], atol=1e-6)


def test_dropout_is_of_the_seed_and_of_training_alone():
    net, same = new(**LARGER), new(**LARGER)
    [loss], [again] = (each.train(LISTS[1], LISTS[1], epochs=1, learning_rate=0).loss for each in (net, same))
    assert loss == again
    assert abs(loss - net.loss_function(net.predict(LISTS[1]), LISTS[1])) > 1e-3
    assert_same_bits(trained(net, LISTS[1], LISTS[1]), trained(same, LISTS[1], LISTS[1]))
    np.testing.assert_array_equal(net.predict(Y), net.predict(Y))


def test_sequences_of_different_length_take_the_steps_that_the_schedule_counts(monkeypatch):
    """The rate ends at 0 with the last mini-batch, of however many parts there are, and in a second training."""
    monkeypatch.setattr("jlstm.training.COMPILE_SECONDS", 0)
    rng, rates = np.random.default_rng(0), []
    lengths = [3] * 9 + [40] * 5

    def optimizer(rate):
        return optax.GradientTransformation(
            lambda params: jnp.zeros(()),
            lambda grads, _, params=None: (jax.tree.map(jnp.zeros_like, grads), rate(0)),
        )

    network = LSTMNetwork(1, 4, 3, batch_size=4, optimizer=optimizer, progress=False)
    for steps, epochs in ((3, 5), (1, 1)):
        X, Y = [rng.normal(size=n) for n in lengths[::steps]], [rng.integers(3, size=n) for n in lengths[::steps]]
        before = int(network._trained.state.step)
        network.train(X, Y, epochs=epochs, learning_rate=1.0, callback_every=None)
        taken = int(network._trained.state.step) - before
        rates.append((taken, float(network._trained.state.opt_state)))
        assert taken % epochs == 0
        left = 1 - (taken - 1) / taken  # of the training, before its last step
        assert rates[-1][1] == pytest.approx((1 - np.cos(np.pi * left)) / 2, rel=1e-3)


def test_streams_train(on_streams, capfd):
    history, state = on_streams.history, on_streams._trained.state
    assert (len(history.loss), len(history.validation), int(state.step)) == (2, 2, 6)
    assert state.memory[1].h.shape == (3, H)
    parts = []
    again = new(**LARGER, progress=True, batch_size=64)  # streams have a batch of their own size
    trained(again, STREAMS, callback_every=1, periodic_callback=lambda: parts.append(len(again.history.loss)))
    assert_same_bits(again, on_streams)
    assert parts == [1, 2]
    assert "loss" in capfd.readouterr().err


def test_streams_are_learned():
    text, net = np.arange(50) % C, new(**LARGER)
    before = net.loss_function(net.predict(text[:-1]), text[1:])
    trained(net, Streams(text, streams=3, length=5), epochs=30)
    assert net.loss_function(net.predict(text[:-1]), text[1:]) < before / 4


# To a file and back.

SAVED = {
    "layers of tokens, dropout": LARGER,
    "last, softmax": {"target": "last", "apply_softmax": True, "input_scale": 3.0},
}


@pytest.mark.parametrize("kind", SAVED)
def test_saved_network_predicts_the_same_bits_and_has_its_configuration(tmp_path, kind):
    net = new(**SAVED[kind], seed=3)
    net.save(tmp_path / "network")
    loaded = LSTMNetwork.load(tmp_path / "network")
    assert loaded.config == net.config
    assert loaded.apply_softmax is net.apply_softmax
    assert same_params(loaded, net)
    x = Y if net.config.inputs == "tokens" else X[..., None]
    np.testing.assert_array_equal(loaded.predict(x), net.predict(x))


def test_network_without_a_training_trains_with_the_optimiser_anew(tmp_path, on_streams):
    on_streams.save(tmp_path / "network", training=False)
    options = {"seed": 7, "optimizer": optax.sgd, "batch_size": 2, "schedule": constant, "progress": False}
    loaded, expected = LSTMNetwork.load(tmp_path / "network", **options), new(**LARGER | options)
    expected.params = on_streams.params
    assert loaded.history == History()
    first, second = (net.train(Y, Y, epochs=1, learning_rate=0.1) for net in (loaded, expected))
    assert first == second
    assert_same_bits(loaded, expected)
    assert not same_params(loaded, on_streams)


def test_file_that_is_none_of_a_network_is_refused(tmp_path):
    with pytest.raises(OSError, match="missing"):
        LSTMNetwork.load(tmp_path / "missing")
    (tmp_path / "text").write_text("To be, or not to be")
    with pytest.raises(ValueError, match="text"):
        LSTMNetwork.load(str(tmp_path / "text"))


# What training keeps.


def test_learns():
    net = new(apply_softmax=True)
    x = np.arange(40)[:, None] % C + np.arange(T + 1)
    history = net.train(x[:, :-1] % C / C, x[:, 1:] % C, epochs=60, learning_rate=0.05)
    assert history.loss[0] > 0.5
    assert history.loss[-1] < 0.1
    np.testing.assert_array_equal(net.predict(x[:3, :-1, None] % C / C).argmax(axis=-2)[..., 0], x[:3, 1:] % C)


def test_history_is_returned_and_accumulates():
    net = new()
    assert net.history == History((), ())
    first = net.train(X, Y, epochs=2, validation=(X, Y))
    second = net.train(X, Y, epochs=3)
    third = net.train(X, Y, epochs=1, validation=(X, Y))
    assert [len(h.loss) for h in (first, second, third)] == [2, 3, 1]
    assert [len(h.validation) for h in (first, second, third)] == [2, 0, 1]
    assert net.history.loss == first.loss + second.loss + third.loss
    assert net.history.validation == first.validation + third.validation
    assert all(type(loss) is float for loss in net.history.loss + net.history.validation)


def test_training_goes_on_where_it_stood():
    at_once, twice = new(schedule=constant), new(schedule=constant)
    whole = at_once.train(X, Y, epochs=6, learning_rate=0.05, decay_rate=0.5)
    parts = [twice.train(X, Y, epochs=3, learning_rate=0.05, decay_rate=0.5) for _ in range(2)]
    assert_same_bits(at_once, twice)
    assert whole.loss == pytest.approx(parts[0].loss + parts[1].loss, rel=1e-6)


def rates(schedule):
    """An optimiser that adds the learning rate to every parameter, whatever the gradient."""
    ones = optax.stateless(lambda updates, _: jax.tree.map(jnp.ones_like, updates))
    return optax.chain(ones, optax.scale_by_schedule(schedule))


def summed_rates(net, **options):
    before = net.params.readout.bias
    net.train(X, Y, epochs=4, learning_rate=0.5, decay_rate=0.25, **options)
    return float((net.params.readout.bias - before)[0])


def expected_rates(epochs_before):
    steps = np.arange(4 * N / BATCH)
    shape = (1 + np.cos(np.pi * steps / len(steps))) / 2
    return float((0.5 * shape / (1 + 0.25 * (epochs_before + steps * BATCH / N))).sum())


def test_learning_rate_is_the_documented_one_over_two_trainings():
    net = new(optimizer=rates)
    assert summed_rates(net) == pytest.approx(expected_rates(epochs_before=0), rel=1e-5)
    assert summed_rates(net) == pytest.approx(expected_rates(epochs_before=4), rel=1e-5)


def test_learning_rate_is_the_documented_one_after_setting_the_parameters():
    net = new(optimizer=rates)
    summed_rates(net)
    net.params = net.params
    assert summed_rates(net) == pytest.approx(expected_rates(epochs_before=4), rel=1e-5)


def test_other_numbers_of_a_training_compile_nothing_anew():
    net = trained(new(), X, Y, epochs=1)
    compiled = _train_steps.__wrapped__._cache_size()
    net.train(X, Y, epochs=3, learning_rate=0.2, decay_rate=0.5)
    net.params = jax.tree.map(np.asarray, net.params)
    net.train(X, Y, epochs=2, learning_rate=0.1)
    assert _train_steps.__wrapped__._cache_size() == compiled


def test_no_epochs_change_nothing():
    net, called = new(), []
    assert net.train(X, Y, epochs=0, periodic_callback=lambda: called.append(1)) == History()
    assert_same_bits(net, new())
    assert not called


def test_seed_decides_the_bits():
    first, same, other = (trained(new(seed=seed), X, Y) for seed in (5, 5, 6))
    assert_same_bits(first, same)
    np.testing.assert_allclose(first.history.loss, same.history.loss, rtol=1e-6)
    assert not same_params(first, other)
    assert not same_params(new(seed=5), new(seed=6))


def test_seed_decides_the_shuffles():
    first, other = new(seed=5, batch_size=1), new(seed=6, batch_size=1)
    other.params = first.params
    assert not same_params(trained(first, X, Y, epochs=1), trained(other, X, Y, epochs=1))


@pytest.mark.parametrize(
    ("sequences", "given", "used"),
    [(6, None, 1), (45, None, 3), (3000, None, 64), (45, 10, 10)],
    ids=["the least", "a fifteenth", "the most", "given"],
)
def test_batch_is_a_fifteenth_unless_it_is_given(monkeypatch, sequences, given, used):
    sizes = []
    monkeypatch.setattr(network, "fit", lambda *_, batch_size, **options: sizes.append(batch_size) or iter(()))
    new(batch_size=given).train(np.zeros((sequences, 2)), np.zeros((sequences, 2), int), epochs=1)
    assert sizes == [used]


def sgd_behind_clipping(rate):
    return optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(rate))


@pytest.mark.parametrize("optimizer", [sgd_behind_clipping, lambda rate: optax.adamw(rate, weight_decay=0.5)])
def test_optimizer_is_the_one_that_was_given(optimizer):
    """One step in one batch, against the pure functions."""
    net = new(optimizer=optimizer, batch_size=N, schedule=constant)
    init, step = trainer(net.config, optimizer(0.5))
    expected, _ = jax.jit(step)(init(net.params, jax.random.key(0)), Batch(X[..., None], Y))
    net.train(X, Y, epochs=1, learning_rate=0.5)
    for got, leaf in zip(jax.tree.leaves(net.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(got, leaf, rtol=1e-4, atol=1e-6)


def test_gradient_is_clipped_by_default():
    """A gradient of thousands moves the first moment of Adam by 0.1."""

    def is_adam(state):
        return isinstance(state, optax.ScaleByAdamState)

    net = new(output_size=1, loss="mse")
    net.train(X, np.full((N, T), 1e3), epochs=1)
    [moments] = [s for s in jax.tree.leaves(net._trained.state.opt_state, is_leaf=is_adam) if is_adam(s)]
    norm = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(moments.mu)))
    assert norm == pytest.approx(0.1 * (1 + 0.9), rel=1e-2)  # two steps, much in the same direction


def test_parameters_go_to_the_pure_functions_and_back():
    net = trained(new(), X, Y)
    init, step = trainer(net.config, optax.sgd(0.5))
    state, loss = jax.jit(step)(init(net.params, jax.random.key(0)), Batch(X[..., None], Y))
    assert loss == pytest.approx(net.loss_function(net.predict(X[..., None]), Y), rel=1e-5)
    history = net.history
    net.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(net.params)} == {np.dtype("float32")}
    scores = jax.jit(forward)(state.params, X[..., None], net.config)[0]
    np.testing.assert_allclose(net.predict(X[..., None])[..., 0], scores, atol=1e-6)
    assert net.history == history
    other = new()
    other.params = state.params
    assert_same_bits(net, other)  # the optimiser's state starts anew
    assert np.isfinite(net.train(X, Y, epochs=1).loss).all()


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (np.zeros(C + 1), r"params\.readout\.bias: expected shape \(3,\), got float64 of shape \(4,\)"),
        (np.full(C, "a"), "params"),
        (np.full(C, 1j), "params"),
        (None, r"params\.readout\.bias: expected"),
    ],
    ids=["other shape", "strings", "complex", "other pytree"],
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_parameters_that_do_not_fit_are_refused(bias, message):
    net = new()
    with pytest.raises((TypeError, ValueError), match=message):
        net.params = net.params._replace(readout=net.params.readout._replace(bias=bias))
    assert_same_bits(net, new())


# The callback, Ctrl-C and NaN.


@pytest.mark.parametrize(
    ("epochs", "every", "least", "most"),
    [(250, None, 24, 26), (3, None, 3, 6), (7, 2, 3, 3), (7, 1, 7, 7), (2, 0.5, 2, 4), (2, 2, 1, 1)],
    ids=["250 epochs", "3 epochs", "every 2 of 7", "every 1 of 7", "every half of 2", "every 2 of 2"],
)
def test_callback_is_called_now_and_then(epochs, every, least, most):
    net, calls = new(), []

    def callback():
        calls.append((len(net.history.loss), net.predict([0.5])))

    net.train(X, Y, epochs=epochs, periodic_callback=callback, callback_every=every)
    assert least <= len(calls) <= most
    assert len(net.history.loss) == epochs
    if every is not None and every >= 1:
        assert [finished for finished, _ in calls] == [every * (k + 1) for k in range(len(calls))]
    for (_, before), (_, after) in itertools.pairwise(calls):
        assert not np.array_equal(before, after)  # it sees the parameters of that moment


def test_callback_does_not_change_the_training():
    with_callback = trained(new(), X, Y, epochs=4, periodic_callback=lambda: None, callback_every=1)
    assert_same_bits(with_callback, trained(new(), X, Y, epochs=4))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_error_in_the_callback_leaves_the_finished_epochs(error):
    net = new(schedule=constant)

    def callback():
        if len(net.history.loss) == 3:
            raise error

    with pytest.raises(error):
        net.train(X, Y, epochs=9, learning_rate=0.05, periodic_callback=callback, callback_every=1, validation=(X, Y))
    assert [len(numbers) for numbers in net.history] == [3, 3, 3]
    assert_same_bits(net, trained(new(schedule=constant), X, Y, epochs=3))
    assert np.isfinite(net.predict(X[0])).all()
    assert len(trained(net, X, Y).history.loss) == 5


# A shell without job control starts what it puts in the background with SIGINT ignored, as do all processes below it,
# and Python then leaves it so: this program takes it back, or the test would depend on how pytest was started.
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import faulthandler
faulthandler.dump_traceback_later(15)  # where it stands, if Ctrl-C is not answered
import numpy as np
from jlstm import LSTMNetwork

net = LSTMNetwork(1, 4, 3, batch_size=8, progress=False)
try:
    net.train(np.zeros((4096, 5)), np.zeros((4096, 5), int), 10**5, callback_every=1,
              periodic_callback=lambda: print("going", flush=True))
except KeyboardInterrupt:
    print("interrupted", len(net.history.loss), np.isfinite(net.predict([0.0])).all(), flush=True)
"""


def test_ctrl_c_is_answered_and_leaves_the_finished_epochs():
    environment = os.environ | {"PYTHONPATH": str(Path(network.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "going\n"  # an epoch is finished, and another is being trained
        process.send_signal(signal.SIGINT)
        lines = process.communicate(timeout=20)[0].split("\n")  # about half a second on an idle machine
    finally:
        process.kill()
    assert process.returncode == 0
    word, epochs, finite = lines[-2].split()
    assert (word, finite) == ("interrupted", "True")
    assert int(epochs) == 1 + lines.count("going")


def test_ever_larger_steps_stop_with_finite_parameters():
    net = new(output_size=1, loss="mse", optimizer=optax.sgd)
    with pytest.raises(FloatingPointError, match="in epoch 1; the parameters from before are kept"):
        net.train(X, VALUES, epochs=5, learning_rate=1e30)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(net.params))
    assert net.history == History()


def test_nan_in_a_later_epoch_keeps_the_epochs_before_it():
    net = new(schedule=lambda part: jnp.where(part < 0.5, 1.0, jnp.nan), optimizer=optax.sgd)
    with pytest.raises(FloatingPointError, match="in epoch 3"):
        net.train(X, Y, epochs=4, learning_rate=0.1)
    assert len(net.history.loss) == 2
    assert np.isfinite(net.predict(X[0])).all()


def test_silent_without_progress(capfd):
    trained(new(), X, Y)
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_on_standard_error(capfd):
    trained(new(progress=True), X, Y, epochs=3)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("epoch 3/3 | loss ")


# What is refused, and how.

BAD_ARGUMENTS = {
    "input_size 0": ({"input_size": 0}, ValueError, "input_size: expected at least 1, got 0"),
    "hidden_size '4'": ({"hidden_size": "4"}, TypeError, "hidden_size: expected an integer, got '4'"),
    "hidden_size 4.0": ({"hidden_size": 4.0}, TypeError, "hidden_size"),
    "output_size True": ({"output_size": True}, TypeError, "output_size"),
    "apply_softmax 'yes'": ({"apply_softmax": "yes"}, TypeError, "apply_softmax"),
    "apply_softmax with mse": ({"apply_softmax": True, "loss": "mse"}, ValueError, "apply_softmax.*mse"),
    "loss 'MSE'": ({"loss": "MSE"}, ValueError, "loss: expected one of .*'mse'.*, got 'MSE'"),
    "loss None": ({"loss": None}, ValueError, "loss"),
    "target 'first'": ({"target": "first"}, ValueError, "target.*'last'"),
    "inputs 'ids'": ({"inputs": "ids"}, ValueError, "inputs: expected one of .*'tokens'.*, got 'ids'"),
    "layers 0": ({"layers": 0}, ValueError, "layers: expected at least 1, got 0"),
    "layers 1.0": ({"layers": 1.0}, TypeError, "layers: expected an integer"),
    "dropout 1": ({"dropout": 1}, ValueError, "dropout: expected a number below 1"),
    "dropout '0.5'": ({"dropout": "0.5"}, TypeError, "dropout: expected a number"),
    "seed -1": ({"seed": -1}, ValueError, "seed"),
    "seed 0.5": ({"seed": 0.5}, TypeError, "seed"),
    "seed 2**63": ({"seed": 2**63}, ValueError, "seed: expected at most 9223372036854775807"),
    "optimizer 'adam'": ({"optimizer": "adam"}, TypeError, "optimizer: expected a callable"),
    "optimizer with its rate": ({"optimizer": optax.sgd(0.1)}, TypeError, "optimizer: expected a callable"),
    "optimizer of something else": ({"optimizer": lambda rate: rate}, TypeError, "optimizer.*GradientTransformation"),
    "batch_size 0": ({"batch_size": 0}, ValueError, "batch_size"),
    "batch_size 1.5": ({"batch_size": 1.5}, TypeError, "batch_size"),
    "schedule 'cosine'": ({"schedule": "cosine"}, TypeError, "schedule: expected a callable"),
    "input_scale 0": ({"input_scale": 0}, ValueError, "input_scale"),
    "input_scale 'wide'": ({"input_scale": "wide"}, TypeError, "input_scale"),
    "input_scale NaN": ({"input_scale": float("nan")}, ValueError, "input_scale"),
    "progress None": ({"progress": None}, TypeError, "progress"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments_of_the_network_that_do_not_fit_are_refused(case):
    arguments, error, message = BAD_ARGUMENTS[case]
    with pytest.raises(error, match=message):
        LSTMNetwork(**{"input_size": 1, "hidden_size": H, "output_size": C} | arguments)


STRINGS = np.array([["a"] * T] * N)
BAD_TRAINING = {
    "no Y": ((X,), {}, ValueError, "Y: expected targets for the sequences of X, got None"),
    "X a number": ((1.0, Y), {}, ValueError, "X: expected sequences of shape"),
    "X None": ((None, Y), {}, TypeError, "X: expected numbers"),
    "X strings": ((STRINGS, Y), {}, TypeError, "X: expected numbers, got strings"),
    "X complex": ((X * 1j, Y), {}, TypeError, "X: expected real numbers"),
    "X a dict": (({}, Y), {}, TypeError, "X"),
    "X empty": (([], []), {}, ValueError, "X: expected at least one sequence"),
    "X without steps": ((X[:, :0], Y[:, :0]), {}, ValueError, "X: expected at least one time step"),
    "X with an empty sequence": (([[0.5], []], [[1], []]), {}, ValueError, r"X\[1\]: expected at least one time step"),
    "X of two features": ((np.ones((N, T, 2)), Y), {}, ValueError, r"X: .*got shape \(6, 5, 2\)"),
    "X one sequence": ((X[0], Y[0]), {}, ValueError, "X: expected sequences of shape"),
    "X NaN": ((np.where(Y == 0, np.nan, X), Y), {}, ValueError, "X: expected finite numbers"),
    "X beyond float32": ((X * 1e300, Y), {}, ValueError, "X: expected finite numbers in float32"),
    "X a list with NaN": (([X[0], X[1] * np.inf], Y[:2]), {}, ValueError, "X: expected finite numbers"),
    "Y a number": ((X, 1), {}, (TypeError, ValueError), "Y"),
    "Y strings": ((X, STRINGS), {}, TypeError, "Y"),
    "Y floats as ids": ((X, Y * 0.5), {}, TypeError, "Y: expected class ids as integers, got float64"),
    "Y beyond the classes": ((X, Y + 1), {}, ValueError, "Y: expected class ids from 0 to 2, got 3"),
    "Y negative": ((X, Y - 1), {}, ValueError, "Y: expected class ids from 0 to 2, got -1"),
    "Y of fewer sequences": ((X, Y[:-1]), {}, ValueError, "Y: expected targets for the 6 sequences of X"),
    "Y of fewer steps": ((X, Y[:, :-1]), {}, ValueError, r"Y\[0\]: expected 5 time steps as in X\[0\], got 4"),
    "Y of other lengths": ((X, LISTS[1]), {}, ValueError, r"Y\[1\]: expected 5 time steps as in X\[1\], got 1"),
    "Y without steps": (
        (X, Y[:, 0]),
        {},
        ValueError,
        "Y: expected a target for each time step, .*made with target='last'",
    ),
    "Y of other classes": ((X, np.eye(C + 1)[Y]), {}, ValueError, r"Y: expected targets of shape .*\(6, 5, 4\)"),
    "Y no probabilities": ((X, ONE_HOT * 2), {}, ValueError, "Y: expected one-hot vectors or probabilities"),
    "Y NaN": (
        (X, ONE_HOT * np.nan),
        {},
        ValueError,
        "Y: expected at least one known target of a weight above 0, got none",
    ),
    "Y infinite": (
        (X, np.where(ONE_HOT, np.inf, 0)),
        {},
        ValueError,
        "Y: expected finite numbers .*, or NaN for unknown ones, got",
    ),
    "epochs -1": ((X, Y, -1), {}, ValueError, "epochs: expected at least 0, got -1"),
    "epochs 1.5": ((X, Y, 1.5), {}, TypeError, "epochs: expected an integer"),
    "epochs beyond int32": ((X, Y, 10**10), {}, (ValueError, TypeError), "epochs"),
    "learning_rate -1": ((X, Y, 1, -1.0), {}, ValueError, "learning_rate"),
    "learning_rate NaN": ((X, Y, 1, float("nan")), {}, ValueError, "learning_rate"),
    "learning_rate a function": ((X, Y, 1, optax.constant_schedule(0.1)), {}, TypeError, "learning_rate: expected"),
    "decay_rate -1": ((X, Y, 1, 0.1, -1.0), {}, ValueError, "decay_rate"),
    "decay_rate '0'": ((X, Y, 1, 0.1, "0"), {}, TypeError, "decay_rate"),
    "periodic_callback 5": ((X, Y, 1, 0.1, 0.0, 5), {}, TypeError, "periodic_callback: expected a callable, got 5"),
    "callback_every 3 of 2": (
        (X, Y, 2, 0.1, 0.0, lambda: None),
        {"callback_every": 3},
        ValueError,
        "callback_every: expected at most epochs = 2, got 3: it would not be called",
    ),
    "X of one column": ((X[:, :1], Y[:, :1]), {}, ValueError, r"X: .* got shape \(6, 1\), which may be one sequence"),
    "callback_every 0": ((X, Y, 1), {"callback_every": 0}, ValueError, "callback_every: expected a positive number"),
    "callback_every -1": ((X, Y, 1), {"callback_every": -1}, ValueError, "callback_every"),
    "callback_every '1'": ((X, Y, 1), {"callback_every": "1"}, TypeError, "callback_every"),
    "validation X alone": (
        (X, Y, 1),
        {"validation": X},
        TypeError,
        r"validation: expected \(X, Y\), \(X, Y, weights\), SeriesWindows or",
    ),
    "validation of four": ((X, Y, 1), {"validation": (X, Y, X, X)}, TypeError, "validation: .*, got a tuple of 4$"),
    "validation weights": (
        (X, Y, 1),
        {"validation": (X, Y, X[:, :2])},
        ValueError,
        r"validation\[2\]: expected shape \(6,\) or \(6, 5\), got shape \(6, 2\)",
    ),
    "validation X": ((X, Y, 1), {"validation": (X * np.nan, Y)}, ValueError, r"validation\[0\]: expected finite"),
    "validation Y": ((X, Y, 1), {"validation": (X, Y + 1)}, ValueError, r"validation\[1\]: expected class ids"),
    "validation windows": ((X, Y, 1), {"validation": Windows([0, 9], 1)}, ValueError, "validation: expected ids below"),
    "windows with Y": ((Windows([0, 1, 2], 1), Y), {}, ValueError, "Y: expected None"),
    "streams with Y": ((Streams([0, 1, 2], 1, 1), Y), {}, ValueError, "Y: expected None, since Streams hold"),
    "streams of other ids": ((Streams([0, 9], 1, 1),), {}, ValueError, "X: expected ids below output_size = 3, got 9"),
    "streams to validate": (
        (X, Y),
        {"validation": STREAMS},
        TypeError,
        r"validation: expected \(X, Y\), \(X, Y, weights\), SeriesWindows or",
    ),
    "windows of other ids on disk": (
        (Windows(on_disk([0, 1, 9]), 1),),
        {},
        ValueError,
        "ids: expected class ids from 0 to 2, got 9 at index 2",
    ),
    "windows of other ids": ((Windows([0, 1, 9], 1),), {}, ValueError, "X: expected ids below output_size = 3, got 9"),
}


@pytest.fixture(scope="module")
def untouched():
    """One network on which everything is tried that is refused."""
    return new()


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_training_that_does_not_fit_is_refused_and_changes_nothing(untouched, case):
    arguments, options, error, message = BAD_TRAINING[case]
    with pytest.raises(error, match=message):
        untouched.train(*arguments, **options)
    assert untouched.history == History()
    assert_same_bits(untouched, new())


def test_streams_need_a_target_for_each_step():
    with pytest.raises(ValueError, match=r"X: a score at each step needs a network with target='each', got 'last'"):
        new(target="last").train(STREAMS)


def test_windows_need_one_input_or_one_for_each_class():
    windows = Windows([0, 1, 2], 1)
    with pytest.raises(ValueError, match=r"X: class ids need a network with one feature .* got 2 features"):
        new(input_size=2).train(windows)
    with pytest.raises(ValueError, match=r"X: class ids need a network with loss='cross_entropy', got 'mse'"):
        new(output_size=2, loss="mse").train(windows)


BAD_SEQUENCES = {
    "[A, B]": (np.ones((3, 4)), ValueError, r"x: expected a sequence \[T\] or \[T, 1\].*write x\[\.\.\., None\]"),
    "[A, B] of integers": (np.ones((3, 4), int), ValueError, r"write x\[\.\.\., None\]"),
    "lists [A, B]": ([[0.5, 1.0], [1.0, 0.5]], ValueError, r"write x\[\.\.\., None\]"),
    "lists of different lengths": (
        [[0.5, 1.0], [1.0]],
        ValueError,
        "x: .*of different length are given to LSTMNetwork as a list",
    ),
    "a number": (0.5, ValueError, r"x: expected a sequence \[T\] or \[T, 1\], I = 1, got shape \(\)"),
    "None": (None, TypeError, "x: expected numbers"),
    "a string": ("Hello", TypeError, "x: expected numbers, got strings"),
    "nothing": ([], ValueError, "x: expected at least one time step"),
    "no sequences": (np.ones((0, T, 1)), ValueError, "x: expected at least one sequence"),
    "an empty sequence among others": ([X[0], X[0, :0]], ValueError, r"x\[1\]: expected at least one time step"),
    "two features": (np.ones((N, T, 2)), ValueError, r"x: .*got shape \(6, 5, 2\)"),
    "four axes": (np.ones((1, 1, 1, 1)), ValueError, "x: expected a sequence"),
    "a number among arrays": ([X[0], 0.5], ValueError, r"x\[1\]: expected a sequence"),
    "NaN": ([0.5, np.nan], ValueError, "x: expected finite numbers in float32, got nan"),
    "infinity in a list": ([X[0], X[1] * np.inf], ValueError, r"x\[1\]: expected finite numbers"),
    "complex": (X[0] * 1j, TypeError, "x: expected real numbers"),
}


@pytest.mark.parametrize("case", BAD_SEQUENCES)
def test_sequences_that_do_not_fit_are_refused(untouched, case):
    x, error, message = BAD_SEQUENCES[case]
    with pytest.raises(error, match=message):
        untouched.predict(x)


# loss_function against a calculation by hand.

TINY = float(np.finfo(np.float32).tiny)
P = np.array([[[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], [[0.125, 0.125, 0.75], [0.2, 0.2, 0.6]]])[..., None]
IDS = np.array([[1, 1], [2, 0]])
BY_HAND = -(np.log(0.25) + 0 + np.log(0.75) + np.log(0.2)) / 4


@pytest.fixture(scope="module")
def networks():
    return {
        "probabilities": new(apply_softmax=True),
        "logits": new(),
        "last": new(target="last", apply_softmax=True),
        "mse": new(output_size=2, loss="mse"),
        "mse last": new(output_size=2, loss="mse", target="last"),
    }


LOSSES = {
    "a batch": ("probabilities", P, IDS, BY_HAND),
    "one-hot": ("probabilities", P, np.eye(C)[IDS], BY_HAND),
    "columns": ("probabilities", P, np.eye(C)[IDS][..., None], BY_HAND),
    "one sequence": ("probabilities", P[0], IDS[0], -np.log(0.25) / 2),
    "one sequence, a list of columns": ("probabilities", P[0], list(np.eye(C)[IDS[0], :, None]), -np.log(0.25) / 2),
    "a list": ("probabilities", list(P), list(IDS), BY_HAND),
    "a list of different lengths": ("probabilities", [P[0], P[1, :1]], [[1, 1], [2]], -np.log(0.25 * 0.75) / 3),
    "the floor": ("probabilities", P[0], [0, 0], -(np.log(0.5) + np.log(TINY)) / 2),
    "shares": ("probabilities", P[0], [[0.5, 0.5, 0], [0, 1, 0]], -(np.log(0.5) + np.log(0.25)) / 4),
    "logits": ("logits", np.log(P[1]) + 7, IDS[1], -(np.log(0.75) + np.log(0.2)) / 2),
    "large logits": ("logits", np.array([[1e4, 0, -1e4]])[..., None], [1], 1e4),
    "last": ("last", P[:, 1], [1, 0], -np.log(0.2) / 2),
    "last, one sequence": ("last", P[1, 1], 0, -np.log(0.2)),
    "last, one column": ("last", P[1, 1], np.array([[1.0], [0], [0]]), -np.log(0.2)),
    "last, a list": ("last", [P[0, 0], P[1, 1]], [0, 0], -np.log(0.5 * 0.2) / 2),
    "values": ("mse", np.array([[[1.0], [2]], [[0], [0]]]), [[0, 0], [3, 1]], (2.5 + 5) / 2),
    "value columns": ("mse", np.array([[[1.0], [2]], [[0], [0]]]), [[[0], [0]], [[3], [1]]], (2.5 + 5) / 2),
    "values of either sign": ("mse", np.array([[[1.0], [-2]]]), [[3, 4]], (4 + 36) / 2),
    "last values": ("mse last", np.array([[[1.0], [2]], [[0], [0]]]), [[0, 0], [3, 1]], (2.5 + 5) / 2),
}


@pytest.mark.parametrize("case", LOSSES)
def test_loss_function_is_the_mean_by_hand(networks, case):
    name, predictions, targets, expected = LOSSES[case]
    loss = networks[name].loss_function(predictions, targets)
    assert type(loss) is float
    assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("apply_softmax", [False, True])
def test_loss_function_is_what_training_makes_small(apply_softmax):
    net = new(apply_softmax=apply_softmax)
    expected = float(jax.jit(loss_fn)(net.params, X[..., None], Y, net.config))
    assert net.loss_function(net.predict(X[..., None]), Y) == pytest.approx(expected, rel=1e-5)


BAD_LOSSES = {
    "predictions a number": (0.5, [0], (TypeError, ValueError), "predictions"),
    "predictions None": (None, [0], (TypeError, ValueError), "predictions"),
    "predictions without columns": (P[0, ..., 0], IDS[0], ValueError, r"predictions: expected \[T, C, 1\] .*C = 3"),
    "predictions of other classes": (P[:, :, :2], IDS, ValueError, r"predictions\[0\].*C = 3, got shape \(2, 2, 1\)"),
    "predictions NaN": (P * np.nan, IDS, ValueError, "predictions"),
    "no predictions": ([], [], ValueError, "predictions|targets"),
    "targets of fewer sequences": (P, IDS[:1], ValueError, "targets: expected targets for the 2 sequences"),
    "targets of fewer steps": (P, IDS[:, :1], ValueError, r"targets\[0\]: expected 2 time steps"),
    "targets beyond the classes": (P, IDS + 1, ValueError, "targets: expected class ids from 0 to 2, got 3"),
    "targets floats": (P, IDS * 0.5, TypeError, "targets: expected class ids"),
    "targets None": (P, None, (TypeError, ValueError), "targets"),
    "targets a number": (P, 1, (TypeError, ValueError), "targets"),
}


@pytest.mark.parametrize("case", BAD_LOSSES)
def test_predictions_and_targets_that_do_not_fit_are_refused(networks, case):
    predictions, targets, error, message = BAD_LOSSES[case]
    with pytest.raises(error, match=message):
        networks["probabilities"].loss_function(predictions, targets)


# Called in other ways.


def test_a_callback_that_raises_stop_iteration_ends_the_training():
    net, calls = new(schedule=constant), []

    def callback():
        calls.append(None)
        if len(calls) == 2:
            raise StopIteration

    history = net.train(X, Y, epochs=5, periodic_callback=callback, callback_every=1)
    assert len(calls) == len(history.loss) == len(net.history.loss) == 2
    same = new(schedule=constant)
    same.train(X, Y, epochs=2)
    assert_same_bits(net, same)


def test_load_is_the_class_s_alone():
    with pytest.raises(AttributeError, match=r"^load: makes a new LSTMNetwork .*; write LSTMNetwork\.load\(\.\.\.\)$"):
        new().load("network.npz")
    assert not hasattr(new(), "load")


def test_one_class_alone_is_refused():
    message = "output_size: expected at least 2 classes .*, got 1; a network that says yes or no has loss='binary_cross"
    with pytest.raises(ValueError, match=message):
        LSTMNetwork(1, 4, 1)
    assert LSTMNetwork(1, 4, 1, loss="mse", progress=False).predict([0.5]).shape == (1, 1, 1)


def test_a_network_shows_in_one_line_what_it_is(tmp_path):
    net = LSTMNetwork(1, 250, 50, layers=2, progress=False)
    assert repr(net) == "LSTMNetwork(1 feature, 2 LSTM layers of 250 units, 765,550 parameters, 50 classes)"
    net = trained(new(), X, Y, epochs=2)
    assert repr(net).endswith(", trained on 6 sequences for 2 epochs)")
    net.save(tmp_path / "network.npz")
    assert repr(LSTMNetwork.load(tmp_path / "network.npz")) == repr(net)
    net.params = net.params
    assert "trained" not in repr(net)


def test_no_seed_is_another_one_each_time():
    one, other = (LSTMNetwork(1, 4, 3, seed=None, progress=False) for _ in range(2))
    assert (one.params.readout.weight != other.params.readout.weight).any()


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        (
            {"optimizer": lambda rate: 1 / 0},
            ValueError,
            "^optimizer: expected .*, got ZeroDivisionError: division by zero",
        ),
        ({"optimizer": lambda rate: None}, TypeError, "^optimizer: expected .* optax GradientTransformation, got None"),
        (
            {"optimizer": lambda rate: optax.contrib.sam(optax.sgd(rate), optax.sgd(0.1), opaque_mode=True)},
            ValueError,
            "^optimizer: ",
        ),
        ({"optimizer": 0.1}, TypeError, "^optimizer: expected a callable, got 0.1"),
        ({"optimizer": optax.adam(0.1)}, TypeError, "^optimizer: expected a callable, .*; write lambda rate: optax"),
        ({"schedule": lambda part: 1j * part}, TypeError, "^schedule: expected it to return one number, got "),
        ({"schedule": lambda part: part < 0.5}, TypeError, "^schedule: expected it to return one number, got "),
        ({"schedule": lambda part: math.cos(part)}, ValueError, "^schedule: expected .*JAX number, got Concretization"),
        ({"schedule": lambda part: None}, TypeError, "^schedule: expected it to return one number, got None"),
        ({"schedule": lambda part: jnp.ones(3)}, TypeError, "^schedule: expected it to return one number, got "),
    ],
    ids=[
        "fails",
        "nothing",
        "wants more",
        "a number",
        "made",
        "complex",
        "booleans",
        "not traced",
        "returns nothing",
        "returns three",
    ],
)
def test_an_optimizer_or_schedule_that_fails_is_named(argument, error, message):
    with pytest.raises(error, match=message):
        new(**argument)


# Cells, directions and what training leaves out


class Counted(NamedTuple):
    h: jax.Array
    seen: jax.Array


COUNTING = Cell(
    lambda params, h, x: times(params["w"], x) + params["u"] @ h,
    lambda params, z, state: (state._replace(h=(h := jnp.tanh(z)), seen=state.seen + 1), h),
    lambda params: Counted(jnp.zeros(params["u"].shape[0], params["u"].dtype), jnp.zeros((), params["u"].dtype)),
    name="counting",
    draw=lambda normal, sizes, scale, fan_in: {
        "w": normal(sizes.hidden, sizes.inputs) / fan_in**0.5,
        "u": normal(sizes.hidden, sizes.hidden) / sizes.hidden**0.5,
    },
)


@pytest.mark.parametrize("cell", ["gru", COUNTING], ids=["gru", "one of one's own"])
def test_trains_predicts_saves_and_loads_any_cell(tmp_path, cell):
    """Also one whose parameters are a dict, and whose state has a number a sequence."""
    X, Y = np.random.default_rng(0).normal(size=(20, 9, 2)), np.arange(180).reshape(20, 9) % 3
    network = LSTMNetwork(2, 6, 3, cell=cell, layers=2, residual=True, recurrent_dropout=0.1, progress=False)
    before = network.predict(X)
    history = network.train(X, Y, epochs=2)
    assert np.isfinite(history.loss).all()
    assert not np.array_equal(network.predict(X), before)
    network.save(tmp_path / "network")
    loaded = LSTMNetwork.load(tmp_path / "network", cell=None if cell == "gru" else cell)
    assert loaded.config == network.config
    np.testing.assert_array_equal(loaded.predict(X), network.predict(X))


def test_reads_in_both_directions_what_is_one_target_a_sequence():
    """Which of the two ends is larger: the mean over both directions can tell, from few sequences of any lengths."""
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=rng.integers(3, 9)) for _ in range(60)]
    first_is_larger = np.array([x[0] > x[-1] for x in sequences])
    network = LSTMNetwork(1, 8, 2, bidirectional=True, target="mean", progress=False)
    network.train(sequences, first_is_larger, epochs=60, learning_rate=0.03)
    answers = np.array(network.predict(sequences))[..., 0].argmax(axis=1)
    assert (answers == first_is_larger).mean() > 0.9


@pytest.mark.parametrize(
    ("data", "target", "message"),
    [
        (
            Streams(np.arange(100) % 3, 2, 8),
            "each",
            "X: expected a network that reads forwards only, got bidirectional=",
        ),
        (
            Windows(np.arange(100) % 3, 8),
            "each",
            "X: expected a network with target='last' or 'mean' where bidirectional=",
        ),
    ],
    ids=["streams", "windows"],
)
def test_both_directions_are_refused_where_they_cannot_be(data, target, message):
    network = LSTMNetwork(3, 4, 3, inputs="tokens", target=target, bidirectional=True, progress=False)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        network.train(data)


# What a network is worth: targets that count more, less or not at all.

WEIGHTS = RNG.uniform(0.5, 2, size=(N, T)) * (RNG.random((N, T)) < 0.7)
UNKNOWN_IDS = np.where(RNG.random((N, T)) < 0.2, -100, Y)
QUESTIONS = np.where(RNG.random((N, T, 2)) < 0.2, np.nan, RNG.random((N, T, 2)) < 0.5)
JUDGED = {  # a network, its targets, weights of its classes, and what each answer costs and whether it is right
    "classes": (
        {},
        UNKNOWN_IDS,
        np.array([0.5, 1.0, 3.0]),
        lambda scores, ids: -np.log(np.take_along_axis(softmax(scores), np.maximum(ids, 0)[..., None], -1))[..., 0],
        lambda scores, ids: scores.argmax(axis=-1) == ids,
    ),
    "questions": (
        {"output_size": 2, "loss": "binary_cross_entropy"},
        QUESTIONS,
        np.array([0.5, 3.0]),
        lambda scores, yes: np.log1p(np.exp(np.where(yes == 1, -scores, scores))),
        lambda scores, yes: (scores > 0) == (yes == 1),
    ),
    "values": ({"output_size": 1, "loss": "mse"}, VALUES, None, lambda got, values: (got - values) ** 2, None),
}


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["all alike", "weighted"])
@pytest.mark.parametrize("kind", JUDGED)
def test_an_evaluation_is_what_the_predictions_say(kind, weights):
    options, targets, class_weights, losses, right = JUDGED[kind]
    net = new(**options, batch_size=N)
    scores = net.predict(X[..., None])[..., 0].astype(float)
    counts = targets != -100 if kind == "classes" else ~np.isnan(targets)
    given = np.ones((N, T)) if weights is None else weights
    given = counts * (given if kind == "classes" else given[..., None])
    right = right and right(scores, targets)[given > 0].mean()
    for by_class in (None, class_weights):
        weighted = given if by_class is None else given * by_class[np.where(counts, targets, 0).astype(int)]
        loss = (weighted * np.where(counts, losses(scores, targets), 0)).sum() / weighted.sum()
        found = net.evaluate(X, targets, weights=weights, class_weights=by_class)
        assert found.loss == pytest.approx(loss, rel=1e-5)
        assert found.accuracy == (None if right is None else pytest.approx(right))
        [trained_loss] = net.train(X, targets, 1, 0.0, weights=weights, class_weights=by_class).loss
        assert trained_loss == pytest.approx(loss, rel=1e-5)  # what an evaluation says is what training makes small


def test_sequences_of_different_lengths_are_judged_by_their_real_steps():
    net = new()
    right = np.concatenate(
        [x[..., 0].argmax(axis=-1) == y for x, y in zip(net.predict(LISTS[0]), LISTS[1], strict=True)]
    )
    loss = net.loss_function(net.predict(LISTS[0]), LISTS[1])
    assert net.evaluate(*LISTS) == pytest.approx((loss, right.mean()), rel=1e-5)
    alone = [np.eye(1, n, n - 1)[0] for n in LENGTHS]  # the last step of each counts alone
    ends = [x[-1, :, 0].argmax() == y[-1] for x, y in zip(net.predict(LISTS[0]), LISTS[1], strict=True)]
    assert net.evaluate(*LISTS, weights=alone).accuracy == pytest.approx(np.mean(ends))


def test_windows_are_judged_as_built_windows_are():
    net, series = new(), SeriesWindows(X.ravel(), T, targets=Y.ravel(), stride=2, weights=WEIGHTS.ravel())
    xs, ys = series.arrays()
    weights = WEIGHTS.ravel()[np.arange(1, T + 1) + series.starts[:, None]]
    assert net.evaluate(series) == pytest.approx(net.evaluate(xs, ys, weights=weights), rel=1e-5)
    history = net.train(xs, ys, 1, validation=series, class_weights=[1, 2, 3])
    assert history.validation[0] == pytest.approx(net.evaluate(series, class_weights=[1, 2, 3]).loss, rel=1e-5)
    assert history.validation[0] != pytest.approx(net.evaluate(series).loss, rel=1e-3)
    text = Windows(TEXT, T)
    xs, ys = (TEXT[np.arange(T) + np.arange(len(text))[:, None] + k] for k in (0, 1))
    assert net.evaluate(text) == pytest.approx(net.evaluate(xs / C, ys), rel=1e-5)


def test_validation_counts_as_an_evaluation_does(capfd):
    net, found = new(progress=True), []
    held_out = X[:4], UNKNOWN_IDS[:4], WEIGHTS[:4]

    def callback():
        found.append(net.evaluate(X[:4], UNKNOWN_IDS[:4], weights=WEIGHTS[:4], class_weights=[1, 2, 3]))

    options = {"validation": held_out, "class_weights": [1, 2, 3], "callback_every": 1, "periodic_callback": callback}
    history = net.train(X, Y, 3, 0.1, **options)
    np.testing.assert_allclose(np.transpose(found), [history.validation, history.accuracy], rtol=1e-5)
    assert history == net.history
    last = capfd.readouterr().err.splitlines()[-1]
    assert f"| validation {history.validation[-1]:.4f}, {history.accuracy[-1]:.1%} right" in last


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((STREAMS,), {}, TypeError, "X: expected sequences, SeriesWindows or Windows, got "),
        ((X,), {}, ValueError, "Y: expected targets for the sequences of X, got None"),
        ((X, Y), {"weights": -WEIGHTS}, ValueError, "weights: expected numbers from 0 up, got -"),
        ((X, Y), {"weights": WEIGHTS * np.nan}, ValueError, "weights: expected finite numbers"),
        ((X, Y), {"weights": np.zeros(N)}, ValueError, "Y: expected at least one known target of a weight above 0"),
        ((X, Y), {"class_weights": [1, 2]}, ValueError, "class_weights: expected 3 numbers, of each class, got "),
        ((Windows(TEXT, T),), {"weights": WEIGHTS}, ValueError, "weights: expected None, since Windows hold their own"),
    ],
    ids=["streams", "no Y", "below 0", "NaN", "none counts", "two classes", "windows"],
)
def test_what_can_not_be_judged_is_refused(untouched, arguments, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        untouched.evaluate(*arguments, **options)


# What a callback may take.

CALLBACKS = {
    "nothing": (lambda seen: lambda: seen.append(None), None),
    "the moment": (lambda seen: lambda moment: seen.append(moment), Moment),
    "what it may do without": (lambda seen: lambda net=None: seen.append(net), None),
    "anything": (lambda seen: lambda *all: seen.append(all or None), None),
    "a method": (lambda seen: seen.append, Moment),
    "a partial": (lambda seen: functools.partial(lambda seen, moment: seen.append(moment), seen), Moment),
    "a name of its own": (lambda seen: lambda moment, *, known=seen: known.append(moment), Moment),
}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_callback_takes_the_moment_or_nothing(kind):
    make, taken = CALLBACKS[kind]
    seen, net = [], new()
    net.train(X, Y, epochs=1)
    history = net.train(X, Y, epochs=3, periodic_callback=make(seen), callback_every=1, validation=(X, Y))
    if taken is None:
        assert seen == [None] * 3
    else:
        assert [moment.epoch for moment in seen] == [1, 2, 3]
        assert [moment.history for moment in seen] == [History(*(all[:k] for all in history)) for k in (1, 2, 3)]
        assert all(type(moment) is Moment for moment in seen)


def test_a_callback_that_is_no_python_is_called_without_arguments():
    counter = itertools.count()
    new().train(X, Y, epochs=3, periodic_callback=functools.partial(next, counter), callback_every=1)
    assert next(counter) == 3


@pytest.mark.parametrize(
    ("callback", "signature"), [(lambda net, moment: None, "(net, moment)"), (lambda *, moment: None, "(*, moment)")]
)
def test_a_callback_that_wants_more_is_refused_at_the_start(untouched, callback, signature):
    message = f"^periodic_callback: expected a callable of no or one argument, got .* of {re.escape(signature)}$"
    with pytest.raises(TypeError, match=message):
        untouched.train(X, Y, epochs=1, periodic_callback=callback)
    assert_same_bits(untouched, new())


# Distributions.


@pytest.mark.parametrize(("loss", "deviation"), [("gaussian", 1.0), ("laplace", 2**0.5)])
def test_predictions_come_with_their_standard_deviations(loss, deviation):
    net = new(output_size=2, loss=loss)
    scores = np.asarray(jax.jit(forward)(net.params, X[..., None], net.config)[0], float)
    expected = scores[..., :2], deviation * (np.log1p(np.exp(scores[..., 2:])) + 1e-3)
    for got, wanted in zip(net.predict(X[..., None], return_std=True), expected, strict=True):
        np.testing.assert_allclose(got[..., 0], wanted, atol=1e-6)
        assert got.dtype == np.float32
    np.testing.assert_array_equal(net.predict(X[..., None]), net.predict(X[..., None], return_std=True)[0])
    for got, wanted in zip(net.predict(X[1], return_std=True), expected, strict=True):
        np.testing.assert_allclose(got[..., 0], wanted[1], atol=1e-6)
    for listed, wanted in zip(net.predict(LISTS[0], return_std=True), expected, strict=True):
        assert isinstance(listed, list)
        for got, row in zip(listed, wanted, strict=True):
            np.testing.assert_allclose(got[..., 0], row[: len(got)], atol=1e-6)
    mean, std = new(output_size=2, loss=loss, target="last").predict(X[..., None], return_std=True)
    assert mean.shape == std.shape == (N, 2, 1)


def test_values_have_no_deviation(untouched):
    with pytest.raises(ValueError, match=r"^return_std: expected False with loss='mse', which tells no standard dev"):
        new(output_size=1, loss="mse").predict(X[0], return_std=True)
    with pytest.raises(TypeError, match=r"^return_std: expected True or False, got 1"):
        untouched.predict(X[0], return_std=1)
    with pytest.raises(
        TypeError, match=r"^predictions: expected \(means, deviations\), as predict\(x, return_std=True\)"
    ):
        new(output_size=1, loss="gaussian").loss_function(np.zeros((T, 1, 1)), np.zeros(T))


def test_tables_of_pandas_are_sequences():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": X[0], "b": Y[0]}, index=pandas.date_range("2020-01-01", periods=T))
    net, array = new(input_size=2), table.to_numpy()
    np.testing.assert_array_equal(net.predict(table), net.predict(array))
    np.testing.assert_array_equal(net.predict([table, table[:2]])[1], net.predict([array, array[:2]])[1])
    np.testing.assert_array_equal(new().predict(table["a"]), new().predict(X[0]))
    tables, arrays = ([table, table[:2]], [table["b"], table["b"][:2]]), ([array, array[:2]], [Y[0], Y[0, :2]])
    assert_same_bits(trained(new(input_size=2), *tables), trained(new(input_size=2), *arrays))
    series = SeriesWindows(table, 2, targets=table["b"])
    assert new(input_size=2).evaluate(series) == new(input_size=2).evaluate(*series.arrays())
    forecaster = new(input_size=2, output_size=2, loss="mse")
    np.testing.assert_array_equal(forecaster.forecast(table, 2), forecaster.forecast(array, 2))
    with pytest.raises(TypeError, match=r"^x: expected numbers"):
        net.predict(table.assign(b="high"))


@pytest.mark.parametrize("count", [28, 60])  # of which a mini-batch has one, or four
def test_class_weights_count_in_mini_batches_of_few(count):
    """Of a quarter yes, counted nine times each, the odds are three to one."""
    answers = np.arange(count) % 4 == 0
    net = LSTMNetwork(1, 4, 1, True, "binary_cross_entropy", target="last", progress=False)
    net.train(np.ones((count, 3, 1)), answers, epochs=6000 // count, learning_rate=0.02, class_weights=[1, 9])
    assert net.predict(np.ones(3))[0, 0] == pytest.approx(0.75, abs=0.03)


def test_training_loss_is_the_weighted_mean_whatever_is_unknown():
    ys = np.full((20, 1), np.nan)
    ys[:3] = [[1.0], [2.0], [4.0]]
    weights = np.linspace(0, 1, 20)
    net = LSTMNetwork(1, 4, 1, loss="mse", target="last", progress=False)
    history = net.train(np.ones((20, 3)), ys, 1, 0.0, weights=weights, validation=(np.ones((20, 3)), ys, weights))
    assert history.loss[0] == pytest.approx(history.validation[0], rel=1e-5)


def test_windows_of_series_are_predicted_on_as_the_arrays_built_of_them(monkeypatch):
    net, windows = new(output_size=1, loss="gaussian"), SeriesWindows(np.arange(20.0) / 20, 4)
    expected = net.predict(windows.arrays()[0], return_std=True)
    for built in (network.BUILT, 12, 1):
        monkeypatch.setattr(network, "BUILT", built)
        np.testing.assert_allclose(net.predict(windows, return_std=True), expected, rtol=1e-6)


def test_units_start_with_a_long_memory_where_the_end_is_told():
    assert new().config.long_memory == new(cell="gru", target="last").config.long_memory == 0
    i, f, _, _ = LSTMNetwork(1, 3, C, target="last").params.layers[0].bias.reshape(4, 3)
    np.testing.assert_allclose(f, [0, 3.5, 7])
    np.testing.assert_allclose(i, [0, -3.5, -7])
