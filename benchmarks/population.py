"""What a member of a population costs against a single run: 22 members in one program, and one alone.

    python benchmarks/population.py [--json FILE]

    python benchmarks/population.py --batch-size 64

    python benchmarks/population.py --memory     what each device holds, by mesh

A 64-32-10 classifier of digits trained with Adam on minibatches of 16, 200 steps a round, the members split
over two CPU devices as `mesh: {members: 2}` does. The wall time of one member-step among 22 is at most 0.4 of
that of a single run (gate). Processor time, reported separately, leaves the second core out.
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
from meta_train.population.meta_training import meta_training
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


def memory(num_members: int = 8, num_particles: int = 32) -> None:
    """Prints what each device holds of a population of meta-trainings, by mesh; compiles, runs nothing."""
    config = {
        "outer_steps": 10,
        "tasks": [{"name": "image_mlp", "hidden": [32], "batch_size": 16}],
        "learned_optimizer": {"name": "per_param_mlp", "hidden": 8},
        "inner": {"unroll_length": 20},
        "estimator": {"name": "pes", "num_particles": num_particles, "truncation_length": 5, "sigma": 0.01},
        "outer_optimizer": {"name": "adam"},
    }
    trainer = meta_training(("learning_rate",), config=config, horizon=5, num_seeds=2)
    hypers = {"learning_rate": np.full(num_members, 1e-3, np.float32)}
    key = jax.random.key(0)
    for members, particles in ((1, 1), (8, 1), (4, 2), (2, 4)):
        run = engine(trainer, num_members, Rhythm(2, 2), mesh=member_mesh(members, num_members, particles))
        init = run.init.lower(key, hypers).compile()  # type: ignore[attr-defined]
        state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            jax.eval_shape(run.init, key, hypers),
            init.output_shardings,
        )
        source = np.arange(num_members, dtype=np.int32)
        train = run.train.lower(state, hypers, key, np.int32(0), trainer.data)  # type: ignore[attr-defined]
        copy = run.gather.lower(state, source)  # type: ignore[attr-defined]
        temporary = [one.compile().memory_analysis().temp_size_in_bytes / 2**20 for one in (train, copy)]
        print(
            f"members {members}, particles {particles}: state "
            f"{init.memory_analysis().output_size_in_bytes / 2**20:.1f} MiB; in addition, training a round "
            f"{temporary[0]:.1f}, copying {temporary[1]:.1f}",
            flush=True,
        )


def main() -> None:
    """Measures and prints."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--batch-size", type=int, default=16, metavar="B", help="default: 16")
    parser.add_argument("--memory", action="store_true", help="print what each device holds instead")
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8 if args.memory else DEVICES)
    if args.memory:
        memory()
        return
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
    raise SystemExit(int(ratio > GATE))


if __name__ == "__main__":
    main()
