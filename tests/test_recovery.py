"""Trainings that are broken off, at any moment and in any way, and go on from their folder to the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings

import jax
import numpy as np
import optax
import pytest

from jlstm import Batch, CharLM, LSTMConfig, LSTMNetwork, Streams, Windows, files, recovery, training
from jlstm.model import draw_params
from jlstm.optimizers import Schedule, adam
from jlstm.recovery import fingerprint
from jlstm.training import fit, fresh_state

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 7, 1)), RNG.integers(0, 2, size=(23, 7))
IDS = RNG.integers(0, 5, size=300)
TEXT = "to be or not to be, " * 12


@pytest.fixture(autouse=True)
def short_calls(monkeypatch):
    """Compiled calls of a few mini-batches, so that there are many moments to break a training off."""
    monkeypatch.setattr(training, "CALL_SECONDS", 1e-3)


def bits(tree):
    leaves = [
        jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return [np.asarray(leaf).tobytes() for leaf in leaves]


TOKENS = LSTMConfig(5, 4, 5, inputs="tokens", dropout=0.2)
DATA = {
    "sequences": (Batch(X.astype(np.float32), Y), LSTMConfig(1, 4, 2, dropout=0.2)),
    "sequences of different length": (
        Batch(np.tile(X, (1, 20, 1)).astype(np.float32), np.tile(Y, (1, 20)), np.arange(1, 24, dtype=np.int32) * 6),
        LSTMConfig(1, 4, 2),
    ),
    "windows": (Windows(IDS, 10, 3), TOKENS),
    "streams": (Streams(IDS, 4, 10), TOKENS),
}


@pytest.mark.parametrize("name", DATA)
def test_goes_on_from_any_report_to_the_same_bits(name):
    data, config = DATA[name]
    state = fresh_state(draw_params(0, config), jax.random.key(0), config=config, optimizer=adam)
    schedule = Schedule(0.01, 0.0, 0, 0.0, 10.0, 20.0)
    options = {"epochs": 2, "batch_size": 4, "config": config, "optimizer": adam}
    reports = list(fit(state, schedule, data, **options))
    ends = [report.loss for report in reports if report.part == 1]
    assert len(reports) > 2
    for report in reports[:: max(1, len(reports) // 5)]:
        again = list(fit(report.state, schedule, data, place=report.place, **options))
        last = again[-1] if again else report
        assert bits(last.state) == bits(reports[-1].state)
        found = [each.loss for each in again if each.part == 1]
        assert found == ends[len(ends) - len(found) :]


# --- networks ---


def a_network(**options):
    return LSTMNetwork(1, 4, 2, dropout=0.2, progress=False, **options)


class Broken(Exception):
    pass


def breaking(at):
    """A callback that breaks a training off when it is called for the time `at`."""
    calls = iter(range(at + 1))

    def callback(*_):
        if next(calls, at) == at:
            raise Broken

    return callback


TRAINED = {"epochs": 6, "validation": (X[:9], Y[:9]), "keep_best": True, "callback_every": 0.5}


def train(network, folder=None, **options):
    return network.train(X, Y, checkpoint=folder, checkpoint_every=0, **TRAINED | options)


@pytest.fixture(scope="module")
def unbroken():
    network = a_network()
    return network, network.train(X, Y, **TRAINED)


def test_a_network_goes_on_to_the_same_bits(tmp_path, unbroken):
    whole, history = unbroken
    for at in (0, 2, 1):
        with pytest.raises(Broken):
            train(a_network(), tmp_path / "run", periodic_callback=breaking(at))
    resumed = a_network()
    assert train(resumed, tmp_path / "run") == history == resumed.history
    assert bits(resumed.params) == bits(whole.params)
    assert bits(resumed._trained.state.opt_state) == bits(whole._trained.state.opt_state)
    assert repr(resumed) == repr(whole)


def test_a_training_that_is_done_is_done(tmp_path, unbroken, monkeypatch):
    whole, history = unbroken
    train(a_network(), tmp_path / "run")
    monkeypatch.setattr(training, "_train_steps", None)  # nothing is trained
    again = a_network()
    assert train(again, tmp_path / "run") == history
    assert bits(again.params) == bits(whole.params)


def test_patience_that_ran_out_stays_so(tmp_path, monkeypatch):
    options = {"validation": (X[:9], 1 - Y[:9]), "patience": 1, "epochs": 30, "learning_rate": 0.1}
    first = a_network()
    history = train(first, tmp_path / "run", **options)
    assert len(history.loss) < 30
    monkeypatch.setattr(training, "_train_steps", None)
    again = a_network()
    assert train(again, tmp_path / "run", **options) == history
    assert bits(again.params) == bits(first.params)


def test_a_network_that_reads_streams_goes_on_with_their_state(tmp_path):
    def network():
        return LSTMNetwork(5, 4, 5, inputs="tokens", progress=False)

    whole, data = network(), Streams(IDS, 4, 10)
    history = whole.train(data, epochs=3)
    with pytest.raises(Broken):
        network().train(
            data, epochs=3, checkpoint=tmp_path, periodic_callback=breaking(1), callback_every=0.4, checkpoint_every=0
        )
    resumed = network()
    assert resumed.train(data, epochs=3, checkpoint=tmp_path) == history
    assert bits(resumed.params) == bits(whole.params)


def test_a_language_model_goes_on_to_the_same_bits(tmp_path):
    options = {"hidden_size": 8, "layers": 1, "epochs": 4, "streams": 2, "window": 10, "progress": False}
    options |= {"validation": TEXT[:40]}
    whole = CharLM.train(TEXT, **options)
    with pytest.warns(RuntimeWarning, match="The training ended early"):
        CharLM.train(TEXT, **options, checkpoint=tmp_path, checkpoint_every=0, callback=breaking(1))
    resumed = CharLM.train(TEXT, **options, checkpoint=tmp_path)
    assert bits(resumed.params) == bits(whole.params)
    assert repr(resumed) == repr(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 7}, "with epochs = 6, got 7"),
        ({"learning_rate": 0.02}, "with learning_rate = 0.01, got 0.02"),
        ({"keep_best": False}, "with keep_best = True, got False"),
        ({"validation": (X[:8], Y[:8])}, "with validation = "),
        ({"weights": np.arange(23)}, "with X, Y and weights = "),
    ],
)
def test_names_what_differs_and_changes_nothing(tmp_path, options, message):
    train(a_network(), tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    network = a_network()
    before = bits(network.params)
    with pytest.raises(
        ValueError, match=re.escape(f"checkpoint: expected the training in {str(tmp_path)!r}, {message}")
    ):
        train(network, tmp_path, **options)
    assert bits(network.params) == before
    assert network.history.loss == ()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 1}, "the network before"),
        ({"optimizer": optax.sgd}, "optimizer"),
        ({"schedule": lambda part: 1 - part}, "optimizer"),
        ({"batch_size": 5}, "batch_size"),
        ({"zoneout": 0.1}, "config"),
        ({"standardize": True}, "standardize"),
    ],
)
def test_names_what_differs_of_the_network(tmp_path, options, name):
    with pytest.raises(Broken):
        train(a_network(), tmp_path, periodic_callback=breaking(0))
    with pytest.raises(ValueError, match=f"with {name} = "):
        train(a_network(**options), tmp_path)


def test_another_jax_may_write_another_program(tmp_path, monkeypatch, unbroken):
    monkeypatch.setattr(recovery, "program_of", lambda *_: "written by an older one")
    monkeypatch.setattr(jax, "__version__", "0.1")
    with pytest.raises(Broken):
        train(a_network(), tmp_path, periodic_callback=breaking(0))
    monkeypatch.undo()
    monkeypatch.setattr(training, "CALL_SECONDS", 1e-3)
    assert train(a_network(), tmp_path) == unbroken[1]


def test_starts_anew_where_nothing_is(tmp_path, unbroken):
    assert train(a_network(), tmp_path / "new" / "run", resume=False) == unbroken[1]
    message = "resume: expected True with a training in"
    with pytest.raises(ValueError, match=message):
        train(a_network(), tmp_path / "new" / "run", resume=False)


def damage(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_the_newest_whole_file_is_used(tmp_path, unbroken):
    with pytest.raises(Broken):
        train(a_network(), tmp_path, periodic_callback=breaking(3))
    first, second = sorted(tmp_path.glob("training-*.npz"), key=number_of)
    assert number_of(first) + 1 == number_of(second)
    damage(second)
    with pytest.warns(RuntimeWarning, match=f"^checkpoint: {second}: .*"):
        assert train(a_network(), tmp_path) == unbroken[1]
    damage(first)
    damage(second)
    message = f"checkpoint: expected a training in {str(tmp_path)!r}, got no whole file of one"
    with pytest.warns(RuntimeWarning, match="^checkpoint: "), pytest.raises(ValueError, match=re.escape(message)):
        train(a_network(), tmp_path)


def number_of(path):
    """How many files of the training were written before."""
    return json.loads(np.load(path)["jlstm.json"])["about"]["number"]


def test_a_disk_that_is_full_is_a_warning(tmp_path, monkeypatch, unbroken):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recovery, "write_training", full)
    message = "checkpoint: the training goes on, but could not be written to .*: No space left on device"
    with pytest.warns(RuntimeWarning, match=message):
        assert train(a_network(), tmp_path) == unbroken[1]


def test_a_folder_that_is_none_is_an_error_at_the_start(tmp_path):
    (tmp_path / "file").write_text("mine")
    network = a_network()
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        train(network, tmp_path / "file")
    assert network.history.loss == ()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("options", [{"learning_rate": -1}, {"decay_rate": "much"}, {"patience": 0}])
def test_a_call_that_is_refused_makes_no_folder(tmp_path, options):
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(options))}: "):
        train(a_network(), tmp_path / "run", **options)
    with pytest.raises(ValueError, match=r"^learning_rate: "):
        CharLM.train(TEXT, hidden_size=8, streams=2, window=10, learning_rate=-1, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_killed_writings_left_is_taken_away(tmp_path, unbroken):
    pytest.importorskip("fcntl")
    train(a_network(), tmp_path)
    for name in recovery.FILES:
        _, own = files._place(str(tmp_path / name))
        for k, left in enumerate([b"", b"half"]):
            (tmp_path / f"{own}{k}.tmp").write_bytes(left)
    assert train(a_network(), tmp_path) == unbroken[1]  # it is done, and writes nothing
    assert sorted(os.listdir(tmp_path)) == ["lock", *recovery.FILES]


def test_two_trainings_share_no_folder(tmp_path):
    pytest.importorskip("fcntl")
    message = "checkpoint: expected a folder that no other process trains in"

    def another(*_):
        train(a_network(), tmp_path)

    with pytest.raises(OSError, match=message):
        train(a_network(), tmp_path, periodic_callback=another)
    train(a_network(), tmp_path)


def test_other_arrays_have_another_fingerprint(tmp_path):
    mapped = np.memmap(tmp_path / "ids", np.uint8, "w+", shape=(5_000_000,))
    found = {fingerprint(mapped)}
    for at in (0, -1):
        mapped[at] += 1
        found.add(fingerprint(mapped))
    found |= {fingerprint(tree) for tree in (None, X, X.astype(np.float32), X[1:], (X, Y), [X, Y], jax.random.key(0))}
    assert len(found) == 10


# --- processes that are killed ---

PROGRAM = """
import os, signal, sys, threading
import numpy as np
from jlstm import LSTMNetwork, files, training

