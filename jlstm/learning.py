"""One training from the first call to the best network: progress, checks on held-out data, stopping, interruption.

It knows what training reports and what a person sees, and neither shell: those say what to train and how to check it,
and keep what comes back."""

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from jlstm.checks import whole_number
from jlstm.processes import in_accord, signals_in_accord
from jlstm.progress import Progress
from jlstm.training import Evaluation, Report

__all__ = ["Check", "Learned", "Standing", "learn", "whole_patience"]

Kept = TypeVar("Kept")


class Check(NamedTuple, Generic[Kept]):
    """What a check found.

    Attributes:
        epochs: how many were done, in fractions.
        kept: what there is to keep of that moment.
        validation: the loss on the data held out; None where there are none.
        accuracy: the share of them that is right; None where nothing can be.
    """

    epochs: float
    kept: Kept
    validation: float | None
    accuracy: float | None = None


class Standing(NamedTuple, Generic[Kept]):
    """Where a training stands after a report.

    Attributes:
        report: the report.
        losses: the mean loss of each finished epoch.
        validation: the validation loss of each check; empty where no data are held out.
        accuracy: the share that was right at each check; empty where nothing can be.
        latest: the latest check; None before the first.
        best: the check with the lowest validation loss, the first of equals; the latest where no data are held out.
        waited: how many checks in a row were without a lower validation loss.
    """

    report: Report
    losses: tuple[float, ...] = ()
    validation: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()
    latest: Check[Kept] | None = None
    best: Check[Kept] | None = None
    waited: int = 0

    @property
    def epochs(self) -> float:
        """How many epochs are done, in fractions."""
        return self.report.epoch + self.report.part

    @property
    def is_checked(self) -> bool:
        """Whether the latest check is that of this report."""
        return self.latest is not None and self.latest.epochs == self.epochs


class Learned(NamedTuple, Generic[Kept]):
    """What a training leaves behind, however it ended.

    Attributes:
        report: the last report; None where there was none.
        best: the best check; None where there was none.
        error: what ended the training before its time; None where it came to its end, ran out of patience, or the
            callback raised `StopIteration`.
    """

    report: Report | None
    best: Check[Kept] | None
    error: BaseException | None


