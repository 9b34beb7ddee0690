"""Influence balancing: short-term influence of theta against its long-term influence.

23 states, one meta-parameter whose first 40 steps of influence point the wrong way. Truncated estimators
with short windows walk away from the optimum at -1/6, whatever else they do; the others reach it.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from meta_train.estimators import ESTIMATORS
from reproductions import common
from reproductions.systems.influence_balancing import influence_balancing
from reproductions.systems.outer_problem import OuterProblem

PAIRS = 500  # 1000 rollouts
RATE, RATE_UORO = 1e-4, 1e-5
# label: (estimator, options, K). The loss counts once per window, after its last step.
CURVES: dict[str, tuple[str, dict[str, Any], int]] = {
    "TBPTT 1": ("tbptt", {"num_particles": 1}, 1),
    "TBPTT 10": ("tbptt", {"num_particles": 1}, 10),
    "TBPTT 100": ("tbptt", {"num_particles": 1}, 100),
    "truncated ES 1": ("truncated_es", {"num_particles": PAIRS, "sigma": 0.1}, 1),
    "RTRL": ("rtrl", {"num_particles": 1}, 1),
    "PES": ("pes", {"num_particles": PAIRS, "sigma": 0.1}, 1),
    "PES+Analytic": ("pes_analytic", {"num_particles": PAIRS, "sigma": 0.1}, 1),
    "PES+Reparam": ("pes_reparam", {"num_particles": PAIRS, "sigma": 0.1}, 1),
    "NRES": ("nres", {"num_particles": PAIRS, "sigma": 0.1}, 1),
    "DODGE": ("dodge", {"num_particles": 2 * PAIRS}, 1),
    "UORO": ("uoro", {"num_particles": 2 * PAIRS}, 1),
    "ARTBP": ("artbp", {"num_particles": 20, "mean_length": 30.0, "max_window": 120}, 120),
}
FAST = ("TBPTT 1", "TBPTT 10", "TBPTT 100", "truncated ES 1", "RTRL", "PES", "NRES")


def final_loss(thetas: np.ndarray) -> np.ndarray:
    """f64[...]: the loss 500 steps after s = 1, in float64: 12 orders of magnitude are plotted."""
    a = 0.5 * (np.eye(23) + np.eye(23, k=1))
    p = np.where(np.arange(23) < 10, 1.0, -1.0)
    from_start, from_theta = np.ones(23), np.zeros(23)  # s = from_start + theta from_theta
    for _ in range(500):
        from_start, from_theta = a @ from_start, a @ from_theta + p
    return 0.5 * np.square(from_start[0] + np.asarray(thetas, np.float64) * from_theta[0] - 1)


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Trains theta with every estimator; 3000 outer steps, recorded every 10."""
    curves = {}
    for label in FAST if fast else CURVES:
        name, options, k = CURVES[label]
        toy = influence_balancing(loss_period=k)
        problem = OuterProblem(toy.system, lambda key: jnp.float32(0.5))
        extra = {} if name == "artbp" else {"truncation_length": k}
        estimator = ESTIMATORS[name](problem.system, **options, **extra)
        thetas = common.trajectories(
            problem,
            estimator,
            optax.sgd(RATE_UORO if name == "uoro" else RATE),
            outer_steps=3000,
            every=10,
            seeds=seeds,
        )
        common.progress(label)
        curves[label] = {"theta": thetas.tolist(), "loss": final_loss(thetas).tolist()}
    summary = {
        label: f"theta {np.median(np.asarray(c['theta'])[:, -1]):.6g}, "
        f"loss {np.median(np.asarray(c['loss'])[:, -1]):.2g}"
        for label, c in curves.items()
    }
    return {"outer_step": list(range(0, 3001, 10)), "curves": curves, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """Loss and theta against outer steps, one line per estimator, the median of the seeds."""
    left, right = figure.subplots(1, 2)
    steps = result["outer_step"]
    for i, (label, curve) in enumerate(result["curves"].items()):
        style = {
            "color": common.COLOURS[i % len(common.COLOURS)],
            "linestyle": "-" if i < len(common.COLOURS) else "--",
            "linewidth": 1.6,
        }
        left.plot(steps, np.maximum(np.median(curve["loss"], 0), 1e-16), label=label, **style)
        right.plot(steps, np.median(curve["theta"], 0), **style)
    left.set(yscale="log", ylim=(1e-16, 1e17), xlabel="outer steps", ylabel="loss after 500 steps")
    right.axhline(-1 / 6, color="0.5", linewidth=0.8, linestyle=":")
    right.set(ylim=(-0.5, 1.5), xlabel="outer steps", ylabel="theta")
    right.annotate("best theta, -1/6", (1500, -1 / 6), (1500, -0.3), color="0.4")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[3, 5, 7])
