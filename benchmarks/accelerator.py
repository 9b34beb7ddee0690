"""The speed of outer steps and of applied optimizers on one accelerator, in ten minutes.

    python benchmarks/accelerator.py [--minutes 10] [--json FILE] [--small]

First the outer steps: the workloads of benchmarks/overhead.py, each with N = 16, 64, ... up to 16,384
particles. Then one update of each optimizer on models of 1e7 and 1e8 parameters (benchmarks/apply.py). Its
lower limit is the time that the memory needs to read parameters, gradients and state and to write
parameters and state; the memory bandwidth is measured with an array of 1 GiB. Rows that do not fit into the
memory are reported as such, and those that do not fit into the minutes are left out: every figure is
written as soon as it is measured. With `--small` everything is small enough for a laptop, to check that the
script runs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import apply
import jax
import jax.numpy as jnp
import overhead

PARTICLES = (16, 64, 256, 1024, 4096, 16384)
OPTIMIZERS = ("adam", "adafac_mlp", "per_param_mlp", "residual", "velo", "celo2")
REPEATS = 5


def median_seconds(run: Callable[[], Any]) -> float:
    """Median wall-clock of a few calls, the first of which compiles and is not counted."""
    jax.block_until_ready(run())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bandwidth(size: int) -> float:
    """Bytes a second that the memory moves, reads and writes together."""
    x = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return 2 * size / median_seconds(lambda: copy(x))


def outer_steps(particles: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """One row for each workload and number of particles."""
    workloads = {name: w for name, w in overhead.WORKLOADS.items() if not name.startswith("W5")}
    for n in particles:
        for name, w in workloads.items():
            w = w._replace(num_particles=n)
            run = overhead.framework(w, overhead.family_of(w))
            seconds = median_seconds(run) / w.group
            halves = 1 if w.estimator == "tbptt" else 2
            yield {
                "workload": name,
                "particles": n,
                "ms": 1e3 * seconds,
                "us_per_particle": 1e6 * seconds / n,
                "inner_steps_per_second": halves * n * w.k / seconds,
            }


def updates(
    names: tuple[str, ...], sizes: tuple[int, ...], bytes_a_second: float
) -> Iterator[dict[str, Any]]:
    """One row for each optimizer and size of the model."""
    for parameters in sizes:
        shapes = apply.model(parameters)
        for name in names:
            program = apply.program(apply.optimizer(name), shapes)
            seconds = statistics.median(apply.milliseconds(program) for _ in range(REPEATS + 1)) / 1e3
            model = sum(x.nbytes for x in jax.tree.leaves(program.grads))
            least = (3 * model + 2 * program.state_bytes) / bytes_a_second
            yield {
                "optimizer": name,
                "parameters": parameters,
                "ms": 1e3 * seconds,
                "to_memory_limit": seconds / least,
                "temporary_mb": program.temporary_bytes / 1e6,
                "compile_seconds": program.compile_seconds,
            }


def guarded(rows: Iterator[dict[str, Any]], deadline: float) -> Iterator[dict[str, Any]]:
    """The rows until the deadline; a row that does not fit into the memory ends them with a line."""
    try:
        for row in rows:
            yield row
            if time.monotonic() > deadline:
                yield {"left out": "the remaining rows: the time is up"}
                return
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        yield {"left out": "the next row and larger ones: they do not fit into the memory"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10, help="for everything (default: 10)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, row by row")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to check that the script runs")
    args = parser.parse_args()
    start = time.monotonic()
    size = 2**24 if args.small else 2**30
    rate = bandwidth(size)
    device = jax.devices()[0]
    found: dict[str, Any] = {
        "jax": jax.__version__,
        "device": device.device_kind,
        "bandwidth": rate,
        "rows": [],
    }
    print(f"{device.device_kind}: {rate / 1e9:.0f} GB/s")
    particles, sizes = ((4,), (10_000,)) if args.small else (PARTICLES, (10**7, 10**8))
    names = OPTIMIZERS[:2] if args.small else OPTIMIZERS
    # The updates have the last quarter of the time.
    parts = [
        guarded(outer_steps(particles), start + 45 * args.minutes),
        guarded(updates(names, sizes, rate), start + 60 * args.minutes),
    ]
    for part in parts:
        for row in part:
            print(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
                flush=True,
            )
            found["rows"].append(row)
            if args.json:
                with open(args.json, "w") as file:
                    json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
