"""What a person sees while a network trains: one line that renews itself on a terminal, a plain line now and then
elsewhere."""

import sys
import time

__all__ = ["Progress"]

TERMINAL_SECONDS = 0.1
PLAIN_SECONDS = 10.0


class Progress:
    """Shows the epoch, the loss, the speed and the time left, on standard error.

    Args:
        epochs: how many epochs the training has.
        items: how many sequences, or whatever `unit` says, one epoch has.
        unit: what is counted.

    Example:
        >>> progress = Progress(epochs=10, items=150)
        >>> progress.line(epochs_done=5, loss=0.25, seconds=5.0)
        'epoch 5/10 | loss 0.2500 | 150 sequences/s | 0:05 left'
    """

    def __init__(self, epochs: int, items: int, unit: str = "sequences") -> None:
        self._epochs, self._items, self._unit = epochs, items, unit
        self._terminal = sys.stderr.isatty()
        self._began = self._shown = time.perf_counter()
        self._width = 0

    def line(self, epochs_done: float, loss: float, seconds: float, validation: float | None = None) -> str:
        """Return the line for so many epochs, in fractions, done in so many seconds."""
        speed = epochs_done * self._items / seconds
        left = round((self._epochs - epochs_done) / epochs_done * seconds)
        checked = "" if validation is None else f" | validation {validation:.4f}"
        minutes, rest = divmod(left, 60)
        clock = f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
        return (
            f"epoch {max(1, int(epochs_done))}/{self._epochs} | loss {loss:.4f}{checked} | "
            f"{speed:,.0f} {self._unit}/s | {clock} left"
        )

    def update(self, epochs_done: float, loss: float, validation: float | None = None) -> None:
        """Show where the training stands, if it was not shown just before or if this is its end."""
        now = time.perf_counter()
        last = epochs_done >= self._epochs
        if not last and now - self._shown < (TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS):
            return
        self._shown = now
        line = self.line(epochs_done, loss, now - self._began, validation)
        if self._terminal:
            print(f"\r{line:<{self._width}}", end="\n" if last else "", file=sys.stderr, flush=True)
            self._width = 0 if last else len(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line on a terminal, so that what comes next starts on one of its own."""
        if self._width:
            print(file=sys.stderr, flush=True)
            self._width = 0

    def clear(self) -> None:
        """Take the line off a terminal, so that something else can be printed."""
        if self._terminal and self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr, flush=True)
            self._width = 0
