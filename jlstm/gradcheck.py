"""Is the gradient right? `jax.grad` of a loss against a reference and against finite differences, as a report.

`python -m jlstm.gradcheck` checks the library's loss on a random problem, `gradcheck` checks it on parameters and data
of your own, `check` checks any loss. Floats of 64 bits are on only inside a check: no setting of JAX is changed.
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
from jlstm.cells import CELLS, Cell
from jlstm.checks import whole_number
from jlstm.config import Inputs, Loss, LSTMConfig, Target
from jlstm.losses import loss_fn
from jlstm.model import ModelParams, params_shapes
from jlstm.regularizers import draw_masks

__all__ = ["BOUNDS", "GradientReport", "Row", "check", "combinations", "gradcheck", "random_problem"]

FLOAT64, DIFFERENCES, FLOAT32 = "float64 vs reference", "float64 vs finite differences", "float32 vs reference"
BOUNDS = {FLOAT64: 1e-12, DIFFERENCES: 1e-7, FLOAT32: 1e-5}
SAMPLE = 200  # finite differences in one array, at most; as many for all its gates together
# Truncation costs about h² and rounding eps / h: their sum is least near ∛eps (Nocedal and Wright, 2006, section 8.1).
STEP = float(np.cbrt(np.finfo(np.float64).eps))


@dataclass(frozen=True)
class Row:
    """One array of the gradient in one comparison, or the block of one gate in it.

    Attributes:
        comparison: which one, a key of `BOUNDS`.
        array: the array's place in the parameters, as Python writes it, and behind it the gate where it has several.
        shape: the array's shape, or the block's.
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
    """What a check found; printed, it is a table and a verdict.

    Attributes:
        rows: one for each array in each comparison.
        largest: the largest absolute entry of the whole gradient.

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
        verdict = f"PASSED: all {len(self.rows)} bounds hold"
        if broken:
            verdict = f"FAILED: {len(broken)} of {len(self.rows)} bounds broken: {', '.join(broken)}"
        return "\n".join(
            [
                *("  ".join(map(format, cells, map("{}{}".format, "<<<>>>>>>", widths))) for cells in table),
                "",
                "difference   the largest between an entry of jax.grad and what it is compared with",
                "/ array      the same relative to the largest entry of this array",
                f"/ gradient   the same relative to the largest entry of the whole gradient, {self.largest:.1e}",
                "bound        the most that the column before it may be",
                "",
                verdict,
            ]
        )


def _cells(row: Row) -> tuple[str, ...]:
    size = math.prod(row.shape)
    entries = str(size) if row.entries == size else f"{row.entries} of {size}"
    numbers = [f"{number:.1e}" for number in (row.difference, row.of_array, row.of_gradient)]
    holds = f"{row.bound:.0e}", "yes" if row.holds else "NO"
    return row.comparison, row.array, str(row.shape), entries, *numbers, *holds


def check(
    loss: Callable[..., Array], params: Any, *data: Any, reference_gradient: Any = None, cell: Cell | None = None
) -> GradientReport:
    """Compare `jax.grad` of a loss with finite differences of the loss and, where one is given, with a reference.

    An array in which a cell stacks the blocks of several gates has a row for each of them. The differences are central
    and in float64: of each entry of an array of up to 200, of 200 random entries of a larger one, and along one random
    direction of all parameters.

    Args:
        loss: `loss(params, *data) -> scalar`, computed in the dtype of `params`.
        params: any pytree of floating arrays; cast to float64, and for the comparison in float32 to float32.
        data: what else the loss takes, any pytrees of arrays. A NumPy array of 64 bits has to be handed over here: JAX
            confuses those that a function closes over when it is traced both with and without `jax_enable_x64`.
        reference_gradient: the gradient from elsewhere, a pytree like `params`; JAX's is compared with it in float64
            and in float32.
        cell: a cell of your own whose parameters are among these; those in `jlstm.cells` are known.

    Returns:
        The report.

    Raises:
        TypeError: a leaf of `params` is not a floating array, or `loss` does not return an array of their dtype.
        ValueError: `params` has no leaf, `loss` is not scalar, or `reference_gradient` is not like `params`.

    Example:
        >>> report = check(lambda params, x: jnp.sum((params["w"] * x) ** 2), {"w": jnp.arange(3.0)}, 2.0)
        >>> [row.array for row in report.rows], report.passed
        (["['w']", '(a random direction)'], True)
    """
    parts, form = _parts(params, cell), _form(params)
    if reference_gradient is not None and _form(reference_gradient) != form:
        raise ValueError(f"reference_gradient: expected a pytree like params, {form}, got {_form(reference_gradient)}")
    with jax.enable_x64(True):
        point = _cast(params, np.float64)
        _require_scalar(loss, point, data)
        gradient = _gradient(loss, point, data, parts)
        tried, slopes, direction, slope = _finite_differences(loss, point, data, parts)
    largest = float(np.max([_largest(array) for array in gradient]))

    def row(comparison: str, name: str, array: np.ndarray, found: np.ndarray, expected: np.ndarray) -> Row:
        difference = _largest(found - expected)
        of_array, of_gradient = _ratio(difference, _largest(array)), _ratio(difference, largest)
        return Row(comparison, name, array.shape, found.size, difference, of_array, of_gradient)

    def compare(comparison: str, found: list[np.ndarray], expected: list[np.ndarray]) -> list[Row]:
        names = [part.name for part in parts]
        return [row(comparison, *arrays) for arrays in zip(names, gradient, found, expected, strict=True)]

    along = np.array(np.concatenate([array.ravel() for array in gradient]) @ direction)
    rows = compare(DIFFERENCES, [array.flat[at] for array, at in zip(gradient, tried, strict=True)], slopes)
    rows.append(row(DIFFERENCES, "(a random direction)", along, along, slope))
    if reference_gradient is not None:
        expected = _cut(jax.tree.leaves(_cast(reference_gradient, np.float64)), parts)
        single = _gradient(loss, _cast(params, np.float32), data, parts)
        rows = [*compare(FLOAT64, gradient, expected), *rows, *compare(FLOAT32, single, expected)]
    return GradientReport(tuple(rows), largest)


class _Part(NamedTuple):
    """What has a row of its own: rows of one array, all of them or those of one gate.

    Attributes:
        name: what Python calls the array, such as `layers[0].bias`, and behind it the gate.
        leaf: which of the arrays.
        rows: which of its rows; all where None.
        share: how many parts the array has.
    """

    name: str
    leaf: int
    rows: slice | None
    share: int


def _parts(params: Any, cell: Cell | None) -> list[_Part]:
    """Return the parts of parameters in the order of their leaves, or raise an error where one is not of floats."""
    known = {type(known.blocks): known.blocks for known in (*CELLS.values(), *([cell] if cell else [])) if known.blocks}
    parts: list[_Part] = []
    leaf = 0
    for path, node in jax.tree.leaves_with_path(params, is_leaf=lambda node: type(node) in known):
        for inner, array in jax.tree.leaves_with_path(node):
            name = jax.tree_util.keystr((*path, *inner)).removeprefix(".") or "params"
            dtype = array.dtype if hasattr(array, "dtype") else np.result_type(type(array))
            if not jnp.issubdtype(dtype, jnp.floating):
                raise TypeError(f"params: expected a pytree of floating arrays, got {dtype} in {name}")
            gates = getattr(known[type(node)], inner[0].name) if type(node) in known else ""
            if len(gates) > 1 and len(array) % len(gates) == 0:
                size = len(array) // len(gates)
                blocks = [slice(k * size, (k + 1) * size) for k in range(len(gates))]
                parts += [
                    _Part(f"{name} ({gate})", leaf, rows, len(gates)) for gate, rows in zip(gates, blocks, strict=True)
                ]
            else:
                parts.append(_Part(name, leaf, None, 1))
            leaf += 1
    if not parts:
        raise ValueError(f"params: expected a pytree of floating arrays, got one without arrays, {params!r}")
    return parts


def _cut(arrays: list[np.ndarray], parts: list[_Part]) -> list[np.ndarray]:
    return [arrays[part.leaf] if part.rows is None else arrays[part.leaf][part.rows] for part in parts]


def _form(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [np.shape(leaf) for leaf in leaves]


def _require_scalar(loss: Callable[..., Array], params: Any, data: tuple) -> None:
    value = jax.eval_shape(loss, params, *data)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.dtype != np.float64:
        raise TypeError(f"loss: expected a scalar in the dtype of its parameters, float64, got {value}")
    if value.shape != ():
        raise ValueError(f"loss: expected a scalar, got an array of shape {value.shape}")


def _gradient(loss: Callable[..., Array], params: Any, data: tuple, parts: list[_Part]) -> list[np.ndarray]:
    return _cut([np.asarray(array, np.float64) for array in jax.tree.leaves(_grad(loss, params, data))], parts)


@jax.jit(static_argnums=0)
def _grad(loss: Callable[..., Array], params: Any, data: tuple) -> Any:
    return jax.grad(loss)(params, *data)


def _finite_differences(
    loss: Callable[..., Array], params: Any, data: tuple, parts: list[_Part]
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the entries tried in each part, the loss's slope in each, a random direction and the slope along it."""
    arrays = [array.ravel() for array in _cut(jax.tree.leaves(params), parts)]
    rng = np.random.default_rng(0)
    most = [min(array.size, SAMPLE // part.share) for array, part in zip(arrays, parts, strict=True)]
    tried = [np.sort(rng.choice(array.size, size, replace=False)) for array, size in zip(arrays, most, strict=True)]
    theta = np.concatenate([*arrays, np.zeros(1)])
    direction = rng.normal(size=theta.size - 1)
    direction /= np.linalg.norm(direction)
    firsts = np.cumsum([0, *(array.size for array in arrays)])
    coordinates = np.concatenate([first + at for first, at in zip(firsts, [*tried, np.zeros(1, int)], strict=True)])
    steps = STEP * np.maximum(1, np.abs(theta[coordinates]))
    found = np.asarray(_central_differences(loss, params, data, direction, coordinates, steps))
    *slopes, slope = np.split(found, np.cumsum([at.size for at in tried]))
    return tried, slopes, direction, slope


@jax.jit(static_argnums=0)
def _central_differences(
    loss: Callable[..., Array], params: Any, data: tuple, direction: Array, coordinates: Array, steps: Array
) -> Array:
    """Return (f(θ + h e_k) - f(θ - h e_k)) / 2h for each coordinate k and its step h.

    The central difference is in Nocedal and Wright, "Numerical Optimization", 2006, section 8.1. The coordinate after
    the last parameter says how far all of them have moved along the direction.
    """
    flat, unravel = ravel_pytree(params)

    def moved(k: Array, h: Array) -> Array:
        theta = jnp.append(flat, 0.0).at[k].add(h)
        return loss(unravel(theta[:-1] + theta[-1] * direction), *data)

    def slope(move: tuple[Array, Array]) -> Array:
        k, h = move
        up, down = lax.map(lambda signed: moved(k, signed), jnp.stack([h, -h]))
        return (up - down) / (2 * h)

    return lax.map(slope, (coordinates, steps))


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
    state: tuple | None = None,
    lengths: Any = None,
    key: Array | None = None,
    resets: Any = None,
    weights: Any = None,
) -> GradientReport:
    """Compare the gradient of the library's loss with the NumPy reference's and with finite differences.

    Floats are rounded to float32 first, so that all comparisons start from the same values. The reference knows the
    cells in `jlstm.cells`; the gradient of one of your own is compared with finite differences alone.

    Args:
        params: the network's parameters.
        xs: the inputs, floats `[batch, time, I]`, or class ids, integers `[batch, time]`.
        ys: the targets, as `jlstm.losses.loss_fn` takes them.
        config: the network.
        state: the state before the first step, an entry a layer; zeros where None.
        lengths: how many steps of each sequence are real, `[batch]` integers or one for all; all where None.
        key: what `draw_masks` draws with; nothing is left out where None.
        resets: booleans `[batch, time]`, true where the state is zero before the step; nowhere where None.
        weights: how much each target counts, as `jlstm.losses.loss_fn` takes them; all alike where None.

    Returns:
        The report of `check`, with `jlstm.reference.loss_and_grad` for the reference.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.

    Example:
        >>> from jlstm.model import init_params
        >>> config = LSTMConfig(input_size=1, hidden_size=2, output_size=2)
        >>> params = init_params(jax.random.key(0), config)
        >>> report = gradcheck(params, np.ones((2, 3, 1)), np.zeros((2, 3), int), config)
        >>> report.passed, report.rows[0].array
        (True, 'layers[0].weight_ih (i)')
    """
    given = {"state": state, "lengths": lengths, "key": key, "resets": resets, "weights": weights}
    jax.eval_shape(lambda: loss_fn(params, xs, ys, config, **given))  # says what does not fit
    params, state = jax.tree.map(_as_float32, (params, state))
    xs, ys = _as_float32(xs), _as_float32(ys)
    lengths, resets = (None if array is None else np.asarray(array) for array in (lengths, resets))
    weights = None if weights is None else _as_float32(weights)
    data = {"xs": xs, "ys": ys, "config": config, "state": state}
    data |= {"lengths": lengths, "resets": resets, "weights": weights}
    gradient = None
    if _has_reference(config):
        with jax.enable_x64(True):
            batch, time = xs.shape[:2]
            drawn = draw_masks(key, config, batch, time, np.float64) if key is not None and config.leaves_out else None
            masks = jax.tree.map(np.asarray, drawn)
        _, gradient = reference.loss_and_grad(params, **data, masks=masks)
    return check(_loss, params, data | {"key": key}, reference_gradient=gradient, cell=config.cell)


def _has_reference(config: LSTMConfig) -> bool:
    return config.cell in CELLS.values()


def _loss(params: ModelParams, data: dict[str, Any]) -> Array:
    return loss_fn(params, **data)


def _as_float32(array: Any) -> Any:
    array = np.asarray(array)
    return array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def random_problem(config: LSTMConfig, batch: int, time: int, seed: int = 0) -> dict[str, Any]:
    """Draw parameters and data, as keyword arguments for `gradcheck`, for `loss_fn` and for the reference.

    The last takes masks in place of the `key` that is there where training leaves something out.

    Args:
        config: the network.
        batch: the number of sequences.
        time: the number of steps of a sequence.
        seed: the same seed gives the same problem.

    Returns:
        `params` normal, biases too, with variance 1 / the number of what they add up; `xs` standard normal, or ids for
        "tokens"; `state` that of the reference after three random steps, None where there is none to start from; `ys`
        class ids, booleans, or standard normal values; `config`; `lengths` from 1 to `time`; `resets` at 3 of 10 steps;
        `weights` from 0 to 1, of which a fifth are 0; where training leaves something out, a `key`. Floats are float32.

    Raises:
        TypeError: `batch`, `time` or `seed` is not an integer.
        ValueError: `batch` or `time` is not positive, or `seed` is negative.

    Example:
        >>> problem = random_problem(LSTMConfig(input_size=1, hidden_size=2, output_size=2), batch=2, time=3)
        >>> loss, gradient = reference.loss_and_grad(**problem)
        >>> problem["xs"].shape, gradient.readout.weight.shape
        ((2, 3, 1), (2, 2))
    """
    batch, time = whole_number("batch", batch, least=1), whole_number("time", time, least=1)
    seed = whole_number("seed", seed, least=0)
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    compared = (batch, time) if config.target == "each" else (batch,)
    # In NumPy, as `init_params` would compile for seconds, and would leave biases at 0, where mistakes can hide.
    shapes = params_shapes(config)
    tokens = config.inputs == "tokens"
    params = ModelParams(
        jax.tree.map(lambda array: normal(*array.shape) / array.shape[-1] ** 0.5, shapes.layers),
        jax.tree.map(lambda array: normal(*array.shape) / len(array) ** 0.5, shapes.readout),
    )
    ys = {
        "classes": lambda: rng.integers(config.output_size, size=compared),
        "questions": lambda: rng.random((*compared, config.output_size)) < 0.5,
        "values": lambda: normal(*compared, config.output_size),
    }
    problem = {
        "params": params,
        "xs": rng.integers(config.input_size, size=(batch, time)) if tokens else normal(batch, time, config.input_size),
        "ys": ys[config.objective.answers](),
        "config": config,
        "state": _random_state(params, normal(batch, 3, config.input_size), config),
        "lengths": rng.integers(1, time, size=batch, endpoint=True),
        "resets": rng.random((batch, time)) < 0.3,
        "weights": (rng.random(compared) * (rng.random(compared) < 0.8)).astype(np.float32),
    }
    return problem | ({"key": jax.random.key(seed)} if config.leaves_out else {})


def _random_state(params: ModelParams, xs: np.ndarray, config: LSTMConfig) -> tuple | None:
    """Return a state that a network can be in, which of an sLSTM not all numbers are."""
    if config.bidirectional or not _has_reference(config):
        return None
    _, found = reference.forward(params, xs, config)
    likes = [jax.eval_shape(config.cell.zero_state, layer) for layer in params.layers]
    return tuple(
        type(like)(**{name: array.astype(np.float32) for name, array in end._asdict().items()})
        for like, end in zip(likes, found, strict=True)
    )


COMBINATIONS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "tokens, mse": {"inputs": "tokens", "loss": "mse"},
    "two layers, both directions, last, gaussian": {
        "layers": 2,
        "bidirectional": True,
        "target": "last",
        "loss": "gaussian",
    },
    "two layers, residual, mean, yes or no": {
        "layers": 2,
        "residual": True,
        "target": "mean",
        "loss": "binary_cross_entropy",
    },
    "two layers, both directions, all regularisers": {
        "layers": 2,
        "bidirectional": True,
        **dict.fromkeys(["dropout", "input_dropout", "recurrent_dropout", "zoneout", "weight_dropout"], 0.3),
    },
}


