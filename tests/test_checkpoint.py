"""To disk and back: the same bits, in one step; and whatever else a file holds is refused."""

import copy
import hashlib
import io
import json
import math
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_snapshot import changed

from jlstm import saved as format_of
from jlstm.cells import CELLS, LSTM, Cell, RNNState, times
from jlstm.checkpoint import Saved, Training, load, save
from jlstm.config import LSTMConfig
from jlstm.gradcheck import random_problem
from jlstm.model import init_params
from jlstm.saved import EVERY
from jlstm.scaling import Scaling, Scalings

CONFIG = LSTMConfig(2, 3, 4, layers=2, dropout=0.1, input_scale=1.7)
ARRAYS = [f"layers[{k}].{name}" for k in (0, 1) for name in ("weight_ih", "weight_hh", "bias")]
ARRAYS += ["readout.weight", "readout.bias"]


def network(dtype=jnp.float32, vocabulary: str | None = "abcd", config=CONFIG, seed=0):
    """A network whose parameters hold a negative zero and a number below the normal ones."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    arrays = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), shapes)
    arrays.layers[0].bias[:2] = -0.0, jnp.finfo(dtype).smallest_subnormal
    return Saved(jax.tree.map(jnp.array, arrays), config, vocabulary, config.loss != "mse")


def in_training(saved):
    """A network with what it takes to train on: every kind of dtype, a key as JAX names it, losses that are none."""
    history = {"loss": (1.5, 0.1, 1e-300), "validation": (math.nan, math.inf, 2.0), "accuracy": ()}
    state = {
        ".opt_state[0].mu['a/b'].bias": np.array([[0.5, -0.0, np.nan]], "f4"),
        ".opt_state[0].half": np.array([1, 2], "bfloat16"),
        ".opt_state[0].on": np.array([True, False]),
        ".opt_state[0].none": np.zeros((0, 3), "i2"),
        ".opt_state[1].small": np.array(-3, "i1"),
        ".opt_state[1].large": np.array([2**64 - 1], "u8"),
        ".opt_state[1].exact": np.array([1e-300]),
        ".key": np.array([1, 2**32 - 1], "u4"),
        ".step": np.array(7, "i4"),
    }
    return saved._replace(training=Training(3, history, state))


def bits(saved):
    leaves = map(np.asarray, jax.tree.leaves((saved.params, saved.training)))
    return [(leaf.dtype.name, leaf.shape, leaf.tobytes()) for leaf in leaves]


def assert_same(got, expected):
    assert bits(got) == bits(expected)
    assert jax.tree.structure((got.params, got.training)) == jax.tree.structure((expected.params, expected.training))
    assert got._replace(training=None)[1:] == expected._replace(training=None)[1:]


@pytest.fixture
def path(tmp_path):
    """A file that `save` wrote, alone in its folder."""
    save(tmp_path / "model", network())
    return tmp_path / "model"


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def rewrite(path, change):
    """Write the file anew after `change(members, about)`, with what it did to the members' bytes and to the JSON."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    about = json.loads(members["jlstm.json"])
    members["jlstm.json"] = None
    change(members, about)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, json.dumps(about) if data is None else data)


# There and back


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("vocabulary", [None, "abcd", '\0"\n\\', "é中😀\u2028", "\ud83d\ude00\ufeff\x7f"], ids=ascii)
def test_loads_what_was_saved(tmp_path, dtype, vocabulary):
    save(tmp_path / "model", network(dtype, vocabulary))
    assert_same(load(tmp_path / "model"), network(dtype, vocabulary))


@pytest.mark.parametrize(
    "config",
    [
        LSTMConfig(1, 1, 2),
        LSTMConfig(5, 1, 2, target="last", segment=7, layers=3),
        LSTMConfig(4, 2, 4, inputs="tokens", dropout=1 / 3),
        LSTMConfig(1, 2, 3, loss="mse"),
    ],
    ids=str,
)
def test_keeps_the_configuration(tmp_path, config):
    save(tmp_path / "model", network(config=config, vocabulary=None))
    assert_same(load(tmp_path / "model"), network(config=config, vocabulary=None))


def test_float64(tmp_path, x64):
    saved = network(jnp.float64)
    save(tmp_path / "model", saved)
    assert_same(load(tmp_path / "model"), saved)
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"32 bits or less, got float64, .* jax_enable_x64$"):
        load(tmp_path / "model")


def test_keeps_each_array_in_its_dtype(tmp_path):
    saved = network()
    saved = saved._replace(params=saved.params._replace(readout=network(jnp.bfloat16).params.readout))
    save(tmp_path / "model", saved)
    assert_same(load(tmp_path / "model"), saved)


@pytest.mark.parametrize(
    "convert",
    [np.asfortranarray, lambda leaf: np.asarray(leaf).astype(">f4"), lambda leaf: np.asarray(leaf)[::-1][::-1]],
    ids=["order", "endian", "strides"],
)
def test_saves_numpys_arrays_however_they_lie_in_memory(tmp_path, convert):
    saved = network()
    save(tmp_path / "model", saved._replace(params=jax.tree.map(convert, saved.params)))
    assert_same(load(tmp_path / "model"), saved)


