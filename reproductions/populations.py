"""What the reproductions of populations share: several controllers on one compiled trainer, many seeds."""

from collections.abc import Callable
from typing import Any

import numpy as np

from meta_train.population.base import Controller, Rhythm, Trainer
from meta_train.population.lineage import winner
from meta_train.population.replay import scheduled
from meta_train.population.rounds import Population, best_member, evolve, population
from meta_train.population.space import Space
from reproductions import common


def compare(
    trainer: Trainer,
    space: Space,
    rhythm: Rhythm,
    controllers: dict[str, Controller],
    rounds: int,
    seeds: list[int],
) -> tuple[dict[str, Any], Population]:
    """Every controller with every seed; all must have the same number of members.

    Returns:
      label -> {"fitness": [S], the best ranked member's at the end; "best": [S][rounds], the best one's
      in every round; "schedule": the hypers of the first seed's winner; "test": [S], what the
      trainer reports of it}; and the compiled population.
    """
    compiled = population(trainer, next(iter(controllers.values())), space, rhythm)
    found = {}
    for label, controller in controllers.items():
        runs = [_one(compiled._replace(controller=controller, seed=seed), rounds) for seed in seeds]
        found[label] = {key: [run[key] for run in runs] for key in ("fitness", "best", "test")}
        found[label]["schedule"] = runs[0]["schedule"]
        common.progress(label)
    return found, compiled


def _one(run: Population, rounds: int) -> dict[str, Any]:
    stage, records = evolve(run, rounds)
    slot = best_member(run.controller, records[-1])
    test = {k: float(v[slot]) for k, v in run.engine.test(stage.members, run.trainer.data).items()}
    return {
        "fitness": float(records[-1].fitness[slot]),
        "best": [float(r.fitness[run.controller.ranked].max()) for r in records],
        "schedule": {name: v.tolist() for name, v in winner(run.controller, records).hypers.items()},
        "test": test,
    }


def by_hand(compiled: Population, hypers: dict[str, np.ndarray], seeds: list[int]) -> dict[str, Any]:
    """What schedules made by hand reach: name -> f64[rounds, members], the best member as in `compare`."""
    runs = []
    for seed in seeds:
        found = scheduled(
            compiled.engine, compiled.trainer, compiled.space, compiled.rhythm, hypers, seed=seed
        )
        m = int(np.argmax(found.fitness))
        rounds = len(next(iter(hypers.values())))
        best = found.scores.reshape(len(found.fitness), rounds, -1)[:, :, -compiled.rhythm.average :].mean(2)
        runs.append(
            {
                "fitness": float(found.fitness[m]),
                "best": np.nanmax(best, 0).tolist(),
                "schedule": {name: values[:, m].tolist() for name, values in hypers.items()},
                "test": {name: float(values[m]) for name, values in found.test.items()},
            }
        )
    merged = {key: [run[key] for run in runs] for key in ("fitness", "best", "test")}
    return merged | {"schedule": runs[0]["schedule"]}


def half_width(values: Any) -> Any:
    """Half of the 95 % t-interval of the mean over the first axis, the seeds; 0 for a single one."""
    from scipy.stats import t

    seeds = len(values)
    return t.ppf(0.975, seeds - 1) * np.std(values, axis=0, ddof=1) / seeds**0.5 if seeds > 1 else 0.0


def interval(values: list[float]) -> str:
    """Mean and its 95 % t-interval over the seeds."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = half_width(values)
    return f"{np.mean(values):.3f} [{np.mean(values) - half:.3f}, {np.mean(values) + half:.3f}]"


def spread(values: list[float]) -> str:
    """Median, least and largest over the seeds."""
    return f"median {np.median(values):.3f}, {min(values):.3f} to {max(values):.3f}"


def draw_all(
    result: dict[str, Any],
    figure: Any,
    *,
    names: tuple[str, ...],
    ylabel: str,
    value: Callable[[np.ndarray], np.ndarray],
) -> None:
    """First panel: `value` of the best member's fitness, a line per seed; then the winners' schedules.

    Args:
      result: of a reproduction: "steps", and "curves" as of `compare`.
      figure: to draw on.
      names: hyperparameters, each on a logarithmic axis; the schedules are those of the first seed's winners.
      ylabel: of the first panel.
      value: what of the fitness is drawn.
    """
    panels, steps = figure.subplots(1, 1 + len(names)), result["steps"]
    for i, (label, found) in enumerate(result["curves"].items()):
        for line in found["best"]:
            panels[0].plot(steps, value(np.asarray(line)), color=common.COLOURS[i], lw=1, alpha=0.6)
        for panel, name in zip(panels[1:], names, strict=True):
            panel.step(steps, found["schedule"][name], color=common.COLOURS[i], label=label, where="pre")
            panel.set(xlabel="steps", ylabel=name.replace("_", " "), yscale="log")
    panels[0].set(xlabel="steps", ylabel=ylabel)
    figure.legend(
        *panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=len(result["curves"])
    )


def draw_two(result: dict[str, Any], figure: Any, *, steps: list[float], name: str, ylabel: str) -> None:
    """Left: the best member's fitness, a line a seed; right: the schedule of the first seed's winner."""
    left, right = figure.subplots(1, 2)
    for i, (label, run) in enumerate(result["curves"].items()):
        for line in run["best"]:
            left.plot(steps, line, color=common.COLOURS[i], lw=1, alpha=0.7)
        right.step(steps, run["schedule"][name], color=common.COLOURS[i], label=label, where="pre")
    left.set(xlabel="steps", ylabel=ylabel)
    right.set(xlabel="steps", ylabel=name.replace("_", " "), yscale="log")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=len(result["curves"]))
