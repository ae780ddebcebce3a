"""The containers that people have, lists, arrays, tables and labels in any form, become arrays, or a clear error."""

from typing import Any, Literal

import numpy as np

from jlstm.checks import class_ids, describe, finite_numbers, is_boxed, is_list_of_arrays, numbers
from jlstm.config import LSTMConfig, check_config
from jlstm.data import Batch, Streams, Windows, behind
from jlstm.model import check_reads_forwards
from jlstm.objectives import UNKNOWN, known
from jlstm.series import SeriesWindows

__all__ = ["as_batch", "as_predictions", "as_sequences", "as_series", "check_scores_ids", "check_text"]

GAPS = "; SeriesWindows(table, length, fill='last') takes the last known value for a gap"
ONE_EACH = "; a network that has one target for each sequence is made with target='last'"


def as_batch(
    X: Any,
    Y: Any,
    config: LSTMConfig,
    names: tuple[str, str, str] = ("X", "Y", "weights"),
    *,
    weights: Any = None,
    class_weights: Any = None,
    dtype: Any = np.float32,
) -> Batch:
    """Check sequences with their targets and bring them into one form.

    Args:
        X: the sequences: an array `[N, T, I]`, or `[N, T]` for one feature; or a list of N sequences, each `[T, I]` or
            `[T]`, which may differ in length. Where `config.inputs` is "tokens", ids `[N, T]` or a list of `[T]`.
        Y: the targets, an array or a list of N: for "cross_entropy" one-hot columns `[N, T, C, 1]`, probabilities
            `[N, T, C]` or class ids `[N, T]`; else values, or for "binary_cross_entropy" booleans or probabilities of
            yes, `[N, T, C, 1]`, `[N, T, C]`, or `[N, T]` for one output. Without the time axis where there is one a
            sequence. NaN, and the id -100, are unknown.
        config: the network that will read them.
        names: what to call X, Y and the weights in an error.
        weights: how much each target counts, an array or a list of N: `[N]`, `[N, T]` with a target for each step, or
            one for each output of those that are no classes; all alike where None.
        class_weights: how much each class counts, `[C]`, or for "binary_cross_entropy" no and yes, `[2]`; of targets
            that are probabilities the mean by these.
        dtype: of the inputs that are numbers, and of values.

    Returns:
        A `Batch` of NumPy arrays: inputs in `dtype` or int32 ids, one-hot targets as ids; `lengths` where they differ.

    Raises:
        TypeError: strings, objects, complex numbers; class ids that are not integers.
        ValueError: everything else that does not fit: empty, of other sizes than the network, NaN, infinite, out of
            range, X and Y of different lengths, or no target that counts.

    Example:
        >>> config = LSTMConfig(input_size=1, hidden_size=8, output_size=3)
        >>> as_batch([[0.1, 0.2], [0.3]], [[0, 1], [2]], config).lengths
        array([2, 1])
    """
    x_name, y_name, weights_name = names
    given = _each(x_name, X)
    if isinstance(given, list):
        sequences = [_sequence(f"{x_name}[{k}]", sequence, config, dtype) for k, sequence in enumerate(given)]
        steps = np.array([len(sequence) for sequence in sequences])
        xs = _pad(sequences, steps.max())
    else:
        one_feature = config.inputs == "features" and config.input_size == 1
        if given.ndim == 2 and given.shape[1] == 1 and one_feature and not is_list_of_arrays(X):
            raise ValueError(
                f"{x_name}: expected [N, T] or [N, T, 1], got shape {given.shape}, which may be one "
                f"sequence, {x_name}[None], or {len(given)} sequences of one step, {x_name}[:, None]: write which"
            )
        xs = _sequences(x_name, given, config, dtype)
        steps = np.full(len(xs), xs.shape[1])
    ys = _targets(y_name, Y, config, steps, x_name, dtype)
    real = np.arange(steps.max()) < steps[:, None] if config.target == "each" else np.ones(len(steps), bool)
    counted = _weights(weights_name, weights, class_weights, ys, real, config)
    batch = Batch(xs, ys, None if (steps == xs.shape[1]).all() else steps, weights=counted)
    _check_counts(y_name, batch, config)
    return batch


