"""What a member of a population costs against a single run: 22 members in one program, and one alone.

    python benchmarks/population.py [--json FILE]

    python benchmarks/population.py --batch-size 64

A 64-32-10 classifier of digits trained with Adam on minibatches of 16, 200 steps a round, the members split
over two CPU devices as `mesh: {members: 2}` does. The wall time of one member-step among 22 is at most 0.4 of
that of a single run (gate). Processor time is told apart: it says what is saved without the second core.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.population.base import Rhythm
from meta_train.population.engine import engine
from meta_train.population.mesh import member_mesh
from meta_train.population.supervised import supervised

ROUND_STEPS, ROUNDS, GATE = 200, 100, 0.4
DEVICES = 2


class Case(NamedTuple):
    """A compiled population: `round(i)` trains one and returns its wall and processor seconds."""

    num_members: int
    first_call: float
    round: Callable[[int], tuple[float, float]]


def case(num_members: int, batch_size: int) -> Case:
    """Compiles a population of that size."""
    task = {"name": "image_mlp", "hidden": [32], "batch_size": batch_size}
    trainer = supervised(("learning_rate",), task=task, optimizer={"name": "adam"}, num_valid_batches=1)
    mesh = member_mesh(DEVICES if num_members % DEVICES == 0 else 1, num_members)
    run = engine(trainer, num_members, Rhythm(ROUND_STEPS, ROUND_STEPS, 1), mesh=mesh)
    hypers = {"learning_rate": np.full(num_members, 1e-3, np.float32)}
    key = jax.random.key(0)
    members = run.init(key, hypers)

    def train(number: int) -> tuple[float, float]:
        nonlocal members
        wall, cpu = time.perf_counter(), time.process_time()
        members, scores = run.train(members, hypers, key, np.int32(number), trainer.data)
        jax.block_until_ready(scores)
        return time.perf_counter() - wall, time.process_time() - cpu

    return Case(num_members, train(0)[0], train)


def measure(sizes: tuple[int, ...], batch_size: int) -> dict[str, dict[str, float]]:
    """Per size: seconds of the first call, wall and processor microseconds of one step of one member.

    The sizes take turns, and the quickest round of each counts: other work on the machine only adds.
    """
    cases = [case(m, batch_size) for m in sizes]
    times = [[c.round(number) for c in cases] for number in range(1, ROUNDS + 1)]
    best = np.asarray(times).min(0)
    return {
        str(c.num_members): {
            "first_call_seconds": c.first_call,
            "member_step_us": 1e6 * wall / ROUND_STEPS / c.num_members,
            "member_step_cpu_us": 1e6 * cpu / ROUND_STEPS / c.num_members,
        }
        for c, (wall, cpu) in zip(cases, best, strict=True)
    }


def main() -> None:
    """Measures and prints."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--batch-size", type=int, default=16, metavar="B", help="default: 16")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", DEVICES)
    results: dict[str, Any] = measure((1, 8, 22, 50), args.batch_size)
    for m, found in results.items():
        print(
            f"{m:>3} members: {found['member_step_us']:6.1f} us a member-step, "
            f"{found['member_step_cpu_us']:6.1f} us of processor, "
            f"first call {found['first_call_seconds']:.1f} s"
        )
    ratio = results["22"]["member_step_us"] / results["1"]["member_step_us"]
    verdict = "ok" if ratio <= GATE else "too much"
    print(f"22 members cost {ratio:.2f} of 22 single runs (gate {GATE}): {verdict}")
    if args.json:
        Path(args.json).write_text(json.dumps(results | {"ratio": ratio}) + "\n")
    raise SystemExit(ratio > GATE)


if __name__ == "__main__":
    main()
