"""The cost of applying learned optimizers to a model, relative to Adam's, in one run.

    python benchmarks/apply.py [NAME ...] [--parameters 10000000] [--reference] [--state-dtype bfloat16]
                               [--repeats 7] [--json FILE]

The model: two blocks of a transformer, an embedding and a head, in proportion to the number of parameters;
its gradients are given. One step is `update` and `apply_updates`, parameters and state donated. All programs
take turns; figures are medians. With --reference, each optimizer also runs straightforwardly, with one array
of the features of all parameters (`fused_from` so large that no tensor reaches it).

Memory, beyond parameters, gradients and state: what XLA reserves for temporaries, and how far the resident
size of the process rises during a step (sampled every millisecond; Linux).
"""

import argparse
import inspect
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt import LEARNED_OPTIMIZERS

NEVER = 2**62


class Program(NamedTuple):
    """A compiled step, `(params, state, grads, loss) -> (params, state)`, and what it runs on."""

    step: Any
    carry: list[Any]
    grads: Any
    compile_seconds: float
    temporary_bytes: int
    state_bytes: int


def model(parameters: int) -> dict[str, Any]:
    """Shapes of about so many parameters, 40 d^2."""
    d = max(8, round((parameters / 40) ** 0.5))
    block = {
        "norm": (d,),
        "qkv": (d, 3 * d),
        "out": (d, d),
        "up": (d, 4 * d),
        "up_bias": (4 * d,),
        "down": (4 * d, d),
    }
    return {"embed": (8 * d, d), "block0": block, "block1": block, "head": (d, 8 * d)}


def normal_tree(shapes: Any, seed: int) -> Any:
    """Normal numbers of standard deviation 0.02."""
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten([0.02 * jax.random.normal(k, x) for k, x in zip(keys, leaves, strict=True)])


def optimizer(name: str, **options: Any) -> optax.GradientTransformationExtraArgs:
    """An optimizer at its initial theta; options that it does not have are left out."""
    if name == "adam":
        return optax.with_extra_args_support(optax.adam(1e-3))
    factory = LEARNED_OPTIMIZERS[name]
    known = inspect.signature(factory).parameters
    lopt = factory(**{key: value for key, value in options.items() if key in known})
    return lopt.build(jax.jit(lopt.init)(jax.random.key(0)), 1000)


def program(tx: optax.GradientTransformationExtraArgs, shapes: Any) -> Program:
    """Compiles a step of `tx` on a model of these shapes."""

    def step(params, state, grads, value):
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params, grads = normal_tree(shapes, 0), normal_tree(shapes, 1)
    state = jax.tree.map(jnp.copy, jax.jit(tx.init)(params))  # no buffer twice: all of it is donated
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads, jnp.float32(1)).compile()
    seconds = time.perf_counter() - start
    memory: Any = compiled.memory_analysis()
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    return Program(compiled, [params, state], grads, seconds, memory.temp_size_in_bytes, size)


def milliseconds(p: Program) -> float:
    """Wall time of one step."""
    start = time.perf_counter()
    p.carry[:] = jax.block_until_ready(p.step(*p.carry, p.grads, jnp.float32(1)))
    return 1e3 * (time.perf_counter() - start)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def rise_of_resident_size(run: Callable[[], Any]) -> int:
    """Bytes by which the resident size rises above its start while `run` runs."""
    start, done, most = resident_bytes(), threading.Event(), 0

    def watch():
        nonlocal most
        while not done.wait(0.001):
            most = max(most, resident_bytes() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    run()
    done.set()
    thread.join()
    return most


def measure(names: list[str], parameters: int, repeats: int, reference: bool, state_dtype: str) -> dict:
    """Figures per optimizer; see the module."""
    shapes = model(parameters)
    made = {"adam": program(optimizer("adam"), shapes)}
    for name in names:
        made[name] = program(optimizer(name, state_dtype=state_dtype), shapes)
        if reference:
            tx = optimizer(name, state_dtype=state_dtype, fused_from=NEVER)
            made[name + " (straightforward)"] = program(tx, shapes)
    for p in made.values():
        milliseconds(p)
    times = [{name: milliseconds(p) for name, p in made.items()} for _ in range(repeats)]
    count = sum(x.size for x in jax.tree.leaves(made["adam"].grads))
    results = {}
    for name, p in made.items():
        results[name] = {
            "ms": statistics.median(t[name] for t in times),
            "to_adam": statistics.median(t[name] / t["adam"] for t in times),
            "state_bytes_per_parameter": p.state_bytes / count,
            "temporary_bytes": p.temporary_bytes,
            "resident_rise_bytes": rise_of_resident_size(lambda p=p: milliseconds(p)),
            "compile_seconds": p.compile_seconds,
        }
        other = f"{name} (straightforward)"
        if other in made:
            results[name]["speed_up"] = statistics.median(t[other] / t[name] for t in times)
            results[name]["memory_ratio"] = p.temporary_bytes / made[other].temporary_bytes
    return {"parameters": count, "state_dtype": state_dtype, "optimizers": results}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(LEARNED_OPTIMIZERS), help="which (default: all)")
    parser.add_argument("--parameters", type=int, default=10_000_000, help="about (default: 10000000)")
    parser.add_argument("--reference", action="store_true", help="straightforward implementations too")
    parser.add_argument("--state-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each (default: 7)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in LEARNED_OPTIMIZERS]
    if unknown:
        parser.error(f"unknown optimizer {unknown[0]}, allowed: {', '.join(LEARNED_OPTIMIZERS)}")
    figures = measure(args.names, args.parameters, args.repeats, args.reference, args.state_dtype)
    print(f"{figures['parameters']:,} parameters, accumulators {args.state_dtype}")
    print(f"{'':34} {'ms':>8} {'to adam':>8} {'B/param':>8} {'temp MB':>8} {'rise MB':>8} {'compile s':>10}")
    for name, r in figures["optimizers"].items():
        print(
            f"{name:34} {r['ms']:8.1f} {r['to_adam']:8.1f} {r['state_bytes_per_parameter']:8.2f} "
            f"{r['temporary_bytes'] / 1e6:8.1f} {r['resident_rise_bytes'] / 1e6:8.1f} "
            f"{r['compile_seconds']:10.1f}"
        )
    if args.json:
        where = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "cores": os.cpu_count()}
        with open(args.json, "w") as file:
            json.dump({**where, "repeats": args.repeats, **figures}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
