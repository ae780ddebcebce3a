"""To disk and back: one file with a network's parameters, configuration and vocabulary.

The format, version 4, reads without jlstm. The file is an uncompressed zip archive that `numpy.load` opens. Its member
`jlstm.json` is an object in UTF-8: "format" is "jlstm", "version" is 4, "config" has the fields of `LSTMConfig`, the
cell by its name, "vocabulary" is null or a string whose k-th character is class id k, "apply_softmax" is true or false,
"trained_on" says so in a few words, where it is there, "dtypes" has the dtype of each array by its name: float16,
bfloat16, float32 or float64. "standardize", where it is there, is true before the training, or has the "mean" and the
"deviation" of each feature, "inputs", and of each value to tell, "targets", null where those are none. All other
members are arrays in NumPy's format 1.0, little-endian and in C order: for each layer k from 0 up those of the cell,
`layers[k].weight_ih.npy`, `layers[k].weight_hh.npy` and `layers[k].bias.npy` of an LSTM, of two directions
`layers[k].forward.weight_ih.npy` and so on; then `readout.weight.npy` and `readout.bias.npy`; all of the shapes that
the cell's file and `Readout` name. A bfloat16 array is stored as its bits, in uint16; they are the upper half of a
float32's. Version 3 had no "standardize"; version 2 no cell but the LSTM either, and fewer fields in "config"; in
version 1, the layers' weights were transposed as well, `[I, 4H]`, `[H, 4H]`.

    file = numpy.load("model.npz")
    about, bias = json.loads(file["jlstm.json"]), file["layers[0].bias"]
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import reprlib
import secrets
import stat
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, BinaryIO, NamedTuple

try:
    import fcntl
except ImportError:  # on Windows, where nothing is taken away
    fcntl = None  # type: ignore[assignment]

import jax
import jax.numpy as jnp
import numpy as np

from jlstm.cells import CELLS, Cell
from jlstm.checks import alike, describe, same_names
from jlstm.config import LSTMConfig
from jlstm.model import ModelParams, params_shapes
from jlstm.scaling import Scaling, Scalings

__all__ = ["Saved", "load", "save"]

VERSIONS = 1, 2, 3, 4  # those that are read; the last is written
ABOUT = "jlstm.json"
NAMES = "format", "version", "config", "vocabulary", "apply_softmax", "trained_on", "standardize", "dtypes"
MOST_ABOUT = 2**24  # bytes: three times what a vocabulary of all of Unicode takes
STORED = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8"}


class Saved(NamedTuple):
    """What one file holds.

    Attributes:
        params: the network's parameters.
        config: the network.
        vocabulary: a string whose k-th character is class id k; None for a network that reads no text.
        apply_softmax: whether `predict` returns probabilities instead of logits.
        trained_on: what the network was trained on, in a few words; empty where nobody knows.
        standardize: whether features and values to tell are brought to mean 0 and deviation 1.
        scalings: by what; None before the training.
    """

    params: ModelParams
    config: LSTMConfig
    vocabulary: str | None
    apply_softmax: bool
    trained_on: str = ""
    standardize: bool = False
    scalings: Scalings | None = None


def save(path: str | os.PathLike[str], saved: Saved) -> None:
    """Write a network to a file, in one step: whatever interrupts it leaves the old file whole and nothing beside it.

    Args:
        path: the file, by exactly this name; one that is there is replaced and keeps its permissions.
        saved: the network; its parameters are finite numbers in float16, bfloat16, float32 or float64.

    Raises:
        TypeError, ValueError: `path` or `saved` does not fit; the message names what, and nothing was touched.
        OSError: the file can't be written.

    Example:
        >>> import tempfile
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.npz", Saved(params, config, "abc", apply_softmax=True))
        ...     load(f"{folder}/model.npz").vocabulary
        'abc'
    """
    _write(_name_of(path), _encode(saved))


def load(path: str | os.PathLike[str], *, cell: Cell | None = None) -> Saved:
    """Read a network from a file that `save` wrote; a file that holds anything else is refused, and nothing in it runs.

    Args:
        path: the file.
        cell: the cell of the network, where it is none of `jlstm.cells`: a file has the name of it alone.

    Returns:
        The network; its parameters have the bits and the dtypes that were saved.

    Raises:
        TypeError: `path` is not a path, or `cell` no `Cell`.
        ValueError: the file is damaged, was not written by `save`, or was written by a newer jlstm; or it holds float64
            and `jax_enable_x64` is off; or the network has another cell than `cell`.
        OSError: the file is missing or can't be read.

    Example:
        >>> import tempfile
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> params = init_params(jax.random.key(0), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.npz", Saved(params, config, "abc", apply_softmax=True))
        ...     loaded = load(f"{folder}/model.npz")
        >>> loaded.vocabulary, bool((loaded.params.readout.weight == params.readout.weight).all())
        ('abc', True)
    """
    path = _name_of(path)
    if cell is not None and not isinstance(cell, Cell):
        raise TypeError(f"cell: expected a Cell, got {describe(cell)}")
    _permissions(path)  # asked before opening it, since to open a pipe is to wait for its writer
    with open(path, "rb") as file:
        try:
            saved = _decode(file, cell)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {str(error)[:500]}") from None  # it may quote what a hostile file says
    return saved._replace(params=jax.tree.map(jnp.array, saved.params))


def _encode(saved: Saved) -> memoryview:
    """Return the bytes of the file, or raise an error that says what can't be saved."""
    if not isinstance(saved, Saved) or not isinstance(saved.config, LSTMConfig):
        raise TypeError(f"saved: expected a Saved with an LSTMConfig, got {reprlib.repr(saved)}")
    _check(saved.config, saved.vocabulary, saved.apply_softmax, saved.trained_on)
    standardize = _written(saved.scalings) if saved.standardize and saved.scalings else saved.standardize
    _check_scalings(standardize, saved.config)
    alike("params", saved.params, params_shapes(saved.config))
    arrays = {name: np.asarray(leaf) for name, leaf in _by_name(saved.params).items()}
    for name, array in arrays.items():
        if array.dtype.name not in STORED:
            raise TypeError(f"params.{name}: expected one of {tuple(STORED)}, got {array.dtype}")
        _check_finite(f"params.{name}", array)
    about = {
        "format": "jlstm",
        "version": VERSIONS[-1],
        "config": {field.name: getattr(saved.config, field.name) for field in fields(LSTMConfig)}
        | {"cell": saved.config.cell.name},
        "vocabulary": saved.vocabulary,
        "apply_softmax": saved.apply_softmax,
        **({"trained_on": saved.trained_on} if saved.trained_on else {}),
        **({"standardize": standardize} if standardize else {}),
        "dtypes": {name: array.dtype.name for name, array in arrays.items()},
    }
    # Python's strings may hold half a surrogate pair, which strict UTF-8 has no bytes for.
    text = json.dumps(about, ensure_ascii=False, indent=1).encode(errors="surrogatepass")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(ABOUT), text)  # a ZipInfo has no clock: the same network gives the same file
        for name, array in arrays.items():
            native = np.ascontiguousarray(array, array.dtype.name)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                bits = native.view(STORED[array.dtype.name])
                np.lib.format.write_array(member, bits, version=(1, 0), allow_pickle=False)
    return file.getbuffer()


