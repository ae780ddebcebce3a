"""What a person sees while a network trains: one line that renews itself on a terminal, a plain line now and then
elsewhere. It never decides what is learned: a display that fails is switched off."""

import sys
import time

__all__ = ["Progress"]

TERMINAL_SECONDS = 0.1
PLAIN_SECONDS = 10.0


class Progress:
    """Shows the epoch, the loss, the speed and the time left, on standard error where there is one that works.

    The speed is that behind the first update, since what comes before it is compilation for the most part.

    Args:
        epochs: how many epochs the training has.
        items: how many sequences, or whatever `unit` says, one epoch has.
        unit: what is counted.

    Example:
        >>> progress = Progress(epochs=10, items=150)
        >>> progress.line(epochs_done=5, loss=0.25, speed=150.0)
        'epoch 5/10 | loss 0.2500 | 150 sequences/s | 0:05 left'
    """

    def __init__(self, epochs: int, items: int, unit: str = "sequences") -> None:
        self._epochs, self._items, self._unit = epochs, items, unit
        self._stream = sys.stderr  # None where a program has no console
        try:
            self._terminal = self._stream.isatty()
        except Exception:  # a logger, or closed
            self._terminal = False
        self._shown = time.perf_counter()
        self._first: tuple[float, float] | None = None  # the epochs that were done at the first update, and its time
        self._width = 0
        self._unshown = ""
        if self._terminal and epochs:
            self._renew("compiling")

    def line(
        self,
        epochs_done: float,
        loss: float,
        speed: float | None,
        validation: float | None = None,
        accuracy: float | None = None,
    ) -> str:
        """Return the line for so many epochs, in fractions, at a speed in items a second, or at none yet known."""
        right = "" if accuracy is None else f", {accuracy:.1%} right"
        checked = "" if validation is None else f" | validation {validation:.4f}{right}"
        line = f"epoch {max(1, int(epochs_done))}/{self._epochs} | loss {loss:.4f}{checked}"
        if speed is None:
            return line
        minutes, rest = divmod(round((self._epochs - epochs_done) * self._items / speed), 60)
        clock = f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
        return f"{line} | {speed:,.0f} {self._unit}/s | {clock} left"

    def update(
        self, epochs_done: float, loss: float, validation: float | None = None, accuracy: float | None = None
    ) -> None:
        """Show where the training stands, if it was not shown just before or if this is its end."""
        now = time.perf_counter()
        last = epochs_done >= self._epochs
        speed = None
        if self._first is None:
            self._first = epochs_done, now
        elif epochs_done > self._first[0] and now > self._first[1]:
            speed = (epochs_done - self._first[0]) * self._items / (now - self._first[1])
        self._unshown = self.line(epochs_done, loss, None, validation, accuracy)
        if not last and now - self._shown < (TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS):
            return
        self._shown, self._unshown = now, ""
        line = self.line(epochs_done, loss, speed, validation, accuracy)
        if self._terminal:
            self._renew(line, end="\n" if last else "")
        else:
            self._print(line + "\n")

    def close(self) -> None:
        """Show where a training stands that ended early, and end the line, so that what comes next has its own."""
        if self._unshown:
            self.clear()
            self._print(f"{self._unshown}\n")
            self._unshown = ""
        if self._width:
            self._print("\n")
            self._width = 0

    def clear(self) -> None:
        """Take the line off a terminal, so that something else can be printed."""
        if self._width:
            self._print(f"\r{'':<{self._width}}\r")
            self._width = 0

    def _renew(self, line: str, end: str = "") -> None:
        self._print(f"\r{line:<{self._width}}{end}")
        self._width = 0 if end else len(line)

    def _print(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except Exception:  # the terminal is gone, the pipe is closed: whatever it is, the training is worth more
            self._stream = None
