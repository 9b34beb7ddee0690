"""Which estimator should meta-train? Six of them, on the same learned optimizers.

Two learned optimizers, a per-parameter MLP and `spectral`, are meta-trained on small networks that learn from
teachers: first at equal inner steps, then for as much processor time as TBPTT took. Every estimator, every
window length K and both lengths have their own outer learning rate, chosen on another seed. Then
`meta-train diagnose` is asked, before any training, which of the same settings it would take.
"""

import os
from typing import Any

import jax
import numpy as np

from meta_train.config import load as config_lib
from meta_train.diagnose.diagnose import Diagnosis, diagnose
from meta_train.diagnose.plan import plan
from meta_train.diagnose.report import choose, closing_line
from meta_train.run.experiment import assemble, initial_theta
from reproductions import against_adam, common, learning
from reproductions.meta_trainings import (
    CASES,
    FAST,
    FULL,
    METHODS,
    RECORDS,
    TASK,
    Case,
    K,
    Size,
    T,
    meta_train,
    optimizer_of,
    problem_of,
    windows_of,
)
from reproductions.populations import half_width, interval
from tasks import make

HELD_OUT = {"name": "image_mlp", "hidden": [16], "batch_size": 32}  # digits: 1,210 parameters instead of 108
HORIZONS = (12, 25, 50, 100, 200, 400)  # of Adam, which the speed-up is counted in