def test_loads_in_a_fresh_process(tmp_path):
    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    for name, dtype in dtypes.items():
        save(tmp_path / name, network(dtype, "é中😀\0"))
    program = """if True:
        import sys, jax, numpy as np
        from jlstm.checkpoint import load
        for path in sys.argv[1:]:
            saved = load(path)
            print([(l.dtype.name, l.shape, np.asarray(l).tobytes()) for l in jax.tree.leaves(saved.params)])
            print(ascii(saved[1:]))"""
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in dtypes)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = [network(dtype, "é中😀\0") for dtype in dtypes.values()]
    assert output.splitlines() == [line for saved in expected for line in (str(bits(saved)), ascii(saved[1:]))]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_reads_without_jlstm(tmp_path, dtype):
    save(tmp_path / "model", network(dtype, "é中😀\0"))
    with np.load(tmp_path / "model") as file:
        about = json.loads(file["jlstm.json"])
        arrays = {name: file[name] for name in file.files if name != "jlstm.json"}
    assert {name: about[name] for name in ("format", "version", "vocabulary", "apply_softmax")} == {
        "format": "jlstm",
        "version": 5,
        "vocabulary": "é中😀\0",
        "apply_softmax": True,
    }
    assert LSTMConfig(**about["config"]) == CONFIG
    assert about["dtypes"] == dict.fromkeys(ARRAYS, dtype.__name__)
    assert list(arrays) == ARRAYS
    for array, leaf in zip(arrays.values(), jax.tree.leaves(network(dtype).params), strict=True):
        wide = (array.astype(np.uint32) << 16).view(np.float32) if dtype == jnp.bfloat16 else array
        np.testing.assert_array_equal(wide, np.asarray(leaf, np.float32), strict=True)


def test_files_of_version_1_have_the_layers_weights_transposed(path, tmp_path):
    with np.load(path) as file:
        about = json.loads(file["jlstm.json"])
        arrays = {name: file[name] for name in file.files if name != "jlstm.json"}
    with zipfile.ZipFile(tmp_path / "old", "w") as archive:
        archive.writestr("jlstm.json", json.dumps(about | {"version": 1}))
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy(array.T.copy() if name.startswith("layers") else array))
    assert bits(load(tmp_path / "old")) == bits(network())


def test_the_same_network_is_the_same_file_at_any_time(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(time, "time", lambda: 10**9)
    save(path, load(path))
    assert path.read_bytes() == before


# The path


@pytest.mark.parametrize("name", ["model", "model.npz", "model.npz.old", "é 中.ckpt", "m" * 255])
@pytest.mark.parametrize("kind", [str, pathlib.Path, os.fsencode])
def test_keeps_the_name(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    for path in (kind(name), kind(tmp_path / name)):
        save(path, network())
        assert os.listdir(tmp_path) == [name]
        assert_same(load(path), network())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_a_new_file_has_the_permissions_of_an_ordinary_one(tmp_path, umask):
    before = os.umask(umask)
    try:
        save(tmp_path / "model", network())
        (tmp_path / "ordinary").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660], ids=oct)
def test_a_replaced_file_keeps_its_permissions(path, mode):
    path.chmod(mode)
    save(path, network(seed=1))
    assert path.stat().st_mode & 0o777 == mode
    assert_same(load(path), network(seed=1))


def test_writes_through_a_link(path, tmp_path):
    (tmp_path / "latest").symlink_to("model")
    save(tmp_path / "latest", network(seed=1))
    assert (tmp_path / "latest").is_symlink()
    assert_same(load(path), network(seed=1))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", IsADirectoryError, "expected a file, got a folder or a device"),
        ("missing/model", FileNotFoundError, "No such file or directory"),
        ("model/model", NotADirectoryError, "Not a directory"),
        ("model/", NotADirectoryError, "Not a directory"),
        ("m" * 256, OSError, "File name too long"),
        ("pipe", OSError, "expected a file, got a folder or a device"),
    ],
)
@pytest.mark.parametrize("use", [lambda path: save(path, network()), load], ids=["save", "load"])
def test_names_a_path_that_does_not_serve(path, tmp_path, use, name, error, message):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(error, match=f"{message}: '{re.escape(f'{tmp_path}/{name}')}'$"):
        use(f"{tmp_path}/{name}")
    assert sorted(os.listdir(tmp_path)) == ["model", "pipe"]


@pytest.mark.parametrize("use", [lambda path: save(path, network()), load], ids=["save", "load"])
@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (3, TypeError, "expected a str or an os.PathLike, got 3"),
        (None, TypeError, "expected a str or an os.PathLike, got None"),
        ("a\0b", ValueError, "expected no null character, got 'a\\x00b'"),
    ],
)
def test_refuses_what_is_no_path(use, path, error, message):
    with pytest.raises(error, match=f"^path: {re.escape(message)}$"):
        use(path)


def test_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/model'$"):
        load(tmp_path / "model")


def test_names_the_extra_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    path = tmp_path / "model.safetensors"
    message = r"^safetensors is not installed: pip install 'jlstm\[safetensors\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        save(path, network())
    assert not os.listdir(tmp_path)
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModuleNotFoundError, match=message):
        load(path)


sizes = st.integers(1, 4)


@st.composite
def networks(draw):
    loss = draw(st.sampled_from(["cross_entropy", "mse"]))
    config = LSTMConfig(
        draw(sizes),
        draw(sizes),
        draw(sizes.filter(lambda size: size > 1 or loss == "mse")),
        loss,
        draw(st.sampled_from(["each", "last"])),
        draw(st.sampled_from(["features", "tokens"])),
        layers=draw(st.integers(1, 3)),
        dropout=draw(st.floats(0, 1, exclude_max=True)),
        input_scale=draw(st.floats(0, 1e30, exclude_min=True)),
        segment=draw(st.none() | sizes),
    )
    characters = st.characters(exclude_categories=())  # halves of surrogate pairs too
    vocabulary = draw(
        st.none()
        | st.text(characters, min_size=config.output_size, max_size=config.output_size).filter(
            lambda text: len(set(text)) == len(text)
        )
    )
    saved = network(draw(st.sampled_from([jnp.float16, jnp.bfloat16, jnp.float32])), vocabulary, config, draw(sizes))
    return saved._replace(apply_softmax=loss != "mse" and draw(st.booleans()))