def learn(
    reports: Iterable[Report],
    check: Callable[[Report], tuple[Kept, Evaluation | None]],
    *,
    epochs: int,
    check_every: int = 1,
    check_interrupted: bool = False,
    patience: int | None = None,
    progress: Progress | None = None,
    keep: Callable[[Standing[Kept]], Any] | None = None,
    callback: Callable[[Standing[Kept]], Any] | None = None,
    callback_every: float | None = None,
    stands: Standing[Kept] | None = None,
) -> Learned[Kept]:
    """Train to the end, or until patience, the callback, Ctrl-C or an error ends it.

    After each report come the check, where one is due, `keep`, the progress, and the callback, where it is due. A loss
    of NaN is never lower; until there is one that is a number, the best check is the first. Where several processes
    train together, what ends it in one of them ends it in all, after the same report.

    Args:
        reports: the training, as `fit` yields it.
        check: called where a check is due; it returns what to keep of that moment, and the evaluation on the data held
            out, or None where there are none.
        epochs: how many the training has.
        check_every: from one check to the next, in epochs; the last epoch is always checked.
        check_interrupted: whether Ctrl-C between two checks is followed by one more.
        patience: how many checks in a row without a lower validation loss end the training; None for any number.
        progress: where to show it; it is closed at the end.
        keep: called with each `Standing`, so that what was learned until then can be left behind.
        callback: what a user wants to be called; it ends the training by raising `StopIteration`.
        callback_every: from one such call to the next, in epochs, or parts of one; None for at every check.
        stands: where a training stood that the reports go on with; None where they begin with it.

    Returns:
        What was learned, with the error that ended it, if one did: whether to raise that is the caller's to say.

    Example:
        >>> reports = [Report(f"state {k}", epoch=k, part=1.0, loss=1.0) for k in range(9)]
        >>> def check(report):
        ...     return report.state, Evaluation(loss=abs(report.epoch - 2.0))
        >>> learned = learn(reports, check, epochs=9, patience=3)
        >>> learned.best, learned.report.state
        (Check(epochs=3.0, kept='state 2', validation=0.0, accuracy=None), 'state 5')
    """

    with signals_in_accord() as heed_signals:

        def tell(stands: Standing[Kept], epochs_before: float) -> None:
            if keep is not None:
                keep(stands)
            in_accord(lambda: show(stands, epochs_before))

        def show(stands: Standing[Kept], epochs_before: float) -> None:
            heed_signals()
            if progress is not None:
                latest = stands.latest
                validation, accuracy = (latest.validation, latest.accuracy) if latest else (None, None)
                progress.update(stands.epochs, stands.report.loss, validation, accuracy)
            if callback is None:
                return
            if callback_every is None:
                due = stands.is_checked
            else:
                due = stands.epochs // callback_every > epochs_before // callback_every
            if due:
                if progress is not None:
                    progress.clear()
                callback(stands)

        try:
            with contextlib.suppress(StopIteration):  # of the callback
                for report in reports if stands is None or patience is None or stands.waited < patience else ():
                    epochs_before = 0.0 if stands is None else stands.epochs
                    stands = Standing(report) if stands is None else stands._replace(report=report)
                    if report.part == 1:
                        stands = stands._replace(losses=(*stands.losses, report.loss))
                        if stands.epochs % check_every == 0 or stands.epochs == epochs:
                            stands = _checked(stands, *check(report))
                    tell(stands, epochs_before)
                    if patience is not None and stands.waited >= patience:
                        break
            in_accord(heed_signals)  # that came since
        except BaseException as error:
            interrupted = check_interrupted and isinstance(error, KeyboardInterrupt)
            if interrupted and stands is not None and not stands.is_checked:
                try:
                    stands = _checked(stands, *check(stands.report))
                    tell(stands, stands.epochs)
                except StopIteration:
                    pass
                except (Exception, KeyboardInterrupt) as of_check:  # a second Ctrl-C ends the check, and loses nothing
                    return _learned(stands, of_check)
            return _learned(stands, error)
        finally:
            if progress is not None:
                progress.close()
        return _learned(stands, None)


def whole_patience(patience: Any, has_validation: bool) -> int | None:
    """Return the argument `patience`, a number of checks from 1 up, or None.

    Args:
        patience: the argument.
        has_validation: whether data are held out, without which no check has a loss.

    Raises:
        TypeError, ValueError: it is neither, or there are no data held out.

    Example:
        >>> whole_patience(3, has_validation=False)
        Traceback (most recent call last):
        ValueError: patience: expected None without validation, got 3
    """
    if patience is None:
        return None
    patience = whole_number("patience", patience, least=1)
    if not has_validation:
        raise ValueError(f"patience: expected None without validation, got {patience}")
    return patience


def _checked(stands: Standing[Kept], kept: Kept, found: Evaluation | None) -> Standing[Kept]:
    if found is None:
        latest: Check[Kept] = Check(stands.epochs, kept, None)
        return stands._replace(latest=latest, best=latest)
    latest = Check(stands.epochs, kept, *found)
    lower = _height(found.loss) < (math.inf if stands.best is None else _height(stands.best.validation))
    return stands._replace(
        validation=(*stands.validation, found.loss),
        accuracy=stands.accuracy if found.accuracy is None else (*stands.accuracy, found.accuracy),
        latest=latest,
        best=latest if lower or stands.best is None else stands.best,
        waited=0 if lower else stands.waited + 1,
    )


def _height(loss: float | None) -> float:  # with NaN and none above every number
    return math.inf if loss is None or math.isnan(loss) else loss


def _learned(stands: Standing[Kept] | None, error: BaseException | None) -> Learned[Kept]:
    return Learned(None, None, error) if stands is None else Learned(stands.report, stands.best, error)
