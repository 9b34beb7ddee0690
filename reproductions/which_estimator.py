"""Which estimator should meta-train? Six of them, on the same learned optimizers, at equal inner steps.

Two learned optimizers, a per-parameter MLP and `spectral`, are meta-trained on small networks that learn from
teachers. Every estimator, and every window length K, has its own outer learning rate, chosen on another seed.
Then `meta-train diagnose` is asked, before any training, which of the same settings it would take.
"""

import os
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer
from meta_train.config import load as config_lib
from meta_train.core.outer import make_outer_step
from meta_train.diagnose.diagnose import Diagnosis, diagnose
from meta_train.diagnose.plan import plan
from meta_train.diagnose.report import choose, closing_line
from meta_train.estimators import ESTIMATORS
from meta_train.inner import inner_training
from meta_train.run.experiment import assemble, initial_theta
from reproductions import against_adam, common, learning
from reproductions.populations import half_width, interval
from reproductions.systems.outer_problem import OuterProblem
from tasks import make

T, K, RECORDS = 100, 10, 8
TASK = {"name": "teacher_mlp", "features": 8, "classes": 4, "hidden": [8]}
TASK |= {"teacher_hidden": 8, "batch_size": 16}
HELD_OUT = {"name": "image_mlp", "hidden": [16], "batch_size": 32}  # digits: 1,210 parameters instead of 108
HORIZONS = (12, 25, 50, 100, 200, 400)  # of Adam, which the speed-up is counted in
TUNING_SEED = 1000
RATES = (0.003, 0.01, 0.03, 0.1)  # of outer Adam


class Case(NamedTuple):
    """A learned optimizer, and what is tried with it."""

    spec: dict[str, Any]  # as a config names it
    sigma: float  # of the estimators that have one
    varied: tuple[str, ...]  # the labels whose K is varied


CASES = {
    "per-parameter MLP": Case(
        {"name": "per_param_mlp", "hidden": 8, "step_mult": 0.01},
        0.01,
        (),
    ),
    "spectral": Case({"name": "spectral"}, 0.1, ("PES", "NRES", "TBPTT")),
}
# label: name, N, other options, the Ks (None: T). Inner steps: pairs 2 N K, TBPTT N K, PES+Analytic 3 N K.
METHODS: dict[str, tuple[str, int, dict[str, Any], tuple[int | None, ...]]] = {
    "PES": ("pes", 8, {}, (K, 20, 50)),
    "NRES": ("nres", 8, {}, (K, 20, 50)),
    "truncated ES": ("truncated_es", 8, {"carry": "pos"}, (K,)),
    "TBPTT": ("tbptt", 16, {}, (K, 20, 50)),
    "full ES": ("full_es", 4, {}, (None,)),
    "PES+Analytic": ("pes_analytic", 8, {}, (K,)),
}


class Size(NamedTuple):
    """How much is done."""

    budget: int  # inner steps of one run, all particles
    episodes: int  # inner problems of an evaluation
    samples: int  # chains of a row of the diagnosis
    labels: tuple[str, ...] = tuple(METHODS)
    windows: bool = True  # whether K is varied
    cases: tuple[str, ...] = tuple(CASES)


FULL = Size(48_000, 32, 256)
FAST = Size(3_200, 4, 64, ("NRES", "TBPTT"), False, ("spectral",))


def windows_of(case: Case, size: Size, label: str) -> tuple[int | None, ...]:
    """The Ks of a method; None for whole inner problems."""
    known = METHODS[label][3]
    return known if size.windows and label in case.varied else known[:1]


def optimizer_of(case: Case) -> LearnedOptimizer:
    """The learned optimizer that a case names."""
    options = {key: value for key, value in case.spec.items() if key != "name"}
    return LEARNED_OPTIMIZERS[case.spec["name"]](**options)


def problem_of(case: Case) -> OuterProblem:
    """The meta-training of a case's learned optimizer."""
    family, lopt = make(TASK), optimizer_of(case)
    return OuterProblem(inner_training(family, lopt, unroll_length=T), lopt.init, family.data)


def training(case: Case, label: str, window: int | None, budget: int, runs: int) -> tuple[Any, int]:
    """`(seeds i32[R], rates f32[R], data) -> theta` at RECORDS + 1 times, leaves [R, RECORDS + 1, ...].

    Compiled; and how many outer steps a run has. The outer optimizer is Adam, gradients clipped to norm 1.
    """
    name, particles, options, _ = METHODS[label]
    options = options | {"num_particles": particles}
    options |= {} if window is None else {"truncation_length": window}
    options |= {} if name == "tbptt" else {"sigma": case.sigma}
    problem = problem_of(case)
    estimator = ESTIMATORS[name](problem.system, **options)
    every = max(1, budget // estimator.inner_steps // RECORDS)

    def one(seed, rate, data):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        outer = make_outer_step(problem.init_theta, estimator, optimizer, steps_per_call=every)

        def call(state, _):
            return outer.step(state, data)[0], state.theta

        state, thetas = jax.lax.scan(call, outer.init(jax.random.key(seed)), None, RECORDS)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), thetas, state.theta)

    program = jax.jit(jax.vmap(one, (0, 0, None)))
    rows = jax.ShapeDtypeStruct((runs,), np.int32), jax.ShapeDtypeStruct((runs,), np.float32)
    return program.lower(*rows, problem.data).compile(), every * RECORDS


