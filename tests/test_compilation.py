"""What each entry compiles: every function once, and never again for data near by, on one device and on two."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jlstm import (
    Batch,
    CharLM,
    LSTMConfig,
    LSTMNetwork,
    Streams,
    Windows,
    evaluate_text,
    generate,
    init_params,
    trainer,
)
from jlstm.model import draw_params
from jlstm.scaling import Scaling, Scalings

HERE = Path(__file__).parent
OWN = ["fresh_state", "_train_steps", "_add_evaluations", "_scores", "_read", "_noise", "_write", "_go_on", "step"]
SENTENCE = "to be or not to be, that is the question: "


class Compilations:
    """Counts what is compiled while something runs, or would be if no cache on disk had it."""

    def __init__(self):
        self._names = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event, seconds, fun_name=None, **about):
        if event.endswith("/backend_compile_duration"):
            self._names.append(fun_name.removeprefix("jit(").removesuffix(")"))

    def of(self, call):
        """Return how often each of jlstm's functions was compiled, and how many others of JAX's own were."""
        self._names.clear()
        call()
        return dict(Counter(name if name in OWN else "others" for name in self._names))


def sequences(rows, steps, kind="each"):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(rows, steps)), rng.integers(3, size=(rows, steps))
    return X, {"each": Y, "values, last": X[:, -1]}[kind]


def ragged(rows, steps):
    lengths = np.random.default_rng(1).integers(1, steps + 1, size=rows)
    lengths[0] = steps
    X, Y = sequences(rows, steps)
    return [[row[:n] for row, n in zip(array, lengths, strict=True)] for array in (X, Y)]


NETWORKS = {
    "each": ({}, "each"),
    "values, last": ({"loss": "mse", "output_size": 1, "target": "last"}, "values, last"),
    "made in place": ({"hidden_size": 5}, "each"),
}


def of_networks(compilations):
    found = {}
    for name, (options, kind) in NETWORKS.items():

        def train(rows, steps, seed, epochs=1, name=name, options=options, kind=kind):
            made = {"input_size": 1, "hidden_size": 4, "output_size": 3, "seed": seed, "progress": False} | options
            if name == "made in place":
                made |= {"optimizer": lambda rate: optax.sgd(rate, momentum=0.5), "schedule": lambda part: 1 - part}
            data = sequences(rows, steps, kind)
            network = LSTMNetwork(**made)
            network.train(*data, epochs=epochs, validation=data)
            network.params = network.params
            network.train(*data, epochs=1, learning_rate=0.1, decay_rate=0.5)

        found[name] = compilations.of(lambda train=train: train(50, 20, seed=0))
        found[f"{name}, near by"] = compilations.of(lambda train=train: train(53, 22, seed=1, epochs=2))
    network = LSTMNetwork(1, 6, 3, progress=False)
    found["ragged"] = compilations.of(lambda: network.train(*ragged(50, 20), epochs=1))
    found["ragged, near by"] = compilations.of(lambda: network.train(*ragged(47, 18), epochs=1))
    found["equal after ragged"] = compilations.of(lambda: network.train(*sequences(48, 31), epochs=1))
    network = LSTMNetwork(1, 7, 3, progress=False)
    X, _ = sequences(9, 20)
    for time in ("", ", trained"):
        found[f"predict one{time}"] = compilations.of(lambda: network.predict(X[0]))
        found[f"predict a batch{time}"] = compilations.of(lambda: network.predict(X[..., None]))
        found[f"predict a list{time}"] = compilations.of(lambda: network.predict(list(X)))
        network.train(*sequences(9, 20), epochs=1)
    for name, options in {"forecast": {}, "samples": {"samples": 3}}.items():
        for time, steps in {"": 5, ", trained": 2000}.items():
            network = LSTMNetwork(1, 8, 1, loss="gaussian", standardize=True, progress=False)
            if time:
                network._trained = network._trained._replace(scalings=Scalings(*[Scaling(np.ones(1), np.ones(1))] * 2))
            found[f"{name}{time}"] = compilations.of(
                lambda network=network, steps=steps, options=options: network.forecast(X[0, :steps], steps, **options)
            )
    return found


def of_texts(compilations):
    found = {}
    ids = np.tile(np.arange(3), 400)
    for name, kind in (("windows", Windows), ("streams", lambda ids, length: Streams(ids, 4, length))):
        network = LSTMNetwork(3, 4, 3, inputs="tokens", progress=False, batch_size=16)
        found[name] = compilations.of(lambda kind=kind, network=network: network.train(kind(ids[:900], 20), epochs=1))
        longer = compilations.of(lambda kind=kind, network=network: network.train(kind(ids, 20), epochs=2))
        found[f"{name}, longer"] = longer
    small = {"hidden_size": 4, "streams": 4, "window": 16, "progress": False, "dropout": 0.5}

    def train(times, **options):
        return CharLM.train(SENTENCE * times, validation=SENTENCE, **small, **options)

    found["CharLM"] = compilations.of(lambda: train(20, epochs=1))
    found["CharLM, longer"] = compilations.of(lambda: train(23, epochs=3, seed=1, learning_rate=0.01))
    model = train(20, epochs=1)
    for time in ("", ", again"):
        found[f"write{time}"] = compilations.of(
            lambda time=time: model.generate("to be" * len(time + "!"), 9 + len(time))
        )
        found[f"write an end{time}"] = compilations.of(lambda: model.generate("to be", 20, stop=" ", seed=3))
    return found


def of_functions(compilations):
    config = LSTMConfig(3, 5, 3, inputs="tokens")
    init, step = trainer(config, optax.adam(0.01))
    step, params = jax.jit(step), draw_params(0, config)
    ids = np.tile(np.arange(3), 1000)

    def train():
        state = init(init_params(jax.random.key(0), config), jax.random.key(1))
        for _ in range(3):
            state, _ = step(state, Batch(jnp.zeros((2, 5), int), jnp.zeros((2, 5), int)))

    entries = {
        "trainer": train,
        "evaluate_text": lambda: evaluate_text(params, ids, config),
        "generate": lambda: generate(params, [[0, 1]], 5, config, key=jax.random.key(0)),
    }
    return {f"{name}{time}": compilations.of(call) for time in ("", ", again") for name, call in entries.items()}


def program(devices):
    jax.config.update("jax_num_cpu_devices", devices)
    compilations = Compilations()
    print(json.dumps(of_networks(compilations) | of_texts(compilations) | of_functions(compilations)))


TRAINED = {"fresh_state": 1, "_train_steps": 1}
WRITTEN = {"_read": 1, "_noise": 1, "_write": 1}
EXPECTED = {
    **{name: TRAINED | {"_add_evaluations": 1} for name in NETWORKS},
    "ragged": {"_train_steps": 1},
    "predict one": {"_scores": 1},
    "predict a batch": {"_scores": 1},
    "predict a list": {"_scores": 1},
    "forecast": {"_read": 1, "_go_on": 1},
    "samples": {"_go_on": 1, "_noise": 1},  # of three rows; the sequence has been read before
    "windows": {"_train_steps": 1},
    "streams": {"_train_steps": 1},
    "CharLM": TRAINED | {"_read": 1},
    "write": WRITTEN,
    "trainer": {"step": 1},
    "evaluate_text": {"_read": 2},  # whole windows, and the rest
    "generate": WRITTEN,
}


@pytest.fixture(scope="module", params=[1, 2], ids=["one device", "two devices"])
def found(request):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", f"import test_compilation as test; test.program({request.param})"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_function_is_compiled_once_and_never_again(found):
    assert EXPECTED.keys() <= found.keys()
    for name in EXPECTED:
        found[name].pop("others", None)
    assert found == {name: EXPECTED.get(name, {}) for name in found}


def test_code_that_has_changed_is_compiled_anew(tmp_path):
    """With a cache on disk, as these tests have it: JAX finds there the same program only."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    results, entries = [], []
    for factor in (2, 2, 3):
        text = f"import jax; print(jax.jit(lambda x: {factor} * x + 1)(10.0))"
        done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=60)
        results.append(done.stdout.strip())
        entries.append(len([name for name in os.listdir(tmp_path) if "lambda" in name and name.endswith("-cache")]))
    assert results == ["21.0", "21.0", "31.0"]
    assert entries == [1, 1, 2]
