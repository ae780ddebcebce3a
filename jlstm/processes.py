"""Processes that train together over JAX's distributed runtime: what each has to know of the others.

All run the same program on the same data, and each computes its own rows of every batch. What one of them alone knows,
the time, a file, Ctrl-C, is told to all before anything depends on it: a step that one leaves out would keep the others
waiting for it.
"""

import contextlib
import hashlib
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jlstm.checks import describe, is_key, whole_number
from jlstm.fingerprints import fingerprint
from jlstm.turns import in_turn

__all__ = [
    "ProcessLost",
    "check_same",
    "in_accord",
    "is_first",
    "of_first",
    "reaching_all",
    "signals_in_accord",
    "text_of_first",
    "use_distributed",
    "whole",
]

Found = TypeVar("Found")

SILENT_SECONDS = 20  # after which a process that sends no heartbeat ends the others; JAX waits for 100
LAST_SECONDS = 86_400  # for which a process that is done waits for the others; JAX waits for 300, and ends all
ANSWER_SECONDS = 5  # for which those that are left wait for each other, to tell who is missing
MOST_SAID = 400  # bytes of an error that the others are told

BROKEN = "UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION"  # as gRPC says it

# Of errors, as all raise them.
KINDS = StopIteration, KeyboardInterrupt, SystemExit, TypeError, ValueError, OSError, RuntimeError

_within = 0  # how many calls `in_accord` this process is within
_known: BaseException | None = None  # what the inner one raised, of which the outer one need not tell
_lost = False  # whether a process was missing, or this one left: JAX's collectives don't recover


class ProcessLost(RuntimeError):
    """Another process ended, or can't be reached any more."""


