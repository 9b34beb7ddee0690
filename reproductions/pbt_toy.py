"""PBT's figure 2: two members that share what neither finds alone.

The objective 1.2 - w0^2 - w1^2 is climbed along 1.2 - h0 w0^2 - h1 w1^2 with (h0, h1) = (1, 0) and
(0, 1): each member can lower one weight only. What is copied decides: weights alone, or the hypers with them.
"""

from typing import Any

import numpy as np

from meta_train.population import toys
from meta_train.population.base import Rhythm, Setting
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.rounds import evolve, population
from meta_train.population.space import linear
from reproductions import common

RHYTHM = Rhythm(5, 5, average=1)
ROUNDS = 40
HALF = {"name": "truncation", "top": 0.5, "bottom": 0.5}
# label -> controller, its options, whether it explores, whether hypers are copied
VARIANTS: dict[str, tuple[str, dict[str, Any], bool, bool]] = {
    "grid": ("random_search", {}, False, True),
    "explore only": ("pbt", {"exploit": None}, True, True),
    "exploit only, weights and hypers": ("pbt", {"exploit": HALF}, False, True),
    "exploit only, weights": ("pbt", {"exploit": HALF}, False, False),
    "PBT, weights and hypers": ("pbt", {"exploit": HALF}, True, True),
    "PBT, weights": ("pbt", {"exploit": HALF}, True, False),
}


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Fitness of the better member after every round, per variant and seed."""
    seeds = seeds[:5] if fast else seeds
    compiled, curves, summary = None, {}, {}
    for label, (name, options, explores, copies) in VARIANTS.items():
        rule = {"name": "gaussian", "std": 0.1} if explores else {"name": "keep"}
        space = {
            "h0": linear(bounds=(0.0, 1.0), given=(1.0, 0.0), explore=rule),
            "h1": linear(bounds=(0.0, 1.0), given=(0.0, 1.0), explore=rule),
        }
        controller = CONTROLLERS[name](Setting(space, RHYTHM, copies), num_members=2, **options)
        compiled = compiled or population(toys.surrogate(), controller, space, RHYTHM)
        runs = compiled._replace(controller=controller, space=space)
        curves[label] = [
            [float(r.fitness.max()) for r in evolve(runs._replace(seed=seed), ROUNDS)[1]] for seed in seeds
        ]
        ends = [curve[-1] for curve in curves[label]]
        summary[label] = f"{np.median(ends):.4f} ({min(ends):.4f} to {max(ends):.4f})"
    return {"curves": curves, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """The better member's fitness: a thin line a seed, the median thick."""
    panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
    steps = RHYTHM.round_steps * (1 + np.arange(ROUNDS))
    for panel, (label, curves), colour in zip(panels, result["curves"].items(), common.COLOURS, strict=False):
        for curve in curves:
            panel.plot(steps, curve, color=colour, lw=0.5, alpha=0.4)
        panel.plot(steps, np.median(curves, 0), color=colour, lw=2)
        panel.axhline(1.2, color="0.6", lw=0.8, ls="--")
        panel.set_title(label, fontsize=9)
    for panel in panels[3:]:
        panel.set(xlabel="steps")
    for panel in panels[::3]:
        panel.set(ylabel="best fitness")


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(50)))
