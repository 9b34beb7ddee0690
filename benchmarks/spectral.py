"""What the `spectral` optimizer's rate should be, and whether it transfers over width and horizon.

    python benchmarks/spectral.py [TASK ...] [--rates 0.01 0.03 0.1] [--steps 200 1000] [--seeds 2]
                                  [--optimizer pretrained:general ...] [--adamw 0.001 0.003] [--muon 0.01]
                                  [--json FILE]

For every task and horizon: the training loss over the last twentieth of the steps (at least 20) and the
validation loss after them, of AdamW (and Muon) with warm-up and cosine and of the spectral optimizer, each
at several rates. The tasks are proxies of 1 thousand to 0.3 million parameters, on which the rate was chosen;
none is in an evaluation ring. Tasks of rings A, B and L can be named as well, to measure, never to choose.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import learned_opt
import tasks
from learned_opt.architectures.learned_rate import warmup_cosine
from meta_train.evaluation.rivals import matched_muon
from tasks.rings import RING_A, RING_B, RING_L

DOCS = ("pydoc[:200000]",)
PROXIES: dict[str, dict[str, Any]] = {
    "tanh": {"name": "image_mlp", "hidden": (48, 48), "activation": "tanh"},
    "batch_8": {"name": "image_mlp", "datasets": ("teacher:60",), "batch_size": 8},
    "conv": {"name": "image_conv"},
    "gru": {"name": "char_rnn", "core": "gru", "texts": ("markov:5",)},
    "autoencoder": {"name": "image_autoencoder", "hidden": (40,), "latent": 10},
    "diabetes": {"name": "tabular_mlp"},
    "vit": {"name": "image_vit"},
    "field": {"name": "image_field"},
    "layer_norm": {
        "name": "image_mlp",
        "datasets": ("teacher:61",),
        "hidden": (32, 32),
        "norm": "layer",
    },
    "lm_25k": {"name": "transformer_lm", "texts": DOCS, "width": 32, "depth": 2, "length": 64},
    "lm_320k": {
        "name": "transformer_lm",
        "texts": DOCS,
        "width": 128,
        "depth": 2,
        "heads": 4,
        "length": 64,
    },
    "mlp_300k": {"name": "image_mlp", "datasets": ("teacher:62",), "hidden": (512, 512)},
}
MEASURED = {**PROXIES, **RING_A, **RING_B, **RING_L}
LARGE = ("lm_25k", "lm_320k", "mlp_300k")
ADAMW_RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
RATES = (0.01, 0.02, 0.03, 0.05, 0.1)
Losses = Callable[[Sequence[float]], np.ndarray]


def adamw(rate: jax.Array, steps: int) -> optax.GradientTransformation:
    """AdamW with the weight decay, warm-up and cosine that the spectral optimizer has."""
    return optax.adamw(lambda count: rate * warmup_cosine(count, steps), weight_decay=0.01)


def muon(rate: jax.Array, steps: int) -> optax.GradientTransformation:
    """Muon as the evaluation has it, with the same."""
    return matched_muon(
        lambda count: rate * warmup_cosine(count, steps), {"weight_decay": 0.01, "adam_rate": 1.0}
    )


def spectral(source: str | None) -> Callable[[jax.Array, int], optax.GradientTransformation]:
    """`(rate, steps) -> optimizer`: an artefact, or the architecture as it is at initialisation."""
    if source is None:
        lopt = learned_opt.spectral(learning_rate=1.0)
        theta = lopt.init(jax.random.key(0))
    else:
        lopt, theta = learned_opt.read(source)[:2]

    def build(rate, steps):
        return optax.chain(lopt.build(theta, steps), optax.scale(rate))

    return build


def losses_at(spec: dict[str, Any], build: Callable[[jax.Array, int], Any], steps: int, seeds: int) -> Losses:
    """`rates -> f[rates, 2]`: final training and validation loss, means over seeds; one program for all."""
    family = tasks.make(spec)

    def train(rate, seed, data):
        key_cfg, key_params, key_steps = jax.random.split(jax.random.key(seed), 3)
        task = family.task(family.sample(key_cfg))
        tx = build(rate, steps)

        def step(carry, t):
            params, state = carry
            key = jax.random.fold_in(key_steps, t)
            loss, grads = jax.value_and_grad(task.loss)(params, key, data["train"])
            updates, state = optax.with_extra_args_support(tx).update(grads, state, params, value=loss)
            return (optax.apply_updates(params, updates), state), loss

        start = task.init(key_params)
        (params, _), losses = jax.lax.scan(step, (start, tx.init(start)), jnp.arange(steps))
        valid = jax.lax.map(
            lambda key: task.loss(params, key, data["valid"]), jax.random.split(jax.random.key(99), 32)
        )
        return jnp.stack([losses[-max(20, steps // 20) :].mean(), valid.mean()])

    run = jax.jit(train)
    return lambda rates: np.array(
        [np.mean([run(jnp.float32(r), s, family.data) for s in range(seeds)], 0) for r in rates]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(PROXIES), help=", ".join(MEASURED))
    parser.add_argument("--rates", nargs="+", type=float, help="of the spectral optimizer")
    parser.add_argument("--steps", nargs="+", type=int, help="200 and 1000; 500 for the large ones")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--optimizer", nargs="+", help="artefacts; then the rates are factors, 1 by default")
    parser.add_argument(
        "--adamw", nargs="*", type=float, default=ADAMW_RATES, help="its rates; none: not run"
    )
    parser.add_argument("--muon", nargs="*", type=float, default=(), help="its rates; it is not run without")
    parser.add_argument("--json")
    args = parser.parse_args()
    if unknown := [name for name in args.tasks if name not in MEASURED]:
        parser.error(f"there is no task {unknown[0]!r}, only {', '.join(MEASURED)}")
    rates = args.rates or ([1.0] if args.optimizer else RATES)
    found = []
    for name in args.tasks:
        for steps in args.steps or ([500] if name in LARGE else [200, 1000]):
            runs = {"adamw": (adamw, args.adamw)} if args.adamw else {}
            runs |= {"muon": (muon, args.muon)} if args.muon else {}
            runs |= {label or "spectral": (spectral(label), rates) for label in args.optimizer or [None]}
            for label, (build, values) in runs.items():
                start = time.perf_counter()
                losses = losses_at(MEASURED[name], build, steps, args.seeds)(values)
                found.append(
                    {
                        "task": name,
                        "steps": steps,
                        "optimizer": label,
                        "rates": list(values),
                        "losses": losses.tolist(),
                    }
                )
                shown = "  ".join(
                    f"{r:g}: {a:.4g} / {b:.4g}" for r, (a, b) in zip(values, losses, strict=True)
                )
                print(f"{name} {steps} {label}  {shown}  ({time.perf_counter() - start:.0f} s)", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
