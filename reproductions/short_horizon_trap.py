"""The short-horizon trap: where greedy PBT must lose, and FIRE PBT need not.

SGD on a noisy quadratic: a lower learning rate always pays at the next evaluation, because the stiff half's
noise shrinks with it, and never pays in the end, because the flat half needs a large one for long. 22
members and 6000 steps for every method; ablations of FIRE PBT without smoothing and without the sign test.
"""

from typing import Any

import numpy as np

from meta_train.population import toys
from meta_train.population.base import Rhythm, Setting
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.space import log
from reproductions import common, populations

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "random search": ("random_search", {"num_members": 22}),
    "PBT": ("pbt", {"num_members": 22}),
    "FIRE PBT": ("fire_pbt", {}),
    "FIRE, no smoothing": ("fire_pbt", {"smoother": "none"}),
    "FIRE, no sign test": ("fire_pbt", {"binomial_test": False}),
}
OTHER_SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "MF-PBT, 3 x 8, every 1, 5, 20": ("mf_pbt", {}),
    "FIRE PBT 4 + 4 + 3": ("fire_pbt", {"subpopulations": (4, 4), "evaluators": (3,)}),
    "FIRE PBT 12 + 12 + 9": ("fire_pbt", {"subpopulations": (12, 12), "evaluators": (9,)}),
    "FIRE PBT 8 + 8 + 8 + 6 + 6": ("fire_pbt", {"subpopulations": (8, 8, 8), "evaluators": (6, 6)}),
}


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Final loss of the best member, per method and seed."""
    seeds = seeds[:3] if fast else seeds
    space = {"learning_rate": log(bounds=(1e-3, 1.0))}
    rhythm, rounds = Rhythm(100, 20), 60
    setting, trainer = Setting(space, rhythm), toys.noisy_quadratic()
    controllers = {label: CONTROLLERS[name](setting, **options) for label, (name, options) in METHODS.items()}
    runs, compiled = populations.compare(trainer, space, rhythm, controllers, rounds, seeds)
    progress = np.linspace(0, 1, rounds)
    rate = np.where(progress < 0.8, 1.0, 1e-3 ** ((progress - 0.8) / 0.2))
    runs["by hand"] = populations.by_hand(compiled, {"learning_rate": np.tile(rate[:, None], 22)}, seeds)
    if not fast:
        for label, (name, options) in OTHER_SIZES.items():
            other = {label: CONTROLLERS[name](setting, **options)}
            runs |= populations.compare(trainer, space, rhythm, other, rounds, seeds)[0]
    for found in runs.values():
        found["loss"] = [float(np.exp(-fitness)) for fitness in found["fitness"]]
    summary = {label: _describe(found["loss"]) for label, found in runs.items()}
    steps = [(i + 1) * rhythm.round_steps for i in range(rounds)]
    return {"steps": steps, "curves": runs, "summary": summary}


def _describe(losses: list[float]) -> str:
    under = sum(loss < 0.3 for loss in losses)
    spread = f"median {np.median(losses):.3f}, {min(losses):.3f} to {max(losses):.3f}"
    return f"{spread}; under 0.3: {under} of {len(losses)}"


def draw(result: dict[str, Any], figure: Any) -> None:
    """Loss of the best member, and the winners' learning rates."""
    labels = ("random search", "PBT", "FIRE PBT", "by hand")
    shown = {label: result["curves"][label] for label in labels}
    for found in shown.values():
        found["best"] = np.exp(-np.asarray(found["best"])).tolist()
    result = {"curves": shown, "steps": result["steps"]}
    populations.draw_two(
        result, figure, steps=result["steps"], name="learning_rate", ylabel="loss of the best member"
    )
    figure.axes[0].set(yscale="log")


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(20)))
