"""Is the gradient right? `jax.grad` of a loss against a reference and against finite differences, as a report.

`python -m jlstm.gradcheck` checks the library's loss on a random problem, `gradcheck` checks it on parameters and data
of your own, `check` any loss. Floats of 64 bits are on only while a check runs: no setting of JAX is changed.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jlstm import reference
from jlstm.cell import LSTMState
from jlstm.losses import loss_fn
from jlstm.model import Loss, LSTMConfig, ModelParams, Target, init_params, whole_number

__all__ = ["BOUNDS", "GradientReport", "Problem", "Row", "check", "gradcheck", "main", "random_problem"]

FLOAT64, DIFFERENCES, FLOAT32 = "float64 vs reference", "float64 vs finite differences", "float32 vs reference"
BOUNDS = {FLOAT64: 1e-12, DIFFERENCES: 1e-7, FLOAT32: 1e-5}
SAMPLE = 200  # finite differences in one array, at most
# Truncation costs about h² and rounding eps / h: their sum is least near ∛eps (Nocedal and Wright 2006, section 8.1).
STEP = float(np.cbrt(np.finfo(np.float64).eps))


@dataclass(frozen=True)
class Row:
    """One array of the gradient in one comparison.

    Attributes:
        comparison: which one, a key of `BOUNDS`.
        array: the array's place in the parameters, as Python writes it.
        shape: the array's shape.
        entries: how many of its entries were compared.
        difference: the largest absolute difference of an entry.
        of_array: `difference` relative to the largest entry of this array.
        of_gradient: `difference` relative to the largest entry of the whole gradient.

    Example:
        >>> row = Row("float64 vs reference", "readout.bias", (7,), 7, 2e-17, of_array=1e-15, of_gradient=1e-16)
        >>> row.bound, row.holds
        (1e-12, True)
    """

    comparison: str
    array: str
    shape: tuple[int, ...]
    entries: int
    difference: float
    of_array: float
    of_gradient: float

    @property
    def bound(self) -> float:
        """What `of_gradient` may be at most."""
        return BOUNDS[self.comparison]

    @property
    def holds(self) -> bool:
        """Whether `of_gradient` is within the bound, which NaN is not."""
        return self.of_gradient <= self.bound


@dataclass(frozen=True)
class GradientReport:
    """What a check found; `print` shows it as a table and a verdict.

    Attributes:
        rows: one for each array in each comparison.
        largest: the largest entry of the whole gradient.

    Example:
        >>> row = Row("float32 vs reference", "readout.bias", (7,), 7, 0.002, of_array=0.02, of_gradient=0.01)
        >>> report = GradientReport((row,), largest=0.2)
        >>> report.passed, str(report).splitlines()[-1]
        (False, 'FAILED: 1 of 1 bounds broken: float32 vs reference in readout.bias')
    """

    rows: tuple[Row, ...]
    largest: float

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return all(row.holds for row in self.rows)

    def __str__(self) -> str:
        head = ("jax.grad in", "array", "shape", "entries", "difference", "/ array", "/ gradient", "bound", "holds")
        table = [head, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        broken = [f"{row.comparison} in {row.array}" for row in self.rows if not row.holds]
        return "\n".join(
            [
                *("  ".join(map(format, cells, map("{}{}".format, "<<<>>>>>>", widths))) for cells in table),
                "",
                "difference   the largest difference of an entry from what jax.grad is compared with",
                "/ array      the same relative to the largest entry of this array",
                f"/ gradient   the same relative to the largest entry of the whole gradient, {self.largest:.1e}",
                "bound        what the column before it may be at most",
                "",
                f"FAILED: {len(broken)} of {len(self.rows)} bounds broken: {', '.join(broken)}"
                if broken
                else f"PASSED: all {len(self.rows)} bounds hold",
            ]
        )


def _cells(row: Row) -> tuple[str, ...]:
    size = math.prod(row.shape)
    entries = str(size) if row.entries == size else f"{row.entries} of {size}"
    numbers = (f"{number:.1e}" for number in (row.difference, row.of_array, row.of_gradient))
    return row.comparison, row.array, str(row.shape), entries, *numbers, f"{row.bound:.0e}", "yes" if row.holds else "NO"


def check(loss: Callable[[Any], Array], params: Any, *, reference_gradient: Any = None) -> GradientReport:
    """Compare `jax.grad` of a loss with finite differences of the loss and, where one is given, with a reference.

    The differences are central and in float64: of each entry of an array of up to 200, of 200 random entries of a
    larger one, and along one random direction of all parameters.

    Args:
        loss: `loss(params) -> scalar`, which JAX can trace and which computes in the dtype of `params`.
        params: any pytree of floating arrays, cast to float64, and to float32 for the comparison in float32.
        reference_gradient: the gradient from elsewhere, a pytree like `params`; JAX's is compared with it in float64
            and in float32.

    Returns:
        The report.

    Raises:
        TypeError: a leaf of `params` is not a floating array, or `loss` does not return an array of their dtype.
        ValueError: `params` has no leaf, `loss` is not scalar, or `reference_gradient` is not like `params`.

    Example:
        >>> report = check(lambda params: jnp.sum(params["w"] ** 2), {"w": jnp.arange(3.0)})
        >>> [row.array for row in report.rows], report.passed
        (["['w']", '(a random direction)'], True)
    """
    names = _names(params)
    expected = None if reference_gradient is None else _expected(reference_gradient, params, names)
    with jax.enable_x64(True):
        point = _cast(params, np.float64)
        _require_scalar(loss, point)
        gradient = _gradient(loss, point)
        samples, slopes, direction, slope = _finite_differences(loss, point)
    largest = max(map(_largest, gradient))

    def row(comparison: str, name: str, array: np.ndarray, found: np.ndarray, expected: np.ndarray) -> Row:
        difference = _largest(found - expected)
        of_array, of_gradient = _ratio(difference, _largest(array)), _ratio(difference, largest)
        return Row(comparison, name, array.shape, found.size, difference, of_array, of_gradient)

    def compare(comparison: str, found: list[np.ndarray], expected: list[np.ndarray]) -> list[Row]:
        return [row(comparison, *rest) for rest in zip(names, gradient, found, expected, strict=True)]

    rows = compare(DIFFERENCES, [array.flat[at] for array, at in zip(gradient, samples, strict=True)], slopes)
    along = np.array(np.concatenate([array.ravel() for array in gradient]) @ direction)
    rows.append(row(DIFFERENCES, "(a random direction)", along, along, slope))
    if expected is not None:
        single = _gradient(loss, _cast(params, np.float32))
        rows = [*compare(FLOAT64, gradient, expected), *rows, *compare(FLOAT32, single, expected)]
    return GradientReport(tuple(rows), largest)


def _names(params: Any) -> list[str]:
    """Return what Python calls each array of the parameters, such as `layers[0].bias`."""
    leaves = jax.tree.leaves_with_path(params)
    if not leaves:
        raise ValueError(f"params: expected a pytree of floating arrays, got one without arrays: {params!r}")
    names = []
    for path, leaf in leaves:
        names.append(jax.tree_util.keystr(path).removeprefix(".") or "params")
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.result_type(type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"params: expected a pytree of floating arrays, got {dtype} at {names[-1]}")
    return names


def _expected(reference_gradient: Any, params: Any, names: list[str]) -> list[np.ndarray]:
    got, like = jax.tree.structure(reference_gradient), jax.tree.structure(params)
    if got != like:
        raise ValueError(f"reference_gradient: expected a pytree like params, {like}, got {got}")
    expected = jax.tree.leaves(_cast(reference_gradient, np.float64))
    for name, array, param in zip(names, expected, jax.tree.leaves(params), strict=True):
        if array.shape != np.shape(param):
            raise ValueError(f"reference_gradient: expected shape {np.shape(param)} at {name}, got {array.shape}")
    return expected


def _require_scalar(loss: Callable[[Any], Array], point: Any) -> None:
    value = jax.eval_shape(loss, point)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.dtype != np.float64:
        raise TypeError(f"loss: expected a scalar of the parameters' dtype, float64, got {value}")
    if value.shape != ():
        raise ValueError(f"loss: expected a scalar, got an array of shape {value.shape}")


def _gradient(loss: Callable[[Any], Array], params: Any) -> list[np.ndarray]:
    return [np.asarray(array, np.float64) for array in jax.tree.leaves(jax.jit(jax.grad(loss))(params))]


def _finite_differences(
    loss: Callable[[Any], Array], params: Any
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Return which entries of each array were tried and the loss's slope in each, a direction, and the slope along it.

    A central difference (Nocedal and Wright, "Numerical Optimization", 2006, section 8.1) in entry k is
    (f(θ + h e_k) - f(θ - h e_k)) / 2h. To the entries of θ comes one coordinate more, how far all have moved along the
    direction, a random vector of length 1, so that one compiled function serves both.
    """
    sizes = [np.size(array) for array in jax.tree.leaves(params)]
    rng = np.random.default_rng(0)
    samples = [np.sort(rng.choice(size, min(size, SAMPLE), replace=False)) for size in sizes]
    direction = rng.normal(size=sum(sizes))
    direction /= np.linalg.norm(direction)

    flat, unravel = ravel_pytree(params)
    start = np.append(flat, 0.0)
    starts = np.cumsum([0, *sizes])
    at = np.concatenate([first + sample for first, sample in zip(starts, [*samples, [0]], strict=True)])
    step = STEP * np.maximum(1, np.abs(start[at]))

    def moved(move: tuple[Array, Array]) -> Array:
        point = jnp.asarray(start).at[move[0]].add(move[1])
        return loss(unravel(point[:-1] + point[-1] * direction))

    losses = jax.jit(lambda moves: lax.map(moved, moves))((np.tile(at, 2), np.append(step, -step)))
    up, down = np.split(np.asarray(losses), 2)
    *slopes, slope = np.split((up - down) / (2 * step), np.cumsum([len(sample) for sample in samples]))
    return samples, slopes, direction, slope[0]


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda array: np.asarray(array, dtype), tree)


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _ratio(difference: float, scale: float) -> float:
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.inf


