"""What the test files share."""

import jax
import pytest


@pytest.fixture
def x64():
    """Allow float64 in the test that asks for it, and in no other."""
    with jax.enable_x64(True):
        yield
