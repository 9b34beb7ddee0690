"""FIRE PBT with the numbers of its paper: 22, 36 and 50 workers, at equal workers and at equal work.

A classifier of digits is trained by SGD as configs/population_fire.yaml says, with all steps divided by
eight. Workers are members and evaluators. Work is the steps that they train, without those of evaluators that
wait for a parent. No population knows how long a run is, so what it has after less work is what a shorter run
would have found: all are compared at the end, and where each has done the work of FIRE PBT with 22 workers.
"""

from pathlib import Path
from typing import Any

import numpy as np

from meta_train.population.base import Setting
from meta_train.population.config import assemble, load
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.engine import engine
from meta_train.population.lineage import winner
from meta_train.population.replay import scheduled
from meta_train.population.rounds import Population, advance, begin, best_member, population
from reproductions import common, populations

CONFIG = Path(__file__).parents[1] / "configs" / "population_fire.yaml"
FAST = ("rounds=3", "round_steps=84", "eval_every=12", "controller.max_eval_steps=84")
EIGHTH = ("round_steps=300", "eval_every=25", "controller.max_eval_steps=900")
FIRE: dict[str, dict[str, Any]] = {
    f"FIRE PBT, {8 * n + 6 * (n - 1)}": {"subpopulations": (8,) * n, "evaluators": (6,) * (n - 1)}
    for n in (2, 3, 4)
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"PBT, {n}": ("pbt", {"num_members": n}) for n in (22, 50)},
    "random search, 22": ("random_search", {"num_members": 22}),
}
REFERENCE = "FIRE PBT, 22"


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Fitness of the best member against work, and of the winners' schedules, trained again."""
    config = load(CONFIG, FAST if fast else EIGHTH)
    parts, rounds = assemble(config), config.rounds
    setting, own = Setting(parts.space, parts.rhythm), {"max_eval_steps": config.controller["max_eval_steps"]}
    methods = {label: ("fire_pbt", options | own) for label, options in FIRE.items()} | OTHERS
    compiled: dict[int, Population] = {}
    curves: dict[str, Any] = {}
    for label, (name, options) in methods.items():
        controller = CONTROLLERS[name](setting, **options)
        m = controller.num_members
        if m not in compiled:
            compiled[m] = population(parts.trainer, controller, parts.space, parts.rhythm)
        runs = [_one(compiled[m]._replace(controller=controller, seed=seed), rounds) for seed in seeds]
        curves[label] = {key: [found[key] for found in runs] for key in runs[0]}
        common.progress(label)
    low, high = config.hypers["learning_rate"]["bounds"]
    rates = _goyal(rounds)[:, None] * np.geomspace(low, high, 22)
    by_hand = populations.by_hand(compiled[22], {"learning_rate": rates}, seeds)
    steps = np.arange(1, rounds + 1) * parts.rhythm.round_steps
    by_hand |= {
        "schedule": [by_hand["schedule"]["learning_rate"]],
        "work": [(22 * steps).tolist()] * len(seeds),
    }
    curves["by hand, 22"] = by_hand
    again = engine(parts.trainer, len(seeds), parts.rhythm)
    for found in curves.values():
        if len(found["schedule"]) == len(seeds):
            given = {"learning_rate": np.asarray(found["schedule"]).T}
            replay = scheduled(again, parts.trainer, parts.space, parts.rhythm, given, seed=1000)
            found["replay"] = replay.fitness.tolist()
        found["equal"] = [
            best[int(np.searchsorted(work, limit[-1]))]
            for best, work, limit in zip(found["best"], found["work"], curves[REFERENCE]["work"], strict=True)
            if work[-1] >= limit[-1]
        ]
    return {"steps": steps.tolist(), "curves": curves, "summary": _summary(curves)}


def _one(run: Population, rounds: int) -> dict[str, Any]:
    """One population: the best fitness and the work done after each round, and what its winner is."""
    stage, records, work, ranked = begin(run), [], [], run.controller.ranked
    for number in range(rounds):
        busy = sum(found is not None for found in stage.controller.get("evaluations", []))
        work.append((len(ranked) + busy) * run.rhythm.round_steps)
        stage, record = advance(run, stage, last=number == rounds - 1)
        records.append(record)
    slot = best_member(run.controller, records[-1])
    test = run.engine.test(stage.members, run.trainer.data)["test_loss"]
    return {
        "fitness": float(records[-1].fitness[slot]),
        "best": [float(record.fitness[ranked].max()) for record in records],
        "work": np.cumsum(work).tolist(),
        "schedule": winner(run.controller, records).hypers["learning_rate"].tolist(),
        "successes": sum(event["event"] == "success" for r in records for event in r.events),
        "test": {"test_loss": float(test[slot])},
    }


def _goyal(rounds: int) -> np.ndarray:
    """f64[rounds]: a warm-up over 5 of 90 epochs, divided by ten after 30, 60 and 80 (Goyal et al. 2017)."""
    epoch = 90 * (np.arange(rounds) + 0.5) / rounds
    return np.minimum(epoch / 5, 1) * 0.1 ** np.searchsorted((30, 60, 80), epoch)


def _summary(curves: dict[str, Any]) -> dict[str, str]:
    lines = {}
    for label, found in curves.items():
        texts = [f"fitness {populations.interval(found['fitness'])}"]
        for key, text in (("equal", "at equal work"), ("replay", "replayed")):
            if found.get(key):
                texts.append(f"{text} {populations.interval(found[key])}")
        texts.append(f"test loss {populations.interval([test['test_loss'] for test in found['test']])}")
        texts.append(f"work {np.mean([work[-1] for work in found['work']]) / 1e6:.3f} M steps")
        if any(found.get("successes", [])):
            texts.append(f"successes {np.mean(found['successes']):.1f}")
        lines[label] = ", ".join(texts)
    return lines


def draw(result: dict[str, Any], figure: Any) -> None:
    """Mean fitness of the best member against steps and against work, and the first seed's schedules."""
    panels = figure.subplots(1, 3)
    steps = np.asarray(result["steps"])
    for i, (label, found) in enumerate(result["curves"].items()):
        best = np.mean(found["best"], 0)
        style = {"color": common.COLOURS[i], "lw": 1.3, "ls": "-" if label.startswith("FIRE") else "--"}
        panels[0].plot(steps, best, label=label, **style)
        panels[1].plot(np.mean(found["work"], 0) / 1e6, best, **style)
        if label.endswith("22"):
            panels[2].step(steps, found["schedule"][0], where="pre", **style)
    panels[0].set(xlabel="steps", ylabel="-log validation loss of the best")
    panels[1].set(xlabel="work, million steps of a member")
    panels[2].set(xlabel="steps", ylabel="learning rate of the winner", yscale="log")
    low = min(np.mean(found["best"], 0)[len(steps) // 8] for found in result["curves"].values())
    for panel in panels[:2]:
        panel.set(ylim=(low, None))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[0, 1, 2, 3, 4])
