"""29 hyperparameters of an MLP's training at once: PES, NRES, full ES and random search.

A learning rate and a momentum for each of 12 tensors, and how many units of each of five hidden layers are in
use. What counts is the steps of inner training spent: PES and NRES move after every window, full ES
after a whole training.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.estimators import ESTIMATORS
from reproductions import common, learning
from reproductions.systems.layer_hyperparameters import layer_hyperparameters

FULL = {"hidden": (16,) * 5, "unroll_length": 300, "budget": 300_000, "records": 20}
FAST = {"hidden": (16,) * 2, "unroll_length": 100, "budget": 30_000, "records": 5}
# label: (estimator, K, outer learning rate), chosen on seeds 1 and 2.
METHODS: dict[str, tuple[str, int | None, float]] = {
    "PES": ("pes", 50, 0.02),
    "NRES": ("nres", 10, 0.01),
    "full ES": ("full_es", None, 0.03),
}
PAIRS, SIGMA = 5, 0.3


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Spends the same number of inner steps in four ways; records the best theta so far."""
    size = FAST if fast else FULL
    problem = layer_hyperparameters(
        hidden=size["hidden"],
        batch_size=16,
        unroll_length=size["unroll_length"],
        rates=(0.01, 0.1),
        initial_scale=2.0,
    )
    ways = {label: outer_training(problem, label, size, seeds) for label in METHODS}
    ways["random search"] = random_search(problem, size, seeds)
    curves = {label: values.tolist() for label, values in evaluate(problem, ways).items()}
    summary = {}
    for label, lines in curves.items():
        first, last = np.median(np.asarray(lines), 0)[[0, -1]]
        final = ", ".join(f"{values[-1]:.3f}" for values in lines)
        summary[label] = f"{final}; median {last:.3f}, {first:.3f} at the start"
    inner_steps = np.linspace(0, size["budget"], size["records"] + 1).tolist()
    return {"inner_steps": inner_steps, "curves": curves, "summary": summary}


def outer_training(problem: Any, label: str, size: dict[str, Any], seeds: list[int]) -> Any:
    """theta along outer training, leaves [seeds, records, ...]."""
    name, k, rate = METHODS[label]
    options = {"num_particles": PAIRS, "sigma": SIGMA} | ({"truncation_length": k} if k else {})
    estimator = ESTIMATORS[name](problem.system, **options)
    every = size["budget"] // estimator.inner_steps // size["records"]
    thetas = common.trajectories(
        problem,
        estimator,
        optax.adam(rate),
        outer_steps=every * size["records"],
        every=every,
        seeds=seeds,
    )
    common.progress(label)
    return thetas


def random_search(problem: Any, size: dict[str, Any], seeds: list[int]) -> Any:
    """The best random theta so far, each tried on one whole training; leaves [seeds, records, ...]."""
    points = size["budget"] // size["unroll_length"]
    keys = jnp.stack([jax.random.split(jax.random.key(seed), points) for seed in seeds])
    thetas = jax.vmap(problem.init_theta)(keys.reshape(-1))
    tried = learning.objective(problem, thetas, jax.random.key(1001), episodes=1).reshape(len(seeds), points)
    stops = np.maximum(np.linspace(0, points, size["records"] + 1).astype(int), 1)
    best = np.asarray([[i * points + row[:stop].argmin() for stop in stops] for i, row in enumerate(tried)])
    common.progress("random search")
    return jax.tree.map(lambda x: np.asarray(x)[best], thetas)


def evaluate(problem: Any, ways: dict[str, Any]) -> dict[str, np.ndarray]:
    """Running minimum of the objective along each way, f64[seeds, records]; all on the same trainings."""
    shape = jax.tree.leaves(ways["PES"])[0].shape[:2]
    flat = [jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), way) for way in ways.values()]
    values = learning.objective(
        problem, jax.tree.map(lambda *xs: jnp.concatenate(xs), *flat), jax.random.key(1000), episodes=8
    )
    return {
        label: np.minimum.accumulate(part.reshape(shape), 1)
        for label, part in zip(ways, np.split(values, len(ways)), strict=True)
    }


def draw(result: dict[str, Any], figure: Any) -> None:
    """Running minimum against the steps of inner training: median of the seeds, and their range."""
    panel = figure.subplots()
    for i, (label, values) in enumerate(result["curves"].items()):
        lines, colour = np.asarray(values), common.COLOURS[i]
        panel.plot(result["inner_steps"], np.median(lines, 0), label=label, color=colour)
        panel.fill_between(
            result["inner_steps"], lines.min(0), lines.max(0), color=colour, alpha=0.15, linewidth=0
        )
    panel.set(xlabel="steps of inner training", ylabel="validation loss over a training, best so far")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper")


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[3, 5, 7])
