"""What a network's file holds, whatever contains it: an object in JSON that says what the network is, arrays by name.

`jlstm.npz` and `jlstm.safetensors` are the two containers; `jlstm.checkpoint` says what is in the object.
"""

import contextlib
import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import numpy as np

from jlstm.cells import CELLS, Cell
from jlstm.checks import alike, same_names, whole_number
from jlstm.config import LSTMConfig
from jlstm.model import ModelParams, params_shapes
from jlstm.scaling import Scaling, Scalings

__all__ = [
    "EVERY",
    "MOST_ABOUT",
    "Contents",
    "Saved",
    "Training",
    "check_bits",
    "put_together",
    "read_about",
    "reading",
    "take_apart",
]

VERSIONS = 1, 2, 3, 4, 5  # those that are read; the last is written
NAMES = "format", "version", "config", "vocabulary", "apply_softmax", "trained_on", "standardize", "training"
LEFT_OUT: dict[str, Any] = {"trained_on": "", "standardize": False, "training": None}  # where they are this
HISTORY = "loss", "validation", "accuracy"
MOST_ABOUT = 2**24  # bytes: three times what a vocabulary of all of Unicode takes
MOST_AXES = 64  # as NumPy has it
# The dtypes of parameters, and those of all arrays, each as NumPy reads its bits.
FLOATS = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8"}
EVERY = FLOATS | {
    **{"int8": "|i1", "int16": "<i2", "int32": "<i4", "int64": "<i8"},
    **{"uint8": "|u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "bool": "|b1"},
}


class Training(NamedTuple):
    """What it takes to train a network on, beside the network itself.

    Attributes:
        epochs: how many epochs led to its parameters.
        history: the losses of all finished epochs, by the names that `jlstm.History` has for them.
        state: the arrays of the training's state by name, as NumPy's, such as `.opt_state[0].count`.
    """

    epochs: int
    history: dict[str, tuple[float, ...]]
    state: dict[str, np.ndarray]


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
        training: what it takes to train on; None where nobody is to.
    """

    params: ModelParams
    config: LSTMConfig
    vocabulary: str | None
    apply_softmax: bool
    trained_on: str = ""
    standardize: bool = False
    scalings: Scalings | None = None
    training: Training | None = None


class Contents(NamedTuple):
    """What is in a file, before anybody knows whether it is a network.

    Attributes:
        about: the object that says what the network is; its names are right, and nothing else is sure.
        most_bytes: no array is larger.
        most_arrays: there are no more.
        arrays: a function that returns the arrays of exactly these names and shapes, or raises what does not fit.
    """

    about: dict[str, Any]
    most_bytes: int
    most_arrays: int
    arrays: Callable[[Mapping[str, tuple[int, ...]]], dict[str, np.ndarray]]


def take_apart(saved: Saved) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what a network is, as JSON has it, and its arrays by name; or raise an error that says what is wrong."""
    if not isinstance(saved, Saved) or not isinstance(saved.config, LSTMConfig):
        raise TypeError(f"saved: expected a Saved with an LSTMConfig, got {reprlib.repr(saved)}")
    _check(saved.config, saved.vocabulary, saved.apply_softmax, saved.trained_on)
    standardize = _written(saved.scalings) if saved.standardize and saved.scalings else saved.standardize
    _check_scalings(standardize, saved.config)
    alike("params", saved.params, params_shapes(saved.config))
    arrays = {name: np.asarray(leaf) for name, leaf in _by_name(saved.params).items()}
    for name, array in arrays.items():
        if array.dtype.name not in FLOATS:
            raise TypeError(f"params.{name}: expected one of {tuple(FLOATS)}, got {array.dtype}")
        _check_finite(f"params.{name}", array)
    of_training = _training_apart(saved.training)
    shapes = {name: list(array.shape) for name, array in of_training.items()}
    about = {
        "format": "jlstm",
        "version": VERSIONS[-1],
        "config": {field.name: getattr(saved.config, field.name) for field in fields(LSTMConfig)}
        | {"cell": saved.config.cell.name},
        "vocabulary": saved.vocabulary,
        "apply_softmax": saved.apply_softmax,
        **({"trained_on": saved.trained_on} if saved.trained_on else {}),
        **({"standardize": standardize} if standardize else {}),
        **({"training": {"epochs": int(saved.training.epochs), "shapes": shapes}} if saved.training else {}),
    }
    arrays |= of_training
    return about, {name: np.asarray(array, array.dtype.name, order="C") for name, array in arrays.items()}


def put_together(contents: Contents, cell: Cell | None) -> Saved:
    """Return the network whose parts these are, with NumPy's arrays, in memory that the file's own size bounds."""
    about = LEFT_OUT | contents.about
    named = about["config"].get("cell", "lstm") if isinstance(about["config"], dict) else "lstm"
    chosen = _cell_named(named, cell)
    with reading("config: expected what LSTMConfig takes"):
        config = LSTMConfig(**about["config"] | {"cell": chosen})
    inputs, hidden, outputs, layers = config.input_size, config.hidden_size, config.output_size, config.layers
    width, size = config.output_width, contents.most_bytes
    # Every cell reads all of its input; checked first, so that whatever follows is no larger than the file.
    if hidden * (inputs + (layers - 1) * width) + width * outputs > size or layers > contents.most_arrays:
        sizes = f"sizes {inputs}, {hidden}, {outputs} and {layers} layers"
        raise ValueError(f"config: expected a network that fits into {size} bytes, got {sizes}")
    _check(config, about["vocabulary"], about["apply_softmax"], about["trained_on"])
    expected = params_shapes(config)
    shapes = {name: leaf.shape for name, leaf in _by_name(expected).items()}
    turned = [name for name in shapes if about["version"] == 1 and name.startswith("layers[")]
    training = about["training"]
    of_training = {} if training is None else _training_shapes(training, size)
    arrays = contents.arrays(shapes | {name: shapes[name][::-1] for name in turned} | of_training)
    for name in shapes:
        if arrays[name].dtype.name not in FLOATS:
            raise ValueError(f"{name}: expected one of {tuple(FLOATS)}, got {arrays[name].dtype}")
        check_bits(name, arrays[name])
        _check_finite(name, arrays[name])
    arrays |= {name: arrays[name].T for name in turned}
    params = jax.tree.unflatten(jax.tree.structure(expected), [arrays[name] for name in shapes])
    scalings = _check_scalings(about["standardize"], config)
    said = about["vocabulary"], about["apply_softmax"], about["trained_on"], about["standardize"] is not False
    told = None if training is None else _training_together(training["epochs"], arrays, of_training)
    return Saved(params, config, *said, scalings, told)


def read_about(where: str, text: str | bytes, own: str) -> dict[str, Any]:
    """Return the object in JSON that says what a network is, of a known version and with the right names.

    Args:
        where: what to call it in an error.
        text: the JSON.
        own: the name that its container adds.
    """
    with reading(f"{where}: expected JSON"):
        about = json.loads(text)
    if not isinstance(about, dict) or about.get("format") != "jlstm":
        raise ValueError(f"{where}: expected an object with the format 'jlstm', got {reprlib.repr(about)}")
    version = about.get("version")
    if type(version) is not int or version not in VERSIONS:
        newer = ", written by a newer jlstm" if type(version) is int and version > VERSIONS[-1] else ""
        raise ValueError(f"version: expected 1 to {VERSIONS[-1]}, got {reprlib.repr(version)}{newer}")
    same_names(where, LEFT_OUT | about, [*NAMES, own])
    return about


def check_bits(name: str, array: np.ndarray) -> None:
    """Raise a ValueError where JAX would round an array, since float64 is off."""
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(f"{name}: expected a dtype of 32 bits or less, got {array.dtype}, which needs jax_enable_x64")


@contextlib.contextmanager
def reading(expected: str) -> Iterator[None]:
    """Say in every error what was expected: on hostile bytes zipfile, json and NumPy raise a dozen types of them."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{expected}, got {type(error).__name__}: {error}") from None


def _cell_named(name: Any, own: Cell | None) -> Cell:
    """Return the cell that a file names, which is one of these or a user's own."""
    found = CELLS.get(name) if own is None and isinstance(name, str) else own
    if found is None:
        advice = "which is none of jlstm's: load it with cell=..., the Cell that it was made of"
        raise ValueError(f"cell: expected the cell {reprlib.repr(name)}, {advice}")
    if found.name != name:
        raise ValueError(f"cell: expected the cell {reprlib.repr(name)}, got {found!r}")
    return found


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
    with reading(f"standardize.{name}: expected numbers"):
        found = Scaling(np.array(scaling["mean"], float), np.array(scaling["deviation"], float))
    _check_finite(f"standardize.{name}", np.concatenate(found))
    if found.deviation.min() <= 0:
        raise ValueError(f"standardize.{name}.deviation: expected positive numbers, got {found.deviation.min()}")
    return found


def _training_apart(training: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a training, by their names in a file; none where there is no training."""
    if training is None:
        return {}
    if not isinstance(training, Training):
        raise TypeError(f"training: expected a Training or None, got {reprlib.repr(training)}")
    whole_number("training.epochs", training.epochs, least=0)
    same_names("training.history", training.history, HISTORY)
    arrays = {f"training{name}": np.asarray(array) for name, array in training.state.items()}
    for name, array in arrays.items():
        if array.dtype.name not in EVERY:
            raise TypeError(f"{name}: expected an array of numbers, got {array.dtype}")
    return {f"training.history.{name}": np.asarray(training.history[name], np.float64) for name in HISTORY} | arrays


def _training_shapes(training: Any, size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a training's arrays, as the object of a file of at most so many bytes has them."""
    same_names("training", training, ["epochs", "shapes"])
    with reading("training.epochs: expected a number of epochs"):
        whole_number("epochs", training["epochs"], least=0)
    shapes, history = training["shapes"], {f"training.history.{name}" for name in HISTORY}
    if not isinstance(shapes, dict) or not shapes.keys() >= history:
        raise ValueError(f"training.shapes: expected an object with {sorted(history)}, got {reprlib.repr(shapes)}")
    for name, shape in shapes.items():
        if not name.startswith("training."):
            raise ValueError(f"training.shapes: expected names that begin with 'training.', got {reprlib.repr(name)}")
        whole = isinstance(shape, list) and all(type(n) is int and 0 <= n <= size for n in shape)
        if not whole or len(shape) > MOST_AXES:
            raise ValueError(f"{name}: expected a shape of numbers up to {size}, got {reprlib.repr(shape)}")
        if name in history and len(shape) != 1:
            raise ValueError(f"{name}: expected a shape of one number, got {reprlib.repr(shape)}")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _training_together(epochs: int, arrays: dict[str, np.ndarray], names: Iterable[str]) -> Training:
    """Return the training whose arrays have these names in a file."""
    state = {name.removeprefix("training"): arrays[name] for name in names}
    history = {name: state.pop(f".history.{name}") for name in HISTORY}
    for name, losses in history.items():
        if losses.dtype != np.float64:
            raise ValueError(f"training.history.{name}: expected float64, got {losses.dtype}")
    return Training(epochs, {name: tuple(losses.tolist()) for name, losses in history.items()}, state)


def _check_finite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
