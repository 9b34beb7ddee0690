"""A whole training step, gradient included, with `pretrained:general`, Muon and AdamW, in one run.

    python benchmarks/training_step.py [--repeats 25] [--json FILE]

Two models: a transformer LM of 430 thousand parameters at 512 tokens a step, and an MLP of 256-512-512-10 in
batches of 64. The programs take turns; figures are medians, and ratios are medians of those of neighbours.
`orthogonalisation` is Newton and Schulz's steps for all matrices of the model alone, as `general` takes them.
"""

import argparse
import functools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from overhead import milliseconds

import learned_opt
import tasks
from learned_opt.architectures.orthogonal import orthogonalised

MODELS: dict[str, dict[str, Any]] = {
    "LM": {
        "name": "transformer_lm",
        "texts": ("pydoc[:200000]",),
        "width": 112,
        "depth": 4,
        "length": 64,
        "batch_size": 8,
    },
    "wide MLP": {
        "name": "image_mlp",
        "datasets": ("deformed:70[:2000]",),
        "hidden": (512, 512),
        "batch_size": 64,
    },
}
STEPS = 1000  # of the training of which one step is measured


def optimizers() -> dict[str, optax.GradientTransformationExtraArgs]:
    """What is compared; AdamW first."""
    made = {
        "AdamW": optax.adamw(1e-3),
        "Muon": optax.contrib.muon(1e-2),
        "general": learned_opt.load("pretrained:general", num_steps=STEPS),
    }
    return {name: optax.with_extra_args_support(tx) for name, tx in made.items()}


def training(family: Any, tx: optax.GradientTransformationExtraArgs) -> tuple[Any, list, float]:
    """A compiled step `(params, state, key) -> (params, state, loss)`, its first two, seconds to compile."""
    task = family.task(family.sample(jax.random.key(0)))
    data = family.data["train"]

    def step(params, state, key):
        loss, grads = jax.value_and_grad(task.loss)(params, key, data)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = jax.jit(task.init)(jax.random.key(1))
    state = jax.tree.map(jnp.copy, jax.jit(tx.init)(params))
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, jax.random.key(0))
    began = time.perf_counter()
    compiled = lowered.compile()
    return compiled, [params, state], time.perf_counter() - began


def orthogonalisation(params: Any) -> Any:
    """A compiled program, without arguments, that orthogonalises all matrices of a model."""
    matrices = [x for x in jax.tree.leaves(params) if x.ndim == 2]
    return functools.partial(jax.jit(orthogonalised).lower(matrices).compile(), matrices)


def measure(spec: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Milliseconds of every program and their ratios to AdamW's."""
    family = tasks.make(spec)
    programs, compile_seconds = {}, {}
    for name, tx in optimizers().items():
        step, carry, compile_seconds[name] = training(family, tx)
        parameters = sum(x.size for x in jax.tree.leaves(carry[0]))
        if name == "AdamW":
            programs["orthogonalisation"] = orthogonalisation(jax.tree.map(jnp.copy, carry[0]))

        def run(step=step, carry=carry):
            *carry[:], loss = step(*carry, jax.random.key(2))
            return loss

        programs[name] = run
    rows = [{name: milliseconds(run) for name, run in programs.items()} for _ in range(repeats + 2)][2:]
    return {
        "parameters": parameters,
        "ms": {name: statistics.median(row[name] for row in rows) for name in programs},
        "to_adamw": {name: statistics.median(row[name] / row["AdamW"] for row in rows) for name in programs},
        "compile_seconds": compile_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = {}
    for name, spec in MODELS.items():
        found[name] = measure(spec, args.repeats)
        print(f"{name}, {found[name]['parameters']:,} parameters")
        for what, ms in found[name]["ms"].items():
            print(f"  {what:18} {ms:8.2f} ms  {found[name]['to_adamw'][what]:6.2f}")
        ratio = found[name]["to_adamw"]
        print(f"  {'general without it':18} {ratio['general'] - ratio['orthogonalisation']:18.2f}")
        print("  seconds to compile:", {k: round(v, 1) for k, v in found[name]["compile_seconds"].items()})
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