def use_distributed(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Make this process one of several that train together, on one machine or on many.

    All of them call this, before anything that computes. From then on `train` and `evaluate` split each batch over all
    devices of all processes, and have to be called by all, with the same arguments; what else there is, such as
    `predict`, each process computes for itself. Progress, and the files of `checkpoint=`, come from process 0.

    It is `jax.distributed.initialize` with other patience: that a process ended, the others find out within 20 seconds,
    not 100, and one that is done waits a day for the others, but one that an error ends 20 seconds. If not all of them
    come within five minutes, JAX ends those that did, with a page of stack.

    Args:
        coordinator_address: host and port of process 0, where all find each other; a port that is free there. Under
            Slurm, Kubernetes and where else JAX finds out by itself, nothing has to be given.
        num_processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        TypeError, ValueError: an argument does not fit, or there are some and not all where nothing tells the others.
        RuntimeError: JAX has started its devices already.

    Example:
        >>> use_distributed("192.168.0.1:1234", num_processes=2, process_id=0)    # doctest: +SKIP
    """
    if coordinator_address is not None and (
        not isinstance(coordinator_address, str) or not re.fullmatch(r".+:\d+", coordinator_address)
    ):
        expected = "host and port, such as '192.168.0.1:1234'"
        raise ValueError(f"coordinator_address: expected {expected}, got {describe(coordinator_address)}")
    num_processes = None if num_processes is None else whole_number("num_processes", num_processes, least=1)
    process_id = None if process_id is None else whole_number("process_id", process_id, least=0)
    if num_processes is not None and process_id is not None and process_id >= num_processes:
        raise ValueError(f"process_id: expected one below num_processes = {num_processes}, got {process_id}")
    _warn_where_nobody_comes(coordinator_address or "127.0.0.1:1")
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=SILENT_SECONDS,
            shutdown_timeout_seconds=LAST_SECONDS,
        )
    except ValueError as error:  # before it starts anything
        expected = "all three, as nothing here tells them, such as Slurm or Kubernetes"
        raise ValueError(f"coordinator_address, num_processes, process_id: expected {expected}, got {error}") from None
    _end_after_errors()


def _warn_where_nobody_comes(address: str) -> None:
    """Warn where this machine's own name, at which Gloo listens, is 127.0.1.1, as Debian's /etc/hosts has it."""
    name, host = socket.gethostname(), address.rpartition(":")[0]
    with contextlib.suppress(OSError):
        own = socket.gethostbyname(name)
        if own.startswith("127.") and not host.startswith("127.") and host not in ("localhost", "[::1]"):
            advice = f"processes on CPUs of other machines won't reach it; give {name} its own address in /etc/hosts"
            warnings.warn(f"the name of this machine, {name}, is {own}: {advice}", RuntimeWarning, stacklevel=3)


def _end_after_errors() -> None:
    """See that this process, if an error ends it, does not wait at its end for the others, which may wait for it."""
    before = sys.excepthook

    def say_and_end(*error: Any) -> None:
        before(*error)
        if hasattr(sys, "ps1"):  # an interactive session goes on
            return
        print(end="", flush=True)
        if _lost:  # JAX would end it too, after a page of its own words
            os._exit(1)
        end = threading.Timer(SILENT_SECONDS, os._exit, [1])
        end.daemon = True
        end.start()  # by now, as Python starts no thread at its end

    sys.excepthook = say_and_end


def is_first() -> bool:
    """Whether this is process 0, which shows progress and writes files; one process alone is."""
    return jax.process_index() == 0


def of_first(tree: Any) -> Any:
    """Return what process 0 has, in all processes, to the same bits: arrays of NumPy, keys, or Python's numbers.

    Args:
        tree: a pytree of one structure, of arrays of the same shapes and dtypes, in all of them.

    Example:
        >>> of_first({"seconds": 1.5})
        {'seconds': 1.5}
    """
    if jax.process_count() == 1:
        return tree
    leaves, form = jax.tree.flatten(tree)
    plain = [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in leaves]
    told = np.frombuffer(b"".join(array.tobytes() for array in plain), np.uint8)
    with reaching_all():
        told = np.asarray(multihost_utils.broadcast_one_to_all(told))
    pieces = np.split(told, np.cumsum([array.nbytes for array in plain])[:-1])
    found = [
        np.frombuffer(piece.tobytes(), array.dtype).reshape(array.shape)
        for piece, array in zip(pieces, plain, strict=True)
    ]
    return jax.tree.unflatten(form, [_alike(array, leaf) for array, leaf in zip(found, leaves, strict=True)])


def _alike(array: np.ndarray, leaf: Any) -> Any:
    """Return an array as what it came from: a key, a number or an array."""
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(leaf))
    return type(leaf)(array) if isinstance(leaf, (bool, int, float)) else array


def text_of_first(text: str) -> str:
    """Return the string that process 0 has, in all processes, of whatever length."""
    if jax.process_count() == 1:
        return text
    said = text.encode(errors="surrogatepass") if is_first() else b""
    told = of_first(np.frombuffer(said.ljust(of_first(len(said)), b"\0"), np.uint8))
    return told.tobytes().decode(errors="surrogatepass")


def whole(tree: Any) -> Any:
    """Return arrays, of which some may be split over processes, as a whole in each of them; all call it."""

    def gathered(leaf: Any) -> Any:
        is_split = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        return multihost_utils.process_allgather(leaf, tiled=True) if is_split else leaf

    if jax.process_count() == 1:
        return tree
    with reaching_all():
        return jax.tree.map(gathered, tree)


def in_accord(function: Callable[[], Found]) -> Found:
    """Call a function, and raise what it raises in one process in all of them, so that none waits for another.

    The function may call others `in_accord`: where one process raises before such a call, the others raise in it.

    Returns:
        What it returned in this process.

    Example:
        >>> in_accord(lambda: 3)
        3
    """
    global _within, _known
    if jax.process_count() == 1:
        return function()
    error, found = None, None
    try:
        _within += 1
        found = function()
    except BaseException as raised:
        if raised is _known:
            _known = None
            raise
        if _lost:  # there is nobody to tell
            raise
        error = raised
    finally:
        _within -= 1
    ended = _everyones(np.array(error is not None)).tolist()
    if not any(ended):
        return found  # type: ignore[return-value]
    said = _said(error).encode(errors="backslashreplace")[:MOST_SAID].ljust(MOST_SAID, b"\0")
    told = [bytes(each).rstrip(b"\0").decode(errors="ignore") for each in _everyones(np.frombuffer(said, np.uint8))]
    first = ended.index(1)
    error = error or _heard(told[first], f"process {first} of {len(ended)}")
    _known = error if _within else None
    raise error


def _said(error: BaseException | None) -> str:
    """Return what `_heard` makes an error of: its kind, and what it is called and says."""
    if error is None:
        return ""
    kind = next((kind for kind in KINDS if isinstance(error, kind)), RuntimeError)
    words = error.code if isinstance(error, SystemExit) else error
    return f"{kind.__name__} {type(error).__name__}: {words}"


def _heard(said: str, who: str) -> BaseException:
    """Return the error for a process, of the one that another raised."""
    name, _, told = said.partition(" ")
    kind = next(kind for kind in KINDS if kind.__name__ == name)
    status = re.fullmatch(r"SystemExit: (?:None|(-?\d+))", told)
    if status:
        return SystemExit(status[1] and int(status[1]))
    return kind() if kind in (StopIteration, KeyboardInterrupt) else kind(f"{who} raised {told}")


def _everyones(array: np.ndarray) -> np.ndarray:
    """Return an array of all processes, of the same shape and dtype in each, along a first axis."""
    with reaching_all():
        return np.asarray(multihost_utils.process_allgather(array)).reshape(jax.process_count(), *array.shape)


def check_same(said: dict[str, Any], held: dict[str, Any]) -> None:
    """Raise a ValueError, in all processes, unless they were called with the same.

    Args:
        said: numbers and names, by the names of the arguments.
        held: arrays.
    """
    if jax.process_count() == 1:
        return
    terms = {name: repr(value) for name, value in said.items()}
    terms |= in_accord(lambda: {name: fingerprint(tree) for name, tree in held.items()})
    found = [hashlib.sha256(term.encode(errors="replace")).digest() for term in terms.values()]
    everyones = _everyones(np.frombuffer(b"".join(found), np.uint8).reshape(len(found), -1))
    for name, each in zip(terms, everyones.swapaxes(0, 1), strict=True):
        others = np.flatnonzero((each != each[0]).any(axis=1))
        if others.size:
            raise ValueError(
                f"{name}: expected the same in all {len(each)} processes, as each takes its own rows of every batch, "
                f"got others in process{'es' * (others.size > 1)} {', '.join(map(str, others))} than in process 0"
            )


@contextlib.contextmanager
def signals_in_accord() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C and SIGTERM wait until this process heeds them; in one process alone they come as ever.

    Yields:
        A function that heeds what came: to be called `in_accord`, so that it comes to all processes at the same step.
        Ctrl-C once more, a second later, does not wait, and nothing is done together after it.
    """
    if jax.process_count() == 1:
        yield lambda: None
        return
    waiting: dict[int, float] = {}  # when each came
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        global _lost
        now = time.monotonic()
        if now - waiting.setdefault(number, now) > 1:  # launchers pass on what the terminal has sent already
            _lost = True
            heed()

    def heed() -> None:
        while waiting:
            number, _ = waiting.popitem()
            if callable(before[number]):
                before[number](number, None)
            elif before[number] != signal.SIG_IGN:
                raise SystemExit(128 + number)

    try:
        with contextlib.suppress(ValueError):  # of a thread that is not the main one, where no signal comes
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, note)
        yield heed
    finally:
        for noted, handler in before.items():
            if handler is not None:  # of a program that is not Python's
                signal.signal(noted, handler)