def as_series(
    series: SeriesWindows,
    config: LSTMConfig,
    name: str = "X",
    *,
    class_weights: Any = None,
    dtype: Any = np.float32,
) -> SeriesWindows:
    """Return windows of tables with their arrays in the form that a network reads.

    Args:
        series: the windows.
        config: the network that will read them.
        name: what to call them in an error.
        class_weights, dtype: as for `as_batch`.

    Raises:
        TypeError, ValueError: as for `as_batch`.

    Example:
        >>> series = SeriesWindows(np.arange(10.0), length=4)
        >>> as_series(series, LSTMConfig(input_size=1, hidden_size=8, output_size=1, loss="mse")).targets.dtype
        dtype('float32')
    """
    if config.inputs == "tokens":
        raise ValueError(f"{name}: expected ids, with inputs='tokens', got SeriesWindows, whose readings are numbers")
    if series.tables.shape[1] != config.input_size:
        features = series.tables.shape[1]
        advice = f"a network for them has input_size={features}"
        raise ValueError(f"{name}: expected tables of {config.input_size} features, got {features}; {advice}")
    each, real = f"{name}.targets", np.ones(len(series.tables), bool)
    targets = _in_one_form(each, series.targets, config, real, dtype, "rows")
    weights = _weights(f"{name}.weights", series.weights, class_weights, targets, real, config)
    tables = finite_numbers(f"{name}.tables", series.tables, dtype)
    found = series.with_arrays(tables, targets, weights, series.starts)
    _check_counts(each, found, config)
    return found


def as_sequences(
    x: Any, config: LSTMConfig, dtype: Any = np.float32
) -> tuple[np.ndarray | list[np.ndarray], Literal["one", "batch", "list"]]:
    """Check what `predict` is asked about; the rank decides what it is, never the dtype or the container.

    Args:
        x: one sequence, `[T]` or `[T, I]`, as an array or a list of numbers; a batch, `[N, T, I]`, or of tokens
            `[N, T]`; or a list of arrays, each a sequence.
        config: the network that will read it.
        dtype: of inputs that are numbers.

    Returns:
        The sequences, `[N, T, I]` in `dtype` or of tokens `[N, T]` in int32, or a list of such `[T, I]` or `[T]`; and
        which of the three it was.

    Raises:
        TypeError, ValueError: as for `as_batch`.

    Example:
        >>> sequences, kind = as_sequences([0.1, 0.2, 0.3], LSTMConfig(input_size=1, hidden_size=8, output_size=3))
        >>> sequences.shape, kind
        ((1, 3, 1), 'one')
    """
    if is_list_of_arrays(x):
        return [_sequence(f"x[{k}]", element, config, dtype) for k, element in enumerate(x)], "list"
    array = np.asarray(numbers("x", x))
    if array.ndim == 3 or (array.ndim == 2 and config.inputs == "tokens"):
        return _sequences("x", array, config, dtype), "batch"
    return _sequence("x", array, config, dtype)[None], "one"


