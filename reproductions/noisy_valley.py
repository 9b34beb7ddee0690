"""A noisy valley with two hyperparameters: greed is punished, and FIRE PBT wins.

SGD with momentum follows the floor of a curved valley whose walls are noisy. A lower learning rate, or more
damping of the momentum, pays at the next evaluation, because the noise settles; but then the weights hardly
move along the floor any more. 22 members and 6000 steps for every method (MF-PBT: 24).
"""

from typing import Any

import numpy as np

from meta_train.population.base import Rhythm, Setting
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.space import log
from reproductions import common, populations
from reproductions.systems.noisy_valley import noisy_valley

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "random search": ("random_search", {"num_members": 22}),
    "PBT": ("pbt", {"num_members": 22}),
    "FIRE PBT": ("fire_pbt", {}),
}


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Final loss of the best member, per method and seed."""
    seeds = seeds[:3] if fast else seeds
    space = {"learning_rate": log(bounds=(1e-3, 1.0)), "damping": log(bounds=(0.03, 1.0))}
    rhythm, rounds = Rhythm(100, 20), 60
    setting, trainer = Setting(space, rhythm), noisy_valley()
    controllers = {label: CONTROLLERS[name](setting, **options) for label, (name, options) in METHODS.items()}
    runs, _ = populations.compare(trainer, space, rhythm, controllers, rounds, seeds)
    if not fast:
        other = {"MF-PBT": CONTROLLERS["mf_pbt"](setting)}
        runs |= populations.compare(trainer, space, rhythm, other, rounds, seeds)[0]
    for found in runs.values():
        found["loss"] = [float(np.exp(-fitness)) for fitness in found["fitness"]]
    summary = {label: populations.spread(found["loss"]) for label, found in runs.items()}
    steps = [(i + 1) * rhythm.round_steps for i in range(rounds)]
    return {"steps": steps, "curves": runs, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """Loss of the best member, and learning rate and damping of the first seed's winners."""
    populations.draw_all(
        result, figure, names=("learning_rate", "damping"), ylabel="loss of the best member",
        value=lambda fitness: np.exp(-fitness),
    )  # fmt: skip
    figure.axes[0].set(yscale="log")


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
