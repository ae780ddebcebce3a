"""The folder of a training that may be killed at any moment: what it takes to go on, written now and then.

It has two files, `training-0.npz` and `training-1.npz`, which are written in turn, so that one is whole whatever
happens to the other. Each has all of it (`jlstm.snapshot`): the state of the training, what the best check kept, and in
JSON where the training stands and what it was called with.
"""

import contextlib
import hashlib
import json
import os
import reprlib
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any, BinaryIO, Generic, TypeVar

import jax
import numpy as np

from jlstm.checks import real_number, same_names, switch
from jlstm.files import name_of, sweep
from jlstm.fingerprints import fingerprint
from jlstm.learning import Check, Standing
from jlstm.optimizers import Optimizer, program_of
from jlstm.processes import ProcessLost, in_accord, is_first, of_first, text_of_first, whole
from jlstm.saved import reading
from jlstm.snapshot import read_training, write_training
from jlstm.training import Place, Report, TrainState

try:
    import fcntl
except ImportError:  # on Windows, where two trainings in one folder are not noticed
    fcntl = None  # type: ignore[assignment]

__all__ = ["Recovery", "terms_of"]

Kept = TypeVar("Kept")
FILES = "training-0.npz", "training-1.npz"
NAMES = (
    *("number", "terms", "report", "place", "memory", "total"),
    *("losses", "validation", "accuracy", "waited", "latest", "best", "keeps"),
)


