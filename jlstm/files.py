"""Files on disk: written in one step, and opened where they are files."""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # on Windows, where nothing is taken away
    fcntl = None  # type: ignore[assignment]

__all__ = ["name_of", "open_file", "sweep", "write"]


def name_of(path: Any) -> str:
    """Return the argument `path` as a string."""
    try:
        name = os.fsdecode(path)
    except TypeError:
        raise TypeError(f"path: expected a str or an os.PathLike, got {path!r}") from None
    if "\0" in name:
        raise ValueError(f"path: expected no null character, got {name!r}")
    return name


def open_file(path: str) -> BinaryIO:
    """Return a file opened to read its bytes; a folder, a pipe and a device are an OSError."""
    _permissions(path)  # asked before opening it, since to open a pipe is to wait for its writer
    return open(path, "rb")


def write(path: str, data: bytes | memoryview) -> None:
    """Put `data` at `path` in one step, and take away what a write of this file that was killed has left.

    Whatever interrupts it leaves the old file whole and nothing beside it; one that is there keeps its permissions.
    """
    target = os.path.realpath(path) if os.path.islink(path) else path  # as an ordinary write follows a link
    folder, own = _place(path)
    temporary = os.path.join(folder, f"{own}{secrets.token_hex(8)}.tmp")
    try:
        permissions = _permissions(target) if os.path.exists(target) else None
        with _in_use(temporary):
            with open(temporary, "r+b") as file:
                if permissions is not None:
                    os.chmod(temporary, permissions)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # it names the temporary file, of which nobody has heard
            raise OSError(error.errno, error.strerror or str(error), path) from error
        raise
    sweep(path)


def sweep(path: str, *, alone: bool = False) -> None:
    """Take away what writes of this file that were killed have left; `alone`: no other process is about to write it."""
    folder, own = _place(path)
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder or "."):
            if entry.startswith(own) and entry.endswith(".tmp"):
                _unlink_unless_in_use(os.path.join(folder, entry), alone)


def _place(path: str) -> tuple[str, str]:
    """Return the folder of a file, and what the names of its temporary files begin with, as those of no other's."""
    folder, name = os.path.split(os.path.realpath(path) if os.path.islink(path) else path)
    return folder, f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}."


@contextlib.contextmanager
def _in_use(temporary: str) -> Iterator[None]:
    """Create a file and hold a lock on it, which ends with the process, however that ends."""
    file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        if fcntl is None:
            os.close(file)
        else:
            with contextlib.suppress(OSError):  # some file systems of networks have no locks: nothing is taken away
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        if fcntl is not None:
            os.close(file)


def _unlink_unless_in_use(temporary: str, alone: bool) -> None:
    if fcntl is None:
        return
    with contextlib.suppress(OSError), open(temporary, "r+b") as file:
        found = os.fstat(file.fileno())
        # One that is empty may be about to be locked by whoever has just created it.
        if alone or found.st_size > 0 or time.time() - found.st_mtime > 60:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(temporary)


def _permissions(path: str) -> int:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "expected a file, got a folder or a device", path)
    return stat.S_IMODE(mode)
