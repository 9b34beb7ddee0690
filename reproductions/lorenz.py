"""Lorenz: two parameters fitted to a chaotic trajectory, by gradients that do and do not survive the chaos.

Loss and parameters against inner steps. NRES, PES and full ES, which smooth the loss, come near the truth;
truncated estimators settle elsewhere; derivatives carried through the chaos lead nowhere.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.estimators import ESTIMATORS
from reproductions import common
from reproductions.systems.lorenz import TRUTH, lorenz
from reproductions.systems.outer_problem import OuterProblem

T, K, PAIRS, SIGMA = 2000, 100, 50, 0.04
WINDOWED = {"num_particles": PAIRS, "truncation_length": K}
# label: (estimator, options, rate, inner steps of each outer step)
CURVES: dict[str, tuple[str, dict[str, Any], float, int]] = {
    "NRES": ("nres", WINDOWED | {"sigma": SIGMA}, 3e-5, 2 * K * PAIRS),
    "PES": ("pes", WINDOWED | {"sigma": SIGMA}, 5e-6, 2 * K * PAIRS),
    "full ES": ("full_es", {"num_particles": 10, "sigma": SIGMA}, 3e-5, 2 * T * 10),
    "truncated ES": ("truncated_es", WINDOWED | {"sigma": SIGMA, "carry": "pos"}, 3e-4, 2 * K * PAIRS),
    "TBPTT": ("tbptt", WINDOWED, 3e-4, K * PAIRS),
    "DODGE": ("dodge", WINDOWED, 1e-10, K * PAIRS),
}
FAST = ("NRES", "TBPTT", "DODGE")
STEPS, STEPS_FAST, POINTS = 30_000_000, 6_000_000, 50


def smoothed_loss(problem: OuterProblem, thetas: np.ndarray) -> np.ndarray:
    """f64[...]: mean loss of a whole trajectory over 64 draws of N(theta, sigma^2); thetas f32[..., 2].

    The loss itself jumps from one theta to the next by as much as it has to fall.
    """
    noise = SIGMA * jax.random.normal(jax.random.key(0), (64, 2))
    around = (jnp.asarray(thetas).reshape(-1, 1, 2) + noise).reshape(-1, 2)
    losses = common.mean_losses(problem.system, around, jax.random.key(0), (), num_steps=T)
    return losses.reshape(*thetas.shape[:-1], -1).mean(-1)


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """30 million inner steps per seed and estimator; --fast: three of the six, 6 million, the first seed."""
    problem = lorenz(unroll_length=T)
    total, seeds = (STEPS_FAST, seeds[:1]) if fast else (STEPS, seeds)
    found = {}
    for label in FAST if fast else CURVES:
        name, options, rate, cost = CURVES[label]
        found[label] = common.trajectories(
            problem,
            ESTIMATORS[name](problem.system, **options),
            optax.sgd(rate),
            outer_steps=total // cost,
            every=total // cost // POINTS,
            seeds=seeds,
        )
        common.progress(label)
    truth = np.log(TRUTH[:2]).astype(np.float32)
    losses = smoothed_loss(problem, np.stack([*found.values()]))  # one call for all: one compilation
    curves = {
        label: {"theta": thetas.tolist(), "loss": loss.tolist()}
        for (label, thetas), loss in zip(found.items(), losses, strict=True)
    }
    summary = {"truth": f"theta ({truth[0]:.3f}, {truth[1]:.3f}), loss {smoothed_loss(problem, truth):.0f}"}
    for label, curve in curves.items():
        ends = ", ".join(f"({a:.2f}, {r:.2f})" for a, r in np.asarray(curve["theta"])[:, -1])
        summary[label] = f"loss {', '.join(f'{loss[-1]:.0f}' for loss in curve['loss'])}; theta {ends}"
    steps = np.linspace(0, total, POINTS + 1).tolist()
    return {"inner_steps": steps, "truth": truth.tolist(), "curves": curves, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """Smoothed loss, log a and log r against inner steps: medians of the seeds, bands hold all of them."""
    panels = figure.subplots(1, 3)
    steps = np.asarray(result["inner_steps"]) / 1e6
    for i, (label, curve) in enumerate(result["curves"].items()):
        theta = np.asarray(curve["theta"])
        for panel, found in zip(
            panels, (np.asarray(curve["loss"]), theta[..., 0], theta[..., 1]), strict=True
        ):
            colour = common.COLOURS[i]
            panel.fill_between(steps, found.min(0), found.max(0), color=colour, alpha=0.15, linewidth=0)
            panel.plot(steps, np.median(found, 0), color=colour, label=label, linewidth=1.5)
    for panel, truth in zip(panels[1:], result["truth"], strict=True):
        panel.axhline(truth, color="0.4", linewidth=1, linestyle=":")
    panels[0].set(title="mean loss around theta", ylim=(0, 400))
    panels[1].set(title="log a (dotted: the truth)")
    panels[2].set(title="log r")
    for panel in panels:
        panel.set(xlabel="inner steps, millions")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[101, 103, 107])
