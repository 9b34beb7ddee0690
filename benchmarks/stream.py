"""What data cost: an outer step with a streamed buffer against one with all data on the device, in one run.

    python benchmarks/stream.py [--repeats 20] [--json FILE]

W1's task (MLP 64-32-10, batch 64, per-parameter MLP, PES, N = 16, K = 20) on a teacher's 2048 rows; a buffer
holds 1024 of them and 128 are replaced after every outer step. Both alternate; medians.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax

from meta_train.config import load as config_lib
from meta_train.core.stream import Feeds
from meta_train.run.experiment import assemble

CONFIG = {
    "outer_steps": 1000,
    "learned_optimizer": {"name": "per_param_mlp"},
    "inner": {"unroll_length": 200},
    "estimator": {"name": "pes", "num_particles": 16, "truncation_length": 20},
    "outer_optimizer": {"learning_rate": 3e-4},
    "logging": {"every": 1},
    "checkpoint": {"every": None},
}
TASK = {"name": "image_mlp", "datasets": ["teacher:1"], "label": "data"}


def prepare(stream: dict[str, Any] | None):
    """A function that does one outer step as a run does, with the refresh before it."""
    config = config_lib.parse(CONFIG | {"tasks": [TASK | {"stream": stream}]})
    experiment = assemble(config)
    feeds = Feeds(experiment.streams, experiment.data, jax.device_put)
    state, done = experiment.outer.init(jax.random.key(0)), 0

    def step():
        nonlocal state, done
        feeds.advance(done)
        state, metrics = experiment.outer.step(state, feeds.data)
        jax.block_until_ready(metrics)
        done += 1

    return step, feeds


def main() -> None:
    """Prints the ratio; writes it with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    steps = {"on the device": prepare(None), "streamed": prepare({"rows": 1024, "chunk": 128, "every": 1})}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(args.repeats + 2):
        for name, (step, _) in steps.items():
            began = time.perf_counter()
            step()
            if i >= 2:  # the first ones compile
                times[name].append(time.perf_counter() - began)
    for _, feeds in steps.values():
        feeds.__exit__()
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratio = medians["streamed"] / medians["on the device"]
    for name, seconds in medians.items():
        print(f"{name:14s} {1e3 * seconds:8.1f} ms an outer step")
    print(f"ratio          {ratio:8.3f}")
    if args.json:
        args.json.write_text(json.dumps(medians | {"ratio": ratio}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