class Recovery(Generic[Kept]):
    """A training's folder; of several processes, the first one's, and the others learn from it what is there.

    Args:
        folder: where its files are; it is made where it is not there.
        every: how many seconds lie between two files.
        resume: whether to go on with a training that is there; else there must be none.
        terms: what the training was called with, by the names of the arguments, for JSON; it goes on with the same.
        state: a state like the training's, its memory, if it has any, for one sequence.
        kept: a pytree like what `pack` returns.
        pack: returns the arrays of what a check keeps, or None.
        unpack: returns what a check kept, of its epochs and these arrays.

    Attributes:
        stands: where the training stands; None at its beginning.

    Raises:
        TypeError, ValueError: an argument does not fit; or the folder has another training, or one with `resume=False`,
            or no file of it is whole.
        OSError: the folder can't be written, or another process trains in it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: Any,
        resume: Any,
        terms: dict[str, Any],
        state: TrainState,
        kept: Any,
        pack: Callable[[Kept], Any],
        unpack: Callable[[float, Any], Kept],
    ) -> None:
        self._every, resume = real_number("checkpoint_every", every), switch("resume", resume)
        self._folder, self._terms = name_of(folder), json.loads(text_of_first(json.dumps(terms)))
        self._state, self._like = state, kept
        self._pack, self._unpack = pack, unpack
        self._unwritten: Standing[Kept] | None = None
        self._number, self._written, self._terminated = 0, time.monotonic(), False
        self._lock: BinaryIO | None = None
        self.stands = self._shared(in_accord(lambda: self._opened(resume) if is_first() else None))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Train within this: however that ends, also by SIGTERM, which schedulers send, what was learned is written."""

        def terminate(number: int, frame: Any) -> None:
            self._terminated = True
            raise SystemExit(128 + number)  # as a shell says of a process that a signal ended

        before = None
        try:
            with contextlib.suppress(ValueError):  # of a thread that is not the main one, where no signal comes
                before = signal.signal(signal.SIGTERM, terminate)
            yield
        finally:
            try:
                self._write()
                if self._terminated:
                    print(f"\nSIGTERM ended the training; to go on, call it again: {self._folder}", file=sys.stderr)
            finally:
                if before is not None:
                    signal.signal(signal.SIGTERM, before)
                self._close()

    def keep(self, stands: Standing[Kept]) -> None:
        """Write where the training stands, if it is time to."""
        self._unwritten = stands
        if of_first(time.monotonic() - self._written >= self._every):
            self._write()

    def _write(self) -> None:
        """Write where the training stands; a disk that is full is a warning, as the training is worth more.

        Of several processes the first one writes, and the others give it what they have of the state that is carried.
        """
        if self._unwritten is None:
            return
        try:
            about, tree = self._apart(self._unwritten)
            written = of_first(in_accord(lambda: is_first() and self._wrote(about, tree)))
        except ProcessLost:  # the file before is whole
            return
        if written:
            self._number, self._unwritten = about["number"], None
        self._written = time.monotonic()

    def _wrote(self, about: dict[str, Any], tree: Any) -> bool:
        """Write a file; return whether that was possible."""
        path = os.path.join(self._folder, FILES[about["number"] % len(FILES)])
        try:
            write_training(path, tree, about)
        except OSError as error:
            came = f"could not be written to {path}: {error.strerror or error}"
            warnings.warn(f"checkpoint: the training goes on, but {came}", RuntimeWarning, stacklevel=2)
            return False
        return True

    def _opened(self, resume: bool) -> tuple[dict[str, Any], Any] | None:
        """Lock the folder and return what `_found` does."""
        self._lock = _locked(self._folder)
        try:
            return self._found(resume)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _shared(self, found: tuple[dict[str, Any], Any] | None) -> Standing[Kept] | None:
        """Return where the training stands, by what process 0 found in the folder."""
        about = json.loads(text_of_first(json.dumps(found and found[0])))
        if about is None:
            return None
        self._number = about["number"]
        return self._together(about, of_first(found[1] if found else self._expected(about)))

    def _found(self, resume: bool) -> tuple[dict[str, Any], Any] | None:
        """Return what the newer file has that is whole; None where there is no training."""
        paths = [os.path.join(self._folder, name) for name in FILES]
        for path in paths:
            sweep(path, alone=True)  # by the lock on the folder
        paths = [path for path in paths if os.path.exists(path)]
        if paths and not resume:
            raise ValueError(
                f"resume: expected True with a training in {self._folder!r}, got False; to start anew, give another "
                "folder, or delete this one"
            )
        found = []
        for path in paths:
            try:
                about, tree = read_training(path, self._expected)
                self._together(about, tree)
                found.append((about, tree))
            except OtherTraining as error:
                raise ValueError(str(error)) from None
            except (OSError, ValueError) as error:
                warnings.warn(f"checkpoint: {error}", RuntimeWarning, stacklevel=4)
        if paths and not found:
            raise ValueError(f"checkpoint: expected a training in {self._folder!r}, got no whole file of one")
        return max(found, key=lambda each: each[0]["number"], default=None)

    def _expected(self, about: dict[str, Any]) -> Any:
        """Return what the arrays of a file are like, of which this is said, if it is of the same training."""
        same_names("about", about, NAMES)
        terms, rows = about["terms"], about["memory"]
        if not isinstance(terms, dict) or type(rows) not in (int, NoneType):
            raise ValueError(f"about: expected terms and a number of sequences, got {reprlib.repr((terms, rows))}")
        other = {"jax"} if terms.get("jax") == self._terms["jax"] else {"jax", "optimizer"}
        for name, value in self._terms.items():
            if name not in other and terms.get(name) != value:
                came = f"got {value}; give another folder for another training"
                raise OtherTraining(
                    f"checkpoint: expected the training in {self._folder!r}, with {name} = {terms.get(name)}, {came}"
                )
        many = lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), (rows, *leaf.shape[1:]))  # noqa: E731
        state = self._state._replace(memory=None if rows is None else jax.tree.map(many, self._state.memory))
        return {"state": state, "total": np.zeros((), about["total"]), "best": self._like if about["keeps"] else None}

    def _apart(self, stands: Standing[Kept]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return where a training stands, as JSON and as arrays."""
        report, best = stands.report, stands.best
        place: Any = report.place
        kept = None if best is None else self._pack(best.kept)
        memory = whole(report.state.memory)
        rows = [len(leaf) for leaf in jax.tree.leaves(memory)]
        about = {
            "number": self._number + 1,
            "terms": self._terms,
            "report": [report.epoch, report.part, report.loss],
            "place": [int(place.epoch), int(place.began), int(place.done)],
            "memory": rows[0] if rows else None,
            "losses": stands.losses,
            "validation": stands.validation,
            "accuracy": stands.accuracy,
            "waited": stands.waited,
            "latest": stands.latest and [stands.latest.epochs, stands.latest.validation, stands.latest.accuracy],
            "best": best and [best.epochs, best.validation, best.accuracy],
            "keeps": kept is not None,
            "total": np.asarray(place.total).dtype.name,
        }
        return about, {"state": report.state._replace(memory=memory), "total": place.total, "best": kept}

    def _together(self, about: dict[str, Any], tree: dict[str, Any]) -> Standing[Kept]:
        """Return where a training stands, of what a file has."""

        def check(said: Any) -> Check[Kept] | None:
            if said is None:
                return None
            epochs, validation, accuracy = said
            return Check(epochs, self._unpack(epochs, tree["best"]), validation, accuracy)

        with reading("about: expected where a training stands"):
            (epoch, part, loss), (at, began, done) = about["report"], about["place"]
            return Standing(
                Report(tree["state"], epoch, part, loss, Place(at, began, done, tree["total"])),
                losses=tuple(about["losses"]),
                validation=tuple(about["validation"]),
                accuracy=tuple(about["accuracy"]),
                latest=check(about["latest"]),
                best=check(about["best"]),
                waited=about["waited"],
            )


class OtherTraining(Exception):
    """A folder has a training with other arguments."""


def terms_of(
    said: dict[str, Any], held: dict[str, Any], optimizer: Optimizer, schedule: Any, params: Any
) -> dict[str, str]:
    """Return what a training was called with, as a few characters each.

    Args:
        said: numbers and names, by the names of the arguments.
        held: arrays.
        optimizer, schedule, params: as for `by_what_they_compute`. Another version of JAX may write another program of
            them, and is not asked.
    """
    program = program_of(optimizer, schedule, params)
    found = {name: repr(value) for name, value in said.items()}
    found |= {"optimizer": hashlib.sha256(program.encode()).hexdigest()[:16], "jax": jax.__version__}
    return found | {name: fingerprint(tree) for name, tree in held.items()}


def _locked(folder: str) -> BinaryIO:
    """Make a folder, and return a file in it whose lock says that this process trains there."""
    os.makedirs(folder, exist_ok=True)
    file = open(os.path.join(folder, "lock"), "ab")  # noqa: SIM115, the lock ends with it
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OSError(f"checkpoint: expected a folder that no other process trains in, got {folder!r}") from None
        except OSError:  # some file systems of networks have no locks
            pass
    return file
