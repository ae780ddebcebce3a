"""Several processes that train together: they learn what one does, and what ends one of them ends all."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jlstm.processes
from jlstm import Batch, CharLM, LSTMConfig, LSTMNetwork, Streams, Windows, init_params, training
from jlstm.optimizers import Schedule
from jlstm.processes import ProcessLost, check_same, in_accord, of_first, text_of_first, use_distributed, whole
from jlstm.training import evaluate, fit, fresh_state

HERE = Path(__file__).parent
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 6, 2)), RNG.integers(0, 3, size=(23, 6))
LENGTHS = RNG.integers(0, 7, size=23).astype(np.int32)
IDS = RNG.integers(0, 5, size=260)
TEXT = "to be or not to be, that is the question. " * 8
LEFT_OUT = {"dropout": 0.2, "recurrent_dropout": 0.2, "zoneout": 0.1, "weight_dropout": 0.2}


def together(function, processes, folder, *, devices=1, ends=0):
    """Call a function of this file, with a folder, in processes that train together; return what each printed last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "JAX_PLATFORMS": "cpu"}
    started = []
    for k in range(processes):
        joins = f"use_distributed('127.0.0.1:{port}', {processes}, {k})\n" if processes > 1 else ""
        many = f"jax.config.update('jax_num_cpu_devices', {devices})\n"
        program = f"from test_processes import *\n{many}{joins}{function}({str(folder)!r}, {k})"
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", program], env=environment, **streams))
    found = []
    try:
        for k, process in enumerate(started):
            told, complaints = process.communicate(timeout=240)
            expected = ends[k] if isinstance(ends, tuple) else ends
            assert process.returncode == expected, complaints[-3000:]
            lines = [line for line in told.splitlines() if not line.startswith("[Gloo]")]
            found.append((json.loads(lines[-1]) if lines else None, complaints))
    finally:
        for process in started:
            process.kill()
    return found


def kinds(folder, k):
    """Return each kind of data, with its network and the most rows of a mini-batch: 5, which no number here divides."""
    Path(f"{folder}/{k}.ids").write_bytes(IDS.astype(np.uint8).tobytes())
    on_disk = np.memmap(f"{folder}/{k}.ids", np.uint8, "r")
    features = LSTMConfig(2, 4, 3, layers=2, bidirectional=True)
    tokens = LSTMConfig(5, 4, 5, inputs="tokens")
    return {
        "sequences of different length": (Batch(X, Y, LENGTHS), features),
        "sequences of which much is left out": (Batch(X, Y), LSTMConfig(2, 4, 3, **LEFT_OUT)),
        "weighted sequences": (Batch(X, Y[:, 0], None, None, X[:, 0, 0] ** 2), LSTMConfig(2, 4, 3, target="last")),
        "windows": (Windows(IDS, 10), tokens),
        "windows on disk": (Windows(on_disk, 10), tokens),
        "streams": (Streams(IDS, 5, 5), LSTMConfig(5, 4, 5, inputs="tokens", dropout=0.2)),
        "streams on disk": (Streams(on_disk, 5, 5), LSTMConfig(5, 4, 5, inputs="tokens", dropout=0.2)),
    }


QUICK = "sequences of different length", "windows on disk", "streams"