def evaluate(case: Case, size: Size, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Adds the meta-loss along the runs and both speed-ups at their end, [seeds]; returns those of Adam.

    The thetas are taken out.
    """
    problem, lopt = problem_of(case), optimizer_of(case)
    shape = jax.tree.leaves(next(iter(found.values()))["thetas"])[0].shape[:2]
    thetas = [one.pop("thetas") for one in found.values()]
    flat = jax.tree.map(lambda *xs: np.concatenate([x.reshape(-1, *x.shape[2:]) for x in xs]), *thetas)
    losses = learning.objective(problem, flat, jax.random.key(2), episodes=size.episodes)
    for one, loss in zip(found.values(), losses.reshape(-1, *shape), strict=True):
        one["meta_loss"] = loss.tolist()
    # The end of every run, and last the start of the first.
    ends = jax.tree.map(lambda *xs: np.concatenate([*(x[:, -1] for x in xs), xs[0][:1, 0]]), *thetas)
    ladders = {}
    for name, task in {"trained": TASK, "held_out": HELD_OUT}.items():
        family, key = make(task), jax.random.key(3)
        ladders[name] = against_adam.ladder(family, key, horizons=HORIZONS, episodes=size.episodes)
        curves = against_adam.curves(family, lopt, ends, key, length=T, episodes=size.episodes)
        last = curves[:, -against_adam.LAST :].mean(1)
        factor = against_adam.speed_up(last, T, ladders[name])
        for i, one in enumerate(found.values()):
            mine = slice(i * shape[0], (i + 1) * shape[0])
            one |= {name: factor[mine].tolist(), f"{name}_loss": last[mine].tolist()}
        ladders[f"{name}, start"] = [float(factor[-1]), float(last[-1])]
    common.progress("evaluation")
    return ladders


def ask(case: Case, size: Size) -> tuple[Diagnosis, str]:
    """What `meta-train diagnose` finds at the initial theta, and its advice, among the settings trained."""
    estimator = {"name": "truncated_es", "carry": "pos", "truncation_length": K, "sigma": case.sigma}
    config = config_lib.load(
        {
            "outer_steps": 1,
            "tasks": [TASK],
            "learned_optimizer": case.spec,
            "inner": {"unroll_length": T},
            "estimator": estimator,
            "outer_optimizer": {"name": "adam", "learning_rate": 0.001},
            "mesh": {"particles": 1},
        }
    )
    experiment = assemble(config)
    names = {METHODS[label][0]: windows_of(size, label) for label in size.labels}
    windows = sorted({k for ks in names.values() for k in ks if k})
    settings = plan(config, list(names), windows, [case.sigma])
    settings = [s for s in settings if s.truncation_length in names[s.spec["name"]]]
    theta = initial_theta(config, experiment.lopt.init)
    found = diagnose(experiment, theta, settings, num_samples=size.samples)
    common.progress("diagnosis")
    return found, closing_line(found)


def advice(found: Diagnosis, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The rows of a diagnosis by the titles of `meta_train`, and which of them it takes."""
    titles = {
        (METHODS[one["label"]][0], one["K"]): title for title, one in results.items() if not one["long"]
    }
    rows = {titles[row.estimator, row.truncation_length or T]: row for row in found.rows}
    picks = {"picked": choose(found), "picked without a bias": choose(found, unbiased=True)}
    return {
        "rows": {title: row._asdict() for title, row in rows.items()},
        **{name: next((t for t, row in rows.items() if row is pick), None) for name, pick in picks.items()},
        "references": [reference._asdict() for reference in found.references],
    }


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Four seeds of seventeen settings for each of two optimizers; --fast: three, one seed, `spectral`."""
    size, seeds = (FAST, seeds[:1]) if fast else (FULL, seeds)
    curves, adams, asked, summary = {}, {}, {}, {}
    for title in size.cases:
        case = CASES[title]
        found = meta_train(case, size, seeds)
        adams[title] = evaluate(case, size, found)
        diagnosis, line = ask(case, size)
        curves[title], asked[title] = found, advice(diagnosis, found) | {"line": line}
        summary |= summarised(title, found, adams[title], asked[title])
    return {"curves": curves, "adam": adams, "diagnosis": asked, "budget": size.budget, "summary": summary}


def summarised(
    title: str, found: dict[str, Any], adam: dict[str, Any], asked: dict[str, Any]
) -> dict[str, str]:
    """One line for each setting: meta-loss, speed-ups and their intervals; then the advice."""
    begin = np.mean([one["meta_loss"][0][0] for one in found.values()])
    start = f"speed-up {adam['trained, start'][0]:.2f}, held out {adam['held_out, start'][0]:.2f}"
    lines = {f"{title}, start": f"meta-loss {begin:.3f}, {start}"}
    for label, one in found.items():
        loss = [line[-1] for line in one["meta_loss"]]
        factors = f"{against_adam.ratio(one['trained'])}, held out {against_adam.ratio(one['held_out'])}"
        cost = f"rate {one['rate']}, {one['outer_steps']} outer steps, {one['seconds']:.1f} s"
        lines[f"{title}, {label}"] = f"meta-loss {interval(loss)}, speed-up {factors}; {cost}"
    lines[f"{title}, diagnose"] = asked["line"]
    for label, row in asked["rows"].items():
        lines[f"{title}, diagnose, {label}"] = (
            f"cosine {row['cosine']:.2f} +- {row['cosine_error']:.2f}, bias {row['bias']:.2f} (z "
            f"{row['z']:.1f}), SNR {1000 * row['snr_per_step']:.3g} per 1000 steps, "
            f"{row['snr_per_second']:.3g} per second"
        )
    return lines


def curve(panel: Any, losses: list[list[float]], end: float, colour: str, label: str) -> None:
    """The mean over seeds of losses [seeds, RECORDS + 1] from 0 to `end`, and its 95 % interval."""
    mean, half, x = np.mean(losses, 0), half_width(np.asarray(losses)), np.linspace(0, end, RECORDS + 1)
    panel.plot(x, mean, color=colour, label=label, lw=1.4)
    panel.fill_between(x, mean - half, mean + half, color=colour, alpha=0.12, lw=0)


def draw(result: dict[str, Any], figure: Any) -> None:
    """A row for each optimizer: the meta-loss against inner steps, against time, and at the end against K.

    The second panel has the runs that take as long as TBPTT.
    """
    figure.set_size_inches(11, 3.6 * len(result["curves"]))
    panels = figure.subplots(len(result["curves"]), 3, squeeze=False)
    for (steps, times, windows), (title, found) in zip(panels, result["curves"].items(), strict=True):
        for i, label in enumerate(METHODS):
            ones = [one for one in found.values() if one["label"] == label and not one["long"]]
            if not ones:
                continue
            colour, long = common.COLOURS[i], found.get(f"{label}, long", ones[0])
            curve(steps, ones[0]["meta_loss"], result["budget"] / 1000, colour, label)
            curve(times, long["meta_loss"], long["seconds"], colour, label)
            last = np.asarray([[line[-1] for line in one["meta_loss"]] for one in ones])
            x = [one["K"] * (1 + 0.03 * (i - 2)) for one in ones]
            windows.errorbar(x, last.mean(1), half_width(last.T), color=colour, marker="o", ms=4, capsize=2)
        low = min(np.mean(one["meta_loss"], 0).min() for one in found.values())
        high = np.mean([one["meta_loss"][0][0] for one in found.values()])
        limits = (low - 0.15 * (high - low), high + 0.25 * (high - low))
        steps.set(title=title, xlabel="thousands of inner steps", ylabel="meta-loss", ylim=limits)
        times.set(xlabel="processor seconds of a run as long as TBPTT's", ylim=limits)
        windows.set(xlabel="window length K", xscale="log", ylabel="meta-loss at the end", xlim=(8, 130))
        windows.set_xticks([10, 20, 50, 100], ["10", "20", "50", "T = 100"], minor=False)
        windows.minorticks_off()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)


if __name__ == "__main__":
    # Less optimised code compiles in half the time and is about as fast.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
    common.main(__doc__ or "", run, draw, seeds=[0, 1, 2, 3])
