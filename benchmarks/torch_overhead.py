"""What a step of `learned_opt.torch.Optimizer` costs beyond the same update in JAX, in one run.

    python -m benchmarks.torch_overhead [NAME ...] [--parameters 1000000] [--repeats 31] [--json FILE]

NAME is an architecture at its initial theta, an artefact ("pretrained:general"), or "adam", which is optax's.
The model is that of `benchmarks/apply.py`; its gradients are given. The two programs alternate: `step()` on
PyTorch tensors, and a jitted `update` and `apply_updates` on arrays of the same shapes, parameters and state
donated. Figures are medians; the overhead is that of the differences of neighbours. `pass` is one addition of
arrays of these shapes to others: JAX cannot write into PyTorch's memory, so that a step has this pass more.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch  # pyright: ignore[reportMissingImports] - optional

import learned_opt
import learned_opt.torch
from benchmarks.apply import model, normal_tree
from learned_opt import LEARNED_OPTIMIZERS

STEPS = 1000


def optimizer(name: str) -> tuple[Any, optax.GradientTransformationExtraArgs, dict[str, Any]]:
    """What `Optimizer` takes, the transformation that it stands for, and the options of `Optimizer`."""
    if name == "adam":
        tx = optax.with_extra_args_support(optax.adam(1e-3))
        return tx, tx, {}
    options = {"num_steps": STEPS}
    if name in LEARNED_OPTIMIZERS:
        lopt = LEARNED_OPTIMIZERS[name]()
        theta = jax.jit(lopt.init)(jax.random.key(0))
        return (lopt, theta), lopt.build(theta, STEPS), options
    return name, learned_opt.load(name, num_steps=STEPS), options


def in_jax(tx: optax.GradientTransformationExtraArgs, params: Any, grads: Any) -> Callable[[], None]:
    """A function that takes one step in JAX."""

    @jax.jit(donate_argnums=(0, 1))
    def step(params, state, grads, value):
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    carry = jax.tree.map(jnp.copy, params), jax.jit(tx.init)(params)

    def run():
        nonlocal carry
        carry = jax.block_until_ready(step(*carry, grads, np.float32(1)))

    return run


def in_torch(which: Any, options: dict[str, Any], params: Any, grads: Any) -> Callable[[], None]:
    """A function that takes one step in PyTorch, on weights whose last axis is the outputs, as in JAX."""
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in _leaves(params)]
    tensors = [torch.nn.Parameter(torch.tensor(np.asarray(x))) for _, x in _leaves(params)]
    for p, (_, g) in zip(tensors, _leaves(grads), strict=True):
        p.grad = torch.tensor(np.asarray(g))
    named = list(zip(names, tensors, strict=True))
    opt = learned_opt.torch.Optimizer(named, which, outputs_last="", **options)
    return lambda: opt.step(loss=1.0)


def one_pass(params: Any) -> Callable[[], None]:
    """A function that adds arrays of these shapes to others, in place."""
    to, steps = ([np.zeros(x.shape, np.float32) for x in jax.tree.leaves(params)] for _ in range(2))

    def run():
        for x, step in zip(to, steps, strict=True):
            np.add(x, step, out=x)

    return run


def _leaves(tree: Any) -> Any:
    return jax.tree_util.tree_leaves_with_path(tree)


def measure(name: str, parameters: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a step in JAX and in PyTorch, of a pass, of the overhead, and what is allowed."""
    params, grads = normal_tree(model(parameters), 0), normal_tree(model(parameters), 1)
    which, tx, options = optimizer(name)
    runs = {"jax": in_jax(tx, params, grads), "torch": in_torch(which, options, params, grads)}
    runs |= {"pass": one_pass(params)}
    times: dict[str, list[float]] = {key: [] for key in runs}
    for i in range(repeats + 2):
        for key in sorted(runs, reverse=bool(i % 2)):
            start = time.perf_counter()
            runs[key]()
            times[key].append(1000 * (time.perf_counter() - start))
    found = {f"{key}_ms": statistics.median(column[2:]) for key, column in times.items()}
    pairs = zip(times["jax"][2:], times["torch"][2:], strict=True)
    overhead = statistics.median(in_torch - in_jax for in_jax, in_torch in pairs)
    return found | {"overhead_ms": overhead, "allowed_ms": 1 + 0.05 * found["jax_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ["adam", "pretrained:general", "per_param_mlp", "velo"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(default)}")
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    tensors = len(jax.tree.leaves(normal_tree(model(args.parameters), 0)))
    print(f"{args.parameters:,} parameters in {tensors} tensors, load {os.getloadavg()[0]:.1f}", flush=True)
    results = {}
    for name in args.names or default:
        try:
            found = results[name] = measure(name, args.parameters, args.repeats)
        except learned_opt.ArtefactError as error:
            parser.error(f"{name} is neither an architecture nor an artefact: {error}")
        print(f"{name:20} " + "  ".join(f"{key} {x:.2f}" for key, x in found.items()), flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
