"""Windows of tables of readings, gathered when they are needed and never built: `SeriesWindows`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import jax
import numpy as np

from jlstm.checks import is_list_of_arrays, numbers, whole_number
from jlstm.config import LSTMConfig, Target
from jlstm.data import Batch, behind, counting, filled_up, rounded_up

__all__ = ["SeriesWindows"]

LEAST_ROWS = 2**10  # smaller tables share a compiled shape


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False, repr=False)
class SeriesWindows:
    """Overlapping windows of so many rows over tables of readings, each with what comes some rows later.

    A row is a time step, as far from the next one as any other: a time without a reading is a row of NaN. Window k of a
    table is `table[k * stride : k * stride + length]`; the target of its row t is
    `targets[t + ahead]`, and where there is one target for a sequence, it is that of the window's last row. No window
    reaches from one table into the next, nor beyond the last target.

    Args:
        tables: a table `[time, features]`, or `[time]` of one feature: an array, or what NumPy reads as one, such as a
            pandas DataFrame; or a list of tables of different length, one a machine. One too short gives no window.
        length: the number of rows of a window.
        targets: what is to be told of each row, of as many rows as the tables, in a list where those are: values
            `[time]` or `[time, C]`, class ids or booleans `[time]`; NaN is unknown, and does not count. By default the
            tables themselves, as `forecast` needs it.
        ahead: how many rows behind a row its target lies: 1 the next one, as `forecast` needs it, 0 the row itself.
        stride: how many rows further on the next window starts.
        fill: what a gap, NaN, in a feature is taken for: "last", the last known value before it in its table, or the
            first behind it where there is none before; None refuses gaps. Gaps in targets are unknown in either case.
        weights: how much the target of each row counts, numbers from 0 up, as `targets` `[time]`; all alike where None.

    Raises:
        TypeError: a table is not of numbers, or an argument not of its type.
        ValueError: a table has gaps or another number of features than the first, or is too short for any window; or
            the targets are not of as many rows.

    Example:
        >>> windows = SeriesWindows(np.arange(10.0), length=4, ahead=2)
        >>> X, Y = windows.arrays("last")
        >>> len(windows), X[1, :, 0].tolist(), Y[1].tolist()
        (5, [1.0, 2.0, 3.0, 4.0], [6.0])
    """

    tables: Any  # from here on all as one, [rows, features]
    length: int
    targets: Any = None  # [rows, C], or ids [rows]
    ahead: int = 1
    stride: int = 1
    fill: Literal["last"] | None = None
    weights: Any = None  # [rows]
    starts: Any = field(init=False)  # [windows], the first row of each
    lengths: ClassVar[None] = None  # all windows are of one
    read: ClassVar[None] = None  # all tables are in memory

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("ahead", 0), ("stride", 1)):
            self._put(**{name: whole_number(name, getattr(self, name), least=least)})
        if self.fill not in (None, "last"):
            raise ValueError(f"fill: expected None or 'last', got {self.fill!r}; for another rule, fill them before")
        tables = _tables(self.tables)
        rows = [len(table) for table in tables.values()]
        targets = list(tables.values()) if self.targets is None else _of_rows("targets", self.targets, tables)
        weights = None if self.weights is None else np.concatenate(_of_rows("weights", self.weights, tables))
        if weights is not None and not (weights >= 0).all():
            raise ValueError(f"weights: expected numbers from 0 up, got {np.min(weights)}")
        counts = [max(0, count - self.length - self.ahead + 1) for count in rows]
        if not any(counts):
            least_rows = f"length + ahead = {self.length + self.ahead}"
            advice = "; to predict alone, write ahead=0" if max(rows) >= self.length else ""
            raise ValueError(f"tables: expected at least {least_rows} rows in one, got {max(rows)}{advice}")
        firsts = np.cumsum([0, *rows[:-1]])
        starts = [first + np.arange(0, count, self.stride) for first, count in zip(firsts, counts, strict=True)]
        self._put(
            starts=np.concatenate(starts).astype(np.int32),
            tables=np.concatenate([_without_gaps(name, table, self.fill) for name, table in tables.items()]),
            targets=np.concatenate(targets),
            weights=weights,
        )

    def _put(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        features = self.tables.shape[1]
        size = f"{len(self):,} of {self.length} rows, {features} feature{'s' * (features > 1)}"
        return f"SeriesWindows({size}, targets {self.ahead} row{'s' * (self.ahead != 1)} ahead)"

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sequences(self) -> int:
        """How many windows there are."""
        return len(self)

    @property
    def steps(self) -> int:
        """The length of a window."""
        return self.length

    @property
    def streams(self) -> int:
        """None of them goes on from another."""
        return 0

    def arrays(self, target: Target = "each") -> tuple[np.ndarray, np.ndarray]:
        """Build all windows.

        Args:
            target: "each" for the targets of all rows of a window, else that of the last one.

        Returns:
            The windows, `[N, length, features]`, and their targets, `[N, length, ...]` or `[N, ...]`.
        """
        if target not in get_args(Target):
            raise ValueError(f"target: expected one of {get_args(Target)}, got {target!r}")
        batch = self._gathered(self.starts, self.length, target == "each")
        return batch.xs, batch.ys

    def rows(self, config: LSTMConfig) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of all tables, `[rows, features]`, and the values to tell, `[rows, C]`, or NaN there."""
        if self.weights is None:
            return self.tables, self.targets
        return self.tables, np.where(behind(self.weights, self.targets) > 0, self.targets, np.nan)

    def balanced(self, config: LSTMConfig) -> "SeriesWindows":
        """Return the same windows with weights whose mean over all targets is 1, as of a `Batch`."""
        weights, mean = counting(self.targets, self.weights, config), self.mean_weight(config)
        if self.weights is None and mean == 1:
            return self
        return self.with_arrays(self.tables, self.targets, np.float32(weights / mean), self.starts)

    def mean_weight(self, config: LSTMConfig) -> float:
        """Return how much a target of a window counts in the mean, unknown ones 0."""
        weights, first = counting(self.targets, self.weights, config), self.starts + self.ahead
        if config.target != "each":
            return float(weights[first + self.length - 1].mean())
        sums = np.cumsum(np.concatenate([np.zeros_like(weights[:1]), weights]), axis=0)
        return float((sums[first + self.length] - sums[first]).mean() / self.length)

    def mapped(self, of_inputs: Callable, of_targets: Callable) -> "SeriesWindows":
        """Return the same windows with functions of their tables and targets in the place of these."""
        return self.with_arrays(of_inputs(self.tables), of_targets(self.targets), self.weights, self.starts)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Draw an order of all windows, `[sequences]`."""
        return rng.permutation(self.sequences)

    def gather(self, rows: Any, steps: int, config: LSTMConfig) -> Batch:
        """Return the first `steps` steps of the windows `rows`."""
        return self._gathered(self.starts[rows], steps, config.target == "each")

    def _gathered(self, starts: Any, steps: int, each: bool) -> Batch:
        places = starts[:, None] + np.arange(steps)[None]
        ends = places + self.ahead if each else starts + (self.length - 1 + self.ahead)
        weights = None if self.weights is None else self.weights[ends]
        return Batch(self.tables[places], self.targets[ends], weights=weights)

    def room(self, *, roomy: bool) -> tuple[int, int]:
        """Return the number of windows as a power of two, or a sixteenth more at the most; and their length."""
        return rounded_up(self.sequences, 1 if roomy else 5), self.steps

    def with_room(self, config: LSTMConfig, *, roomy: bool, masked: bool) -> "SeriesWindows":
        """Return the same windows with room behind the tables."""
        rows = max(LEAST_ROWS, rounded_up(len(self.tables), 1)) if roomy else rounded_up(len(self.tables), 5)
        windows, _ = self.room(roomy=roomy)
        return self.with_arrays(
            filled_up(self.tables, rows),
            filled_up(self.targets, rows),
            None if self.weights is None else filled_up(self.weights, rows),
            filled_up(self.starts, windows),
        )

    def inputs(self, first: int, last: int) -> np.ndarray:
        """Build the windows from the first to before the last, `[N, length, features]`."""
        return self.tables[self.starts[first:last, None] + np.arange(self.length)]

    def with_arrays(self, tables: Any, targets: Any, weights: Any, starts: Any) -> "SeriesWindows":
        """Return windows of the same shape over other arrays."""
        windows = object.__new__(SeriesWindows)  # these may be tracers, which can't be checked
        windows._put(length=self.length, ahead=self.ahead)  # the rest is done
        windows._put(tables=tables, targets=targets, weights=weights, starts=starts)
        return windows

    def tree_flatten(self) -> tuple[tuple, tuple]:
        return (self.tables, self.targets, self.weights, self.starts), (self.length, self.ahead)

    @classmethod
    def tree_unflatten(cls, static: tuple, leaves: tuple) -> "SeriesWindows":
        windows = object.__new__(cls)
        windows._put(**dict(zip(("length", "ahead"), static, strict=True)))
        return windows.with_arrays(*leaves)


def _tables(value: Any) -> dict[str, np.ndarray]:
    """Return tables as `[time, features]` in float64, each by what an error calls it."""
    listed = is_list_of_arrays(value) or getattr(value, "ndim", 0) == 3
    if isinstance(value, (list, tuple)) and not value:
        raise ValueError("tables: expected at least one, got none")
    found = {f"tables[{k}]": table for k, table in enumerate(value)} if listed else {"tables": value}
    for name, table in found.items():
        array = np.asarray(numbers(name, table))
        array = array.astype(float)[:, None] if array.ndim == 1 else array.astype(float)
        if array.ndim != 2 or array.shape[1] == 0:
            raise ValueError(f"{name}: expected a table [time, features], got shape {np.shape(table)}")
        if np.isinf(array).any():
            row, feature = np.argwhere(np.isinf(array))[0]
            raise ValueError(
                f"{name}: expected finite numbers, got {array[row, feature]} in row {row}, feature {feature}"
            )
        found[name] = array
        features = next(iter(found.values())).shape[1]
        if array.shape[1] != features:
            raise ValueError(f"{name}: expected {features} features as in tables[0], got {array.shape[1]}")
    return found


def _of_rows(name: str, value: Any, tables: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return what there is for each row of each table."""
    if "tables" in tables:
        value = [value]
    elif not hasattr(value, "__len__") or len(value) != len(tables):
        came = len(value) if hasattr(value, "__len__") else value
        raise ValueError(f"{name}: expected a list of {len(tables)}, one for each of the tables, got {came}")
    found: list[np.ndarray] = []
    for k, (own, (table_name, table)) in enumerate(zip(value, tables.items(), strict=True)):
        own_name = name if "tables" in tables else f"{name}[{k}]"
        array = np.asarray(numbers(own_name, own))
        if array.ndim not in (1, 2) or len(array) != len(table):
            expected = f"one for each of the {len(table)} rows of {table_name}"
            raise ValueError(f"{own_name}: expected {expected}, [time] or [time, C], got shape {array.shape}")
        if found and array.shape[1:] != found[0].shape[1:]:
            raise ValueError(f"{own_name}: expected the shape of {name}[0] but for its rows, got {array.shape}")
        found.append(array)
    return found


def _without_gaps(name: str, table: np.ndarray, fill: str | None) -> np.ndarray:
    gaps = np.isnan(table)
    if not gaps.any():
        return table
    if fill is None:
        row, feature = np.argwhere(gaps)[0]
        raise ValueError(
            f"{name}: expected no gaps, got {gaps.sum()} NaN, the first in row {row}, feature {feature}; write "
            "fill='last' to take the last known value for them, or fill them before"
        )
    if gaps.all(axis=0).any():
        feature = gaps.all(axis=0).argmax()
        raise ValueError(f"{name}: expected a known value of each feature, got NaN alone in feature {feature}")
    last_known = np.maximum.accumulate(np.where(gaps, 0, np.arange(len(table))[:, None]), axis=0)
    return np.take_along_axis(table, np.maximum(last_known, (~gaps).argmax(axis=0)), axis=0)