def fifty_steps(folder, k, names=QUICK):
    """Train with kinds of data in float64, and keep what came out."""
    jax.config.update("jax_enable_x64", True)
    found = {}
    for name in names:
        data, config = kinds(folder, k)[name]
        params = init_params(jax.random.key(0), config, np.float64)
        state = fresh_state(params, jax.random.key(1), config=config, optimizer=optax.adam)
        epochs = -(-50 * 5 // data.sequences)
        schedule = Schedule(0.01, 0.0, 0, 0.0, 10.0, 1000.0)
        options = {"epochs": epochs, "batch_size": 5, "config": config, "optimizer": optax.adam}
        first, *_, last = fit(state, schedule, data, **options)
        assert last.state.step >= 50
        found |= {f"{name} {at}": leaf for at, leaf in enumerate(jax.tree.leaves(last.state.params))}
        found[f"{name} loss"] = last.loss
        if data.streams:
            *_, again = fit(first.state, schedule, data, **options, place=first.place)
            assert again.loss == last.loss
        else:
            found[f"{name} evaluation"] = evaluate(last.state.params, data, batch_size=7, config=config)
    np.savez(f"{folder}/{k}.npz", **found)


def fifty_steps_with_all(folder, k):
    fifty_steps(folder, k, kinds(folder, k))


@pytest.mark.parametrize(
    ("function", "processes", "devices"),
    [
        ("fifty_steps", 2, 1),
        *(pytest.param("fifty_steps_with_all", *n, marks=pytest.mark.slow) for n in ((2, 1), (2, 2), (3, 1), (4, 1))),
    ],
)
def test_many_learn_what_one_does(tmp_path, function, processes, devices):
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    together(function, 1, one)
    together(function, processes, many, devices=devices)
    for k in range(processes):
        found = np.load(many / f"{k}.npz")
        for name, expected in np.load(one / "0.npz").items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-10, err_msg=f"{name}, process {k}")


def raised(function):
    """Return what a call raised, in a few words."""
    try:
        function()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def sessions(folder, k):
    """Use the classes in ways that differ from process to process; print what each of them found."""
    training.CALL_SECONDS = 1e-3
    x, found = X.astype(np.float32), {}

    def made(**options):
        return LSTMNetwork(2, 4, 3, batch_size=4, **{"progress": False} | options)

    def at_second(action):
        calls = []

        def callback():
            calls.append(None)
            if k == 1 and len(calls) == 2:
                action()

        return callback

    def stop(error):
        raise error

    network = made(seed=None, progress=True)
    network.train(x, Y, epochs=2)
    found["a seed of its own"] = network.predict(x[0]).tolist()
    before = network.params
    found["data of its own"] = raised(lambda: network.train(x[k:], Y[k:], epochs=1))
    found["an evaluation of its own"] = raised(lambda: network.evaluate(x[k:], Y[k:]))
    found["arguments of its own"] = raised(lambda: network.train(x, Y, epochs=1 + k))
    found["a sequence too few"] = raised(lambda: network.train(x, Y[k:], epochs=1))
    own = {"checkpoint": folder} if k else {}
    found["a folder of its own"] = raised(lambda: network.train(x, Y, epochs=1, **own))
    found["a history of its own"] = raised(lambda: (made() if k else network).train(x, Y, epochs=1))
    found["unchanged"] = network.params is before
    Path(f"{folder}/ids-{k}").write_bytes(bytes([0, 1, 2, 3, 4] * 50 + [9] * 50))
    text = Windows(np.memmap(f"{folder}/ids-{k}", np.uint8, "r"), 10)
    os.unlink(f"{folder}/ids-{k}")
    found["what it reads"] = raised(lambda: LSTMNetwork(5, 4, 5, inputs="tokens", batch_size=4).train(text, epochs=1))
    other = made(seed=k)
    found["before training"] = [other.evaluate(x, Y).loss, other.loss_function(other.predict(x), Y)]
    for name, action in {
        "an error": lambda: stop(ValueError("no more")),
        "a foreign error": lambda: stop(ZeroDivisionError("no more")),
        "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
        "Ctrl-C": lambda: os.kill(os.getpid(), signal.SIGINT),
        "StopIteration": lambda: stop(StopIteration()),
        "a refusal": lambda: stop(PermissionError("no more")),
        "a status": lambda: stop(SystemExit(-1)),
        "last words": lambda: stop(SystemExit("no more")),
    }.items():
        network = made()
        ended = raised(lambda network=network, action=action: network.train(x, Y, 9, 0.01, 0.0, at_second(action)))
        found[name] = [ended, len(network.history.loss)]
    network, refuse = made(), at_second(lambda: stop(ValueError("no more")))
    found["beside an evaluation"] = raised(
        lambda: network.train(x, Y, 9, 0.01, 0.0, lambda: (refuse(), network.evaluate(x, Y)))
    )
    found["SIGTERM at the end"] = raised(
        lambda: network.train(
            x, Y, 1, 0.01, 0.0, lambda moment: moment.epoch == k == 1 and signal.raise_signal(signal.SIGTERM)
        )
    )
    own = f"{folder}/{k}"
    network = made()
    network.train(x, Y, epochs=2, checkpoint=own, checkpoint_every=(1e9, 0)[k])
    found["refused by the first"] = raised(lambda: made().train(x, Y, epochs=2, checkpoint=own, resume=False))
    again = made()
    again.train(x, Y, epochs=2, checkpoint=own)
    found["resumed"] = [np.array_equal(again.predict(x), network.predict(x)), again.history == network.history]
    options = {"hidden_size": 8, "layers": 1, "epochs": 2, "streams": 3, "window": 20, "seed": None}
    model = CharLM.train(TEXT, validation=TEXT[:90], **options)
    found["language model"] = [model.evaluate(TEXT), model.evaluate(TEXT, window=30), model.generate("to", 9)]
    print(json.dumps(found))


