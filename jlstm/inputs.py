"""The containers that people have, lists, arrays, tables and labels in any form, become arrays, or a clear error."""

from typing import Any, Literal

import numpy as np

from jlstm.checks import class_ids, finite_numbers, numbers
from jlstm.config import LSTMConfig, check_config
from jlstm.data import Batch, Streams, Windows
from jlstm.model import check_reads_forwards

__all__ = ["as_batch", "as_predictions", "as_sequences", "check_scores_ids", "check_text", "is_boxed"]

ONE_EACH = "; a network that has one target for each sequence is made with target='last'"


def as_batch(X: Any, Y: Any, config: LSTMConfig, names: tuple[str, str] = ("X", "Y")) -> Batch:
    """Check sequences with their targets and bring them into one form.

    Args:
        X: the sequences: an array `[N, T, I]`, or `[N, T]` for one feature; or a list of N sequences, each `[T, I]` or
            `[T]`, which may differ in length. Where `config.inputs` is "tokens", ids `[N, T]` or a list of `[T]`.
        Y: the targets, an array or a list of N: for "cross_entropy" one-hot columns `[N, T, C, 1]`, probabilities
            `[N, T, C]` or class ids `[N, T]`; for "mse" values `[N, T, C, 1]`, `[N, T, C]`, or `[N, T]` for one output.
            Without the time axis where there is one a sequence.
        config: the network that will read them.
        names: what to call the two in an error.

    Returns:
        A `Batch` of NumPy arrays: float32 inputs or int32 ids, one-hot targets as ids; `lengths` where they differ.

    Raises:
        TypeError: strings, objects, complex numbers; class ids that are not integers.
        ValueError: everything else that does not fit: empty, of other sizes than the network, NaN, infinite, out of
            range, or X and Y of different lengths.

    Example:
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> as_batch([[0.1, 0.2], [0.3]], [[0, 1], [2]], config).lengths
        array([2, 1])
    """
    x_name, y_name = names
    given = _each(x_name, X)
    if isinstance(given, list):
        sequences = [_sequence(f"{x_name}[{k}]", sequence, config) for k, sequence in enumerate(given)]
        steps = np.array([len(sequence) for sequence in sequences])
        xs = _pad(sequences, steps.max())
    else:
        one_feature = config.inputs == "features" and config.input_size == 1
        if given.ndim == 2 and given.shape[1] == 1 and one_feature and not _is_list_of_arrays(X):
            raise ValueError(
                f"{x_name}: expected [N, T] or [N, T, 1], got shape {given.shape}, which may be one "
                f"sequence, {x_name}[None], or {len(given)} sequences of one step, {x_name}[:, None]: write which"
            )
        xs = _sequences(x_name, given, config)
        steps = np.full(len(xs), xs.shape[1])
    ys = _targets(y_name, Y, config, steps, x_name)
    return Batch(xs, ys, None if (steps == xs.shape[1]).all() else steps)


def as_sequences(x: Any, config: LSTMConfig) -> tuple[np.ndarray | list[np.ndarray], Literal["one", "batch", "list"]]:
    """Check what `predict` is asked about; the rank decides what it is, never the dtype or the container.

    Args:
        x: one sequence, `[T]` or `[T, I]`, as an array or a list of numbers; a batch, `[N, T, I]`, or of tokens
            `[N, T]`; or a list of arrays, each a sequence.
        config: the network that will read it.

    Returns:
        The sequences, `[N, T, I]` in float32 or of tokens `[N, T]` in int32, or a list of such `[T, I]` or `[T]`; and
        which of the three it was.

    Raises:
        TypeError, ValueError: as for `as_batch`.

    Example:
        >>> sequences, kind = as_sequences([0.1, 0.2, 0.3], LSTMConfig(input_size=1, hidden_size=8, output_size=3))
        >>> sequences.shape, kind
        ((1, 3, 1), 'one')
    """
    if _is_list_of_arrays(x):
        return [_sequence(f"x[{k}]", element, config) for k, element in enumerate(x)], "list"
    array = np.asarray(numbers("x", x))
    if array.ndim == 3 or (array.ndim == 2 and config.inputs == "tokens"):
        return _sequences("x", array, config), "batch"
    return _sequence("x", array, config)[None], "one"


