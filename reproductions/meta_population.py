"""Meta-training's own hyperparameters, found while it runs: outer learning rate and sigma by FIRE PBT.

A small per-parameter MLP optimizer is meta-trained by NRES on small quadratics. Fitness is minus the mean log
loss of inner trainings on fixed seeds; what is reported is the same on seeds that no choice used.
Every method gets as many members for as many outer steps: the best fixed setting is the best of that many.
"""

from typing import Any

from meta_train.population.base import Rhythm, Setting
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.meta_training import meta_training
from meta_train.population.space import log
from reproductions import common, populations

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "best fixed setting": ("random_search", {"num_members": 22}),
    "PBT": ("pbt", {"num_members": 22}),
    "FIRE PBT": ("fire_pbt", {}),
}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "best fixed setting": ("random_search", {"num_members": 11}),
    "PBT": ("pbt", {"num_members": 11}),
    "FIRE PBT": ("fire_pbt", {"subpopulations": (4, 4), "evaluators": (3,)}),
}
TASK = {"name": "quadratic", "dim": 8}


def config(outer_steps: int) -> dict[str, Any]:
    """The meta-training of every member; what is searched is left out."""
    return {
        "outer_steps": outer_steps,
        "tasks": [TASK],
        "learned_optimizer": {"name": "per_param_mlp", "hidden": 8},
        "inner": {"unroll_length": 40, "objective": {"cap": 1000.0}},
        "estimator": {"name": "nres", "num_particles": 2, "truncation_length": 10},
        "outer_optimizer": {"name": "adam", "clip_norm": 1.0},
        "evaluation": {"tasks": [TASK]},
    }


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Final fitness and test score of the best member, per method and seed."""
    rounds, rhythm, methods = (3, Rhythm(14, 2), SMALL) if fast else (25, Rhythm(40, 8), METHODS)
    space = {"learning_rate": log(bounds=(1e-4, 0.3)), "sigma": log(bounds=(1e-3, 0.5))}
    trainer = meta_training(tuple(space), config=config(rounds * rhythm.round_steps), horizon=40, num_seeds=8)
    setting = Setting(space, rhythm)
    controllers = {label: CONTROLLERS[name](setting, **options) for label, (name, options) in methods.items()}
    runs, _ = populations.compare(trainer, space, rhythm, controllers, rounds, seeds)
    summary = {
        label: f"fitness {populations.interval(found['fitness'])}, mean log loss on other seeds "
        f"{populations.interval([test['test_log_loss'] for test in found['test']])}"
        for label, found in runs.items()
    }
    steps = [(i + 1) * rhythm.round_steps for i in range(rounds)]
    return {"steps": steps, "curves": runs, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """Fitness of the best member, and the winners' outer learning rate and sigma."""
    panels = figure.subplots(1, 3)
    for i, (label, found) in enumerate(result["curves"].items()):
        for line in found["best"]:
            panels[0].plot(result["steps"], line, color=common.COLOURS[i], lw=1, alpha=0.7)
        for panel, name in zip(panels[1:], found["schedule"], strict=True):
            panel.step(result["steps"], found["schedule"][name], color=common.COLOURS[i], label=label)
            panel.set(yscale="log", ylabel=name.replace("_", " "), xlabel="outer steps")
    panels[0].set(xlabel="outer steps", ylabel="-mean log loss of the best member", ylim=(2, None))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