def check_that_it_comes_back(saved):
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/model", saved)
        assert_same(load(f"{folder}/model"), saved)


@given(networks())
@settings(max_examples=50)
def test_any_network_comes_back_to_the_same_bits(saved):
    check_that_it_comes_back(saved)


@pytest.mark.slow
@given(networks())
@settings(max_examples=3_000, derandomize=False)
def test_any_network_for_long(saved):
    check_that_it_comes_back(saved)


# In one step


@pytest.mark.parametrize("function", ["chmod", "fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_an_interruption_leaves_the_old_file(path, tmp_path, monkeypatch, function, error):
    before = path.read_bytes()

    def fail(*args):
        assert len(os.listdir(tmp_path)) == 2, "the temporary file is in the same folder"
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)) as caught:
        save(path, network(seed=1))
    if isinstance(error, OSError):
        assert str(caught.value) == f"[Errno 28] No space left on device: '{path}'"
    assert os.listdir(tmp_path) == ["model"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_the_old_file(path, tmp_path, old):
    resource = pytest.importorskip("resource")
    before = path.read_bytes()
    if not old:
        path.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=f": '{path}'$"):
            save(path, network(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["model"] * old
    assert not old or path.read_bytes() == before


def test_what_is_written_is_on_the_disk_before_it_has_the_name(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    size = path.stat().st_size
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append(("fsync", os.fstat(fd).st_size == size)))
    save(path, network())
    assert calls == [("fsync", True), "replace"]


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from test_checkpoint import network
from jlstm.checkpoint import save
path, function = sys.argv[1:]
setattr(os, function, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
save(path, network(seed=1))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_what_a_kill_leaves_is_taken_away_by_the_next_save_of_that_file_and_by_no_other(path, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    before = path.read_bytes()
    for target, function in ((path, "fsync"), (path, "replace"), (tmp_path / "other", "replace")):
        command = [sys.executable, "-c", KILLED, str(target), function]
        assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(os.listdir(tmp_path)) == 4
    (tmp_path / ".something.tmp").write_bytes(b"of somebody else")
    save(path, network(seed=1))
    left = set(os.listdir(tmp_path))
    assert {"model", ".something.tmp"} < left
    assert len(left) == 3
    save(tmp_path / "other", network(seed=1))
    assert set(os.listdir(tmp_path)) == {"model", "other", ".something.tmp"}


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_a_file_that_another_save_is_writing_stays(path, tmp_path, monkeypatch):
    """A second save of the same file, complete while the first is at its end: neither disturbs the other."""
    real, seen = os.replace, []

    def replace(source, target):
        if not seen:
            seen.append(source)
            save(path, network(seed=1))
            assert os.path.exists(source)
            assert path.read_bytes() != before
        real(source, target)

    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", replace)
    save(path, network())
    assert len(seen) == 1
    assert os.listdir(tmp_path) == ["model"]
    assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_a_file_system_without_locks_serves(path, tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    before = path.read_bytes()
    save(path, network(seed=1))
    assert os.listdir(tmp_path) == ["model"]
    assert path.read_bytes() != before


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_an_empty_file_stays_for_a_minute(path, tmp_path, monkeypatch):
    """Its process may be about to write it."""
    monkeypatch.setattr(os, "unlink", lambda name: None)
    monkeypatch.setattr(os, "replace", lambda *names: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(path, network())
    monkeypatch.undo()
    [left] = set(tmp_path.iterdir()) - {path}
    left.write_bytes(b"")
    save(path, network())
    assert left.exists()
    os.utime(left, (time.time() - 61,) * 2)
    save(path, network())
    assert os.listdir(tmp_path) == ["model"]


# What can't be saved


def with_bias(bias):
    params = network().params
    return {"params": params._replace(readout=params.readout._replace(bias=bias))}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vocabulary": "abc"}, ValueError, "vocabulary: expected 4 characters, one for each class, got 3"),
        ({"vocabulary": "abca"}, ValueError, "vocabulary: expected each character once, got 'a' 2 times"),
        ({"vocabulary": list("abcd")}, TypeError, "vocabulary: expected a string or None, got ['a', 'b', 'c', 'd']"),
        ({"apply_softmax": 1}, TypeError, "apply_softmax: expected True or False, got 1"),
        ({"config": LSTMConfig(2, 3, 4, loss="mse")}, ValueError, "apply_softmax: expected False with loss='mse'"),
        ({"config": {}}, TypeError, "saved: expected a Saved with an LSTMConfig, got Saved("),
        ({"config": LSTMConfig(2, 3, 4)}, ValueError, "params.layers: expected 1 LSTMParams, got 2"),
        ({"params": None}, TypeError, "params: expected ModelParams, got None"),
        (
            with_bias(np.zeros(5, "f4")),
            ValueError,
            "params.readout.bias: expected shape (4,), got float32 of",
        ),
        (with_bias(np.zeros(4, int)), TypeError, "params.readout.bias: expected floats of shape (4,), got int64 of"),
        (with_bias(jnp.zeros(4, "float8_e4m3fn")), TypeError, "params.readout.bias: expected one of ('float16', "),
        (with_bias(jnp.array([0, 1, jnp.nan, 0])), ValueError, "params.readout.bias: expected finite numbers, got NaN"),
        (with_bias(jnp.array([0, -jnp.inf, 0, 0], "bfloat16")), ValueError, "params.readout.bias: expected finite num"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_to_save(path, tmp_path, change, error, message):
    before = path.read_bytes()
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        save(path, network()._replace(**change))
    assert os.listdir(tmp_path) == ["model"]
    assert path.read_bytes() == before


# What is refused when loading


def about(**entries):
    return lambda members, about: about.update(entries)


def config(**fields):
    return lambda members, about: about["config"].update(fields)


def dtype(name):
    return lambda members, about: about["dtypes"].update({"readout.bias": name})


def member(data, name="readout.bias.npy"):
    return lambda members, about: members.update({name: data})


def bias(kind):
    """A bias of this dtype, which the file says."""
    array = np.zeros(4, kind)
    return lambda *both: (member(npy(array))(*both), dtype(array.dtype.name)(*both))


def without(name):
    return lambda members, about: members.pop(name)


class Touch:
    """An object that makes a file when it is unpickled."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("pickled"),)


BIAS = npy(np.zeros(4, "f4"))
FORTRAN = npy(np.zeros((3, 4), "f4", order="F"))
FORTRAN_GOT = f"readout.weight: expected {(got := 'shape (3, 4), float32, 48 bytes')}, got {got} in Fortran order"
OBJECT = npy(np.array([Touch()] * 4))
CONFIG_TAKES = "config: expected what LSTMConfig takes, got "
FLOATS = "('float16', 'bfloat16', 'float32', 'float64')"
DTYPES = f"dtypes: expected one of {tuple(EVERY)} for readout.bias, got "
WANTED = "readout.bias: expected shape (4,), float32, 16 bytes, got "
NPY = "readout.bias: expected an array in NumPy's format 1.0, got ValueError: "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (member(b"{}", "jlstm.json"), "jlstm.json: expected an object with the format 'jlstm', got {}"),
        (member(b"[1]", "jlstm.json"), "jlstm.json: expected an object with the format 'jlstm', got [1]"),
        (member(b"{", "jlstm.json"), "jlstm.json: expected JSON, got JSONDecodeError"),
        (member(b"\xff", "jlstm.json"), "jlstm.json: expected JSON, got UnicodeDecodeError"),
        (member(b"[" * 10**6, "jlstm.json"), "jlstm.json: expected JSON, got RecursionError"),
        (member(b"1" * 10**6, "jlstm.json"), "jlstm.json: expected JSON, got ValueError"),
        (member(pickle.dumps(Touch()), "jlstm.json"), "jlstm.json: expected JSON, got "),
        (without("jlstm.json"), "expected a file that jlstm saved, with a member jlstm.json, got KeyError"),
        (about(format="other"), "jlstm.json: expected an object with the format 'jlstm', got {"),
        (about(version=6), "version: expected 1 to 5, got 6, written by a newer jlstm"),
        (about(version=6, config={"new": 1}, more=1), "version: expected 1 to 5, got 6, written by a newer jlstm"),
        (about(version=0), "version: expected 1 to 5, got 0"),
        (about(version=True), "version: expected 1 to 5, got True"),
        (about(version=1.0), "version: expected 1 to 5, got 1.0"),
        (about(version="1"), "version: expected 1 to 5, got '1'"),
        (about(version=None), "version: expected 1 to 5, got None"),
        (about(more=1), "jlstm.json: expected 9 names, got 10, with [] missing and ['more'] unknown"),
        (lambda members, about: about.pop("dtypes"), "jlstm.json: expected 9 names, got 8, with ['dtypes'] missing"),
        (about(config=None), CONFIG_TAKES + "TypeError"),
        (about(config=[1, 2, 3]), CONFIG_TAKES + "TypeError"),
        (config(hidden_size=0), CONFIG_TAKES + "ValueError: hidden_size: expected at least"),
        (config(hidden_size=[3]), CONFIG_TAKES + "TypeError: hidden_size: expected an int"),
        (config(loss="other"), CONFIG_TAKES + "ValueError: loss: expected one of"),
        (config(dropout=float("nan")), CONFIG_TAKES + "ValueError: dropout: expected"),
        (config(loss="x" * 10**6), CONFIG_TAKES + "ValueError: loss: expected one of"),
        (config(more=1), CONFIG_TAKES + "TypeError: LSTMConfig.__init__() got an unexpected"),
        (config(hidden_size=2**31 - 1), "config: expected a network that fits into "),
        (config(input_size=2**31 - 1), "config: expected a network that fits into "),
        (config(output_size=2**31 - 1), "config: expected a network that fits into "),
        (config(layers=2**31 - 1), "config: expected a network that fits into "),
        (config(layers=20), "config: expected a network that fits into "),
        (config(layers=3), "members: expected 12 names, got 9, with ['layers[2].bias.npy', "),
        (config(layers=1), "members: expected 6 names, got 9, with [] missing and ['layers[1].bias.npy', "),
        (config(hidden_size=4), "layers[0].weight_ih: expected shape (16, 2), float32, 128 bytes, got shape "),
        (config(loss="mse"), "apply_softmax: expected False with loss='mse'"),
        (about(apply_softmax=0), "apply_softmax: expected True or False, got 0"),
        (about(vocabulary="abc"), "vocabulary: expected 4 characters, one for each class, got 3"),
        (about(vocabulary="x" * 10**6), "vocabulary: expected 4 characters, one for each class, got 1000000"),
        (about(vocabulary="abca"), "vocabulary: expected each character once, got 'a' 2 times"),
        (about(vocabulary=["abcd"]), "vocabulary: expected a string or None, got ['abcd']"),
        (about(dtypes=ARRAYS), "dtypes: expected 8 names, got 0, with ['layers[0].bias', "),
        (about(dtypes={}), "dtypes: expected 8 names, got 0, with ['layers[0].bias', "),
        (dtype("object"), DTYPES + "'object'"),
        (dtype("float8_e4m3fn"), DTYPES + "'float8_e4m3fn'"),
        (dtype(["float32"]), DTYPES + "['float32']"),
        (bias("f8"), "readout.bias: expected a dtype of 32 bits or less, got float64, which needs jax_enable_x64"),
        (bias("i4"), f"readout.bias: expected one of {FLOATS}, got int32"),
        (bias("?"), f"readout.bias: expected one of {FLOATS}, got bool"),
        (dtype("bfloat16"), "readout.bias: expected shape (4,), uint16, 8 bytes, got shape (4,), float32, "),
        (without("readout.bias.npy"), "members: expected 9 names, got 8, with ['readout.bias.npy'] missing"),
        (member(BIAS, "readout.o.npy"), "members: expected 9 names, got 10, with [] missing and ['readout.o.npy'] unk"),
        (member(BIAS, "../evil.npy"), "members: expected 9 names, got 10, with [] missing and ['../evil.npy'] unknown"),
        (member(BIAS, "/tmp/evil"), "members: expected 9 names, got 10, with [] missing and ['/tmp/evil'] unknown"),
        (member(npy(np.zeros(5, "f4"))), WANTED + "shape (5,)"),
        (member(npy(np.zeros((4, 1), "f4"))), WANTED + "shape (4, 1), float32, 16 bytes"),
        (member(npy(np.zeros(4, "i4"))), WANTED + "shape (4,), int32"),
        (member(npy(np.zeros(4, ">f4"))), WANTED + "shape (4,), >f4"),
        (member(npy(np.zeros(4, "f8"))), WANTED + "shape (4,), float64, 17 bytes"),
        (member(FORTRAN, "readout.weight.npy"), FORTRAN_GOT),
        (member(npy(np.array([0, np.nan, 0, 0], "f4"))), "readout.bias: expected finite numbers, got NaN or infinity"),
        (member(npy(np.array([0, 0, 0, np.inf], "f4"))), "readout.bias: expected finite numbers, got NaN or infinity"),
        (member(OBJECT), WANTED + "shape (4,), object"),
        (member(b""), NPY),
        (member(b"not an array"), NPY),
        (member(BIAS[:-1]), WANTED + "shape (4,), float32, 15 bytes"),
        (member(BIAS + b"\0"), WANTED + "shape (4,), float32, 17 bytes"),
        (member(BIAS[:6] + b"\2" + BIAS[7:]), NPY + "format (2, 0)"),
        (member(BIAS.replace(b"(4,)", b"4   ")), NPY),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_refuses_to_load(path, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}") as caught:
        load(path)
    assert len(str(caught.value)) < len(str(path)) + 600
    assert os.listdir(tmp_path) == ["model"], "nothing is extracted, nothing is unpickled"


# What it takes to train on


NAMES = "model.npz", "model.safetensors"


@pytest.mark.parametrize("name", NAMES)
def test_keeps_what_it_takes_to_train_on(tmp_path, name):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    saved = in_training(network())
    save(tmp_path / name, saved)
    assert_same(load(tmp_path / name), saved)
    before = (tmp_path / name).read_bytes()
    save(tmp_path / name, load(tmp_path / name))
    assert (tmp_path / name).read_bytes() == before


def test_what_it_takes_to_train_on_reads_without_jlstm(tmp_path):
    save(tmp_path / "model", in_training(network()))
    with np.load(tmp_path / "model") as file:
        about = json.loads(file["jlstm.json"])["training"]
        arrays = {name: file[name] for name in file.files if name.startswith("training.")}
    assert about["epochs"] == 3
    assert about["shapes"] == {name: list(array.shape) for name, array in arrays.items()}
    assert arrays["training.history.loss"].tolist() == [1.5, 0.1, 1e-300]
    assert arrays["training.step"] == 7
    assert arrays["training.opt_state[0].on"].tolist() == [True, False]


def test_a_network_alone_is_the_file_that_version_4_had(tmp_path, monkeypatch):
    monkeypatch.setattr(format_of, "VERSIONS", (1, 2, 3, 4))
    counted = jax.tree.map(lambda leaf: np.arange(leaf.size, dtype="f4").reshape(leaf.shape), network().params)
    save(tmp_path / "model", network()._replace(params=counted))
    found = hashlib.sha256((tmp_path / "model").read_bytes()).hexdigest()
    assert found == "5f83d82aa274aa3db635d2d4568341d56e4983c0fbd3fbd41f2cfa01aae3af67"


def of_training(**entries):
    return lambda members, about: about["training"].update(entries)


def shape(of, sizes):
    return lambda members, about: about["training"]["shapes"].update({f"training.{of}": sizes})


def typed(of, array):
    """Put an array of another dtype in the place of one."""

    def change(members, about):
        members[f"training.{of}.npy"] = npy(array)
        about["dtypes"][f"training.{of}"] = array.dtype.name

    return change


NAMED = "training.shapes: expected an object with ['training.history.accuracy', 'training.history.loss', "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (about(training=1), "training: expected 2 names, got 0, with ['epochs', 'shapes'] missing"),
        (about(training={}), "training: expected 2 names, got 0, with ['epochs', 'shapes'] missing"),
        (about(training=None), "members: expected 9 names, got 21, with [] missing and ['training.his"),
        (of_training(more=1), "training: expected 2 names, got 3, with [] missing and ['more'] unknown"),
        (
            of_training(epochs=-1),
            "training.epochs: expected a number of epochs, got ValueError: epochs: expected at le",
        ),
        (of_training(epochs=1.0), "training.epochs: expected a number of epochs, got TypeError"),
        (of_training(epochs=True), "training.epochs: expected a number of epochs, got TypeError"),
        (of_training(epochs=None), "training.epochs: expected a number of epochs, got TypeError"),
        (
            of_training(epochs=10**400),
            "training.epochs: expected a number of epochs, got ValueError: epochs: expected ",
        ),
        (of_training(shapes=None), NAMED),
        (of_training(shapes=[]), NAMED),
        (of_training(shapes={"training.history.loss": [3]}), NAMED),
        (lambda _, about: about["training"]["shapes"].update({"readout.bias": [4]}), "training.shapes: expected names"),
        (lambda _, about: about["training"]["shapes"].update({"../evil": [4]}), "training.shapes: expected names that"),
        (shape("step", None), "training.step: expected a shape of numbers up to "),
        (shape("step", [True]), "training.step: expected a shape of numbers up to "),
        (shape("step", [1.0]), "training.step: expected a shape of numbers up to "),
        (shape("step", [-1]), "training.step: expected a shape of numbers up to "),
        (shape("step", [[1]]), "training.step: expected a shape of numbers up to "),
        (shape("step", {"1": 1}), "training.step: expected a shape of numbers up to "),
        (shape("step", [10**6]), "training.step: expected a shape of numbers up to "),
        (shape("step", [0, 10**400]), "training.step: expected a shape of numbers up to "),
        (shape("step", [10**3] * 10**5), "training.step: expected a shape of numbers up to "),
        (shape("step", [1]), "training.step: expected shape (1,), int32, 4 bytes, got shape (), int32, 4 bytes"),
        (shape("opt_state[0].none", [0] * 65), "training.opt_state[0].none: expected a shape of numbers up to "),
        (shape("history.loss", []), "training.history.loss: expected a shape of one number, got []"),
        (shape("history.loss", [3, 1]), "training.history.loss: expected a shape of one number, got [3, 1]"),
        (shape("history.loss", [4]), "training.history.loss: expected shape (4,), float64, 32 bytes, got shape (3,)"),
        (typed("history.loss", np.zeros(3, "f4")), "training.history.loss: expected float64, got float32"),
        (shape("more", [1]), "members: expected 22 names, got 21, with ['training.more.npy'] missing"),
        (without("training.key.npy"), "members: expected 21 names, got 20, with ['training.key.npy'] missing"),
        (member(BIAS, "training.more.npy"), "members: expected 21 names, got 22, with [] missing and ['training.more"),
        (
            member(OBJECT, "training.key.npy"),
            "training.key: expected shape (2,), uint32, 8 bytes, got shape (4,), obje",
        ),
        (lambda _, about: about["dtypes"].update({"training.key": "object"}), "dtypes: expected one of ('float16', "),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_refuses_a_training_that_is_none(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    save("model", in_training(network()))
    rewrite(tmp_path / "model", change)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/model: {message}')}") as caught:
            load(tmp_path / "model")
        assert tracemalloc.get_traced_memory()[1] < 10**6 + 20 * (tmp_path / "model").stat().st_size
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < len(str(tmp_path)) + 600
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "training.epochs: expected at least 0, got -1"),
        ({"history": {"loss": ()}}, ValueError, "training.history: expected 3 names, got 1, with "),
        ({"state": {".key": np.array("x")}}, TypeError, "training.key: expected an array of numbers, got <U1"),
    ],
)
def test_refuses_to_save_a_training_that_is_none(path, change, error, message):
    before, saved = path.read_bytes(), in_training(network())
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        save(path, saved._replace(training=saved.training._replace(**change)))
    with pytest.raises(TypeError, match=r"^training: expected a Training or None, got 3$"):
        save(path, saved._replace(training=3))
    assert path.read_bytes() == before


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_changed_file_of_a_training_is_an_error_or_harmless(path, count):
    """Changed in its arrays and in its JSON, cut off, or with a piece of it put twice."""
    expected = in_training(network(config=replace(CONFIG, hidden_size=1, layers=1)))
    save(path, expected)
    whole, refused, rng = path.read_bytes(), 0, np.random.default_rng(count)
    for _ in range(count):
        path.write_bytes(changed(whole, rng))
        try:
            assert_same(load(path), expected)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert len(str(error)) < len(str(path)) + 600  # noqa: PT017
            refused += 1
    assert refused > count / 2


# What standardises


def scaled(size=2, outputs=4, loss="mse", seed=0):
    """A network of values with where its features, and its values, lie."""
    rng = np.random.default_rng(seed)
    config = LSTMConfig(size, 3, outputs, loss=loss)
    of = [Scaling(rng.normal(size=n) * 10**9, rng.uniform(1e-9, 1e9, size=n)) for n in (size, outputs)]
    scalings = Scalings(of[0], of[1] if loss != "cross_entropy" else None)
    return network(config=config, vocabulary=None)._replace(apply_softmax=False, standardize=True, scalings=scalings)


@pytest.mark.parametrize("loss", ["mse", "laplace", "cross_entropy"])
def test_keeps_where_numbers_lie_to_the_last_bit(tmp_path, loss):
    saved = scaled(loss=loss)
    save(tmp_path / "model", saved)
    loaded = load(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, loaded.scalings, saved.scalings)
    assert jax.tree.structure(loaded.scalings) == jax.tree.structure(saved.scalings)
    assert_same(loaded._replace(scalings=None), saved._replace(scalings=None))
    save(tmp_path / "model", saved._replace(scalings=None))  # before the training
    assert_same(load(tmp_path / "model"), saved._replace(scalings=None))
    save(tmp_path / "model", saved._replace(standardize=False))  # which no scale changes
    assert_same(load(tmp_path / "model"), saved._replace(standardize=False, scalings=None))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_files_of_older_versions_standardise_nothing(path, version):
    def change(members, about):
        about["version"] = version
        if version == 1:
            for name in [name for name in members if name.startswith("layers[")]:
                members[name] = npy(np.load(io.BytesIO(members[name])).T.copy())

    assert "standardize" not in json.loads(np.load(path)["jlstm.json"])
    rewrite(path, change)
    assert_same(load(path), network())


def standardize(**entries):
    """Put entries into where the features lie."""
    return lambda members, about: about["standardize"]["inputs"].update(entries)


def raw(text):
    """Put what `json` can write but no NumPy reads in the place of the first mean."""

    def change(members, about):
        about["standardize"]["inputs"]["mean"] = ["here", 0.0]
        members["jlstm.json"] = json.dumps(about).replace('"here"', text).encode()

    return change


OF_INPUTS = "standardize.inputs"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (about(standardize=None), "standardize: expected 2 names, got 0, with ['inputs', 'targets'] missing"),
        (about(standardize=1), "standardize: expected 2 names, got 0, with ['inputs', 'targets'] missing"),
        (about(standardize={}), "standardize: expected 2 names, got 0, with ['inputs', 'targets'] missing"),
        (about(standardize={"inputs": {}, "targets": None}), "standardize: expected targets with loss='mse'"),
        (lambda _, about: about["standardize"].update(more=1), "standardize: expected 2 names, got 3, with [] missing"),
        (lambda _, about: about["standardize"].update(inputs=None), f"{OF_INPUTS}: expected 2 names, got 0"),
        (lambda _, about: about["standardize"].update(inputs=[1, 2]), f"{OF_INPUTS}: expected 2 names, got 0"),
        (lambda _, about: about["standardize"]["targets"].pop("mean"), "standardize.targets: expected 2 names, got 1"),
        (standardize(mean=[0.0]), f"{OF_INPUTS}.mean: expected 2 numbers, got [0.0]"),
        (standardize(mean=[0.0] * 10**5), f"{OF_INPUTS}.mean: expected 2 numbers, got [0.0, 0.0, 0.0"),
        (standardize(mean=0.0), f"{OF_INPUTS}.mean: expected 2 numbers, got 0.0"),
        (standardize(mean=None), f"{OF_INPUTS}.mean: expected 2 numbers, got None"),
        (standardize(mean=["0", "1"]), f"{OF_INPUTS}.mean: expected 2 numbers, got ['0', '1']"),
        (standardize(mean=[True, 0]), f"{OF_INPUTS}.mean: expected 2 numbers, got [True, 0]"),
        (standardize(mean=[[0.0], [1.0]]), f"{OF_INPUTS}.mean: expected 2 numbers, got [[0.0], [1.0]]"),
        (standardize(mean=[float("nan"), 0.0]), f"{OF_INPUTS}: expected finite numbers, got NaN or infinity"),
        (standardize(deviation=[float("inf"), 1.0]), f"{OF_INPUTS}: expected finite numbers, got NaN or infinity"),
        (raw("1e999"), f"{OF_INPUTS}: expected finite numbers, got NaN or infinity"),
        (raw("9" * 400), f"{OF_INPUTS}: expected numbers, got OverflowError"),
        (standardize(deviation=[0.0, 1.0]), f"{OF_INPUTS}.deviation: expected positive numbers, got 0.0"),
        (standardize(deviation=[1.0, -2.0]), f"{OF_INPUTS}.deviation: expected positive numbers, got -2.0"),
        (config(loss="cross_entropy"), "standardize: expected targets of null with loss='cross_entropy'"),
        (config(inputs="tokens"), "standardize: expected false with inputs='tokens', which are no numbers"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_refuses_a_scale_that_is_none(tmp_path, change, message):
    save(tmp_path / "model", scaled())
    rewrite(tmp_path / "model", change)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/model: {message}')}") as caught:
        load(tmp_path / "model")
    assert len(str(caught.value)) < len(str(tmp_path)) + 600


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"size": 3}, "standardize.inputs.mean: expected 2 numbers, got "),
        ({"loss": "cross_entropy"}, "standardize: expected targets with loss='mse'"),
    ],
    ids=["features", "classes"],
)
def test_refuses_to_save_the_scale_of_another_network(path, other, message):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        save(path, scaled()._replace(scalings=scaled(**other).scalings))
    assert path.read_bytes() == before


def test_a_rewritten_file_loads(path):
    rewrite(path, lambda members, about: None)
    assert_same(load(path), network())


def test_a_field_that_a_configuration_lacks_has_its_default(path):
    rewrite(path, lambda members, about: about["config"].pop("dropout"))
    assert load(path).config.dropout == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"\0" * 1000, b"PK\5\6" + b"\xff" * 18, b"PK\5\6" + bytes(18), pickle.dumps(Touch()), BIAS],
    ids=lambda data: ascii(data[:9]),
)
def test_refuses_what_is_no_checkpoint(path, data):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{path}: expected a file that jlstm saved, .*got "):
        load(path)


def test_refuses_two_members_of_one_name(path):
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("readout.bias.npy", BIAS)
    with pytest.raises(ValueError, match=f"^{path}: expected members of different names, got 10 members with 9 names$"):
        load(path)


def test_a_flipped_bit_is_an_error_or_harmless(path):
    data, refused, tried = path.read_bytes(), 0, range(0, 10**6, 17)
    for offset in tried[: len(data) // 17]:
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
        try:
            assert_same(load(path), network())
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            refused += 1
    assert refused > len(data) // 17 / 2


def test_a_flipped_bit_of_a_number_is_an_error(path):
    data, number = path.read_bytes(), np.asarray(network().params.readout.weight).tobytes()
    place = data.index(number)
    path.write_bytes(data[:place] + bytes([number[0] ^ 1]) + data[place + 1 :])
    with pytest.raises(ValueError, match=f"^{path}: readout.weight: expected an array .*Bad CRC-32"):
        load(path)


def test_a_truncated_file_is_an_error(path):
    data = path.read_bytes()
    for length in range(0, len(data), 29):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"^{path}: expected a file that jlstm saved, got BadZipFile"):
            load(path)


# Files that claim to be more than they are


def compressed(path):
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(2 * 10**7))


def overlapping(path):
    """A thousand members, all of them the same bytes."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("bomb.npy", bytes(10**5))
        for k in range(1000):
            again = copy.copy(archive.infolist()[-1])
            again.filename = f"{k}.npy"
            archive.filelist.append(again)


def oversized(path):
    """A directory that says a member is of a terabyte."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("bomb.npy", b"")
        archive.infolist()[-1].file_size = archive.infolist()[-1].compress_size = 2**40


def long_shape(path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }"
    rewrite(path, member(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header))


def long_header(path):
    rewrite(path, member(b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535))


def long_about(path):
    rewrite(path, member(b" " * (2**24 + 1), "jlstm.json"))


def long_member(path):
    """An array with much behind its end."""
    rewrite(path, member(BIAS + bytes(2 * 10**7)))


def many_layers(path):
    def change(members, about):
        about["config"].update(layers=10**6, hidden_size=1)
        members["padding"] = bytes(2 * 10**6)

    rewrite(path, change)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (compressed, "expected uncompressed members, got 'bomb.npy' compressed"),
        (overlapping, "expected members of at most "),
        (oversized, "expected members of at most "),
        (long_shape, "readout.bias: expected shape (4,), float32, 16 bytes, got shape (1000000000,)"),
        (long_header, "readout.bias: expected an array in NumPy's format 1.0, got ValueError: Header info length"),
        (long_about, "jlstm.json: expected at most 16777216 bytes, got 16777217"),
        (long_member, "readout.bias: expected shape (4,), float32, 16 bytes, got shape (4,), float32, 17"),
        (many_layers, "config: expected a network that fits into "),
    ],
)
def test_takes_no_more_memory_than_a_small_file_needs(path, build, message):
    load(path)
    build(path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}"):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 10**6


OWN = Cell(LSTM.linear, LSTM.gates, LSTM.zero_state, name="own", draw=LSTM.draw)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_in_both_directions_comes_back_to_the_same_bits(tmp_path, name):
    size = 2 if CELLS[name].projects else None
    config = LSTMConfig(2, 3, 4, target="mean", layers=2, cell=name, projection_size=size, bidirectional=True)
    params = random_problem(config, 1, 1)["params"]
    saved = Saved(params, replace(config, residual=True, weight_dropout=0.1, input_dropout=0.2), None, True)
    save(tmp_path / "model", saved)
    assert_same(load(tmp_path / "model"), saved)


def test_a_cell_of_ones_own_is_handed_over_again(tmp_path):
    config = LSTMConfig(2, 3, 4, cell=OWN)
    saved = Saved(random_problem(config, 1, 1)["params"], config, None, True)
    save(tmp_path / "own", saved)
    assert_same(load(tmp_path / "own", cell=OWN), saved)
    with pytest.raises(ValueError, match="own: cell: expected the cell 'own', which is none of jlstm's: load it with"):
        load(tmp_path / "own")
    with pytest.raises(ValueError, match=r"cell: expected the cell 'own', got Cell\('other'\)"):
        load(tmp_path / "own", cell=replace(OWN, name="other"))
    with pytest.raises(TypeError, match="cell: expected a Cell, got 'own'"):
        load(tmp_path / "own", cell="own")


class Gained(NamedTuple):
    """Parameters of which one is a single number."""

    weight_ih: Any
    weight_hh: Any
    gain: Any


def draw_gained(normal, sizes, scale, fan_in):
    return Gained(normal(sizes.hidden, sizes.inputs), normal(sizes.hidden, sizes.hidden), normal())


GAINED = Cell(
    lambda params, h, x: times(params.weight_ih, x) + params.weight_hh @ h,
    lambda params, z, state: (RNNState(params.gain * z), params.gain * z),
    lambda params: RNNState(jnp.zeros(len(params.weight_hh))),
    name="gained",
    draw=draw_gained,
)


@pytest.mark.parametrize("name", ["own.npz", "own.safetensors"])
def test_a_parameter_may_be_a_single_number(tmp_path, name):
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    config = LSTMConfig(2, 3, 4, cell=GAINED)
    saved = Saved(init_params(jax.random.key(0), config), config, None, True)
    save(tmp_path / name, saved)
    assert_same(load(tmp_path / name, cell=GAINED), saved)


def test_a_network_of_another_cell_is_none_of_ones_own(path):
    with pytest.raises(ValueError, match=r"cell: expected the cell 'lstm', got Cell\('own'\)"):
        load(path, cell=OWN)
