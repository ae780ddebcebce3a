"""Forked processes, in which JAX waits forever where its threads were left behind.

A fork copies a process with one of its threads alone, the one that forks. If JAX had started any, what it computes in
the copy waits for them, and it can't start anew. A process that is forked before JAX has started is as good as another.
"""

import contextlib
import os

__all__ = ["check_not_forked"]

_runs = False  # whether JAX had started at the last fork
_left_behind = False  # whether it had in the process of which this is a copy


def check_not_forked() -> None:
    """Raise a RuntimeError in a process in which JAX would wait forever."""
    if _left_behind:
        raise RuntimeError(
            "process: expected one of its own or one forked before JAX started, got one forked after it, in which JAX "
            "would wait forever; start processes by multiprocessing.get_context('spawn'), or fork before the first "
            "computation"
        )


def _before_fork() -> None:
    global _runs
    with contextlib.suppress(
        ImportError, AttributeError
    ):  # JAX tells it here alone; where that moves, nothing is known
        from jax._src import xla_bridge

        _runs = xla_bridge.backends_are_initialized()


def _after_fork() -> None:
    global _left_behind
    _left_behind = _runs


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
