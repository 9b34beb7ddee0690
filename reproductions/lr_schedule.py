"""The learning-rate schedule of an MLP: where short windows lead, and where the unbiased ones do.

Two meta-parameters: the learning rate and its decay. A falling rate quiets the minibatches' noise at once, so
truncated ES decays too much; PES finds the schedule that is good for the whole training. The objectives are
the training loss and, which has no gradient, the accuracy on validation data.
"""

from typing import Any

import jax
import numpy as np
import optax

from meta_train.estimators import ESTIMATORS
from reproductions import common, learning
from reproductions.systems.mlp_schedule import mlp_schedule

FULL = {
    "unroll_length": 500,
    "pairs": 20,
    "outer_steps": 600,
    "records": 20,
    "map_points": 20,
    "windows": {"train": (10, 50), "accuracy": (10,)},
}
FAST = {
    "unroll_length": 500,
    "pairs": 10,
    "outer_steps": 300,
    "records": 6,
    "map_points": 6,
    "windows": {"train": (10,)},
}
RATES, DECAYS = (-3.5, 0.0), (-1.75, 1.75)  # of the map, log10
NAMES = {"pes": "PES", "truncated_es": "truncated ES"}


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Trains the schedule with windows of K steps, and maps the objectives."""
    size = FAST if fast else FULL
    maps, curves, summary = {}, {}, {}
    for objective, windows in size["windows"].items():
        problem = mlp_schedule(
            hidden=(32,), batch_size=16, unroll_length=size["unroll_length"], objective=objective
        )
        ways = {}
        for k in windows:
            for name, label in NAMES.items():
                ways[f"{objective}, {label} {k}"] = train(problem, name, k, size, seeds)
                common.progress(f"{objective}, {label} {k}")
        maps[objective], found = evaluate(problem, ways, size["map_points"])
        curves |= found
        best = np.min(maps[objective]["values"])
        start = next(iter(found.values()))["objective"][0][0]
        summary[objective] = f"{start:.3f} at the start, {best:.3f} at the best of the map"
        for label, curve in found.items():
            final = ", ".join(f"{values[-1]:.3f}" for values in curve["objective"])
            rate, decay = np.median(np.asarray(curve["theta"])[:, -1], 0)
            summary[label] = f"{final}; log10 of rate and decay {rate:.2f}, {decay:.2f}"
    outer_step = np.linspace(0, size["outer_steps"], size["records"] + 1).tolist()
    return {"outer_step": outer_step, "maps": maps, "curves": curves, "summary": summary}


def train(problem: Any, name: str, k: int, size: dict[str, Any], seeds: list[int]) -> np.ndarray:
    """theta along outer training, f32[seeds, records, 2]."""
    return common.trajectories(
        problem,
        ESTIMATORS[name](problem.system, num_particles=size["pairs"], truncation_length=k, sigma=0.1),
        optax.adam(0.02),
        outer_steps=size["outer_steps"],
        every=size["outer_steps"] // size["records"],
        seeds=seeds,
    )


def evaluate(problem: Any, ways: dict[str, np.ndarray], points: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The objective on a map, values[rate][decay], and along each way: theta (as log10) and objective.

    All on the same four inner problems, and in one program.
    """
    rates, decays = np.linspace(*RATES, points), np.linspace(*DECAYS, points)
    grid = np.log(10) * np.stack(np.meshgrid(rates, decays, indexing="ij"), -1).reshape(-1, 2)
    thetas = np.concatenate([grid.astype(np.float32), *(way.reshape(-1, 2) for way in ways.values())])
    values = learning.objective(problem, thetas, jax.random.key(1), episodes=4)
    found = {"rates": rates.tolist(), "decays": decays.tolist()}
    found["values"] = values[: points**2].reshape(points, points).tolist()
    along = np.split(values[points**2 :], len(ways))
    return found, {
        label: {"theta": (way / np.log(10)).tolist(), "objective": losses.reshape(way.shape[:2]).tolist()}
        for (label, way), losses in zip(ways.items(), along, strict=True)
    }


def draw(result: dict[str, Any], figure: Any) -> None:
    """The landscapes with the ways through them (first seed), and the training loss against outer steps."""
    from matplotlib.colors import LogNorm

    maps = result["maps"]
    panels = figure.subplots(1, len(maps) + 1)
    titles = {"train": "training loss", "accuracy": "validation error"}
    styles = {label: {"color": common.COLOURS[i]} for i, label in enumerate(result["curves"])}
    for panel, (objective, found) in zip(panels, maps.items(), strict=False):
        values = np.asarray(found["values"])
        norm = LogNorm(values.min(), values.min() * 10)
        panel.pcolormesh(
            found["decays"], found["rates"], values, norm=norm, cmap="Greys", alpha=0.6, rasterized=True
        )
        for label, curve in result["curves"].items():
            if label.startswith(objective):
                way = np.asarray(curve["theta"])[0]
                panel.plot(way[:, 1], way[:, 0], color="white", linewidth=3.2)
                panel.plot(way[:, 1], way[:, 0], linewidth=1.8, **styles[label])
                panel.plot(
                    way[-1, 1], way[-1, 0], "o", markeredgecolor="white", markersize=7, **styles[label]
                )
        panel.plot(*way[0, ::-1], "s", color="black", markeredgecolor="white")
        panel.grid(False)
        panel.set(title=titles[objective], xlabel="log10 of the decay", ylabel="log10 of the rate")
    for label, curve in result["curves"].items():
        lines = np.asarray(curve["objective"])
        panels[-1].plot(result["outer_step"], np.median(lines, 0), label=label, **styles[label])
        panels[-1].fill_between(
            result["outer_step"], lines.min(0), lines.max(0), alpha=0.15, linewidth=0, **styles[label]
        )
    panels[-1].set(yscale="log", xlabel="outer steps", title="objective, whole training")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[3, 5, 7])
