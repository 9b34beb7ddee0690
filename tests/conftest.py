"""Four CPU devices for every test, whatever the machine; and quick compilation: nearly all test time."""

import gc
import os
from importlib.metadata import version

import pytest

OLD_JAX = version("jaxlib").startswith("0.10.")

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
if OLD_JAX:  # The older code generator needs half the time. Newer versions have only the other one.
    flags += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags

# Tracing makes many objects that live long: full collections find nothing and cost a twentieth of the time.
gc.set_threshold(200_000, 50, 1000)


@pytest.fixture(scope="session")
def usual_code():
    """What `jax.jit(..., compiler_options=...)` takes so that the code is generated as it is for users."""
    return {"xla_cpu_use_fusion_emitters": True} if OLD_JAX else {}
