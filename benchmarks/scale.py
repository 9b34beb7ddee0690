"""What an outer step costs against N, K, |theta| and devices, in one run.

    python benchmarks/scale.py [--repeats 10] [--json FILE]

W1's task (digits, MLP 64-32-10, batch 64, per-parameter MLP, PES). Every row is a process of its own with
forced host devices; rows that are compared alternate, and each figure is the median of `--repeats` groups.
Two devices are the reference for devices: this many cores there are.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One setting: particles, window, width of the learned optimizer's network, devices."""

    n: int = 16
    k: int = 20
    hidden: int = 32
    devices: int = 1


ROWS = (
    *(Row(n=n) for n in (4, 16, 64)),
    *(Row(k=k) for k in (5, 20, 50)),
    *(Row(hidden=h) for h in (8, 32, 128)),
    *(Row(n=16, devices=d) for d in (1, 2, 4, 8)),
)


def serve() -> None:
    """The process of one row: builds it, then answers every line with the seconds of an outer step."""
    import jax
    import optax

    from learned_opt import LEARNED_OPTIMIZERS
    from meta_train.core.devices import particle_mesh, shard
    from meta_train.core.outer import make_outer_step
    from meta_train.estimators import ESTIMATORS
    from meta_train.inner import inner_training
    from tasks import TASKS

    row = Row(**json.loads(sys.stdin.readline()))
    family = TASKS["image_mlp"](datasets=("digits",))
    lopt = LEARNED_OPTIMIZERS["per_param_mlp"](hidden=row.hidden)
    system = inner_training(family, lopt, unroll_length=200, multiple=row.k)
    estimator = ESTIMATORS["pes"](system, num_particles=row.n, truncation_length=row.k, sigma=0.01)
    estimator = shard(estimator, particle_mesh(row.devices))
    outer = make_outer_step(lopt.init, estimator, optax.adam(3e-4), steps_per_call=5)
    state = outer.init(jax.random.key(0))
    state, metrics = outer.step(state, family.data)
    jax.block_until_ready(metrics)
    size = sum(x.size for x in jax.tree.leaves(state.theta))
    print(json.dumps({"theta": size, "inner_steps": estimator.inner_steps}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        state, metrics = outer.step(state, family.data)
        jax.block_until_ready(metrics)
        print((time.perf_counter() - began) / 5, flush=True)


def start(row: Row) -> tuple[subprocess.Popen, dict[str, Any]]:
    """A row's process, ready, and what it is."""
    flags = f"--xla_force_host_platform_device_count={row.devices}"
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    return process, ask(process, json.dumps(row._asdict()))


def ask(process: subprocess.Popen, line: str) -> Any:
    """One line there, one back."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    """Prints the table; writes it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    rows = list(dict.fromkeys(ROWS))
    started = [start(row) for row in rows]
    times: list[list[float]] = [[] for _ in rows]
    for _ in range(args.repeats):
        for found, (process, _) in zip(times, started, strict=True):
            found.append(ask(process, "go"))
    results = []
    print("   N   K  |theta|  devices  ms an outer step  us an inner step")
    for row, found, (process, about) in zip(rows, times, started, strict=True):
        process.communicate()
        seconds = statistics.median(found)
        each = seconds / about["inner_steps"]
        results.append(row._asdict() | about | {"seconds": seconds, "seconds_per_inner_step": each})
        print(
            f"{row.n:4d}{row.k:4d}{about['theta']:9d}{row.devices:9d}{1e3 * seconds:18.1f}{1e6 * each:18.1f}"
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
