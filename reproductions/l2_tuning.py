"""L2 tuning: the penalty of a linear model, tuned while the model trains, from six starts.

The best penalty is known from the exact solutions. Truncated ES with windows of one step ends elsewhere.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from meta_train.estimators import ESTIMATORS
from reproductions import common
from reproductions.systems.ridge import best_log_l2, ridge, ridge_data, valid_loss

STARTS = (-5.0, -3.0, -1.0, 1.0, 3.0, 5.0)
OPTIONS = {"num_particles": 16, "truncation_length": 1, "sigma": 0.01}
NAMES = {"pes": "PES", "truncated_es": "truncated ES"}
POINTS = 200  # recorded


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Windows of one step, 16 pairs, Adam 0.003; 50 000 outer steps, --fast 10 000 of the first seed."""
    outer_steps, seeds = (10_000, seeds[:1]) if fast else (50_000, seeds)
    problem = ridge(learning_rate=0.003)
    best = best_log_l2(problem.data)
    curves: dict[str, Any] = {}
    summary = {"best": f"{best:.3f}, loss {valid_loss(problem.data, best):.2f}"}
    for name, label in NAMES.items():
        thetas = common.trajectories(
            problem,
            ESTIMATORS[name](problem.system, **OPTIONS),
            optax.adam(0.003),
            outer_steps=outer_steps,
            every=outer_steps // POINTS,
            seeds=[100 * seed + i for seed in seeds for i in range(len(STARTS))],
            starts=jnp.asarray(STARTS * len(seeds), jnp.float32),
        ).reshape(len(seeds), len(STARTS), -1)
        # One inner problem without an end: PES's noise adds up, so single thetas jump.
        ends = np.median(thetas[:, :, POINTS // 2 :], -1)
        curves[label] = {"theta": thetas.tolist(), "end": ends.tolist()}
        for i, start in enumerate(STARTS):
            summary[f"{label} from {start:g}"] = " ".join(f"{x:.3f}" for x in ends[:, i])
        common.progress(label)
    steps = np.linspace(0, outer_steps, POINTS + 1).tolist()
    return {"outer_step": steps, "starts": STARTS, "best": best, "curves": curves, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """theta against outer steps from each start, and the exact solutions' loss at every penalty."""
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1), sharey=True)
    data, axis = ridge_data(), np.linspace(-5.2, 5.5, 300)
    right.plot([valid_loss(data, theta) for theta in axis], axis, color="0.3", linewidth=1.2)
    for i, (label, curve) in enumerate(result["curves"].items()):
        for j, theta in enumerate(curve["theta"][0]):
            name = label if j == 0 else None
            left.plot(result["outer_step"], theta, color=common.COLOURS[i], linewidth=1.2, label=name)
        ends = np.ravel(curve["end"])
        right.plot([valid_loss(data, end) for end in ends], ends, "o", color=common.COLOURS[i], markersize=5)
    name = "best, from exact solutions"
    left.axhline(result["best"], color="0.4", linewidth=1, linestyle=":", label=name)
    right.axhline(result["best"], color="0.4", linewidth=1, linestyle=":")
    left.set(xlabel="outer steps (each one step of the model)", ylabel="log of the L2 penalty")
    right.set(xlabel="validation loss of the exact solution")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[3, 5, 7])
