"""Toy 2-D regression: the landscape of a learning-rate schedule, and where each estimator takes it.

Two meta-parameters: the logs of the first and the last learning rate of 100 steps. Windows of 10 steps.
TBPTT and truncated ES stop where short windows are content; PES, NRES and full ES go on to the ridge.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.estimators import ESTIMATORS
from reproductions import common
from reproductions.systems.toy_regression import toy_regression

T, K, PAIRS = 100, 10, 50
EVERY = 20  # outer steps from one recorded theta to the next
SHARED = {"num_particles": PAIRS, "truncation_length": K, "stagger": False}  # in lockstep, as in the paper
CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "TBPTT": ("tbptt", SHARED),
    "truncated ES": ("truncated_es", SHARED | {"sigma": 1.0}),
    "PES": ("pes", SHARED | {"sigma": 0.3}),
    "NRES": ("nres", SHARED | {"sigma": 0.3}),
    "full ES": ("full_es", {"num_particles": PAIRS, "sigma": 0.3}),
}


def objective(thetas: np.ndarray) -> np.ndarray:
    """f64[...]: the sum of the 100 losses at each theta, f32[..., 2]."""
    system = toy_regression(unroll_length=T).system
    flat = jnp.asarray(thetas, jnp.float32).reshape(-1, 2)
    losses = common.mean_losses(system, flat, jax.random.key(0), (), num_steps=T)
    return T * losses.reshape(np.shape(thetas)[:-1])


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """20 000 outer steps as in the paper, --fast 1000, recorded every 20, and the landscape on a grid."""
    problem = toy_regression(unroll_length=T)
    outer_steps = 1000 if fast else 20_000
    curves = {}
    for label, (name, options) in CURVES.items():
        thetas = common.trajectories(
            problem,
            ESTIMATORS[name](problem.system, **options),
            optax.adam(0.01, b1=0.99),
            outer_steps=outer_steps,
            every=EVERY,
            seeds=seeds,
        )
        common.progress(label)
        curves[label] = {"theta": thetas.tolist(), "objective": objective(thetas).tolist()}
    axis = np.linspace(-5, 5, 26 if fast else 401)
    first, last = np.meshgrid(axis, axis, indexing="ij")
    grid = objective(np.stack([first, last], -1))
    return {
        "outer_step": list(range(0, outer_steps + 1, EVERY)),
        "curves": curves,
        "axis": axis.tolist(),
        "grid": grid.tolist(),
        "summary": summary(curves, axis, grid),
    }


def summary(curves: dict[str, Any], axis: np.ndarray, grid: np.ndarray) -> dict[str, str]:
    """The objective after 1000 outer steps and after all, from the least to the most over seeds."""
    lines = {"start": f"{objective(np.full(2, -4.0)):.1f}"}
    for label, curve in curves.items():
        found = np.asarray(curve["objective"])
        early, final = found[:, 1000 // EVERY], found[:, -1]
        theta = np.median(np.asarray(curve["theta"])[:, -1], 0)
        lines[label] = (
            f"{early.min():.0f} to {early.max():.0f} after 1000; {final.min():.0f} to {final.max():.0f} "
            f"after {EVERY * (found.shape[1] - 1)}, theta ({theta[0]:.2f}, {theta[1]:.2f})"
        )
    best = np.unravel_index(grid.argmin(), grid.shape)
    return lines | {"best on the grid": f"{grid.min():.1f} at ({axis[best[0]]:.2f}, {axis[best[1]]:.2f})"}


def draw(result: dict[str, Any], figure: Any) -> None:
    """The landscape with the ways of 2000 outer steps, and the objective against inner steps."""
    from matplotlib.colors import LogNorm

    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    axis = np.asarray(result["axis"])
    grid = np.asarray(result["grid"]).T
    image = left.pcolormesh(axis, axis, grid, norm=LogNorm(500, 1e4), cmap="Greys", rasterized=True)
    figure.colorbar(image, ax=left, pad=0.01)
    steps = np.asarray(result["outer_step"])
    for i, (label, curve) in enumerate(result["curves"].items()):
        way, colour = np.asarray(curve["theta"])[0, : 2000 // EVERY + 1], common.COLOURS[i]
        left.plot(*way.T, color="white", linewidth=2.6)
        left.plot(*way.T, color=colour, linewidth=1.4)
        left.plot(*way[-1], "o", color=colour, markeredgecolor="white", markersize=7)
        inner = steps[1:] * (T if label == "full ES" else K)
        right.plot(inner, np.median(curve["objective"], 0)[1:], label=label, color=colour, linewidth=1.4)
    left.plot(-4, -4, "s", color="black", markeredgecolor="white")
    left.grid(False)
    left.set(
        title="sum of 100 losses",
        xlim=(-5, 5),
        ylim=(-5, 5),
        xlabel="theta[0], log of the first rate",
        ylabel="theta[1], log of the last rate",
    )
    right.axhline(grid.min(), color="0.5", linewidth=0.8, linestyle=":")
    right.set(
        xscale="log", xlabel="inner steps of each particle", ylabel="sum of 100 losses", ylim=(450, 2600)
    )
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=5)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[3, 5, 7])