@contextlib.contextmanager
def reaching_all() -> Iterator[None]:
    """Say which process is missing where JAX says that something went wrong between them."""
    global _lost
    if jax.process_count() == 1:
        yield
        return
    if _lost:
        raise ProcessLost("a process of this training is missing, or this one left it; start all of them again")
    with in_turn():
        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:  # JAX raises either
            missing = _missing() if re.match(BROKEN, str(error)) else None
            if missing is None:
                raise
            _lost = True
            many = len(missing) > 1
            who = f"process{'es' * many} {', '.join(missing)}" if missing else "process 0, or of the network to it"
            raise ProcessLost(
                f"process {jax.process_index()} of {jax.process_count()} heard no more of {who}, which ended or can't "
                f"be reached; its own output says why. Files are whole. Start all processes again, as many or others: "
                "a training with checkpoint=... goes on from its last file"
            ) from error


def _missing() -> list[str] | None:
    """Return the numbers of the processes that do not answer; none where it is the first; None where all do.

    Those that are left meet at a barrier of JAX's distributed service, which tells who did not come.
    """
    from jax._src import distributed  # JAX asks so nowhere else

    client: Any = distributed.global_state.client
    try:
        client.wait_at_barrier("jlstm: who is missing", ANSWER_SECONDS * 1000)
    except jax.errors.JaxRuntimeError as error:
        named = re.search(r"task names:\s*([\d\s,]*)", str(error))
        return re.findall(r"\d+", named.group(1)) if named else []
    return None