def _write(path: str, data: memoryview) -> None:
    """Put `data` at `path` in one step, and take away what a save of this file that was killed has left."""
    target = os.path.realpath(path) if os.path.islink(path) else path  # as an ordinary write follows a link
    folder, name = os.path.split(target)
    own = f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}."  # so that no other file's are taken away
    temporary = os.path.join(folder, f"{own}{secrets.token_hex(8)}.tmp")
    try:
        permissions = _permissions(target) if os.path.exists(target) else None
        with _in_use(temporary):
            with open(temporary, "r+b") as file:
                if permissions is not None:
                    os.chmod(temporary, permissions)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # it names the temporary file, of which nobody has heard
            raise OSError(error.errno, error.strerror or str(error), path) from error
        raise
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder or "."):
            if entry.startswith(own) and entry.endswith(".tmp"):
                _unlink_unless_in_use(os.path.join(folder, entry))


@contextlib.contextmanager
def _in_use(temporary: str) -> Iterator[None]:
    """Create a file and hold a lock on it, which ends with the process, however that ends."""
    file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        if fcntl is None:
            os.close(file)
        else:
            with contextlib.suppress(OSError):  # some file systems of networks have no locks: nothing is taken away
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        if fcntl is not None:
            os.close(file)


def _unlink_unless_in_use(temporary: str) -> None:
    if fcntl is None:
        return
    with contextlib.suppress(OSError), open(temporary, "r+b") as file:
        found = os.fstat(file.fileno())
        # One that is empty may be about to be locked by whoever has just created it.
        if found.st_size > 0 or time.time() - found.st_mtime > 60:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(temporary)


