"""A network's file in the format of safetensors: the same bits, which that library reads; all else is refused."""

import copy
import hashlib
import json
import os
import pathlib
import pickle
import random
import re
import tracemalloc
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from test_checkpoint import ARRAYS, CONFIG, FLOATS, OWN, Touch, assert_same, in_training, network, networks, scaled

from jlstm import CharLM, LSTMConfig, LSTMNetwork
from jlstm.cells import CELLS
from jlstm.checkpoint import Saved, load, save
from jlstm.gradcheck import random_problem

safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")

NAME = "model.safetensors"


@pytest.fixture
def path(tmp_path):
    """A file that `save` wrote, alone in its folder."""
    save(tmp_path / NAME, network())
    return tmp_path / NAME


def parts(data):
    """Return what the header of a file says, and the bytes behind it."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def joined(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def checksum(about, header, body):
    """The checksum as `jlstm/safetensors.py` defines it."""
    about = {name: value for name, value in about.items() if name != "sha256"}
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(set(header) - {"__metadata__"}):
        start, end = header[name]["data_offsets"]
        found.update(f"{name} {header[name]['dtype']} {header[name]['shape']}\n".encode() + body[start:end])
    return found.hexdigest()


def rewrite(path, change, *, signed=True):
    """Write the file anew after `change(tensors, about)`, and with `signed` with the checksum of what that made."""
    about = json.loads(parts(path.read_bytes())[0]["__metadata__"]["jlstm"])
    tensors = safetensors.load_file(path)
    change(tensors, about)
    if signed:
        about["sha256"] = checksum(about, *parts(safetensors.save(tensors)))
    path.write_bytes(safetensors.save(tensors, {"jlstm": json.dumps(about)}))


# There and back


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("vocabulary", [None, "abcd", '\0"\n\\', "é中😀\u2028", "\ude00\ud83d\ufeff\x7f"], ids=ascii)
def test_loads_what_was_saved(tmp_path, dtype, vocabulary):
    save(tmp_path / NAME, network(dtype, vocabulary))
    assert_same(load(tmp_path / NAME), network(dtype, vocabulary))


def test_float64(tmp_path, x64):
    save(tmp_path / NAME, network(jnp.float64))
    assert_same(load(tmp_path / NAME), network(jnp.float64))
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"32 bits or less, got float64, .* jax_enable_x64$"):
        load(tmp_path / NAME)


@pytest.mark.parametrize(
    "convert",
    [np.asfortranarray, lambda leaf: np.asarray(leaf).astype(">f4"), lambda leaf: np.asarray(leaf)[::-1][::-1]],
    ids=["order", "endian", "strides"],
)
def test_saves_numpys_arrays_however_they_lie_in_memory(tmp_path, convert):
    save(tmp_path / NAME, network()._replace(params=jax.tree.map(convert, network().params)))
    assert_same(load(tmp_path / NAME), network())


def test_keeps_each_array_in_its_dtype(tmp_path):
    saved = network()
    saved = saved._replace(params=saved.params._replace(readout=network(jnp.bfloat16).params.readout))
    save(tmp_path / NAME, saved)
    assert_same(load(tmp_path / NAME), saved)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_in_both_directions(tmp_path, name):
    size = 2 if CELLS[name].projects else None
    config = LSTMConfig(2, 3, 4, target="mean", layers=2, cell=name, projection_size=size, bidirectional=True)
    params = random_problem(config, 1, 1)["params"]
    saved = Saved(params, replace(config, residual=True, weight_dropout=0.1), None, True, "a text\n\0é")
    save(tmp_path / NAME, saved)
    assert_same(load(tmp_path / NAME), saved)


def test_a_cell_of_ones_own_is_handed_over_again(tmp_path):
    config = LSTMConfig(2, 3, 4, cell=OWN)
    saved = Saved(random_problem(config, 1, 1)["params"], config, None, True)
    save(tmp_path / NAME, saved)
    assert_same(load(tmp_path / NAME, cell=OWN), saved)
    with pytest.raises(ValueError, match="cell: expected the cell 'own', which is none of jlstm's: load it with"):
        load(tmp_path / NAME)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_keeps_where_numbers_lie_to_the_last_bit(tmp_path, loss):
    save(tmp_path / NAME, scaled(loss=loss))
    loaded = load(tmp_path / NAME)
    jax.tree.map(np.testing.assert_array_equal, loaded.scalings, scaled(loss=loss).scalings)
    assert_same(loaded._replace(scalings=None), scaled(loss=loss)._replace(scalings=None))


@given(networks())
@settings(max_examples=50)
def test_any_network_comes_back_to_the_same_bits_or_is_refused(tmp_path_factory, saved):
    path = tmp_path_factory.getbasetemp() / NAME
    if re.search("[\ud800-\udbff][\udc00-\udfff]", saved.vocabulary or ""):
        with pytest.raises(ValueError, match=r"^vocabulary: expected no two halves of a surrogate pair next to "):
            save(path, saved)
    else:
        save(path, saved)
        assert_same(load(path), saved)


@pytest.mark.parametrize("of", ["vocabulary", "trained_on"])
def test_refuses_halves_that_would_come_back_as_a_whole(path, of):
    before, saved = path.read_bytes(), network(vocabulary=None)
    config = replace(CONFIG, output_size=2)
    saved = network(vocabulary=None, config=config)._replace(**{of: "\ud83d\ude00"})
    message = rf"^{of}: expected no two halves .* one character, got '\\ud83d\\ude00'; save it as a .npz$"
    with pytest.raises(ValueError, match=message):
        save(path, saved)
    assert path.read_bytes() == before


def test_the_same_network_is_the_same_file_each_time(path):
    before = path.read_bytes()
    for _ in range(10):
        save(path, load(path))
        assert path.read_bytes() == before


def test_both_classes_save_and_load(tmp_path):
    saved = network(config=replace(CONFIG, input_size=4, inputs="tokens"))
    save(tmp_path / "text", saved)
    CharLM.load(tmp_path / "text").save(tmp_path / NAME)
    assert_same(load(tmp_path / NAME), saved)
    assert CharLM.load(tmp_path / NAME).vocabulary == "abcd"
    save(tmp_path / "values", scaled())
    LSTMNetwork.load(tmp_path / "values").save(tmp_path / NAME)
    LSTMNetwork.load(tmp_path / NAME).save(tmp_path / "again", training=False)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "values").read_bytes()


# What other programs see


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=lambda dtype: dtype.__name__)
def test_the_library_reads_it(tmp_path, dtype):
    save(tmp_path / NAME, network(dtype, "é中😀\0"))
    arrays = safetensors.load_file(tmp_path / NAME)
    assert sorted(arrays) == sorted(ARRAYS)
    for name, leaf in zip(ARRAYS, jax.tree.leaves(network(dtype).params), strict=True):
        np.testing.assert_array_equal(arrays[name], np.asarray(leaf), strict=True)
    with safetensors.safe_open(tmp_path / NAME, "numpy") as file:
        metadata = file.metadata()
    assert list(metadata) == ["jlstm"]
    assert "é中😀" in metadata["jlstm"]
    about = json.loads(metadata["jlstm"])
    save(tmp_path / "npz", network(dtype, "é中😀\0"))
    beside = json.loads(np.load(tmp_path / "npz")["jlstm.json"])
    assert about.pop("sha256") == checksum(about, *parts((tmp_path / NAME).read_bytes()))
    assert beside.pop("dtypes") == dict.fromkeys(ARRAYS, dtype.__name__)
    assert about == beside
    assert about["config"] == asdict(CONFIG) | {"cell": "lstm"}


def test_a_file_that_the_library_wrote_anew_loads(path):
    """Laid out otherwise, and with an entry more in the metadata."""
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    safetensors.save_file(safetensors.load_file(path), path, metadata | {"format": "pt"})
    assert_same(load(path), network())
    header, body = parts(path.read_bytes())
    backwards = {name: header[name] for name in reversed(header)}
    path.write_bytes(joined(json.dumps(backwards, indent=3).encode() + b"  ", body))
    assert_same(load(path), network())


def test_torch_reads_it(path):
    torch = pytest.importorskip("safetensors.torch")
    for name, leaf in zip(ARRAYS, jax.tree.leaves(network().params), strict=True):
        np.testing.assert_array_equal(torch.load_file(path)[name].numpy(), np.asarray(leaf), strict=True)


# The name


@pytest.mark.parametrize("name", [NAME, "MODEL.SafeTensors", ".safetensors", "é 中.npz.safetensors"])
@pytest.mark.parametrize("kind", [str, pathlib.Path, os.fsencode])
def test_a_name_that_ends_so_is_of_that_format(tmp_path, name, kind):
    save(kind(tmp_path / name), network())
    assert os.listdir(tmp_path) == [name]
    assert set(safetensors.load_file(tmp_path / name)) == set(ARRAYS)
    assert_same(load(kind(tmp_path / name)), network())


@pytest.mark.parametrize("name", ["safetensors", "model.safetensors.npz", "model.safetensors ", "safetensors.d"])
def test_any_other_name_is_of_a_npz(tmp_path, name):
    save(tmp_path / name, network())
    assert "jlstm.json" in np.load(tmp_path / name).files


def test_a_file_loads_under_any_name(path, tmp_path):
    path.rename(tmp_path / "model.npz")
    assert_same(load(tmp_path / "model.npz"), network())
    save(tmp_path / "model", network(seed=1))
    (tmp_path / "model").rename(path)
    assert_same(load(path), network(seed=1))


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_interruption_leaves_the_old_file(path, tmp_path, monkeypatch, function):
    before = path.read_bytes()

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(KeyboardInterrupt):
        save(path, network(seed=1))
    assert os.listdir(tmp_path) == [NAME]
    assert path.read_bytes() == before


# What is refused when loading


def about(**entries):
    return lambda tensors, about: about.update(entries)


def config(**fields):
    return lambda tensors, about: about["config"].update(fields)


def tensor(array, name="readout.bias"):
    return lambda tensors, about: tensors.update({name: array})


def without(name):
    return lambda tensors, about: tensors.pop(name)


HISTORY = [f"training.history.{name}" for name in ("loss", "validation", "accuracy")]
TRAINING = {"epochs": 1, "shapes": {name: [0] for name in HISTORY} | {"training.step": []}}
FITS = "config: expected a network that fits into "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (about(format="other"), "metadata['jlstm']: expected an object with the format 'jlstm', got {"),
        (about(version=6, more=1), "version: expected 1 to 5, got 6, written by a newer jlstm"),
        (about(version=True), "version: expected 1 to 5, got True"),
        (about(more=1), "metadata['jlstm']: expected 9 names, got 10, with [] missing and ['more'] unknown"),
        (about(dtypes={}), "metadata['jlstm']: expected 9 names, got 10, with [] missing and ['dtypes'] unknown"),
        (lambda tensors, about: about.pop("vocabulary"), "metadata['jlstm']: expected 9 names, got 8, with ['vocab"),
        (about(config=None), "config: expected what LSTMConfig takes, got TypeError"),
        (config(hidden_size=0), "config: expected what LSTMConfig takes, got ValueError: hidden_size: expected at"),
        (config(hidden_size=2**31 - 1), FITS),
        (config(input_size=2**31 - 1), FITS),
        (config(output_size=2**31 - 1), FITS),
        (config(layers=2**31 - 1), FITS),
        (config(layers=20), FITS),
        (config(layers=3), "tensors: expected 11 names, got 8, with ['layers[2].bias', 'layers[2].weight_hh', "),
        (config(layers=1), "tensors: expected 5 names, got 8, with [] missing and ['layers[1].bias', "),
        (config(hidden_size=4), "layers[0].weight_ih: expected shape (16, 2), got (12, 2)"),
        (about(vocabulary="abc"), "vocabulary: expected 4 characters, one for each class, got 3"),
        (about(apply_softmax=0), "apply_softmax: expected True or False, got 0"),
        (about(standardize={}), "standardize: expected 2 names, got 0"),
        (about(standardize=float("nan")), "standardize: expected 2 names, got 0"),
        (without("readout.bias"), "tensors: expected 8 names, got 7, with ['readout.bias'] missing and [] unknown"),
        (tensor(np.zeros(4, "f4"), "more"), "tensors: expected 8 names, got 9, with [] missing and ['more'] unknown"),
        (about(training={}), "training: expected 2 names, got 0, with ['epochs', 'shapes'] missing"),
        (about(training=TRAINING), "tensors: expected 12 names, got 8, with ['training.history.accuracy', "),
        (tensor(np.zeros(5, "f4")), "readout.bias: expected shape (4,), got (5,)"),
        (tensor(np.zeros((4, 1), "f4")), "readout.bias: expected shape (4,), got (4, 1)"),
        (tensor(np.zeros((), "f4")), "readout.bias: expected shape (4,), got ()"),
        (tensor(np.zeros((3, 4), "f4").T, "readout.weight"), "readout.weight: expected shape (3, 4), got (4, 3)"),
        (tensor(np.zeros(4, "i4")), f"readout.bias: expected one of {FLOATS}, got int32"),
        (tensor(np.zeros(4, "bool")), f"readout.bias: expected one of {FLOATS}, got bool"),
        (tensor(np.zeros(4, "f8")), "readout.bias: expected a dtype of 32 bits or less, got float64, which needs ja"),
        (tensor(np.array([0, np.nan, 0, 0], "f4")), "readout.bias: expected finite numbers, got NaN or infinity"),
        (tensor(np.array([0, 0, 0, -np.inf], "f2")), "readout.bias: expected finite numbers, got NaN or infinity"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_refuses_to_load(path, tmp_path, change, message):
    rewrite(path, change)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}") as caught:
        load(path)
    assert len(str(caught.value)) < len(str(path)) + 600
    assert os.listdir(tmp_path) == [NAME]


def test_a_rewritten_file_loads(path):
    rewrite(path, lambda tensors, about: None)
    assert_same(load(path), network())


@pytest.mark.parametrize(
    "change",
    [
        config(dropout=0.2),
        about(vocabulary="abdc"),
        about(apply_softmax=False),
        about(trained_on="x"),
        about(sha256="0" * 64),
        about(sha256=None),
        lambda tensors, about: tensors["readout.bias"].__setitem__(0, 1.0),
        lambda tensors, about: tensors.update({"readout.bias": tensors["readout.bias"].view("f2")[:4]}),
        lambda tensors, about: tensors.update(
            {
                "layers[0].weight_hh": tensors["layers[1].weight_hh"],
                "layers[1].weight_hh": tensors["layers[0].weight_hh"],
            }
        ),
    ],
)
def test_a_change_that_nobody_signed_is_an_error(path, change):
    rewrite(path, lambda tensors, about: tensors.update({name: np.array(each) for name, each in tensors.items()}))
    rewrite(path, change, signed=False)
    with pytest.raises(ValueError, match=rf"^{path}: sha256: expected .*, got '\w+\.\.\.\w+', as the file was changed"):
        load(path)


BIAS = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
SAVED = "expected a file that jlstm saved, got SafetensorError: Error while deserializing: "
NOT_OURS = "expected a file that jlstm saved, with metadata['jlstm'], got "


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", SAVED + "header too small"),
        (b"PK", "expected a file that jlstm saved, got BadZipFile"),
        (bytes(1000), SAVED + "invalid JSON in header"),
        (b"\xff" * 1000, "expected a file that jlstm saved, with a header of at most 16777216 bytes, got 18446744073"),
        (
            (2**24 + 1).to_bytes(8, "little"),
            "expected a file that jlstm saved, with a header of at most 16777216 bytes",
        ),
        ((2**24).to_bytes(8, "little") + b"{}", SAVED + "invalid header length"),
        (pickle.dumps(Touch()), "expected a file that jlstm saved, with a header of at most 16777216 bytes, got "),
        (joined(b'{"\xff": 1}', b""), SAVED + "invalid UTF-8 in header"),
        (joined(b"[" * 10**6, b""), SAVED + "invalid JSON in header"),
        (joined(b'{"a":' * 10**6, b""), SAVED + "invalid JSON in header: recursion limit exceeded"),
        (joined(b"[]", b""), SAVED + "invalid JSON in header"),
        (joined({}, b""), NOT_OURS + "{}; weights of other libraries come in through jlstm.interop"),
        (joined({"__metadata__": None}, b""), NOT_OURS + "{}"),
        (joined({"__metadata__": {"format": "pt"}, "bias": BIAS}, bytes(16)), NOT_OURS + "{'format': 'pt'}; weights"),
        (joined({"__metadata__": {"jlstm": None}}, b""), SAVED + "invalid JSON in header: invalid type: null"),
        (joined(b'{"__metadata__":{},"__metadata__":{}}', b""), SAVED + "invalid JSON in header: duplicate field"),
        (joined({"__metadata__": {"jlstm": ""}}, b""), "metadata['jlstm']: expected JSON, got JSONDecodeError"),
        (joined({"__metadata__": {"jlstm": "[" * 10**6}}, b""), "metadata['jlstm']: expected JSON, got RecursionErr"),
        (joined({"__metadata__": {"jlstm": "9" * 10**6}}, b""), "metadata['jlstm']: expected JSON, got ValueError"),
        (joined({"__metadata__": {"jlstm": "null"}}, b""), "metadata['jlstm']: expected an object with the format 'jl"),
        (joined({}, b"x"), SAVED + "incomplete metadata, file not fully covered"),
        (joined({"a": BIAS}, bytes(15)), SAVED + "incomplete metadata, file not fully covered"),
        (joined({"a": BIAS, "b": BIAS}, bytes(16)), SAVED + "invalid offset for tensor `"),
        (joined({"a": BIAS | {"data_offsets": [-16, 0]}}, bytes(16)), SAVED + "invalid JSON in header: invalid value"),
        (joined({"a": BIAS | {"data_offsets": [16, 0]}}, bytes(16)), SAVED + "invalid offset for tensor `a`"),
        (joined({"a": BIAS | {"data_offsets": [0, 2**62]}}, bytes(16)), SAVED + "invalid shape, data type, or offset"),
        (joined({"a": BIAS | {"shape": [2**62]}}, bytes(16)), SAVED + "overflow computing buffer size from shape"),
        (joined({"a": BIAS | {"shape": [2**62, 2**62]}}, bytes(16)), SAVED + "overflow computing buffer size from sha"),
        (joined({"a": BIAS | {"dtype": "O"}}, bytes(16)), SAVED + "invalid JSON in header: unknown variant `O`"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_refuses_what_is_no_file_of_ours(path, tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}") as caught:
        load(path)
    assert len(str(caught.value)) < len(str(path)) + 600
    assert os.listdir(tmp_path) == [NAME]


def test_refuses_what_json_reads_and_does_not_write(path, monkeypatch):
    """One may go deeper than the other."""

    def dumps(*args, **options):
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(json, "dumps", dumps)
    with pytest.raises(ValueError, match=rf"^{path}: metadata\['jlstm'\]: expected JSON, got RecursionError"):
        load(path)


def test_refuses_a_file_without_the_first_brace(path):
    """Under its name by the words of its format, under another by those of all files."""
    data = bytearray(path.read_bytes())
    data[8] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{path}: {re.escape(SAVED)}"):
        load(path)
    path = path.rename(path.with_suffix(".npz"))
    with pytest.raises(ValueError, match=f"^{path}: expected a file that jlstm saved, got BadZipFile"):
        load(path)


# Changed files


def change_bit(data, draw):
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def change_digit(data, draw):
    """Write another digit for one of the header, in a size, an offset, a name or a number."""
    digits = [place for place in range(8, len(data)) if data[place] in b"0123456789"]
    data[draw.choice(digits)] = draw.choice(b"0123456789")


def change_word(data, draw):
    """Put one piece of the header in the place of another."""
    header = 8 + int.from_bytes(data[:8], "little")
    pieces = [match.span() for match in re.finditer(rb'\\?"[^"]*"|[-\w.]+|\[[^\]]*\]', data[:header])]
    (start, end), (first, last) = draw.choice(pieces), draw.choice(pieces)
    data[start:end] = data[first:last]
    if draw.random() < 0.5:  # as long as it says
        data[:8] = (header + last - first - (end - start) - 8).to_bytes(8, "little")


def cut(data, draw):
    del data[draw.randrange(len(data)) :]


def take_out(data, draw):
    start = draw.randrange(len(data))
    del data[start : start + draw.randint(1, 40)]


def put_in(data, draw):
    start = draw.randrange(len(data) + 1)
    data[start:start] = draw.choice([draw.randbytes(draw.randint(1, 9)), data[start : start + 40], b"\0", b" "])


def exchange(data, draw):
    """Let two stretches change places."""
    size = draw.randint(1, 40)
    one, other = draw.randrange(len(data) - size), draw.randrange(len(data) - size)
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


def change_length(data, draw):
    length = int.from_bytes(data[:8], "little")
    near = [length + draw.randint(-9, 9), draw.randrange(length), len(data), len(data) - 8]
    data[:8] = draw.choice([*near, 2**24, 2**32, 2**63, 2**64 - 1]).to_bytes(8, "little")


CHANGES = change_bit, change_digit, change_word, cut, take_out, put_in, exchange, change_length


def check_changed_files(path, number, draw):
    """Each of so many changed files is the same network or an error that names it; half of them train on."""
    alone = network(config=replace(CONFIG, hidden_size=1, layers=1))
    both, refused, counted = [], 0, 0
    for each in (alone, in_training(alone)):
        save(path, each)
        both.append((each, path.read_bytes()))
    for k in range(number):
        expected, whole = both[k // len(CHANGES) % 2]
        data = bytearray(whole)
        CHANGES[k % len(CHANGES)](data, draw)
        if data == whole:
            continue
        counted += 1
        path.write_bytes(data)
        try:
            assert_same(load(path), expected)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert len(str(error)) < len(str(path)) + 600  # noqa: PT017
            refused += 1
    assert refused > counted * 0.95 > number * 0.9


def test_a_changed_file_is_an_error_or_harmless(path):
    check_changed_files(path, 400, random.Random(0))


@pytest.mark.slow
def test_ten_thousand_changed_files(path):
    check_changed_files(path, 10_000, random.Random())


def test_a_flipped_bit_of_a_number_is_an_error(path):
    data, number = path.read_bytes(), np.asarray(network().params.readout.weight).tobytes()
    place = data.index(number)
    path.write_bytes(data[:place] + bytes([number[0] ^ 1]) + data[place + 1 :])
    with pytest.raises(ValueError, match=f"^{path}: sha256: expected "):
        load(path)


ODD = [None, True, 0, -1, 2**31, 2**64, 10**400, 1e-300, float("nan"), float("inf"), "", "x" * 1000, "\0", "\udc80", []]
ODD += [{}, [0.0] * 1000, {"mean": [0.0]}, "lstm", "gru", "mse", "tokens", "last"]


def places(value):
    """Every container within a JSON value, with each key in it."""
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from places(each)


def check_odd_values(path, number, draw):
    """A file that says what nobody expects, with a checksum that fits, is a network or an error that names it."""
    whole, loaded = [], 0
    for saved in (network(), scaled(), in_training(network())):
        save(path, saved)
        whole.append(path.read_bytes())
    for k in range(number):
        path.write_bytes(whole[k % len(whole)])

        def change(tensors, about):
            for _ in range(draw.randint(1, 2)):
                within, key = draw.choice(list(places(about)))
                within[key] = copy.deepcopy(draw.choice(ODD))

        rewrite(path, change)
        try:
            loaded += isinstance(load(path), Saved)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            assert len(str(error)) < len(str(path)) + 600  # noqa: PT017
    assert loaded < number / 2


def test_a_file_that_says_what_nobody_expects(path):
    check_odd_values(path, 100, random.Random(0))


@pytest.mark.slow
def test_five_thousand_files_that_say_what_nobody_expects(path):
    check_odd_values(path, 5_000, random.Random())


# Files that claim to be more than they are


def long_body(path):
    rewrite(path, tensor(np.zeros(5 * 10**6, "f4"), "more"))


def long_header(path):
    header, body = parts(path.read_bytes())
    path.write_bytes(joined(json.dumps(header).encode() + b" " * 2**24, body))


def many_tensors(path):
    rewrite(path, lambda tensors, about: tensors.update({str(k): np.zeros(0, "f4") for k in range(9_000)}))


def many_layers(path):
    rewrite(path, config(layers=10**6, hidden_size=1))


def long_about(path):
    rewrite(path, about(trained_on="x" * 10**7, config={}))


@pytest.mark.parametrize(
    ("build", "times", "message"),
    [
        (long_body, 2.1, "tensors: expected 8 names, got 9"),
        (long_header, 2.1, "expected a file that jlstm saved, with a header of at most 16777216 bytes, got 1677"),
        (long_about, 6, "config: expected what LSTMConfig takes, got TypeError"),
        (many_layers, 0, "config: expected a network that fits into "),
        (many_tensors, 25, "tensors: expected 8 names, got 9008"),  # each an object, for 57 bytes of the header
    ],
)
def test_takes_memory_by_the_size_of_the_file(path, build, times, message):
    load(path)
    build(path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}"):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10**6 + times * path.stat().st_size