def combinations() -> list[tuple[str, str, LSTMConfig]]:
    """Return what `--all` checks: for each cell its name, a few words on the network, and the network.

    Example:
        >>> len({name for name, _, _ in combinations()}) == len(CELLS)
        True
    """
    found = []
    for name, cell in CELLS.items():
        for words, options in COMBINATIONS.items():
            options = {**options, "cell": cell, "projection_size": 3 if cell.projects else None}
            if not cell.averages and "zoneout" in options:
                words, options = f"{words} but zoneout", options | {"zoneout": 0.0}
            found.append((name, words, LSTMConfig(4, 5, 3, **options)))
    return found


def _check_all(seed: int) -> bool:
    """Print a line for each combination and return whether all bounds hold."""
    head = ("cell", "network", *BOUNDS, "holds")
    widths = [max(map(len, CELLS)), max(map(len, (words for _, words, _ in combinations()))), *map(len, head[2:])]

    def line(*cells: str) -> str:
        return "  ".join(map(format, cells, map("{}{}".format, "<<>>>>", widths)))

    print(line(*head))
    broken = 0
    for name, words, config in combinations():
        report = gradcheck(**random_problem(config, batch=4, time=7, seed=seed))
        worst = [max(row.of_gradient for row in report.rows if row.comparison == each) for each in BOUNDS]
        broken += not report.passed
        print(line(name, words, *map("{:.1e}".format, worst), "yes" if report.passed else "NO"), flush=True)
    bounds = ", ".join(f"{bound:.0e} {comparison}" for comparison, bound in BOUNDS.items())
    print(f"\nThe largest difference of an entry, relative to the largest entry of the gradient; bounds: {bounds}.")
    print("All with random lengths, resets and weights, forwards from a random state.")
    print(f"\n{'FAILED: ' + str(broken) if broken else 'PASSED: none'} of {len(combinations())} networks break a bound")
    return broken == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a random problem, print the report and return the exit status, 0 if every bound holds and 1 if not.

    Args:
        arguments: those of the command line, `sys.argv[1:]` where None.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jlstm.gradcheck",
        description="Compare jax.grad of the library's loss on a random problem with a reference, backpropagation "
        "through time written out by hand in NumPy float64 (jlstm/reference), and with finite differences of the "
        "loss. Exit status 0 if every bound holds, 1 if not.",
    )
    parser.add_argument("--all", action="store_true", help="check every cell in several networks, a line each")
    for name, default, meaning in (
        ("batch", 4, "sequences"),
        ("time", 20, "steps of a sequence"),
        ("features", 5, "inputs of a step"),
        ("hidden", 16, "hidden units"),
        ("classes", 7, "classes, values, or questions"),
        ("layers", 1, "layers"),
        ("seed", 0, "seed of the parameters and data"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default: {default})")
    for name, choices, meaning in (
        ("cell", tuple(CELLS), "the cell"),
        ("inputs", get_args(Inputs), "what the network reads"),
        ("loss", get_args(Loss), "the loss"),
        ("target", get_args(Target), "the steps that have a target"),
        ("lengths", ("full", "random"), "the lengths of the sequences"),
        ("resets", ("none", "random"), "where episodes start"),
        ("weights", ("none", "random"), "how much each target counts"),
    ):
        parser.add_argument(f"--{name}", choices=choices, default=choices[0], help=f"{meaning} (default: {choices[0]})")
    parser.add_argument("--projection-size", type=int, metavar="N", help="hidden state's width of the cell projected")
    for name in ("bidirectional", "residual"):
        parser.add_argument(f"--{name}", action="store_true")
    shares = ("dropout", "input_dropout", "recurrent_dropout", "zoneout", "weight_dropout")
    for name in shares:
        flag = name.replace("_", "-")
        parser.add_argument(
            f"--{flag}", type=float, default=0.0, metavar="P", help=f"{name.replace('_', ' ')} (default: 0)"
        )
    options = parser.parse_args(arguments)
    if options.all:
        return 0 if _check_all(options.seed) else 1
    names = ("loss", "target", "inputs", "layers", "cell", "projection_size", "bidirectional", "residual", *shares)
    try:
        config = LSTMConfig(
            options.features, options.hidden, options.classes, **{name: getattr(options, name) for name in names}
        )
        problem = random_problem(config, options.batch, options.time, options.seed)
    except ValueError as error:
        parser.error(str(error))
    if options.lengths == "full":
        problem["lengths"] = None
    if options.resets == "none":
        problem["resets"] = None
    if options.weights == "none":
        problem["weights"] = None
    report = gradcheck(**problem)
    given = {name: value for name, value in vars(options).items() if name not in shares or value}
    shown = {name.replace("_", "-"): value for name, value in given.items() if value is not None and value is not False}
    print(parser.prog, *(f"--{name}" if value is True else f"--{name} {value}" for name, value in shown.items()))
    print("Reference: backpropagation through time written out by hand in NumPy float64, jlstm/reference")
    print(f"\n{report}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