def _decode(file: BinaryIO, cell: Cell | None) -> Saved:
    """Return what the file holds, with NumPy's arrays, in memory that the file's own size bounds."""
    size = os.fstat(file.fileno()).st_size
    with _reading("expected a file that jlstm saved"):
        archive = zipfile.ZipFile(file)
    members = archive.infolist()
    names = {member.filename for member in members}
    if len(names) != len(members):
        raise ValueError(f"expected members of different names, got {len(members)} members with {len(names)} names")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"expected uncompressed members, got {reprlib.repr(member.filename)} compressed")
    if (total := sum(member.file_size for member in members)) > size:
        raise ValueError(f"expected members of at most {size} bytes, the file's own size, got {total}")
    about = _about(archive)
    named = about["config"].get("cell", "lstm") if isinstance(about["config"], dict) else "lstm"
    chosen = _cell_named(named, cell)
    with _reading("config: expected what LSTMConfig takes"):
        config = LSTMConfig(**about["config"] | {"cell": chosen})
    inputs, hidden, outputs, layers = config.input_size, config.hidden_size, config.output_size, config.layers
    width = config.output_width
    # Every cell reads all of its input; checked first, so that whatever follows is no larger than the file.
    if hidden * (inputs + (layers - 1) * width) + width * outputs > size or layers > len(members):
        sizes = f"sizes {inputs}, {hidden}, {outputs} and {layers} layers"
        raise ValueError(f"config: expected a network that fits into {size} bytes, got {sizes}")
    _check(config, about["vocabulary"], about["apply_softmax"], about["trained_on"])
    expected = params_shapes(config)
    shapes, dtypes = _by_name(expected), about["dtypes"]
    same_names("members", names, [ABOUT, *(f"{name}.npy" for name in shapes)])
    same_names("dtypes", dtypes, list(shapes))
    turned = [name for name in shapes if about["version"] == 1 and name.startswith("layers[")]
    arrays = [
        _array(archive, name, shape.shape[::-1], dtypes[name]).T
        if name in turned
        else _array(archive, name, shape.shape, dtypes[name])
        for name, shape in shapes.items()
    ]
    params = jax.tree.unflatten(jax.tree.structure(expected), arrays)
    scalings = _check_scalings(about["standardize"], config)
    said = about["vocabulary"], about["apply_softmax"], about["trained_on"]
    return Saved(params, config, *said, about["standardize"] is not False, scalings)


def _cell_named(name: Any, own: Cell | None) -> Cell:
    """Return the cell that a file names, which is one of these or a user's own."""
    found = CELLS.get(name) if own is None and isinstance(name, str) else own
    if found is None:
        advice = "which is none of jlstm's: load it with cell=..., the Cell that it was made of"
        raise ValueError(f"cell: expected the cell {reprlib.repr(name)}, {advice}")
    if found.name != name:
        raise ValueError(f"cell: expected the cell {reprlib.repr(name)}, got {found!r}")
    return found


def _about(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Return the object in `jlstm.json`, which has this format and version."""
    with _reading(f"expected a file that jlstm saved, with a member {ABOUT}"):
        member = archive.getinfo(ABOUT)
    if member.file_size > MOST_ABOUT:
        raise ValueError(f"{ABOUT}: expected at most {MOST_ABOUT} bytes, got {member.file_size}")
    with _reading(f"{ABOUT}: expected JSON"):
        about = json.loads(archive.read(member))
    if not isinstance(about, dict) or about.get("format") != "jlstm":
        raise ValueError(f"{ABOUT}: expected an object with the format 'jlstm', got {reprlib.repr(about)}")
    version = about.get("version")
    if type(version) is not int or version not in VERSIONS:
        newer = ", written by a newer jlstm" if type(version) is int and version > VERSIONS[-1] else ""
        raise ValueError(f"version: expected 1 to {VERSIONS[-1]}, got {reprlib.repr(version)}{newer}")
    about = {"trained_on": "", "standardize": False, **about}  # the first files have none
    same_names(ABOUT, about, NAMES)
    return about


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Read an array of this shape and dtype; what its header says of them is compared and never allocated."""
    if not isinstance(dtype, str) or dtype not in STORED:
        raise ValueError(f"dtypes: expected one of {tuple(STORED)} for {name}, got {reprlib.repr(dtype)}")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"{name}: expected a dtype of 32 bits or less, got {dtype}, which needs jax_enable_x64")
    stored = np.dtype(STORED[dtype])
    length = math.prod(shape) * stored.itemsize
    with _reading(f"{name}: expected an array in NumPy's format 1.0"), archive.open(f"{name}.npy") as member:
        if (version := np.lib.format.read_magic(member)) != (1, 0):
            raise ValueError(f"format {version}")
        got_shape, fortran, got_dtype = np.lib.format.read_array_header_1_0(member)
        data = member.read(length + 1)  # one byte more shows what is too long, and makes zipfile check the CRC
    if (got_shape, fortran, got_dtype, len(data)) != (shape, False, stored, length):
        got = f"shape {got_shape}, {got_dtype}, {len(data)} bytes{' in Fortran order' * fortran}"
        raise ValueError(f"{name}: expected shape {shape}, {stored}, {length} bytes, got {got}")
    array = np.frombuffer(data, stored).view(dtype).reshape(shape)
    _check_finite(name, array)
    return array


