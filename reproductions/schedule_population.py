"""A learning-rate schedule for a real network on real data, found in one run of 22 members.

An autoencoder of handwritten digits (64-32-16-32-64) trained by SGD with minibatches of four. Fitness is -log
of the loss on validation images; the test images are used for neither training nor choice. Every method
gets 22 members for the same number of steps; the schedule made by hand is a cosine decay from the best
of 22 peak rates.
"""

from typing import Any

import numpy as np

from meta_train.population.base import Rhythm, Setting
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.space import log
from meta_train.population.supervised import supervised
from reproductions import common, populations

RATES = 1e-3, 3.0
METHODS = {
    "random search": ("random_search", {"num_members": 22}),
    "PBT": ("pbt", {"num_members": 22}),
    "FIRE PBT": ("fire_pbt", {}),
}
SMALL = METHODS | {
    "random search": ("random_search", {"num_members": 11}),
    "PBT": ("pbt", {"num_members": 11}),
    "FIRE PBT": ("fire_pbt", {"subpopulations": (4, 4), "evaluators": (3,)}),
}


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Final fitness and test loss of the best member, per method and seed."""
    rounds, methods = (6, SMALL) if fast else (80, METHODS)
    space = {"learning_rate": log(bounds=RATES)}
    rhythm = Rhythm(100, 20)
    task = {"name": "image_autoencoder", "batch_size": 4, "datasets": ["digits[:1400]"]}
    trainer = supervised(
        tuple(space),
        task=task,
        optimizer={"name": "sgd"},
        num_valid_batches=128,
        test_task=task | {"datasets": ["digits[1400:]"]},
    )
    setting = Setting(space, rhythm)
    controllers = {label: CONTROLLERS[name](setting, **options) for label, (name, options) in methods.items()}
    runs, compiled = populations.compare(trainer, space, rhythm, controllers, rounds, seeds)
    members = compiled.controller.num_members
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(rounds) / rounds))
    rates = np.maximum(cosine[:, None] * np.geomspace(*RATES, members), RATES[0] / 10)
    runs["cosine, tuned"] = populations.by_hand(compiled, {"learning_rate": rates}, seeds)
    summary = {
        label: f"fitness {populations.interval(found['fitness'])}, test loss "
        f"{populations.interval([1000 * test['test_loss'] for test in found['test']])} / 1000"
        for label, found in runs.items()
    }
    steps = [(i + 1) * rhythm.round_steps for i in range(rounds)]
    return {"steps": steps, "curves": runs, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """Fitness of the best member, and the winners' learning rates."""
    populations.draw_two(
        result, figure, steps=result["steps"], name="learning_rate", ylabel="-log validation loss of the best"
    )
    figure.axes[0].set(ylim=(3.3, None))


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[0, 1, 2, 3, 4])
