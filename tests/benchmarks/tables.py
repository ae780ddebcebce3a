"""Plain-text tables: records in, aligned columns out."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

WIDTH = 110
ABSENT = "–"


class Column(NamedTuple):
    """A column of a table: the records' key, its heading, how a value is shown, and on which side it stands."""

    key: str
    heading: str
    show: Callable[[Any], str] = str
    right: bool = True


class Table(NamedTuple):
    """Measured records and how to print them.

    Attributes:
        name: a short name, the one in the JSON file.
        title: what was measured.
        columns: what is printed; records may hold more.
        records: one a row; an absent key or None is shown as a dash.
        group: the key of a column that is printed only where it changes.
        notes: paragraphs beneath the table.
    """

    name: str
    title: str
    columns: Sequence[Column]
    records: list[dict[str, Any]]
    group: str | None = None
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the table as lines of aligned text."""
        rows = [[column.heading for column in self.columns]]
        last = object()
        for record in self.records:
            row = [_shown(column, record) for column in self.columns]
            if self.group is not None:
                if record[self.group] == last:
                    row = ["" if c.key == self.group else cell for c, cell in zip(self.columns, row, strict=True)]
                last = record[self.group]
            rows.append(row)
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if column.right else cell.ljust(width)
                for column, cell, width in zip(self.columns, row, widths, strict=True)
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        notes = [line for note in self.notes for line in textwrap.wrap(note, WIDTH)]
        return "\n".join([self.title, *lines, *notes])


def _shown(column: Column, record: dict[str, Any]) -> str:
    value = record.get(column.key)
    return ABSENT if value is None else column.show(value)


def number(value: float) -> str:
    """Show three significant digits, without an exponent, and thousands set apart."""
    if value == 0:
        return "0"
    digits = 0
    while digits < 6 and abs(value) * 10**digits < 99.95:
        digits += 1
    return f"{value:,.{digits}f}"


def milliseconds(seconds: float) -> str:
    """Show seconds as milliseconds."""
    return number(1e3 * seconds)


def microseconds(seconds: float) -> str:
    """Show seconds as microseconds."""
    return number(1e6 * seconds)


def percent(part: float) -> str:
    """Show a part of one as a percentage."""
    return f"{100 * part:.0f} %"


def megabytes(count: float) -> str:
    """Show bytes as megabytes."""
    return number(count / 1e6)


def target(value: float | None, bound: float | None, *, at_most: bool = False) -> str | None:
    """Say what was aimed at and whether `value` is there; None where nothing was."""
    if value is None or bound is None:
        return None
    met = value <= bound if at_most else value >= bound
    return f"{'≤' if at_most else '≥'} {bound:g} {'met' if met else 'MISSED'}"


def faster(ratio: float, peer: str) -> str:
    """Say how the times compare, from jlstm's side."""
    return f"jlstm is {number(ratio) if ratio < 99.95 else f'{ratio:.0f}'} x as fast as {peer}"