def gradcheck(
    params: ModelParams,
    xs: Any,
    ys: Any,
    config: LSTMConfig,
    *,
    state: tuple[LSTMState, ...] | None = None,
    lengths: Any = None,
) -> GradientReport:
    """Compare the gradient of the library's loss with the NumPy reference's and with finite differences.

    Args:
        params: the network's parameters. They, `xs`, `ys` and `state` are rounded to float32 first where they are
            wider, so that every comparison starts from the same values.
        xs: the inputs, floats `[batch, time, I]`.
        ys: the targets, as `jlstm.losses.loss_fn` takes them.
        config: the network.
        state: the state before the first step, one `LSTMState` a layer; zeros where None.
        lengths: how many steps of each sequence are real, `[batch]` integers; all where None.

    Returns:
        The report of `check`, its reference that of `jlstm.reference.loss_and_grad`.

    Example:
        >>> problem = random_problem(LSTMConfig(input_size=1, hidden_size=2, output_size=2), batch=2, time=3)
        >>> report = gradcheck(problem.params, problem.xs, problem.ys, problem.config)
        >>> report.passed, report.rows[0].array
        (True, 'layers[0].weight_ih')
    """
    params, xs, ys, state = jax.tree.map(_at_most_float32, (params, np.asarray(xs), np.asarray(ys), state))
    given = {"state": state, "lengths": None if lengths is None else np.asarray(lengths)}
    _, gradient = reference.loss_and_grad(params, xs, ys, config, **given)
    return check(lambda params: loss_fn(params, xs, ys, config, **given), params, reference_gradient=gradient)


