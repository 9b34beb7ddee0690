"""Four CPU devices for every test, whatever the machine; and quick compilation: nearly all test time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags
