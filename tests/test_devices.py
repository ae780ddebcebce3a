"""One device a core: the same network on several devices as on one, in processes of their own."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jlstm import LSTMNetwork, Streams, devices, generate
from jlstm.devices import use_cpu_cores
from jlstm.gradcheck import random_problem

HERE = Path(__file__).parent
BOUND = 1e-5  # of parameters and outputs up to about 2, after 20 steps of Adam


def run(program, *arguments):
    """Run a program in a fresh process and return what it printed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def learn():
    """Train on seven sequences of different lengths, three or four a batch, and predict on 1, 2 and 37; and on streams.

    Both leave something out. There are three streams, which an even number of devices share with rows of nothing.
    Predict, forecast and write.
    """
    rng = np.random.default_rng(0)
    lengths = [6, 3, 1, 6, 2, 5, 6]
    X, Y = [rng.normal(size=n) for n in lengths], [rng.integers(3, size=n) for n in lengths]
    network = LSTMNetwork(1, 4, 3, batch_size=4, dropout=0.3, progress=False)
    losses = network.train(X, Y, epochs=10, learning_rate=0.02, validation=(X[:5], Y[:5]))
    found = {f"params {k}": leaf for k, leaf in enumerate(jax.tree.leaves(network.params))} | losses._asdict()
    for rows in (1, 2, 37):
        scores = network.predict([rng.normal(size=1 + k % 6) for k in range(rows)])
        found[f"predict {rows}"] = np.concatenate(scores)
    network = LSTMNetwork(1, 4, 1, loss="laplace", progress=False)
    for name, options in {"forecast": {}, "samples": {"samples": 3}}.items():
        for rows in (7, 1):
            found[f"{name} of {rows}"] = network.forecast([x / 2 for x in X[:rows]], 40, **options)
    network = LSTMNetwork(3, 4, 3, inputs="tokens", layers=2, zoneout=0.2, progress=False)
    losses = network.train(Streams(rng.integers(3, size=50), streams=3, length=4), epochs=5, learning_rate=0.02)
    found["losses of streams"] = losses.loss
    found |= {f"params by streams {k}": leaf for k, leaf in enumerate(jax.tree.leaves(network.params))}
    found["predict a batch"] = LSTMNetwork(1, 4, 3, progress=False).predict(rng.normal(size=(7, 5, 1)))
    problem = random_problem(network.config, 6, 4)
    for rows in (6, 5):  # to five, a row of nothing is added
        prompts = problem["xs"][:rows]
        found[f"written {rows}"] = generate(problem["params"], prompts, 30, network.config, key=jax.random.key(0))
    return {name: np.asarray(array) for name, array in found.items()}


def learn_on_devices(path):
    """The program of the process with several devices: learn twice, and save both."""
    first, second = learn(), learn()
    np.savez(path, devices=jax.device_count(), **first, **{f"again {name}": array for name, array in second.items()})


@functools.cache
def learned_on_one_device():
    with jax.default_device(jax.devices("cpu")[0]):
        return learn()