def test_what_one_knows_all_know(tmp_path):
    (first, shown), (second, hidden) = together("sessions", 2, tmp_path)
    same = "a seed of its own", "resumed", "language model"
    assert [first[name] for name in same] == [second[name] for name in same]
    assert first["resumed"] == [True, True]
    for name, argument in (
        ("data of its own", "X, Y and weights"),
        ("an evaluation of its own", "X, Y and weights"),
        ("arguments of its own", "epochs"),
        ("a folder of its own", "checkpoint"),
        ("a history of its own", "the network's history and scaling"),
    ):
        assert first[name] == second[name]
        assert first[name].startswith(f"ValueError: {argument}: expected the same in all 2 processes"), first[name]
        assert first[name].endswith("others in process 1 than in process 0")
    assert first["a sequence too few"] == f"ValueError: process 1 of 2 raised {second['a sequence too few']}"
    wrong = "ValueError: ids: expected class ids from 0 to 4, got 9 at index"
    assert second["what it reads"].startswith(wrong)
    assert first["what it reads"] == f"ValueError: process 1 of 2 raised {second['what it reads']}"
    assert first["unchanged"]
    assert second["unchanged"]
    for name, (one, other) in {
        "an error": ("ValueError: process 1 of 2 raised ValueError: no more", "ValueError: no more"),
        "a foreign error": (
            "RuntimeError: process 1 of 2 raised ZeroDivisionError: no more",
            "ZeroDivisionError: no more",
        ),
        "SIGTERM": ("SystemExit: 143", "SystemExit: 143"),
        "Ctrl-C": ("KeyboardInterrupt: ", "KeyboardInterrupt: "),
        "StopIteration": (None, None),
        "a refusal": ("OSError: process 1 of 2 raised PermissionError: no more", "PermissionError: no more"),
        "a status": ("SystemExit: -1", "SystemExit: -1"),
        "last words": ("SystemExit: process 1 of 2 raised SystemExit: no more", "SystemExit: no more"),
    }.items():
        (ended, epochs), (of_other, of_its) = first[name], second[name]
        assert (ended, of_other) == (one, other), name
        assert epochs == of_its < 9, name
    assert first["beside an evaluation"] == "ValueError: process 1 of 2 raised ValueError: no more"
    assert second["beside an evaluation"] == "ValueError: no more"
    assert first["SIGTERM at the end"] == second["SIGTERM at the end"] == "SystemExit: 143"
    assert first["before training"][0] == second["before training"][0] == pytest.approx(first["before training"][1])
    refused = f"resume: expected True with a training in {str(tmp_path / '0')!r}"
    assert first["refused by the first"].startswith(f"ValueError: {refused}")
    assert second["refused by the first"].startswith(f"ValueError: process 0 of 2 raised ValueError: {refused}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0"]  # files come from the first alone
    assert "epoch 2/2" in shown
    assert "epoch" not in hidden
    assert "could not be written" not in hidden