def as_predictions(
    predictions: Any, targets: Any, config: LSTMConfig, dtype: Any = np.float32
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Check what `predict` returned together with the targets to compare it with.

    Args:
        predictions: `[T, C, 1]` or `[N, T, C, 1]`, or a list of the first; without T where there is one a sequence.
        targets: the targets of the same sequences, in any form that `as_batch` takes.
        config: the network.
        dtype: in which both have to be finite.

    Returns:
        For each sequence its predictions, `[T, C]` in float64 (`[1, C]` for one target), and its targets, `[T]` ids or
        `[T, C]`, of which some may be unknown.

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
    pairs = [finite_numbers(f"predictions[{k}]", p, dtype) for k, p in enumerate(predictions)]
    for k, prediction in enumerate(pairs):
        if len(prediction) == 0:
            raise ValueError(f"predictions: expected at least one time step in each, got shape {prediction.shape}")
        if prediction.ndim != rank or prediction.shape[-2:] != (config.output_size, 1):
            expected = "[T, C, 1]" if rank == 3 else "[C, 1]"
            raise ValueError(
                f"predictions[{k}]: expected {expected} with C = {config.output_size}, got shape {prediction.shape}"
            )
    steps = np.array([p.shape[0] if rank == 3 else 1 for p in pairs])
    ys = _targets("targets", targets, config, steps, "predictions", dtype)
    if rank == 2:
        ys = ys[:, None]
    return [(p.reshape(n, -1).astype(float), y[:n]) for p, y, n in zip(pairs, ys, steps, strict=True)]


def check_text(text: Windows | Streams, config: LSTMConfig, name: str = "X") -> Windows | Streams:
    """Return a text that fits the network, or raise a ValueError that says what does not fit.

    The ids of a text on disk are checked when they are read.
    """
    check_scores_ids(config, name, each=bool(text.streams))
    if config.bidirectional and config.target == "each":
        raise ValueError(
            f"{name}: expected a network with target='last' or 'mean' where bidirectional=True, got 'each': a "
            "backward direction has read each step's next id already"
        )
    if text.read is None and text.ids.max() >= config.output_size:
        raise ValueError(f"{name}: expected ids below output_size = {config.output_size}, got {text.ids.max()}")
    return text


def check_scores_ids(config: LSTMConfig, name: str = "config", *, each: bool = True) -> None:
    """Raise a ValueError unless the network reads class ids and scores the next one, at each step or at the last."""
    check_config(config)
    if each:
        check_reads_forwards(config, name)
    if config.objective.answers != "classes":
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


def _sequence(name: str, value: Any, config: LSTMConfig, dtype: Any) -> np.ndarray:
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
    return finite_numbers(name, array, dtype, advice=GAPS)


def _sequences(name: str, array: np.ndarray, config: LSTMConfig, dtype: Any) -> np.ndarray:
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
    return finite_numbers(name, array, dtype, advice=GAPS)


def _tokens(name: str, array: np.ndarray, config: LSTMConfig, axes: tuple[str, ...]) -> np.ndarray:
    if array.ndim == len(axes) + 1 and array.shape[-1] == 1:  # as Keras has them
        array = array[..., 0]
    if array.ndim != len(axes) or array.size == 0:
        one_hot = array.ndim == len(axes) + 1 and array.shape[-1] == config.input_size
        advice = f"; write {name}.argmax(-1) for one-hot vectors" if one_hot else ""
        raise ValueError(f"{name}: expected ids [{', '.join(axes)}], at least one, got shape {array.shape}{advice}")
    return class_ids(name, array, config.input_size)


def _targets(
    name: str, value: Any, config: LSTMConfig, steps: np.ndarray, x_name: str, dtype: Any = np.float32
) -> np.ndarray:
    """Check the targets of sequences of so many steps and return them as `[N, T]` ids or `[N, T, C]` numbers."""
    ys, axes = _each(name, value), "N, T" if config.target == "each" else "N"
    if isinstance(ys, np.ndarray) and ys.ndim == 0:
        raise ValueError(f"{name}: expected {_expected_targets(config, axes)}, got {value!r}")
    if len(ys) != len(steps):
        raise ValueError(f"{name}: expected targets for the {len(steps)} sequences of {x_name}, got {_describe(ys)}")
    if np.ndim(ys[0]) == 0 and config.target == "each":
        raise ValueError(
            f"{name}: expected a target for each time step, {_expected_targets(config, axes)}, got {_describe(ys)}"
            f"{ONE_EACH}"
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
    return _in_one_form(name, ys, config, real, dtype, axes)


def _in_one_form(
    name: str, given: np.ndarray, config: LSTMConfig, real: np.ndarray, dtype: Any, axes: str
) -> np.ndarray:
    """Return targets at the places `real` as ids of their shape, or as numbers with C behind it."""
    classes, rank, of_classes, ys = config.output_size, real.ndim, config.objective.answers == "classes", given
    if ys.ndim == rank + 2 and ys.shape[-1] == 1:
        ys = ys[..., 0]
    if ys.ndim == rank + 1 and ys.shape[-1] == 1 and of_classes:  # ids as Keras has them
        ys = ys[..., 0]
    if ys.ndim == rank and of_classes:
        return class_ids(name, ys, classes, unknown=UNKNOWN)
    if ys.ndim == rank and classes == 1:
        ys = ys[..., None]
    if ys.ndim != rank + 1 or ys.shape[-1] != classes:
        advice = ""
        if not of_classes and ys.ndim in (rank, rank + 1):
            advice = f"; a network for them has output_size={1 if ys.ndim == rank else ys.shape[-1]}"
        elif config.target != "each" and ys.ndim == 2:
            advice = "; a network that has a target for each time step is made with target='each'"
        raise ValueError(f"{name}: expected {_expected_targets(config, axes)}, got {_describe(given)}{advice}")
    if config.objective.answers == "values":
        return finite_numbers(name, ys, dtype, gaps=True)
    ys = finite_numbers(name, np.where(ys == UNKNOWN, np.nan, ys), gaps=True)
    counted = ys[real & known(ys).all(axis=-1)] if of_classes else ys[real][known(ys[real])]
    if config.objective.answers == "questions":
        if counted.size and (counted.min() < 0 or counted.max() > 1):
            wrong = counted.min() if counted.min() < 0 else counted.max()
            raise ValueError(f"{name}: expected booleans, or probabilities of yes from 0 to 1, got {wrong}")
        return ys
    if counted.size and (counted.min() < 0 or np.abs(counted.sum(axis=-1) - 1).max() > 1e-3):
        raise ValueError(f"{name}: expected one-hot vectors or probabilities, each from 0 up with sum 1, got others")
    if not (np.count_nonzero(counted, axis=-1) == 1).all():
        return ys
    return np.where(known(ys).all(axis=-1), ys.argmax(axis=-1), UNKNOWN).astype(np.int32)


def _expected_targets(config: LSTMConfig, axes: str) -> str:
    classes = config.output_size
    shapes = [f"[{axes}, {classes}, 1]", f"[{axes}, {classes}]"]
    if config.objective.answers == "classes":
        shapes.append(f"class ids [{axes}]")
    elif classes == 1:
        shapes.append(f"[{axes}]")
    return "targets of shape " + " or ".join(shapes)


def _weights(name: str, weights: Any, class_weights: Any, ys: np.ndarray, real: np.ndarray, config: LSTMConfig) -> Any:
    """Return how much each of the targets `ys` counts, of the shape of `real` or with fewer or more axes, or None."""
    found = None
    if weights is not None:
        given = _each(name, weights)
        if isinstance(given, list):
            given = _padded_weights(name, given, real)
        of_answers = *real.shape, config.output_size
        shapes = [real.shape[:k] for k in range(1, real.ndim + 1)]
        shapes += [] if config.objective.answers == "classes" else [of_answers]
        if given.shape not in shapes:
            raise ValueError(f"{name}: expected shape {' or '.join(map(str, shapes))}, got {_describe(given)}")
        found = _not_negative(name, given)
    if class_weights is None:
        return found
    if config.objective.answers == "values":
        raise ValueError(f"class_weights: expected None with loss={config.loss!r}, which has no classes")
    if isinstance(class_weights, (dict, str)):
        raise TypeError(f"class_weights: expected a list of numbers, of each class, [1, 20], got {class_weights!r}")
    of_each = _not_negative("class_weights", class_weights)
    count, kinds = (2, "no and yes") if config.objective.answers == "questions" else (config.output_size, "each class")
    if of_each.shape != (count,):
        raise ValueError(f"class_weights: expected {count} numbers, of {kinds}, got {describe(class_weights)}")
    ids = np.issubdtype(ys.dtype, np.integer)
    if config.objective.answers == "questions":
        by_class = of_each[0] + (of_each[1] - of_each[0]) * np.nan_to_num(ys)
    else:
        by_class = of_each[np.maximum(ys, 0)] if ids else np.nan_to_num(ys) @ of_each
    if found is None:
        return by_class
    return behind(found, by_class) * by_class


def _padded_weights(name: str, weights: list[np.ndarray], real: np.ndarray) -> np.ndarray:
    if real.ndim == 1 or len({sequence.shape[1:] for sequence in weights}) > 1:
        raise ValueError(f"{name}: expected weights of one shape, got {sorted({each.shape for each in weights})}")
    for k, (sequence, steps) in enumerate(zip(weights, real.sum(axis=-1), strict=False)):
        if sequence.shape[:1] != (steps,):
            raise ValueError(f"{name}[{k}]: expected {steps} time steps, got shape {sequence.shape}")
    return _pad(weights, real.shape[1])


def _not_negative(name: str, value: Any) -> np.ndarray:
    array = finite_numbers(name, value)
    if array.size and array.min() < 0:
        raise ValueError(f"{name}: expected numbers from 0 up, got {array.min()}")
    return array


def _check_counts(name: str, data: Batch | SeriesWindows, config: LSTMConfig) -> None:
    """Raise a ValueError unless there is a target that is known and of a weight above 0."""
    if not data.mean_weight(config) > 0:
        raise ValueError(f"{name}: expected at least one known target of a weight above 0, got none")


def _describe(ys: np.ndarray | list[np.ndarray]) -> str:
    return f"{len(ys)} of different shapes" if isinstance(ys, list) else f"shape {ys.shape}"


def _pad(sequences: list[np.ndarray], steps: int) -> np.ndarray:
    """Return sequences `[T, ...]` with zeros behind them as one array `[N, steps, ...]`."""
    first = sequences[0]
    padded = np.zeros((len(sequences), steps, *first.shape[1:]), np.result_type(*sequences))
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
