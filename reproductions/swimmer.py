"""Swimmer: a linear policy of 16 numbers trained by PES, full ES, truncated ES and ARS.

Returns of whole episodes of 1000 steps against environment steps. Truncated ES sees only what an action earns
within its window of 100 steps and hardly moves; the others learn to swim.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.estimators import ESTIMATORS
from reproductions import common
from reproductions.ars import ars
from reproductions.control import normalised_sgd, returns, whole_episode
from reproductions.systems.outer_problem import OuterProblem
from reproductions.systems.swimmer import swimmer

T, K, PAIRS = 1000, 100, 10
WINDOWED = {"num_particles": PAIRS, "truncation_length": K}
# label: (estimator, options, length of every outer step in units of theta, environment steps of one of them)
CURVES: dict[str, tuple[str, dict[str, Any], float, int]] = {
    "PES": ("pes", WINDOWED | {"sigma": 0.2}, 0.1, 2 * K * PAIRS),
    "full ES": ("full_es", {"num_particles": 4, "sigma": 0.1}, 0.1, 2 * T * 4),
    "truncated ES": (
        "truncated_es",
        WINDOWED | {"sigma": 0.03, "carry": "pos"},
        0.02,
        2 * K * PAIRS,
    ),
}
STEPS, STEPS_FAST, STEPS_ARS = 480_000, 120_000, 384_000  # environment steps in all


def trained_by_ars(problem: OuterProblem, seeds: list[int]) -> np.ndarray:
    """f32[seeds, 13, 2, 8]: theta every 32 episodes of 384."""

    episode = whole_episode(problem)

    def run(seed):
        key_theta, key = jax.random.split(jax.random.key(seed))
        return ars(episode, problem.init_theta(key_theta), key, iterations=48, noise=0.1)[::4]

    return np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(seeds)))


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """480 000 environment steps per seed (384 episodes for ARS); --fast: PES only, 120 000."""
    problem = swimmer(unroll_length=T)
    total, points = (STEPS_FAST, 3) if fast else (STEPS, 12)
    curves: dict[str, Any] = {}
    if not fast:
        curves["ARS"] = {
            "steps": np.linspace(0, STEPS_ARS, 13).tolist(),
            "thetas": trained_by_ars(problem, seeds),
        }
        common.progress("ARS")
    for label in ["PES"] if fast else CURVES:
        name, options, length, cost = CURVES[label]
        thetas = common.trajectories(
            problem,
            ESTIMATORS[name](problem.system, **options),
            normalised_sgd(length),
            outer_steps=total // cost,
            every=total // cost // points,
            seeds=seeds,
        )
        curves[label] = {"steps": np.linspace(0, total, points + 1).tolist(), "thetas": thetas}
        common.progress(label)
    # One call for all: they share a compilation.
    thetas = np.concatenate([curve.pop("thetas") for curve in curves.values()])
    found_of_all = np.split(returns(problem, thetas, 2 if fast else 5), len(curves))
    for curve, found in zip(curves.values(), found_of_all, strict=True):
        curve["returns"] = found.tolist()
    summary = {}
    for label, curve in curves.items():
        final = np.sort(np.asarray(curve["returns"])[:, -1])
        summary[label] = f"median {np.median(final):.0f}; " + " ".join(f"{x:.0f}" for x in final)
    return {"curves": curves, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """Return against environment steps: the median of the seeds, all of them in the band."""
    panel = figure.subplots()
    for i, (label, curve) in enumerate(result["curves"].items()):
        found, colour = np.asarray(curve["returns"]), common.COLOURS[i]
        panel.fill_between(curve["steps"], found.min(0), found.max(0), color=colour, alpha=0.15, linewidth=0)
        panel.plot(curve["steps"], np.median(found, 0), color=colour, label=label, marker=".")
    panel.axhline(360, color="0.5", linewidth=0.8, linestyle=":")
    panel.annotate("solved, by Gym's table (360)", (0, 366), color="0.4")
    panel.set(xlabel="environment steps", ylabel="return of a whole episode", ylim=(-20, 400))
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper")


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[3, 5, 7, 11, 13, 23])