def long_training(folder, k, killed=None):
    """Train until process 1 is killed, or to the end; what the others raise is printed."""
    training.CALL_SECONDS = 1e-3
    network = LSTMNetwork(5, 4, 5, inputs="tokens", dropout=0.2, progress=False)
    calls = []

    def callback():
        calls.append(None)
        if killed is not None and k == 1 and len(calls) == 5:
            os.kill(os.getpid(), killed)

    options = {"periodic_callback": callback, "callback_every": 0.2}
    try:
        network.train(Streams(IDS, 5, 5), epochs=4, checkpoint=folder, checkpoint_every=0, **options)
    except ProcessLost as error:
        print(json.dumps(str(error)), flush=True)
        os._exit(3)  # rather than wait until JAX ends the process
    print(json.dumps([network.history, network.predict(IDS[:20]).tolist()]))


def killed_training(folder, k):
    long_training(folder, k, signal.SIGKILL)


def test_a_process_that_is_killed_ends_the_others_and_loses_nothing(tmp_path):
    [(expected, _), _] = together("long_training", 2, tmp_path / "unbroken")
    broken = tmp_path / "broken"
    [(said, _), _] = together("killed_training", 2, broken, ends=(3, -signal.SIGKILL))
    assert said.startswith("process 0 of 2 heard no more of process 1, which ended or can't be reached")
    assert {path.name for path in broken.iterdir()} == {"lock", "training-0.npz", "training-1.npz"}
    for found, _ in together("long_training", 2, broken):
        assert found == expected


def failing(folder, k):
    """Train in process 0 while an error ends process 1, which it has met before."""
    jlstm.processes.SILENT_SECONDS = 1
    of_first(1)
    network = LSTMNetwork(2, 4, 3, progress=False)
    if k == 1:
        raise ZeroDivisionError("no more")
    network.train(X, Y, epochs=1)


@pytest.mark.slow
def test_an_error_that_ends_one_ends_all(tmp_path):
    (_, complaints), (_, own) = together("failing", 2, tmp_path, ends=(1, 1))
    assert "ProcessLost: process 0 of 2 heard no more of process 1, which ended" in complaints.splitlines()[-1]
    assert own.rstrip().endswith("ZeroDivisionError: no more")


@pytest.mark.slow
def test_as_many_processes_as_there_are_go_on(tmp_path):
    [(expected, _), _] = together("long_training", 2, tmp_path / "unbroken")
    together("killed_training", 2, tmp_path / "broken", ends=(3, -signal.SIGKILL))
    for processes in (1, 3, 4):
        folder = shutil.copytree(tmp_path / "broken", tmp_path / f"{processes}")
        for (history, scores), _ in together("long_training", processes, folder):
            np.testing.assert_allclose(history[0], expected[0][0], atol=1e-5)
            np.testing.assert_allclose(scores, expected[1], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("here", 2, 0), "coordinator_address: expected host and port, such as '192.168.0.1:1234', got 'here'"),
        (("here:1", 0, 0), "num_processes: expected at least 1, got 0"),
        (("here:1", 2, 2), "process_id: expected one below num_processes = 2, got 2"),
        (("here:1", 2, -1), "process_id: expected at least 0, got -1"),
    ],
)
def test_what_use_distributed_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        use_distributed(*arguments)


@pytest.mark.parametrize(
    ("own", "coordinator", "warns"),
    [
        ("127.0.1.1", "192.168.0.1:1234", True),
        ("127.0.1.1", "127.0.0.1:1234", False),
        ("127.0.1.1", "localhost:1234", False),
        ("192.168.0.2", "192.168.0.1:1234", False),
    ],
)
def test_a_machine_that_others_do_not_reach_says_so(monkeypatch, own, coordinator, warns):
    monkeypatch.setattr(socket, "gethostbyname", lambda name: own)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    expected = pytest.warns(RuntimeWarning, match=r", is 127.0.1.1: ") if warns else warnings.catch_warnings()
    with expected:
        warnings.simplefilter("always" if warns else "error")
        use_distributed(coordinator, 2, 0)


def test_one_process_has_nobody_to_ask():
    tree = {"array": np.arange(3), "key": jax.random.key(0), "number": 1.5}
    assert of_first(tree) is tree
    assert whole(tree) is tree
    assert text_of_first("words") == "words"
    assert in_accord(lambda: 3) == 3
    check_same({"epochs": 1}, {"X": X})
    with pytest.raises(StopIteration):
        in_accord(lambda: next(iter(())))
