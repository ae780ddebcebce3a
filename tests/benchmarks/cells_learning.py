"""What the cells learn: the documented progression, and Shakespeare with the settings of the quick example."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jlstm import CharLM
from jlstm.cells import CELLS, Cell

from .learning import EPOCHS, HIDDEN, TRIPLE, answers_right
from .tables import Column, Table, number
from .timing import Run

SEEDS = 3
TEXT_EPOCHS, TEXT_HIDDEN = 3, 256
TEXT = {"hidden_size": TEXT_HIDDEN, "dropout": 0.1, "streams": 16}  # as `examples/shakespeare.py train --quick`
HELD_OUT = 0.1
QUICK_CHARACTERS = 50_000


def measure(run: Run) -> Iterator[Table]:
    """Train every cell on both tasks, and print a table after each: the second has what the first has and more."""
    records: list[dict[str, Any]] = [{"cell": name} for name in CELLS]
    for k, (record, cell) in enumerate(zip(records, CELLS.values(), strict=True)):
        run.progress(f"{cell.name}: {TRIPLE.rule}", 0.15 * k / len(records))
        began, seeds = time.perf_counter(), 1 if run.quick else SEEDS
        scores = [answers_right(seed, TRIPLE, **_projection(cell, HIDDEN), cell=cell) for seed in range(seeds)]
        record |= {"right": scores, "seconds": (time.perf_counter() - began) / seeds}
    yield _table(records)
    text = shakespeare()
    if text is None:
        return
    for k, (record, cell) in enumerate(zip(records, CELLS.values(), strict=True)):
        run.progress(f"{cell.name}: Shakespeare", 0.15 + 0.85 * k / len(records))
        began = time.perf_counter()
        nats = validation_nats(text[:QUICK_CHARACTERS] if run.quick else text, cell, 1 if run.quick else TEXT_EPOCHS)
        record |= {"nats": nats, "text seconds": time.perf_counter() - began}
    yield _table(records, f"; but here {QUICK_CHARACTERS:,} characters once" if run.quick else "")


def shakespeare() -> str | None:
    """Return the text that JLSTM_SHAKESPEARE names, or the one beside the checkout; None where there is none."""
    beside = Path(__file__).parents[3] / "shared" / "data" / "shakespeare.txt"
    path = Path(os.environ.get("JLSTM_SHAKESPEARE", beside))
    return path.read_text(encoding="utf-8") if path.exists() else None


def validation_nats(text: str, cell: Cell, epochs: int) -> float:
    """Train a language model on nine tenths of a text and return its loss on the rest."""
    first = int(len(text) * (1 - HELD_OUT))
    found: list[float] = []
    CharLM.train(
        text[:first],
        validation=text[first:],
        cell=cell,
        epochs=epochs,
        check_every=epochs,
        callback=lambda model, check: found.append(check.validation.nats),
        progress=False,
        **TEXT,
        **_projection(cell, TEXT_HIDDEN),
    )
    return found[-1]


def _projection(cell: Cell, hidden: int) -> dict[str, int]:
    return {"projection_size": hidden // 2} if cell.projects else {}


def _table(records: list[dict[str, Any]], remark: str = "") -> Table:
    columns = [
        Column("cell", "cell", right=False),
        Column("right", "right answers", lambda scores: " ".join(map(str, scores)), right=False),
        Column("seconds", "s each", number),
    ]
    questions = TRIPLE.modulus * (TRIPLE.longest - TRIPLE.shortest + 1)
    notes = [
        f"right answers: of {questions}, one number a seed; {TRIPLE.rule}, {EPOCHS} epochs, {HIDDEN} hidden units, the "
        "class's defaults otherwise. layer_norm reads of a number that stands alone nothing but its sign.",
        "projected: a hidden state half as wide as its cell state.",
    ]
    if "nats" in records[-1]:
        columns += [Column("nats", "nats", "{:.4f}".format), Column("text seconds", "s", number)]
        notes.append(
            f"nats: a character of Shakespeare's held-out tenth after {TEXT_EPOCHS} epochs, two layers of "
            f"{TEXT_HIDDEN}, dropout 0.1, 16 streams, as `examples/shakespeare.py train --quick` has it{remark}."
        )
    return Table("cells learning", "What the cells learn", columns, records, notes=notes)