def meta_train(case: Case, size: Size, seeds: list[int]) -> dict[str, dict[str, Any]]:
    """Title of a setting -> its rate, the meta-losses of the rates, outer steps, processor seconds of a run.

    "thetas" has leaves [seeds, RECORDS + 1, ...]; "label" and "K" say which setting it is.
    """
    problem, found, programs = problem_of(case), {}, {}
    runs = max(len(RATES), len(seeds))  # both calls of a program have as many rows

    def call(title, seeds, rates):
        padded = [np.resize(x, runs) for x in (np.int32(seeds), np.float32(rates))]
        began = time.process_time()
        thetas = jax.block_until_ready(programs[title](*padded, problem.data))
        seconds = (time.process_time() - began) / runs
        common.progress(f"{title}, rates {rates}")
        return jax.tree.map(lambda x: np.asarray(x)[: len(seeds)], thetas), seconds

    tried = []
    for label in size.labels:
        for window in windows_of(case, size, label):
            title = label if window == METHODS[label][3][0] else f"{label}, K = {window}"
            programs[title], outer_steps = training(case, label, window, size.budget, runs)
            found[title] = {"label": label, "K": window or T, "outer_steps": outer_steps}
            tried.append(call(title, [TUNING_SEED] * len(RATES), RATES)[0])
    late = jax.tree.map(lambda *xs: np.concatenate([x[:, -3:].reshape(-1, *x.shape[2:]) for x in xs]), *tried)
    losses = learning.objective(problem, late, jax.random.key(1), episodes=size.episodes)
    for (title, one), loss in zip(found.items(), losses.reshape(len(found), len(RATES), 3), strict=True):
        rate = RATES[int(loss.mean(1).argmin())]
        thetas, seconds = call(title, seeds, [rate] * len(seeds))
        one |= {"rate": rate, "tried": loss.mean(1).tolist(), "seconds": seconds, "thetas": thetas}
    return found


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
    names = {METHODS[label][0]: windows_of(case, size, label) for label in size.labels}
    windows = sorted({k for ks in names.values() for k in ks if k})
    settings = plan(config, list(names), windows, [case.sigma])
    settings = [s for s in settings if s.truncation_length in names[s.spec["name"]]]
    theta = initial_theta(config, experiment.lopt.init)
    found = diagnose(experiment, theta, settings, num_samples=size.samples)
    common.progress("diagnosis")
    return found, closing_line(found)


def advice(found: Diagnosis, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The rows of a diagnosis by the titles of `meta_train`, and which of them it takes."""
    titles = {(METHODS[one["label"]][0], one["K"]): title for title, one in results.items()}
    rows = {titles[row.estimator, row.truncation_length or T]: row for row in found.rows}
    picks = {"picked": choose(found), "picked without a bias": choose(found, unbiased=True)}
    return {
        "rows": {title: row._asdict() for title, row in rows.items()},
        **{name: next((t for t, row in rows.items() if row is pick), None) for name, pick in picks.items()},
        "references": [reference._asdict() for reference in found.references],
    }


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Four seeds of twelve settings for each of two optimizers; --fast: two, one seed, `spectral`."""
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


def draw(result: dict[str, Any], figure: Any) -> None:
    """A row for each optimizer: the meta-loss against inner steps, against time, and at the end against K."""
    figure.set_size_inches(11, 3.6 * len(result["curves"]))
    panels = figure.subplots(len(result["curves"]), 3, squeeze=False)
    for (steps, times, windows), (title, found) in zip(panels, result["curves"].items(), strict=True):
        for i, label in enumerate(METHODS):
            ones = [one for one in found.values() if one["label"] == label]
            if not ones:
                continue
            colour, loss = common.COLOURS[i], np.asarray(ones[0]["meta_loss"])
            mean, half = loss.mean(0), half_width(loss)
            for panel, end in ((steps, result["budget"] / 1000), (times, ones[0]["seconds"])):
                x = np.linspace(0, end, RECORDS + 1)
                panel.plot(x, mean, color=colour, label=label, lw=1.4)
                panel.fill_between(x, mean - half, mean + half, color=colour, alpha=0.12, lw=0)
            last = np.asarray([[line[-1] for line in one["meta_loss"]] for one in ones])
            x = [one["K"] * (1 + 0.03 * (i - 2)) for one in ones]
            windows.errorbar(x, last.mean(1), half_width(last.T), color=colour, marker="o", ms=4, capsize=2)
        low = min(np.mean(one["meta_loss"], 0).min() for one in found.values())
        high = np.mean([one["meta_loss"][0][0] for one in found.values()])
        limits = (low - 0.15 * (high - low), high + 0.25 * (high - low))
        steps.set(title=title, xlabel="thousands of inner steps", ylabel="meta-loss", ylim=limits)
        times.set(xlabel="processor seconds of a run", ylim=limits)
        windows.set(xlabel="window length K", xscale="log", ylabel="meta-loss at the end", xlim=(8, 130))
        windows.set_xticks([10, 20, 50, 100], ["10", "20", "50", "T = 100"], minor=False)
        windows.minorticks_off()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)


if __name__ == "__main__":
    # Less optimised code compiles in half the time and is about as fast.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")
    common.main(__doc__ or "", run, draw, seeds=[0, 1, 2, 3])
