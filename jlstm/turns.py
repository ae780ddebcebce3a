"""Threads that take turns with JAX, where it has several devices.

In XLA, a program on all devices and one on the first, started by two threads, can each hold the worker that the other
waits for, forever. With one device there is nothing to wait for, and threads compute at once.
"""

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["in_turn"]

_changed = threading.Condition()
_line: list[int] = []  # the threads that came, of which the first has its turn


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Wait for all threads that came before, so that none waits for long beside one that comes again and again.

    Example:
        >>> with in_turn():
        ...     found = "what only one thread does at once"
    """
    thread = threading.get_ident()
    if _line[:1] == [thread]:  # what calls back within its own turn
        yield
        return
    try:
        with _changed:
            _line.append(thread)
            _changed.wait_for(lambda: _line[0] == thread)
        yield
    finally:
        with _changed:
            with contextlib.suppress(ValueError):  # where Ctrl-C came first
                _line.remove(thread)
            _changed.notify_all()