def _at_most_float32(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


class Problem(NamedTuple):
    """The arguments of `gradcheck`, and of `loss_fn` and the reference, which take them by the same names.

    Example:
        >>> problem = random_problem(LSTMConfig(input_size=1, hidden_size=2, output_size=2), batch=2, time=3)
        >>> loss_fn(**problem._asdict()).shape
        ()
    """

    params: ModelParams
    xs: np.ndarray
    ys: np.ndarray
    config: LSTMConfig
    state: tuple[LSTMState, ...] | None
    lengths: np.ndarray | None


def random_problem(config: LSTMConfig, batch: int, time: int, seed: int = 0) -> Problem:
    """Draw parameters and data.

    Args:
        config: the network.
        batch: the number of sequences.
        time: the number of steps.
        seed: the same seed gives the same problem.

    Returns:
        Float32 parameters of `init_params`; inputs, state and the targets of "mse" standard normal, of "cross_entropy"
        uniform class ids; lengths from 1 to `time`. `problem._replace(state=None)` leaves the state out.

    Raises:
        TypeError: `batch`, `time` or `seed` is not an integer.
        ValueError: `batch` or `time` is not positive, or `seed` is negative.

    Example:
        >>> problem = random_problem(LSTMConfig(input_size=1, hidden_size=2, output_size=2), batch=2, time=3)
        >>> problem.xs.shape, problem.ys.shape, problem.lengths.shape
        ((2, 3, 1), (2, 3), (2,))
    """
    batch, time = whole_number("batch", batch, least=1), whole_number("time", time, least=1)
    seed = whole_number("seed", seed, least=0)
    rng = np.random.default_rng(seed)
    shape = (batch, time) if config.target == "each" else (batch,)
    classes = config.output_size
    return Problem(
        params=init_params(jax.random.key(seed), config),
        xs=rng.normal(size=(batch, time, config.input_size)).astype(np.float32),
        ys=rng.integers(classes, size=shape)
        if config.loss == "cross_entropy"
        else rng.normal(size=(*shape, classes)).astype(np.float32),
        config=config,
        state=(LSTMState(*rng.normal(size=(2, batch, config.hidden_size)).astype(np.float32)),),
        lengths=rng.integers(1, time, size=batch, endpoint=True),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a random problem, print the report and return the exit status: 0 if every bound holds, 1 if not.

    Args:
        arguments: those of the command line, `sys.argv[1:]` where None; `--help` lists them.

    Example:
        >>> status = main(["--batch", "1", "--time", "2", "--hidden", "1"])    # doctest: +ELLIPSIS
        cross_entropy at each step: ...
        PASSED: all 16 bounds hold
        >>> status
        0
    """
    parser = argparse.ArgumentParser(
        prog="python -m jlstm.gradcheck",
        description="Compare jax.grad of the library's loss on a random problem with a reference, backpropagation "
        "through time written out by hand in NumPy float64 (jlstm/reference.py), and with finite differences of the "
        "loss. Exit status 0 if every bound holds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, default, meaning in (
        ("batch", 4, "sequences"),
        ("time", 20, "steps of a sequence"),
        ("features", 5, "inputs of a step"),
        ("hidden", 16, "hidden units"),
        ("classes", 7, "outputs of a step: classes, or values for mse"),
        ("seed", 0, "seed of the random parameters and data"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=meaning)
    parser.add_argument("--loss", choices=get_args(Loss), default="cross_entropy", help="the loss")
    parser.add_argument("--target", choices=get_args(Target), default="each", help="which steps have a target")
    parser.add_argument("--lengths", action="store_true", help="give each sequence a random length")
    given = parser.parse_args(arguments)
    try:
        config = LSTMConfig(given.features, given.hidden, given.classes, loss=given.loss, target=given.target)
        problem = random_problem(config, given.batch, given.time, given.seed)
    except ValueError as error:
        parser.error(str(error))
    report = gradcheck(**problem._replace(lengths=problem.lengths if given.lengths else None)._asdict())
    print(", ".join(f"{name} {value}" for name, value in vars(given).items()), report, sep="\n\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
