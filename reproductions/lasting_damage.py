"""Lasting damage: PBT and FIRE PBT lose to random search, and MF-PBT wins.

A hyperparameter, the shortcut, speeds learning up at once and lowers for good what the weights can reach;
the best learning rate falls as skill grows. PBT copies the members that took the shortcut. FIRE PBT
compares improvement rates, and damaged weights improve faster for a while. MF-PBT has sub-populations that
decide rarely enough to see the damage. 32 members and 10,000 steps for every method.
"""

from typing import Any

import numpy as np

from meta_train.population.base import Rhythm, Setting
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.space import log
from reproductions import common, populations
from reproductions.systems.lasting_damage import lasting_damage

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "random search": ("random_search", {"num_members": 32}),
    "PBT": ("pbt", {"num_members": 32}),
    "FIRE PBT": ("fire_pbt", {"subpopulations": (12, 12), "evaluators": (8,)}),
    "MF-PBT": ("mf_pbt", {"every_rounds": (1, 5, 20, 40)}),
}


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Final skill of the best member, per method and seed."""
    seeds = seeds[:5] if fast else seeds
    space = {"shortcut": log(bounds=(1e-3, 1.0)), "learning_rate": log(bounds=(1e-3, 1.0))}
    rhythm, rounds = Rhythm(50, 10), 200
    setting = Setting(space, rhythm)
    controllers = {label: CONTROLLERS[name](setting, **options) for label, (name, options) in METHODS.items()}
    runs, _ = populations.compare(lasting_damage(), space, rhythm, controllers, rounds, seeds)
    summary = {label: populations.spread(found["fitness"]) for label, found in runs.items()}
    steps = [(i + 1) * rhythm.round_steps for i in range(rounds)]
    return {"steps": steps, "curves": runs, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """Skill of the best member, and shortcut and learning rate of the first seed's winners."""
    names = ("shortcut", "learning_rate")
    populations.draw_all(result, figure, names=names, ylabel="skill of the best member", value=np.asarray)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(100, 120)))
