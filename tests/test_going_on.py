"""Going on from a file: a network that was saved and loaded trains on to the bits of the one that was not."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from test_network import COUNTING

from jlstm import History, LSTMNetwork, Streams, checkpoint
from jlstm.optimizers import adam, averaged

H, C, N, T = 4, 3, 6, 5
RNG = np.random.default_rng(0)
X, Y, VALUES = RNG.normal(size=(N, T)), RNG.integers(C, size=(N, T)), RNG.normal(5.0, 2.0, size=(N, T, C))
VALIDATION = {"validation": (X, Y)}
STREAMS = Streams(RNG.integers(C, size=50), streams=3, length=5)


def multi_steps(rate):
    return optax.MultiSteps(optax.adam(rate), 4)


def average(rate):
    return optax.chain(optax.adam(rate), averaged(0.9))


def momentum(rate, dtype=None):
    return optax.sgd(rate, momentum=0.9, accumulator_dtype=dtype)


def momentum_in_half(rate):
    return momentum(rate, "bfloat16")


def new(optimizer=adam, loss="cross_entropy", **options):
    inputs = 1 if loss == "cross_entropy" and options.get("inputs") != "tokens" else C
    fixed = {"seed": 3, "batch_size": 3, "progress": False}
    return LSTMNetwork(inputs, H, C, loss=loss, optimizer=optimizer, **fixed | options)


def load(path, optimizer=adam, cell=None):
    return LSTMNetwork.load(path, optimizer=optimizer, cell=cell, batch_size=3, progress=False)


def bits(net):
    """All that training changes, but for what a stream goes on from, which starts at zero each time."""
    state = net._trained.state._replace(memory=None)
    leaves = jax.tree.leaves((net.params, state._replace(key=jax.random.key_data(state.key))))
    return [(leaf.dtype.name, leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


def assert_same(got, expected):
    assert bits(got) == bits(expected)
    assert jax.tree.structure(got._trained.state._replace(memory=None)) == jax.tree.structure(
        expected._trained.state._replace(memory=None)
    )
    assert got.history == expected.history
    assert repr(got) == repr(expected)
    assert got.config == expected.config
    assert (got._trained.epochs, got.standardize) == (expected._trained.epochs, expected.standardize)


# What the network is made with, what it is trained on, and how. Two mini-batches an epoch, three epochs: `multi_steps`
# is then within an update.
LAYERS = {"layers": 2, "bidirectional": True, "target": "mean", "dropout": 0.3}
KINDS = {
    "one layer": ({}, (X, Y), VALIDATION),
    "layers, directions, dropout": (LAYERS, (X, Y[:, -1]), {}),
    "keep_best": ({"dropout": 0.5}, (X, Y), {"validation": (X, Y), "keep_best": True, "learning_rate": 0.3}),
    "standardize, MultiSteps": ({"standardize": True, "loss": "mse", "optimizer": multi_steps}, (VALUES, VALUES), {}),
    "schedule free": ({"optimizer": optax.contrib.schedule_free_adamw}, (X, Y), VALIDATION),
    "averaged, a cell of one's own": ({"optimizer": average, "cell": COUNTING, "layers": 2}, (X, Y), {}),
    "no state": ({"optimizer": optax.sgd}, (X, Y), {"decay_rate": 0.1}),
    "streams": ({"inputs": "tokens", "recurrent_dropout": 0.2}, (STREAMS,), {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_network_trains_on_to_the_same_bits(tmp_path, kind):
    options, data, how = KINDS[kind]
    net, path = new(**options), tmp_path / "network"
    net.train(*data, epochs=3, **how)
    net.save(path)
    loaded = load(path, options.get("optimizer", adam), options.get("cell"))
    assert_same(loaded, net)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert loaded.train(*data, epochs=2, **how) == net.train(*data, epochs=2, **how)
    assert_same(loaded, net)
    x = Y[0] if data[0] is STREAMS else data[0][0]
    np.testing.assert_array_equal(loaded.predict(x), net.predict(x))


def test_a_best_network_that_was_not_the_last_keeps_its_count_of_epochs(tmp_path):
    net = new(optimizer=optax.sgd)
    net.train(X, Y, epochs=4, validation=(X, (Y + 1) % C), keep_best=True)
    assert net._trained.epochs < len(net.history.loss) == 4
    net.save(tmp_path / "network")
    assert_same(load(tmp_path / "network", optax.sgd), net)


@pytest.mark.parametrize("optimizer", [adam, optax.contrib.schedule_free_adamw], ids=["adam", "schedule free"])
def test_a_network_that_was_never_trained(tmp_path, optimizer):
    net = new(optimizer)
    net.save(tmp_path / "network")
    loaded = load(tmp_path / "network", optimizer)
    assert_same(loaded, net)
    for each in (loaded, net):
        each.train(X, Y, epochs=3, **VALIDATION)
    assert_same(loaded, net)


def test_parameters_that_were_set_by_hand(tmp_path):
    net = new()
    net.train(X, Y, epochs=3, **VALIDATION)
    net.params = jax.tree.map(np.negative, net.params)
    net.save(tmp_path / "network")
    loaded = load(tmp_path / "network")
    assert loaded.history == net.history != History()
    for each in (loaded, net):
        each.train(X, Y, epochs=2, **VALIDATION)
    assert_same(loaded, net)


def test_from_the_other_format(tmp_path):
    pytest.importorskip("safetensors")
    net = new()
    net.train(X, Y, epochs=3, **VALIDATION)
    net.save(tmp_path / "network.safetensors")
    assert_same(load(tmp_path / "network.safetensors"), net)


def test_a_training_that_may_be_killed_goes_on_from_a_loaded_network(tmp_path):
    """Of which its folder knows the parameters, the history and the optimiser's state by their bits."""
    net = new()
    net.train(X, Y, epochs=3, **VALIDATION)
    net.save(tmp_path / "network")
    loaded = load(tmp_path / "network")
    for each in (net, loaded):
        each.train(X, Y, epochs=2, **VALIDATION, checkpoint=tmp_path / "run")
    assert_same(loaded, net)