@pytest.fixture(scope="module", params=[2, 8], ids=lambda devices: f"{devices} devices")
def learned(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("devices") / "learned.npz"
    run(
        "import sys; from jlstm.devices import use_cpu_cores; use_cpu_cores(int(sys.argv[1]), least_rows=1);"
        "import test_devices; test_devices.learn_on_devices(sys.argv[2])",
        request.param,
        path,
    )
    arrays = dict(np.load(path))
    assert arrays.pop("devices") == request.param
    return arrays


def test_training_and_prediction_agree_with_one_device(learned):
    for name, expected in learned_on_one_device().items():
        np.testing.assert_allclose(learned[name], expected, rtol=0, atol=BOUND, err_msg=name)


def test_same_seed_on_the_same_devices_gives_the_same_bits(learned):
    for name in learned_on_one_device():
        np.testing.assert_array_equal(learned[name], learned[f"again {name}"], err_msg=name)


def test_one_update_however_jax_spreads_the_work():
    """With lengths, weights, tokens, a carried state, all that is left out and segments; on one device nothing counts.

    In float64 with no difference but rounding after some steps, also where sequences of nothing fill the batch up.
    """
    found = json.loads(run("import spreading; spreading.jlstm.use_cpu_cores(4, least_rows=1); spreading.main()"))
    assert len(found) == 3 * 5 + 3 + 6 * 2 + 2 + 1 + 1
    bounds = {way: 1e-12 if way.startswith("float64") else 1e-5 for way in found}
    assert {way: distance for way, distance in found.items() if not distance <= bounds[way]} == {}


def test_batch_is_split_over_the_devices():
    printed = run(
        "from jlstm.devices import use_cpu_cores; use_cpu_cores(2, least_rows=1);"
        "import jax, numpy as np; from jlstm.devices import *; from jax.sharding import PartitionSpec as P;"
        "mesh = mesh_for(5, 1); parts = split_batch(lambda x: x.sum(keepdims=True), mesh, P(AXIS), P(AXIS));"
        "print(mesh_for(1, 1), mesh.size, jax.jit(parts)(np.arange(6.0)).tolist())"
    )
    assert printed.split(maxsplit=2) == ["None", "2", "[3.0, 12.0]\n"]


def test_what_lies_on_every_device_is_not_copied_again():
    printed = run(
        "from jlstm.devices import *; use_cpu_cores(2);"
        "import jax, numpy as np; device = jax.local_devices()[0]; x = everywhere(np.arange(6.0));"
        "where = x.addressable_data(0).unsafe_buffer_pointer(); y = replicate(x, None);"
        "print(y.unsafe_buffer_pointer() == where, y.device == device, y.committed, everywhere(x) is x);"
        "second = jax.device_put(np.arange(6.0), jax.local_devices()[1]); y = replicate(second, None);"
        "print(y.device == device, np.array_equal(y, second))"
    )
    assert printed.split() == ["True"] * 6


def test_how_many_devices_share_a_batch(monkeypatch):
    """Of 16 devices, by the rows, the weights and the cache."""
    monkeypatch.setattr(jax, "local_devices", lambda: list(range(16)))
    monkeypatch.setattr(devices, "_mesh", len)
    monkeypatch.setattr(devices, "_core_cache", lambda: 2**21)
    small, fitting, beyond = 99_000, 500_000, 600_000  # numbers of four bytes
    assert [devices.mesh_for(rows, small) for rows in (1, 7, 8, 64, 1024)] == [1, 1, 2, 16, 16]
    assert [devices.mesh_for(rows, fitting) for rows in (1, 2, 16, 64)] == [1, 2, 16, 16]
    assert [devices.mesh_for(rows, beyond) for rows in (1, 15, 16, 64, 256)] == [1, 1, 2, 8, 16]
    monkeypatch.setattr(devices, "_least_rows", 3)
    assert [devices.mesh_for(rows, beyond) for rows in (1, 5, 6, 64)] == [1, 1, 2, 16]


def test_the_cache_of_a_core_is_guessed_where_nobody_tells(monkeypatch):
    def nothing(*_):
        raise FileNotFoundError

    assert devices._core_cache.__wrapped__() >= 2**17
    monkeypatch.setattr("builtins.open", nothing)
    assert devices._core_cache.__wrapped__() == devices.GUESSED_CACHE


def test_there_is_a_device_for_every_core_that_the_process_may_use(monkeypatch):
    given = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: given.append((name, value)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7} if process == 0 else set())
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    use_cpu_cores()
    use_cpu_cores(1)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on a Mac
    use_cpu_cores()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    use_cpu_cores()
    assert given == [("jax_num_cpu_devices", cores) for cores in (3, 1, 64, 1)]


@pytest.mark.parametrize(("cores", "error"), [(0, ValueError), (-1, ValueError), ("2", TypeError), (1.5, TypeError)])
def test_a_number_of_cores_that_can_not_be(cores, error):
    with pytest.raises(error, match=r"^cores: expected"):
        use_cpu_cores(cores)
    with pytest.raises(error, match=r"^least_rows: expected"):
        use_cpu_cores(1, least_rows=cores)


def test_cores_can_be_given_before_the_devices_start_only():
    jax.devices()
    with pytest.raises(RuntimeError, match="use_cpu_cores: JAX has started its devices already; call it before"):
        use_cpu_cores(2)


def test_import_starts_no_device_and_changes_no_setting():
    printed = run(
        "import os, jax; before = dict(jax.config.values); import jlstm, jlstm.devices;"
        "print(dict(jax.config.values) == before, jax.config.jax_enable_x64);"
        "jlstm.devices.use_cpu_cores();"
        "print(jax.device_count() == len(os.sched_getaffinity(0)))"
    )
    assert printed.split() == ["True", "False", "True"]