folder, out, killed, seed = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
training.CALL_SECONDS = 1e-3
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(23, 7, 1)), rng.integers(0, 2, size=(23, 7))
network = LSTMNetwork(1, 4, 2, dropout=0.2, progress=False)
chance, synchronize = np.random.default_rng(seed), os.fsync

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def killing(file):
    if chance.random() < 0.1:
        kill()  # what was written is not yet in its place
    synchronize(file)

def started(*_):
    if killed == "writing":
        files.os.fsync = killing
    if killed == "any time":
        threading.Timer(chance.random() * 0.3, kill).start()
    if killed == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)

history = network.train(
    X, Y, epochs=60, validation=(X[:9], Y[:9]), keep_best=True, periodic_callback=started, callback_every=1,
    checkpoint=folder or None, checkpoint_every=0,
)
np.savez(out, *network.params.layers[0], *network.params.readout, *map(np.array, history))
"""


def run(*arguments):
    return subprocess.run([sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True)


def same_files(first, second):
    a, b = np.load(first), np.load(second)
    return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_at_any_moment_ends_with_the_same_bits(tmp_path, kills):
    assert run("", tmp_path / "whole.npz", "never", 0).returncode == 0
    done = 0
    for seed in range(kills):
        ended = run(tmp_path / "run", tmp_path / "resumed.npz", ("writing", "any time")[seed % 2], seed)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        done += ended.returncode == 0
    assert done < kills
    assert run(tmp_path / "run", tmp_path / "resumed.npz", "never", 0).returncode == 0
    assert same_files(tmp_path / "whole.npz", tmp_path / "resumed.npz")
    assert sorted(os.listdir(tmp_path / "run")) == ["lock", "training-0.npz", "training-1.npz"]


def test_sigterm_writes_and_says_so(tmp_path):
    ended = run(tmp_path / "run", tmp_path / "out.npz", "SIGTERM", 0)
    assert ended.returncode == 143
    assert ended.stderr.strip() == f"SIGTERM ended the training; to go on, call it again: {tmp_path / 'run'}"
    assert run(tmp_path / "run", tmp_path / "out.npz", "never", 0).returncode == 0
    assert run("", tmp_path / "whole.npz", "never", 0).returncode == 0
    assert same_files(tmp_path / "whole.npz", tmp_path / "out.npz")


def test_sigterm_is_as_before_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        train(a_network(), tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
