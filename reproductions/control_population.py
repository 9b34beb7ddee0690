"""Control with populations: PPO on the pendulum and the acrobot, its learning rate and entropy cost searched.

Every method gets 22 members for the same number of environment steps. Fitness is the return of the mean
action from a few fixed starts; the test is the same from 64 others. The schedule made by hand is a linear
decay of the learning rate, the usual one of PPO, with the best of 11 peaks and 2 entropy costs.
"""

from typing import Any

import numpy as np

from meta_train.population.base import Rhythm, Setting
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.space import log
from reproductions import common, populations
from reproductions.schedule_population import METHODS, SMALL
from reproductions.systems.environments import ENVIRONMENTS
from reproductions.systems.policy_gradient import policy_gradient

RATES, ENTROPY_COSTS = (1e-4, 0.1), (1e-5, 0.1)
ACTORS, WINDOW, RHYTHM = 16, 25, Rhythm(12, 3, average=2)
ROUNDS, ROUNDS_FAST = {"pendulum": 22, "acrobot": 12}, 4
EPISODES = {"pendulum": 8, "acrobot": 4}  # of the fitness: 800 environment steps of either
BY_HAND = "linear decay, tuned"


def schedules(rounds: int, members: int) -> dict[str, np.ndarray]:
    """name -> f64[rounds, members]: decays to a hundredth, half of the members with each entropy cost."""
    peaks = np.resize(np.geomspace(*RATES, members // 2), members)
    decay = np.maximum(1 - np.arange(rounds) / rounds, 0.01)
    costs = np.where(np.arange(members) < members // 2, 1e-4, 1e-2)
    return {"learning_rate": decay[:, None] * peaks, "entropy_cost": np.tile(costs, (rounds, 1))}


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """105 600 environment steps of every member, 57 600 on the acrobot; --fast: 19 200, half the members."""
    methods = SMALL if fast else METHODS
    space = {"learning_rate": log(bounds=RATES), "entropy_cost": log(bounds=ENTROPY_COSTS)}
    setting = Setting(space, RHYTHM)
    controllers = {label: CONTROLLERS[name](setting, **options) for label, (name, options) in methods.items()}
    curves: dict[str, Any] = {}
    summary: dict[str, str] = {}
    for name, environment in ENVIRONMENTS.items():
        rounds = ROUNDS_FAST if fast else ROUNDS[name]
        trainer = policy_gradient(environment(), num_actors=ACTORS, window=WINDOW, episodes=EPISODES[name])
        found, compiled = populations.compare(trainer, space, RHYTHM, controllers, rounds, seeds)
        hypers = schedules(rounds, compiled.controller.num_members)
        found[BY_HAND] = populations.by_hand(compiled, hypers, seeds)
        for label, one in found.items():
            curves[f"{name}: {label}"] = one
            tests = [test["return"] for test in one["test"]]
            over_run = [float(np.mean(line)) for line in one["best"]]
            summary[f"{name}: {label}"] = (
                f"fitness {populations.interval(one['fitness'])}, test return {populations.interval(tests)}, "
                f"best over the run {populations.interval(over_run)}"
            )
    return {"round_steps": RHYTHM.round_steps * ACTORS * WINDOW, "curves": curves, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """Per environment: the best member's fitness with 95 % t-intervals; the winners' rates."""
    panels = figure.subplots(2, 2)
    figure.set_size_inches(9, 6.5)
    for row, name in zip(panels, ENVIRONMENTS, strict=True):
        mine = {k.split(": ")[1]: v for k, v in result["curves"].items() if k.startswith(name)}
        for i, (label, one) in enumerate(mine.items()):
            lines, colour = np.asarray(one["best"]), common.COLOURS[i]
            mean, half = lines.mean(0), populations.half_width(lines)
            steps = result["round_steps"] * np.arange(1, lines.shape[1] + 1)
            row[0].fill_between(steps, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
            row[0].plot(steps, mean, color=colour, label=label)
            row[1].step(steps, one["schedule"]["learning_rate"], color=colour, where="pre")
        row[0].set(ylabel=f"{name}: return of the best member")
        row[1].set(ylabel="learning rate of the winner", yscale="log")
    for panel in panels[-1]:
        panel.set(xlabel="environment steps of each member")
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]))


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