def _by_name(params: ModelParams) -> dict[str, Any]:
    return {jax.tree_util.keystr(path)[1:]: leaf for path, leaf in jax.tree.leaves_with_path(params)}


def _check(config: LSTMConfig, vocabulary: Any, apply_softmax: Any, trained_on: Any) -> None:
    if not isinstance(trained_on, str):
        raise TypeError(f"trained_on: expected a string, got {reprlib.repr(trained_on)}")
    if not isinstance(apply_softmax, bool):
        raise TypeError(f"apply_softmax: expected True or False, got {reprlib.repr(apply_softmax)}")
    if apply_softmax and config.objective.probabilities is None:
        raise ValueError(f"apply_softmax: expected False with loss={config.loss!r}, whose outputs are values, got True")
    if vocabulary is None:
        return
    if not isinstance(vocabulary, str):
        raise TypeError(f"vocabulary: expected a string or None, got {reprlib.repr(vocabulary)}")
    if len(vocabulary) != config.output_size:
        expected = f"{config.output_size} characters, one for each class"
        raise ValueError(f"vocabulary: expected {expected}, got {len(vocabulary)}")
    [(character, times)] = Counter(vocabulary).most_common(1)
    if times > 1:
        raise ValueError(f"vocabulary: expected each character once, got {character!r} {times} times")


def _written(scalings: Scalings) -> dict[str, Any]:
    """Return scalings as JSON has them."""

    def each(scaling: Scaling | None) -> Any:
        return scaling and {name: array.tolist() for name, array in scaling._asdict().items()}

    return {name: each(scaling) for name, scaling in scalings._asdict().items()}


def _check_scalings(standardize: Any, config: LSTMConfig) -> Scalings | None:
    """Return the scalings of a network as a file has them, or None where it has none."""
    if standardize is not False and config.inputs == "tokens":
        raise ValueError("standardize: expected false with inputs='tokens', which are no numbers")
    if isinstance(standardize, bool):
        return None
    same_names("standardize", standardize, Scalings._fields)
    values = config.objective.answers == "values"
    if (standardize["targets"] is not None) != values:
        raise ValueError(f"standardize: expected targets {'' if values else 'of null '}with loss={config.loss!r}")
    inputs = _scaling("inputs", standardize["inputs"], config.input_size)
    return Scalings(inputs, _scaling("targets", standardize["targets"], config.output_size) if values else None)


def _scaling(name: str, scaling: Any, size: int) -> Scaling:
    same_names(f"standardize.{name}", scaling, Scaling._fields)
    for field, numbers in scaling.items():
        if not isinstance(numbers, list) or len(numbers) != size or {type(n) for n in numbers} - {int, float}:
            raise ValueError(f"standardize.{name}.{field}: expected {size} numbers, got {reprlib.repr(numbers)}")
    with _reading(f"standardize.{name}: expected numbers"):
        found = Scaling(np.array(scaling["mean"], float), np.array(scaling["deviation"], float))
    _check_finite(f"standardize.{name}", np.concatenate(found))
    if found.deviation.min() <= 0:
        raise ValueError(f"standardize.{name}.deviation: expected positive numbers, got {found.deviation.min()}")
    return found


def _check_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def _name_of(path: Any) -> str:
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise TypeError(f"path: expected a str or an os.PathLike, got {path!r}") from None
    if "\0" in name:
        raise ValueError(f"path: expected no null character, got {name!r}")
    return name


def _permissions(path: str) -> int:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "expected a file, got a folder or a device", path)
    return stat.S_IMODE(mode)


@contextlib.contextmanager
def _reading(expected: str) -> Iterator[None]:
    """Say in every error what was expected: on hostile bytes zipfile, json and NumPy raise a dozen types of them."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{expected}, got {type(error).__name__}: {error}") from None
