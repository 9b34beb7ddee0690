"""Memory of a workload: peak resident size of a process that runs it, and the compiled program's own figure.

    python benchmarks/memory.py [W1] [--json FILE]

Also checks the 3 N |theta| floats of PES beyond the inner states, on a system with a large theta and a
scalar state.
"""

import argparse
import json
import resource
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import overhead

from meta_train.core.system import UnrolledSystem
from meta_train.estimators import pes

N, SIZE = 8, 1_000_000


def pes_floats() -> dict[str, float]:
    """What the compiled estimate of PES takes in addition to its inputs, in units of N |theta| floats."""

    def step(theta, s, key, data):
        s = 0.9 * s + theta.mean()
        return s, s**2

    system = UnrolledSystem(lambda theta, key: (jnp.zeros([]), jnp.int32(20)), step, 20, 20)
    estimator = pes(system, num_particles=N, truncation_length=5, sigma=0.1)
    theta, key = jax.ShapeDtypeStruct((SIZE,), jnp.float32), jax.random.key(0)
    state = jax.eval_shape(estimator.init, theta, key)
    compiled = jax.jit(estimator.estimate, donate_argnums=1).lower(theta, state, key, ()).compile()
    found: Any = compiled.memory_analysis()
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if x.dtype == jnp.float32)
    unit = 4 * N * SIZE
    return {"state": state_bytes / unit, "temporary": found.temp_size_in_bytes / unit}


def main() -> None:
    """Measures and prints."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("workload", nargs="?", default="W1", choices=overhead.WORKLOADS)
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    args = parser.parse_args()
    workload = overhead.WORKLOADS[args.workload]
    run = overhead.framework(workload, overhead.family_of(workload))
    for _ in range(10):
        jax.block_until_ready(run())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    floats = pes_floats()
    print(f"{args.workload}: peak resident {peak:.2f} GiB")
    print(
        f"PES beyond the inner states, in N |theta| floats: {floats['state']:.2f} kept, "
        f"{floats['temporary']:.2f} while it runs"
    )
    if args.json:
        Path(args.json).write_text(json.dumps({"peak_gib": peak, "pes_floats": floats}) + "\n")


if __name__ == "__main__":
    main()