def as_predictions(predictions: Any, targets: Any, config: LSTMConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    """Check what `predict` returned together with the targets to compare it with.

    Args:
        predictions: `[T, C, 1]` or `[N, T, C, 1]`, or a list of the first; without T where there is one a sequence.
        targets: the targets of the same sequences, in any form that `as_batch` takes.
        config: the network.

    Returns:
        For each sequence its predictions, `[T, C]` in float64 (`[1, C]` for one target), and its targets, `[T]` ids or
        `[T, C]`.

    Raises:
        TypeError, ValueError: as for `as_batch`.

    Example:
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> [(prediction, target)] = as_predictions(np.ones((2, 3, 1)) / 3, [0, 2], config)
        >>> prediction.shape, target.shape
        ((2, 3), (2,))
    """
    rank = 3 if config.target == "each" else 2
    if not isinstance(predictions, (list, tuple)):
        predictions = np.asarray(numbers("predictions", predictions))
        if predictions.ndim == rank:
            predictions, targets = [predictions], [targets]
        elif predictions.ndim != rank + 1:
            expected = "[T, C, 1] or [N, T, C, 1]" if rank == 3 else "[C, 1] or [N, C, 1]"
            raise ValueError(
                f"predictions: expected {expected} with C = {config.output_size}, got shape {predictions.shape}"
            )
    if len(predictions) == 0:
        raise ValueError("predictions: expected at least one sequence, got none")
    pairs = [finite_numbers(f"predictions[{k}]", p) for k, p in enumerate(predictions)]
    for k, prediction in enumerate(pairs):
        if len(prediction) == 0:
            raise ValueError(f"predictions: expected at least one time step in each, got shape {prediction.shape}")
        if prediction.ndim != rank or prediction.shape[-2:] != (config.output_size, 1):
            expected = "[T, C, 1]" if rank == 3 else "[C, 1]"
            raise ValueError(
                f"predictions[{k}]: expected {expected} with C = {config.output_size}, got shape {prediction.shape}"
            )
    steps = np.array([p.shape[0] if rank == 3 else 1 for p in pairs])
    ys = _targets("targets", targets, config, steps, "predictions")
    if rank == 2:
        ys = ys[:, None]
    return [(p.reshape(n, -1).astype(float), y[:n]) for p, y, n in zip(pairs, ys, steps, strict=True)]


def check_text(text: Windows | Streams, config: LSTMConfig, name: str = "X") -> Windows | Streams:
    """Return a text that fits the network, or raise a ValueError that says what does not fit."""
    check_scores_ids(config, name, each=bool(text.streams))
    if config.bidirectional and config.target == "each":
        raise ValueError(
            f"{name}: expected a network with target='last' or 'mean' where bidirectional=True, got 'each': a "
            "backward direction has read each step's next id already"
        )
    if text.ids.max() >= config.output_size:
        raise ValueError(f"{name}: expected ids below output_size = {config.output_size}, got {text.ids.max()}")
    return text


def check_scores_ids(config: LSTMConfig, name: str = "config", *, each: bool = True) -> None:
    """Raise a ValueError unless the network reads class ids and scores the next one, at each step or at the last."""
    check_config(config)
    if each:
        check_reads_forwards(config, name)
    if config.loss != "cross_entropy":
        raise ValueError(f"{name}: class ids need a network with loss='cross_entropy', got {config.loss!r}")
    if each and config.target != "each":
        raise ValueError(f"{name}: a score at each step needs a network with target='each', got {config.target!r}")
    classes = config.output_size
    if config.input_size != classes and (config.input_size, config.inputs) != (1, "features"):
        expected = f"one feature (it reads id / output_size) or input_size = output_size = {classes}"
        raise ValueError(f"{name}: class ids need a network with {expected}, got {config.input_size} {config.inputs}")


def _each(name: str, value: Any) -> np.ndarray | list[np.ndarray]:
    """Return an array whole, and a list as its elements, stacked where they have one shape."""
    if is_boxed(value):
        value = list(value)
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError(f"{name}: expected at least one sequence, got none")
        elements = [np.asarray(numbers(f"{name}[{k}]", element)) for k, element in enumerate(value)]
        return np.stack(elements) if len({element.shape for element in elements}) == 1 else elements
    return np.asarray(numbers(name, value))


def is_boxed(value: Any) -> bool:
    """Whether this is a list of arrays in an array of objects, as `numpy.load` and what splits data give it."""
    return isinstance(value, np.ndarray) and value.dtype == object and any(np.ndim(element) for element in value.flat)


def _is_list_of_arrays(value: Any) -> bool:
    return is_boxed(value) or (isinstance(value, (list, tuple)) and any(getattr(part, "ndim", 0) for part in value))


def _sequence(name: str, value: Any, config: LSTMConfig) -> np.ndarray:
    """Check one sequence, `[T]` or `[T, I]`."""
    array = np.asarray(numbers(name, value))
    if config.inputs == "tokens":
        return _tokens(name, array, config, ("T",))
    features = config.input_size
    if array.ndim == 1 and features == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != features:
        shapes = "[T] or [T, 1]" if features == 1 else f"[T, {features}]"
        advice = f"; write {name}[..., None] for a batch" if array.ndim == 2 and features == 1 else ""
        raise ValueError(f"{name}: expected a sequence {shapes}, I = {features}, got shape {array.shape}{advice}")
    if len(array) == 0:
        raise ValueError(f"{name}: expected at least one time step, got an empty sequence")
    return finite_numbers(name, array)


def _sequences(name: str, array: np.ndarray, config: LSTMConfig) -> np.ndarray:
    """Check many sequences of one length, `[N, T]` or `[N, T, I]`."""
    if config.inputs == "tokens":
        return _tokens(name, array, config, ("N", "T"))
    features = config.input_size
    if array.ndim == 2 and features == 1:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] != features:
        shapes = f"[N, T, {features}]" if features > 1 else "[N, T] or [N, T, 1]"
        advice = ""
        if array.ndim == 2 and array.shape[1] == features:
            advice = f"; write {name}[None] for one sequence, {name}[:, None] for {len(array)} of one step"
        elif array.ndim == 1:
            advice = f"; write {name}[None] for one sequence" if features == 1 else ""
        elif array.ndim == 2:
            advice = "; a network that reads one feature has input_size=1, and one that reads ids inputs='tokens'"
        elif array.ndim == 3:
            advice = f"; a network for them has input_size={array.shape[2]}"
        raise ValueError(f"{name}: expected sequences of shape {shapes}, got shape {array.shape}{advice}")
    if array.shape[0] == 0:
        raise ValueError(f"{name}: expected at least one sequence, got shape {array.shape}")
    if array.shape[1] == 0:
        raise ValueError(f"{name}: expected at least one time step, got empty sequences, shape {array.shape}")
    return finite_numbers(name, array)


def _tokens(name: str, array: np.ndarray, config: LSTMConfig, axes: tuple[str, ...]) -> np.ndarray:
    if array.ndim == len(axes) + 1 and array.shape[-1] == 1:  # as Keras has them
        array = array[..., 0]
    if array.ndim != len(axes) or array.size == 0:
        one_hot = array.ndim == len(axes) + 1 and array.shape[-1] == config.input_size
        advice = f"; write {name}.argmax(-1) for one-hot vectors" if one_hot else ""
        raise ValueError(f"{name}: expected ids [{', '.join(axes)}], at least one, got shape {array.shape}{advice}")
    return class_ids(name, array, config.input_size)


def _targets(name: str, value: Any, config: LSTMConfig, steps: np.ndarray, x_name: str) -> np.ndarray:
    """Check the targets of sequences of so many steps and return them as `[N, T]` ids or `[N, T, C]` numbers."""
    ys = _each(name, value)
    if isinstance(ys, np.ndarray) and ys.ndim == 0:
        raise ValueError(f"{name}: expected {_expected_targets(config)}, got {value!r}")
    if len(ys) != len(steps):
        raise ValueError(f"{name}: expected targets for the {len(steps)} sequences of {x_name}, got {_describe(ys)}")
    if np.ndim(ys[0]) == 0 and config.target == "each":
        raise ValueError(
            f"{name}: expected a target for each time step, {_expected_targets(config)}, got {_describe(ys)}{ONE_EACH}"
        )
    if config.target == "each":
        for k, (y, n) in enumerate(zip(ys, steps, strict=True)):
            if y.ndim == 0:
                raise ValueError(f"{name}: expected targets for the {n} time steps of {x_name}[{k}], got {y}")
            if len(y) != n:
                single = len(y) in (1, config.output_size) and {len(y) for y in ys} == {len(y)}
                advice = ONE_EACH if single else ""
                raise ValueError(f"{name}[{k}]: expected {n} time steps as in {x_name}[{k}], got {len(y)}{advice}")
    if isinstance(ys, list):
        if config.target != "each" or len({y.shape[1:] for y in ys}) > 1:
            raise ValueError(f"{name}: expected targets of one shape, got {sorted({y.shape for y in ys})}")
        ys = _pad(ys, steps.max())
    real = np.arange(steps.max()) < steps[:, None] if config.target == "each" else np.ones(len(steps), bool)
    classes, rank, given = config.output_size, real.ndim, ys
    if ys.ndim == rank + 2 and ys.shape[-1] == 1:
        ys = ys[..., 0]
    if ys.ndim == rank + 1 and ys.shape[-1] == 1 and config.loss == "cross_entropy":  # ids as Keras has them
        ys = ys[..., 0]
    if ys.ndim == rank and config.loss == "cross_entropy":
        return class_ids(name, ys, classes)
    if ys.ndim == rank and classes == 1:
        ys = ys[..., None]
    if ys.ndim != rank + 1 or ys.shape[-1] != classes:
        advice = ""
        if config.loss == "mse" and ys.ndim in (rank, rank + 1):
            advice = f"; a network for them has output_size={1 if ys.ndim == rank else ys.shape[-1]}"
        elif config.target != "each" and ys.ndim == 2:
            advice = "; a network that has a target for each time step is made with target='each'"
        raise ValueError(f"{name}: expected {_expected_targets(config)}, got {_describe(given)}{advice}")
    ys = finite_numbers(name, ys)
    if config.loss == "mse":
        return ys
    if ys.min() < 0 or np.abs(ys[real].sum(axis=-1) - 1).max() > 1e-3:
        raise ValueError(f"{name}: expected one-hot vectors or probabilities, each from 0 up with sum 1, got others")
    is_one_hot = (np.count_nonzero(ys[real], axis=-1) == 1).all()
    return ys.argmax(axis=-1).astype(np.int32) if is_one_hot else ys


def _expected_targets(config: LSTMConfig) -> str:
    axes = "N, T" if config.target == "each" else "N"
    classes = config.output_size
    shapes = [f"[{axes}, {classes}, 1]", f"[{axes}, {classes}]"]
    if config.loss == "cross_entropy":
        shapes.append(f"class ids [{axes}]")
    elif classes == 1:
        shapes.append(f"[{axes}]")
    return "targets of shape " + " or ".join(shapes)


def _describe(ys: np.ndarray | list[np.ndarray]) -> str:
    return f"{len(ys)} of different shapes" if isinstance(ys, list) else f"shape {ys.shape}"


def _pad(sequences: list[np.ndarray], steps: int) -> np.ndarray:
    """Return sequences `[T, ...]` with zeros behind them as one array `[N, steps, ...]`."""
    first = sequences[0]
    padded = np.zeros((len(sequences), steps, *first.shape[1:]), np.result_type(*sequences))
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
