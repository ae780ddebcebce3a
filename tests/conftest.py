"""What the tests share."""

from collections.abc import Iterator

import jax
import pytest

# Programs, not tests: collecting their doctests would run them.
collect_ignore_glob = ["documented_*.py", "benchmarks/*"]


@pytest.fixture
def x64() -> Iterator[None]:
    """Compute in float64 within one test, with no global setting changed."""
    with jax.enable_x64(True):
        yield
