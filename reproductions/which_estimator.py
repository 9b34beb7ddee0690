"""Which estimator should meta-train? Six of them, on the same learned optimizers.

Two learned optimizers, a per-parameter MLP and `spectral`, are meta-trained on small networks that learn from
teachers: first at equal inner steps, then for as much time by the clock as TBPTT took. Every estimator, every
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
    """Adds the meta-loss and both speed-ups along the runs, [seeds, RECORDS + 1]; returns those of Adam.

    The thetas are taken out.
    """
    problem, lopt = problem_of(case), optimizer_of(case)
    thetas = [one.pop("thetas") for one in found.values()]
    shape = (len(found), *jax.tree.leaves(thetas[0])[0].shape[:2])
    flat = jax.tree.map(lambda *xs: np.concatenate([x.reshape(-1, *x.shape[2:]) for x in xs]), *thetas)
    losses = learning.objective(problem, flat, jax.random.key(2), episodes=size.episodes)
    for one, loss in zip(found.values(), losses.reshape(shape), strict=True):
        one["meta_loss"] = loss.tolist()
    ladders = {}
    for name, task in {"trained": TASK, "held_out": HELD_OUT}.items():
        family, key = make(task), jax.random.key(3)
        ladders[name] = against_adam.ladder(family, key, horizons=HORIZONS, episodes=size.episodes)
        curves = against_adam.curves(family, lopt, flat, key, length=T, episodes=size.episodes)
        last = curves[:, -against_adam.LAST :].mean(1)
        factors = against_adam.speed_up(last, T, ladders[name]).reshape(shape)
        for one, factor, loss in zip(found.values(), factors, last.reshape(shape), strict=True):
            one |= {name: factor.tolist(), f"{name}_loss": loss[:, -1].tolist()}
        common.progress(f"evaluation, {name}")
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
        summary |= summarised(title, found, asked[title])
    return {"curves": curves, "adam": adams, "diagnosis": asked, "budget": size.budget, "summary": summary}


def summarised(title: str, found: dict[str, Any], asked: dict[str, Any]) -> dict[str, str]:
    """One line for each setting: meta-loss, speed-ups and their intervals; then the advice."""
    kinds = ("meta_loss", "trained", "held_out")
    begin = [np.mean([line[0] for one in found.values() for line in one[kind]]) for kind in kinds]
    start = "meta-loss {:.3f}, speed-up {:.2f}, held out {:.2f}".format(*begin)
    lines = {f"{title}, start": start}
    for label, one in found.items():
        loss, trained, held_out = ([line[-1] for line in one[kind]] for kind in kinds)
        factors = f"{against_adam.ratio(trained)}, held out {against_adam.ratio(held_out)}"
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


def band(lines: Any, logs: bool) -> tuple[np.ndarray, np.ndarray]:
    """The mean over seeds of lines [seeds, X], of their logarithms if asked, and its 95 % half-width."""
    values = np.log(lines) if logs else np.asarray(lines)
    return values.mean(0), half_width(values)


def draw_row(panels: Any, found: dict[str, Any], budget: int, kind: str, logs: bool) -> None:
    """One kind of figure against inner steps, against time in as much of it as TBPTT takes, and against K."""
    back = np.exp if logs else np.asarray
    steps, times, windows = panels
    for i, label in enumerate(METHODS):
        ones = [one for one in found.values() if one["label"] == label and not one["long"]]
        if not ones:
            continue
        colour, long = common.COLOURS[i], found.get(f"{label}, long", ones[0])
        for panel, one, end in ((steps, ones[0], budget / 1000), (times, long, long["seconds"])):
            mean, half = band(one[kind], logs)
            x = np.linspace(0, end, RECORDS + 1)
            panel.plot(x, back(mean), color=colour, label=label, lw=1.4)
            panel.fill_between(x, back(mean - half), back(mean + half), color=colour, alpha=0.12, lw=0)
        mean, half = band(np.asarray([[line[-1] for line in one[kind]] for one in ones]).T, logs)
        ends = np.abs(back(np.stack([mean - half, mean + half])) - back(mean))
        x = [one["K"] * (1 + 0.03 * (i - 2)) for one in ones]
        windows.errorbar(x, back(mean), ends, color=colour, marker="o", ms=4, capsize=2)
    means = np.stack([band(one[kind], logs)[0] for one in found.values()])
    low, high = means.min(), means.max()
    limits = back(np.array([low - 0.15 * (high - low), high + 0.25 * (high - low)]))
    for panel in panels:
        panel.set(ylim=limits)
    windows.set(xscale="log", xlim=(8, 130))
    windows.set_xticks([10, 20, 50, 100], ["10", "20", "50", "T = 100"], minor=False)
    windows.minorticks_off()


def draw(result: dict[str, Any], figure: Any) -> None:
    """Two rows for each optimizer, the meta-loss and the held-out speed-up, in the panels of `draw_row`."""
    figure.set_size_inches(11, 6.2 * len(result["curves"]))
    panels = iter(figure.subplots(2 * len(result["curves"]), 3, squeeze=False))
    for title, found in result["curves"].items():
        above, below = next(panels), next(panels)
        draw_row(above, found, result["budget"], "meta_loss", logs=False)
        draw_row(below, found, result["budget"], "held_out", logs=True)
        above[0].set(title=title, ylabel="meta-loss")
        below[0].set(xlabel="thousands of inner steps", ylabel="speed-up over Adam, digits")
        below[1].set(xlabel="seconds of a run as long as TBPTT's")
        above[2].set(title="at the end, equal inner steps")
        below[2].set(xlabel="window length K")
        first = above[0]
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=6)


if __name__ == "__main__":
    # Less optimised code compiles in half the time and is about as fast.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
    common.main(__doc__ or "", run, draw, seeds=[0, 1, 2, 3])
