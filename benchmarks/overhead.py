"""The cost of the framework: its outer step against a hand-written one (benchmarks/floors.py), in one run.

    python benchmarks/overhead.py [W1 W2 ...] [--repeats 20] [--json FILE]

W1 per-parameter MLP, PES, N = 16. W2 AdafacMLP, PES, N = 16. W3 as W2 with truncated ES. W4 as W2 with
TBPTT. W5a and W5b as W1 with N = 4 and 64. W6 quadratics with learnable Adam, PES, N = 256, K = 10, T = 100.
Otherwise: scikit-learn's digits, MLP 64-32-10, batch 64, sigma 0.01, T = 200, K = 20, outer Adam 3e-4.
Framework and floor alternate; each figure is the median of `--repeats` groups of outer steps.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import floors
import jax
import optax

from learned_opt import LEARNED_OPTIMIZERS
from meta_train.core.combine import average
from meta_train.core.outer import OuterStep, make_outer_step
from meta_train.estimators import ESTIMATORS
from meta_train.inner import Objective, inner_training
from tasks import TASKS


class Workload(NamedTuple):
    """One row of the benchmark; `group` outer steps are timed together."""

    optimizer: str
    estimator: str
    num_particles: int
    k: int = 20
    length: int = 200
    task: str = "image_mlp"
    group: int = 5


WORKLOADS = {
    "W1": Workload("per_param_mlp", "pes", 16),
    "W2": Workload("adafac_mlp", "pes", 16),
    "W3": Workload("adafac_mlp", "truncated_es", 16),
    "W4": Workload("adafac_mlp", "tbptt", 16),
    "W5a": Workload("per_param_mlp", "pes", 4),
    "W5b": Workload("per_param_mlp", "pes", 64, group=2),
    "W6": Workload("learnable_adam", "pes", 256, 10, 100, "quadratic", 200),
}
SIGMA = 0.01


def family_of(w: Workload) -> Any:
    """The workload's task family."""
    return TASKS[w.task](**({"datasets": ("digits",)} if w.task == "image_mlp" else {"dim": 10}))


def outer_step_of(w: Workload, family: Any) -> tuple[OuterStep, Any, Any]:
    """The framework's outer step of `w.group` steps a call, its first state, and its data."""
    lopt = LEARNED_OPTIMIZERS[w.optimizer]()
    objective = Objective(log=False, cap=1e6)
    system = inner_training(family, lopt, unroll_length=w.length, multiple=w.k, objective=objective)
    options: dict[str, Any] = {"num_particles": w.num_particles, "truncation_length": w.k}
    if w.estimator != "tbptt":
        options["sigma"] = SIGMA
    if w.estimator == "truncated_es":
        options["carry"] = "pos"
    estimator = average({"task": ESTIMATORS[w.estimator](system, **options)})
    outer = make_outer_step(lopt.init, estimator, optax.adam(3e-4), steps_per_call=w.group)
    return outer, outer.init(jax.random.key(0)), {"task": family.data}


def framework(w: Workload, family: Any) -> Callable[[], Any]:
    """A function that does `w.group` outer steps with the framework, as a run does."""
    outer, state, data = outer_step_of(w, family)

    def run():
        nonlocal state
        state, metrics = outer.step(state, data)
        return metrics

    return run


def floor(w: Workload, family: Any) -> Callable[[], Any]:
    """The same by hand, as many outer steps in a call."""
    opt = getattr(floors, w.optimizer)()
    common: dict[str, Any] = {
        "num_particles": w.num_particles,
        "k": w.k,
        "length": w.length,
        "steps": w.group,
    }
    if w.estimator == "tbptt":
        init, step = floors.tbptt_floor(family, opt, **common)
    else:
        init, step = floors.es_floor(family, opt, method=w.estimator, sigma=SIGMA, **common)
    state, key = init(jax.random.key(0)), jax.random.key(1)

    def run():
        nonlocal state
        state, loss = step(state, key, family.data)
        return loss

    return run


def milliseconds(run: Callable[[], Any]) -> float:
    """Wall time of one call, its result awaited."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return 1e3 * (time.perf_counter() - start)


def measure(w: Workload, repeats: int) -> dict[str, float]:
    """Medians per outer step, alternating; and the median of the ratios of neighbours."""
    family = family_of(w)
    ours, theirs = framework(w, family), floor(w, family)
    for run in (ours, theirs):
        milliseconds(run)
    pairs = [(milliseconds(ours) / w.group, milliseconds(theirs) / w.group) for _ in range(repeats)]
    mine, base = zip(*pairs, strict=True)
    return {
        "framework_ms": statistics.median(mine),
        "floor_ms": statistics.median(base),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help="which ones (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=21, help="measurements of each, at least 20 (default: 21)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    args = parser.parse_args()
    unknown = [name for name in args.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"unknown workload {unknown[0]}, allowed: {', '.join(WORKLOADS)}")
    results = {}
    print(f"{'':5} {'framework ms':>13} {'floor ms':>10} {'ratio':>7}")
    for name in args.workloads:
        results[name] = r = measure(WORKLOADS[name], args.repeats)
        print(f"{name:5} {r['framework_ms']:13.2f} {r['floor_ms']:10.2f} {r['ratio']:7.2f}", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"jax": jax.__version__, "repeats": args.repeats, "workloads": results}, file, indent=1)


if __name__ == "__main__":
    main()
