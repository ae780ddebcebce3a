"""What the tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

# What was compiled in an earlier run, or by another process of this one, is read from a folder that git ignores. JAX
# finds it by the program, the options and jaxlib's version, so changed code is compiled anew; delete it at will.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

# Programs, not tests: collecting their doctests would run them.
collect_ignore_glob = ["documented_*.py", "benchmarks/*"]


@pytest.fixture
def x64() -> Iterator[None]:
    """Compute in float64 within one test, with no global setting changed."""
    with jax.enable_x64(True):
        yield