# With another optimiser


def trained(path, optimizer=adam):
    net = new(optimizer)
    net.train(X, Y, epochs=3, **VALIDATION)
    net.save(path)
    return net


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (adam, optax.sgd, ".opt_state[1].count: expected an array, got none"),
        (optax.sgd, adam, ".opt_state[1][0].count: expected an array, got none"),
        (momentum, optax.sgd, ".opt_state[0].trace.layers[0].weight_ih: expected none, got an array"),
        (momentum, momentum_in_half, ".opt_state[0].trace.layers[0].weight_ih: expected bfloat16, got float32"),
    ],
    ids=["from Adam", "to Adam", "to less", "to another dtype"],
)
def test_another_optimiser_starts_anew_and_says_so(tmp_path, before, after, message):
    path = tmp_path / "network"
    net, expected = trained(path, before), new(after, seed=7)
    with pytest.warns(RuntimeWarning) as caught:
        loaded = LSTMNetwork.load(path, optimizer=after, batch_size=3, seed=7, progress=False)
    [warning] = caught
    assert warning.filename == __file__
    assert str(warning.message) == (
        f"{path}: the optimiser starts anew, as its state is another than the file's ({message}); parameters and "
        "history are the file's"
    )
    assert loaded.history == net.history
    assert repr(loaded) == repr(net)
    np.testing.assert_array_equal(loaded.predict(X[0]), net.predict(X[0]))
    expected.params = net.params
    assert bits(loaded) == bits(expected)
    loaded.train(X, Y, epochs=1)
    assert len(loaded.history.loss) == 4


def test_of_what_was_never_trained_nothing_is_lost(tmp_path):
    net = new()
    net.save(tmp_path / "network")
    loaded = load(tmp_path / "network", optax.sgd)
    np.testing.assert_array_equal(loaded.predict(X[0]), net.predict(X[0]))


def test_a_key_of_another_kind_starts_the_training_anew(tmp_path):
    net = trained(tmp_path / "network")
    with jax.default_prng_impl("rbg"), pytest.warns(RuntimeWarning, match=r"\(\.key: expected shape \(4,\), got \(2,"):
        loaded = load(tmp_path / "network")
    np.testing.assert_array_equal(loaded.predict(X[0]), net.predict(X[0]))


# Files without a training


def about(path):
    return json.loads(np.load(path)["jlstm.json"])


def test_without_what_it_takes_to_train_on_it_is_the_network_alone(tmp_path):
    net = trained(tmp_path / "whole")
    net.save(tmp_path / "network", training=False)
    checkpoint.save(tmp_path / "alone", checkpoint.Saved(net.params, net.config, None, False, net._trained.on))
    assert (tmp_path / "network").read_bytes() == (tmp_path / "alone").read_bytes()
    assert "training" not in about(tmp_path / "network")
    loaded, expected = load(tmp_path / "network"), new(seed=0)
    expected.params = net.params
    assert bits(loaded) == bits(expected)
    assert loaded.history == History()
    with pytest.raises(TypeError, match="training: expected True or False, got 'no'"):
        net.save(tmp_path / "network", training="no")
    assert (tmp_path / "network").read_bytes() == (tmp_path / "alone").read_bytes()


def test_a_file_of_version_4_loads_as_it_did(tmp_path):
    net = trained(tmp_path / "whole")
    net.save(tmp_path / "network", training=False)
    with zipfile.ZipFile(tmp_path / "network") as now, zipfile.ZipFile(tmp_path / "old", "w") as old:
        for name in now.namelist():
            text = json.dumps(about(tmp_path / "network") | {"version": 4})
            old.writestr(name, text if name == "jlstm.json" else now.read(name))
    loaded = load(tmp_path / "old", optax.sgd)
    np.testing.assert_array_equal(loaded.predict(X[0]), net.predict(X[0]))
    assert (loaded.history, loaded._trained.epochs) == (History(), 0)


def test_parameters_are_in_a_file_once(tmp_path):
    """Those that are trained beside those that predict only where they are others."""
    for optimizer, twice in ((adam, False), (multi_steps, False), (average, True)):
        trained(tmp_path / "network", optimizer)
        names = about(tmp_path / "network")["training"]["shapes"]
        assert any(name.startswith("training.params") for name in names) is twice


# On several devices


def goes_on(path):
    """The program of a process with two devices: train, save, load, and train on, beside the same without a file."""
    assert jax.device_count() == 2
    net = trained(path)
    loaded = load(path)
    places = [{leaf.sharding for leaf in jax.tree.leaves(each._trained.state)} for each in (loaded, new())]
    assert places[0] == places[1], "on both devices, from where nothing is copied"
    for each in (loaded, net):
        each.train(X, Y, epochs=2, **VALIDATION)
    assert_same(loaded, net)


def test_on_two_devices(tmp_path):
    program = (
        "import sys; from jlstm.devices import use_cpu_cores; use_cpu_cores(2, least_rows=1);"
        "import test_going_on; test_going_on.goes_on(sys.argv[1])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "network")], env=environment, check=True)
