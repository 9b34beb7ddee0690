"""What a step costs: wall time of single trainings, one at a time on the first device; bytes of state."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from meta_train.evaluation.curves import seed_keys, trainer
from meta_train.evaluation.optimizers import Contestant
from tasks.base import TaskFamily

REPEATS, LEAST_REPEATS = 40, 5
MOST_SECONDS = 20  # of timing one task; a task whose steps are long is timed fewer times
SECONDS = 0.01  # that one timed call is to take: many short calls find a moment without other load
MOST_STEPS = 500


def milliseconds_per_step(
    families: dict[str, TaskFamily], shapes: dict[str, str], contestants: dict[str, list[Contestant]]
) -> dict[str, dict[str, float]]:
    """Label -> contestant's name -> milliseconds of one step of one training, gradient included.

    Contestants take turns, and the least of many times counts: other load on the machine affects all alike.
    Families of one shape are timed once.

    Args:
      families: label -> family.
      shapes: label -> what families of one shape share.
      contestants: label -> each with its default setting, or the first.
    """
    first, of_shape = {}, {}
    for label, shape in shapes.items():
        first.setdefault(shape, label)
        of_shape.setdefault(shape, {}).update({c.name: c for c in contestants[label]})

    def compiled(shape: str) -> list[Callable[[int], Any]]:
        calls = [_call(families[first[shape]], contestant) for contestant in of_shape[shape].values()]
        for call in calls:
            call(1)
        return calls

    with ThreadPoolExecutor(2) as pool:  # compiling takes longer than timing
        ready = dict(zip(first, pool.map(compiled, first), strict=True))
    by_shape = {s: dict(zip(of_shape[s], _take_turns(calls), strict=True)) for s, calls in ready.items()}
    return {label: {c.name: by_shape[s][c.name] for c in contestants[label]} for label, s in shapes.items()}


def state_bytes_per_parameter(family: TaskFamily, contestant: Contestant) -> float:
    """Bytes of optimizer state for each inner parameter, by shapes alone."""
    params = jax.eval_shape(lambda key: family.task(family.sample(key)).init(key), jax.random.key(0))
    setting = _setting(contestant)
    state = jax.eval_shape(lambda p: contestant.build(setting, 100).init(p), params)
    sizes = [
        sum(math.prod(x.shape) * itemsize(x) for x in jax.tree.leaves(tree))
        for tree, itemsize in ((state, lambda x: x.dtype.itemsize), (params, lambda x: 1))
    ]
    return sizes[0] / max(sizes[1], 1)


def _setting(contestant: Contestant) -> Any:
    row = jax.tree.map(lambda x: x[contestant.default or 0], contestant.settings)
    return row if contestant.shared is None else (row, contestant.shared)


def _call(family: TaskFamily, contestant: Contestant) -> Callable[[int], Any]:
    train = trainer(family, contestant.build, MOST_STEPS, num_valid_batches=0)
    i = contestant.default or 0
    row = jax.tree.map(lambda x: x[i : i + 1], contestant.settings)
    args = jax.device_put((row, contestant.shared, seed_keys("tuning", 1)), train.device)

    def call(steps: int):
        limit = np.int32(steps), np.full(1, steps, np.int32), np.zeros(1, np.int32)
        return jax.block_until_ready(train.run(*args, *limit, train.data))

    return call


def _take_turns(calls: list[Callable[[int], Any]]) -> list[float]:
    """Milliseconds of a step of each; what a call of no steps takes is subtracted."""

    def seconds(call, steps):
        began = time.perf_counter()
        call(steps)
        return time.perf_counter() - began

    steps = [int(np.clip(SECONDS / max(seconds(c, 2) / 2, 1e-6), 2, MOST_STEPS)) for c in calls]
    steps = [
        int(np.clip(SECONDS / (seconds(c, n) / n), 2, MOST_STEPS)) for c, n in zip(calls, steps, strict=True)
    ]
    longest = sum(seconds(c, n) for c, n in zip(calls, steps, strict=True))
    times = np.full((2, len(calls)), np.inf)
    for _ in range(int(np.clip(MOST_SECONDS / longest, LEAST_REPEATS, REPEATS))):
        for i, call in enumerate(calls):
            times[:, i] = np.minimum(times[:, i], [seconds(call, steps[i]), seconds(call, 0)])
    return [float(1e3 * max(full - empty, 1e-9) / n) for full, empty, n in zip(*times, steps, strict=True)]
