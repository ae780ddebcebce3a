"""One network used from several places: by many threads, while it trains, in other processes, and for hours."""

import copy
import functools
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from jlstm import CharLM, LSTMNetwork, SeriesWindows, forward, init_params, loss_fn, network, turns, use_cpu_cores

HERE = Path(__file__).parent
FUNCTIONS = "init_params", "forward", "loss_fn"
THREADS, FORKS = 8, hasattr(os, "fork")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 6, 1)).astype(np.float32), RNG.integers(0, 3, (8, 6))
TEXT = "to be or not to be, that is the question. " * 5
SOAK = float(os.environ.get("JLSTM_SOAK_SECONDS", 3600))


def run(program, *arguments, seconds=300):
    """Run a program that knows all names of this file in a fresh process; return what it printed last, as JSON."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "JAX_PLATFORMS": "cpu"}
    program = f"from test_concurrency import *\n{program}"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def classes(**options):
    return LSTMNetwork(1, 4, 3, apply_softmax=True, progress=False, batch_size=4, **options)


def values(**options):
    return LSTMNetwork(1, 4, 1, loss="gaussian", progress=False, **options)


def language_model():
    return CharLM.train(TEXT, hidden_size=8, layers=1, dropout=0, epochs=1, streams=2, window=20, progress=False)


def uses(network, model, folder):
    """Return all ways to use a trained network and a language model, by their names."""
    config, params, predicted = network.config, network.params, network.predict(X)
    told = values()
    for name, saved in {"network": network, "model": model}.items():
        saved.save(f"{folder}/{name}.npz")
    return {
        "predict": lambda: network.predict(X),
        "predict a list": lambda: network.predict([x[:n] for n, x in enumerate(X, start=1)]),
        "evaluate": lambda: network.evaluate(X, Y),
        "loss_function": lambda: network.loss_function(predicted, Y),
        "forecast": lambda: told.forecast(X[0], 3, samples=2),
        "params": lambda: network.params,
        "set params": lambda: setattr(copy.copy(network), "params", params),
        "save": lambda: network.save(f"{folder}/{threading.get_native_id()}.npz"),
        "load": lambda: LSTMNetwork.load(f"{folder}/network.npz").params,
        "make and train": lambda: tuple(classes().train(X, Y, epochs=2, validation=(X, Y))),
        "generate": lambda: model.generate(["to be", "or"], 40, samples=2),
        "stream": lambda: "".join(model.stream("to be", 40, top_k=3)),
        "evaluate a text": lambda: model.evaluate(TEXT),
        "evaluate windows": lambda: model.evaluate(TEXT, window=20),
        "save a model": lambda: model.save(f"{folder}/{threading.get_native_id()}.npz"),
        "load a model": lambda: CharLM.load(f"{folder}/model.npz").params,
        "train a model": lambda: language_model().params,
        "init_params": lambda: init_params(jax.random.key(0), config),
        "forward": lambda: forward(params, X, config),
        "loss_fn": lambda: loss_fn(params, X, Y, config),
    }


def equal(found, expected):
    return jax.tree.all(jax.tree.map(lambda *pair: np.array_equal(*pair), found, expected))


def by_threads(folder):
    """Print what eight threads get of each use at once, the first time, when it is compiled, and in any order."""
    network, model = classes(), language_model()
    with ThreadPoolExecutor(THREADS) as pool:
        ways = uses(network, model, folder)
        if jax.local_device_count() > 1:  # the functions, which a caller compiles, take no turns
            ways = {name: way for name, way in ways.items() if name not in FUNCTIONS}
        at_once = {name: list(pool.map(lambda way: way(), [way] * THREADS)) for name, way in ways.items()}
        order = np.random.default_rng(1).permutation([*ways] * 5).tolist()
        for name, found in zip(order, pool.map(lambda name: ways[name](), order), strict=True):
            at_once[name].append(found)
    print(json.dumps({name: all(equal(one, ways[name]()) for one in found) for name, found in at_once.items()}))


@pytest.mark.parametrize("devices", [1, 2])
def test_eight_threads_at_once_get_what_one_gets(devices, tmp_path):
    # In a process of its own, which ends also where the threads wait for each other.
    right = run(f"use_cpu_cores({devices}, least_rows=1); by_threads(sys.argv[1])", tmp_path)
    assert len(right) == 20 - len(FUNCTIONS) * (devices > 1)
    assert all(right.values()), right


def on_all_devices_beside_one():
    """Evaluate over two devices while other threads go on and on with a wide network on the first."""
    use_cpu_cores(2, least_rows=1)
    wide, network, done = LSTMNetwork(65, 512, 65, progress=False), classes(), threading.Event()

    def go_on():
        while not done.is_set():
            wide.predict(np.ones((100, 65)))

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(go_on) for _ in range(3)]
        found = {network.evaluate(X, Y) for _ in range(30)}
        done.set()
        for future in futures:
            future.result()
    print(len(found))


def test_a_program_on_all_devices_ends_beside_others_on_one():
    assert run("on_all_devices_beside_one()", seconds=150) == 1


def test_threads_get_their_turn_in_the_order_they_came():
    had = []

    def come(name):
        with turns.in_turn():
            had.append(name)

    with ThreadPoolExecutor(4) as pool:
        with turns.in_turn():
            for others in range(1, 5):
                coming = pool.submit(come, others)
                while len(turns._line) <= others and not coming.done():
                    time.sleep(0.001)
            assert had == []
        come("again")  # whoever has had it comes after those that wait
    assert had == [1, 2, 3, 4, "again"]
    with pytest.raises(KeyboardInterrupt), turns.in_turn():
        raise KeyboardInterrupt
    come("after Ctrl-C")


def test_predictions_during_a_training_are_each_of_one_moment():
    trained = LSTMNetwork(1, 4, 1, loss="mse", batch_size=8, standardize=True, progress=False)
    moments, found, done = [trained._trained], [[], []], threading.Event()
    begun = threading.Barrier(1 + len(found))

    def predict(own):
        own.append(trained.predict(X))
        begun.wait()
        last = False
        while not last:
            last = done.is_set()  # one more after the end
            own.append(trained.predict(X))

    with ThreadPoolExecutor(len(found)) as pool:
        futures = [pool.submit(predict, own) for own in found]
        try:
            begun.wait(60)
            trained.train(X, 5 + 3 * X, epochs=200, callback_every=1, periodic_callback=lambda: keep(moments, trained))
        finally:
            done.set()
        for future in futures:
            future.result()
    one, possible = copy.copy(trained), set()
    for one._trained in moments:
        possible.add(one.predict(X).tobytes())
    assert len(moments) == 201
    assert all({own[0].tobytes(), own[-1].tobytes()} < possible for own in found), "the first and the last are not one"
    assert all(prediction.tobytes() in possible for own in found for prediction in own)


def keep(moments, network):
    moments.append(network._trained)


@functools.cache
def two_moments():
    first, second = (values(standardize=True, seed=seed) for seed in (0, 1))
    first.train(X, X + 1, epochs=1)
    second.train(10 * X + 3, 10 * X, epochs=1)
    return first, second


SERIES = SeriesWindows(np.linspace(-1, 1, 9), length=5)


@pytest.mark.parametrize(
    "use",
    {
        "predict": lambda network, path: network.predict(X, return_std=True),
        "predict a list": lambda network, path: network.predict([x[:n] for n, x in enumerate(X, start=1)]),
        "predict a series": lambda network, path: network.predict(SERIES),
        "forecast": lambda network, path: network.forecast(X, 3),
        "evaluate": lambda network, path: network.evaluate(X, X),
        "loss_function": lambda network, path: network.loss_function((X[..., None], 1 + X[..., None] ** 2), X),
        "save": lambda network, path: (network.save(path), path.read_bytes())[1],
    }.items(),
    ids=lambda use: use[0],
)
def test_each_call_looks_once_at_what_was_learned(use, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "BUILT", 1)  # a window of a series at a time
    looks = itertools.cycle([each._trained for each in two_moments()])

    class Trained(LSTMNetwork):
        """Trained by another thread between any two looks."""

        _trained = property(lambda self: next(looks))

    changing = copy.copy(two_moments()[0])
    changing.__class__ = Trained
    first, second = (use[1](each, tmp_path / "network.npz") for each in two_moments())
    found = use[1](changing, tmp_path / "network.npz")
    assert not equal(first, second)
    assert equal(found, first) or equal(found, second)


def in_fork(use, seconds=30):
    """Return what a forked process says of a call: "right", or its error; or that it hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            use()
            said = "right"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
        time.sleep(0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    said = os.read(reading, 2**16).decode() if ended else "hangs"
    os.close(reading)
    return said


def forked_after(folder):
    """Print what each use says in a process that was forked after JAX had started."""
    ways = uses(classes(), language_model(), folder)
    for way in ways.values():
        way()  # compiled here, so that nothing but the fork is in the way
    said = {name: in_fork(way) for name, way in ways.items()}
    said["of a fork"] = in_fork(lambda: check(in_fork(ways["predict"])))
    said["after a fork"] = in_fork(lambda: (in_fork(time.time), ways["predict"]()))
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        said["pool"] = str(pool.submit(language_model).exception(60))
    said["here"] = "right" if np.isfinite(ways["predict"]()).all() else "wrong"
    print(json.dumps(said))


def check(said):
    if said != "right":
        raise RuntimeError(said)


@pytest.mark.skipif(not FORKS, reason="no forks here")
def test_a_process_forked_after_jax_has_started_says_what_to_do(tmp_path):
    said = run("forked_after(sys.argv[1])", tmp_path)
    right = {name for name, what in said.items() if what == "right"}
    assert right == {"loss_function", "params", "save", "save a model", "here"}
    for name in said.keys() - right:
        assert "forked before JAX started" in said[name], name
        assert "multiprocessing.get_context('spawn')" in said[name], name


def predict_anew():
    return classes().predict(X)


def forked_before():
    """Print what processes say that were forked before JAX had started, and those that were forked of them or after."""
    said = [in_fork(predict_anew), in_fork(lambda: check(in_fork(predict_anew)))]
    said.append(in_fork(lambda: (predict_anew(), check(in_fork(predict_anew)))))
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        there = pool.submit(predict_anew).result(60)
    print(json.dumps([*said, equal(there, predict_anew()), in_fork(predict_anew)]))


@pytest.mark.skipif(not FORKS, reason="no forks here")
def test_a_process_forked_before_jax_has_started_is_as_good_as_any():
    first, of_fork, of_started, same, after = run("forked_before()")
    assert (first, of_fork, same) == ("right", "right", True)
    assert "forked before JAX started" in of_started
    assert "forked before JAX started" in after


def elsewhere(network, model):
    return network.predict(X), model.generate("to be", 40)


def started_by(method):
    """Print whether a process that is started so, after JAX has started here, computes the same bits."""
    handed = classes(), language_model()
    expected = elsewhere(*handed)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        print(json.dumps(equal(pool.submit(elsewhere, *handed).result(120), expected)))


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_process_of_its_own_computes_the_same_with_what_it_was_handed(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    assert run(f"started_by({method!r})") is True


def resident():
    """Return how many bytes of memory this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(seconds, folder):
    """Train, predict, save and load, over and over, and print the most memory of each minute, in bytes."""
    most, rounds, began = [], 0, time.monotonic()
    classes().save(f"{folder}/network.npz")
    language_model().save(f"{folder}/model.npz")
    with ThreadPoolExecutor(2) as pool:
        while (passed := time.monotonic() - began) < seconds:
            network = LSTMNetwork.load(f"{folder}/network.npz", batch_size=4, progress=False)
            aside = [pool.submit(network.predict, X) for _ in range(4)]
            network.train(X, Y, epochs=3, validation=(X, Y), keep_best=True)
            assert all(np.isfinite(each.result()).all() for each in aside)
            network.evaluate(X, Y)
            network.save(f"{folder}/network.npz")
            language_model().save(f"{folder}/model.npz")
            model = CharLM.load(f"{folder}/model.npz")
            model.generate("to be", 40)
            model.evaluate(TEXT)
            rounds += 1
            most += [0] * (1 + int(passed // 60) - len(most))
            most[-1] = max(most[-1], resident())
    print(json.dumps({"rounds": rounds, "most": most}))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_memory_does_not_grow(tmp_path):
    found = run(f"soak({SOAK}, sys.argv[1])", tmp_path, seconds=SOAK + 600)
    assert found["rounds"] > 10
    first, *others = found["most"]
    assert max(others, default=first) <= 1.01 * first, found
