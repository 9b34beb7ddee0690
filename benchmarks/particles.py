"""The cost of a particle pair against their number, in one run: `runtime.particle_chunk: auto` and null.

    python -m benchmarks.particles [--numbers 16 64 256] [--devices 1] [--repeats 15] [--json FILE]

The workload is W1 of `benchmarks/overhead.py` (per-parameter MLP, PES, digits, MLP 64-32-10, batch 64,
K = 20), as a run makes it, on so many devices: with `--devices 1 2`, each core of a CPU with two is a device
of its own, as it is for `meta-train run`. All programs take turns, one outer step each; figures are medians,
and the ratio to the first one is that of neighbours.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import optax

from learned_opt import LEARNED_OPTIMIZERS
from meta_train.core.chunk import chunk_of
from meta_train.core.devices import particle_mesh, shard_average
from meta_train.core.outer import make_outer_step
from meta_train.estimators import ESTIMATORS
from meta_train.inner import Objective, inner_training
from tasks import TASKS


def outer_step(num_particles: int, option: Any, devices: int = 1) -> tuple[Callable[[], None], int | None]:
    """A function that takes one outer step, and the chunk that was chosen."""
    family, lopt = TASKS["image_mlp"](datasets=("digits",)), LEARNED_OPTIMIZERS["per_param_mlp"]()
    objective = Objective(log=False, cap=1e6)
    system = inner_training(family, lopt, unroll_length=200, multiple=20, objective=objective)
    estimator = ESTIMATORS["pes"](system, num_particles=num_particles, truncation_length=20, sigma=0.01)
    chunk = chunk_of(option, estimator, lopt.init, devices, jax.default_backend())
    both = shard_average({"task": estimator}, particle_mesh(devices), chunks={"task": chunk})
    outer = make_outer_step(lopt.init, both, optax.adam(3e-4))
    carry = [outer.init(jax.random.key(0))]

    def run():
        carry[0] = jax.block_until_ready(outer.step(carry[0], {"task": family.data})[0])

    return run, chunk


def main() -> None:
    """Measures and prints."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--numbers", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--devices", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    for n, d in ((n, d) for n in args.numbers for d in args.devices):
        if n < 1 or d < 1 or n % d:
            parser.error(
                f"N is {n} on {d} devices: it must be a multiple of their number, and both at least 1"
            )
    if max(args.devices) > 1:
        jax.config.update("jax_num_cpu_devices", max(args.devices))
    cases = [(n, option, d) for n in args.numbers for option in ("auto", None) for d in args.devices]
    made = {case: outer_step(*case) for case in cases}
    times: dict[Any, list[float]] = {key: [] for key in made}
    for i in range(args.repeats + 1):
        for key, (run, _) in made.items():
            start = time.perf_counter()
            run()
            if i:  # the first call compiles
                times[key].append(1000 * (time.perf_counter() - start) / key[0])
    results, first = [], times[cases[0]]
    for (n, option, devices), found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, first, strict=True))
        row = {"N": n, "particle_chunk": option, "devices": devices, "chosen": made[n, option, devices][1]}
        results.append(row | {"ms_per_pair": statistics.median(found), "to_first": ratio})
        print(
            "  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in results[-1].items())
        )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
