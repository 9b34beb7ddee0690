"""What tests of estimators share."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Compiles twice as fast; nothing here runs for long."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
