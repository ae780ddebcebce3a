"""What the tests share."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# The quick suite tries the same examples each time; behind `slow` there are more, and other ones in each run.
settings.register_profile("quick", max_examples=100, derandomize=True, deadline=None)
settings.load_profile("quick")

# Programs, not tests: collecting their doctests would run them.
collect_ignore_glob = ["documented_*.py", "spreading.py", "benchmarks/*"]


def pytest_configure(config: pytest.Config) -> None:
    """Compile in less time, here and in the processes that tests start; JAX reads this when it is imported."""
    # What was compiled in an earlier run, or by another process of this one, is read from a folder that git ignores.
    # JAX finds it by the program, the options and jaxlib's version: changed code is compiled anew. Delete it at will.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("MPLBACKEND", "Agg")  # no windows
    # The same programs, not optimised by LLVM, which takes longer than what most tests run: 81 s became 55 s.
    if config.option.markexpr == "not slow":
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the examples of `jlstm.plots` where matplotlib is missing, which is optional."""
    for item in items:
        if item.name.startswith("jlstm.plots.") and find_spec("matplotlib") is None:
            item.add_marker(pytest.mark.skip("needs matplotlib"))


@pytest.fixture
def x64() -> Iterator[None]:
    """Compute in float64 within one test, with no global setting changed."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_what_was_compiled() -> Iterator[None]:
    """Compiled programs of one file serve no other; kept, they come to 5 GB a process."""
    yield
    import jax

    jax.clear_caches()
