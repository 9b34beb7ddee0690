"""The meta-trainings of `which_estimator`: its settings at equal inner steps, and in equal time."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer
from meta_train.core.outer import make_outer_step
from meta_train.estimators import ESTIMATORS
from meta_train.inner import inner_training
from reproductions import common, learning
from reproductions.systems.outer_problem import OuterProblem
from tasks import make

T, K, RECORDS = 100, 10, 8
TASK = {"name": "teacher_mlp", "features": 8, "classes": 4, "hidden": [8]}
TASK |= {"teacher_hidden": 8, "batch_size": 16}
TUNING_SEED = 1000
RATES = (0.003, 0.01, 0.03, 0.1)  # of outer Adam
SLOWEST = "TBPTT"  # the others have a second run that takes as long as its run


class Case(NamedTuple):
    """A learned optimizer, and what is tried with it."""

    spec: dict[str, Any]  # as a config names it
    sigma: float  # of the estimators that have one


CASES = {
    "per-parameter MLP": Case({"name": "per_param_mlp", "hidden": 8, "step_mult": 0.01}, 0.01),
    "spectral": Case({"name": "spectral"}, 0.1),
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


class Setting(NamedTuple):
    """What is trained: an estimator, its window, and how many inner steps."""

    label: str
    window: int | None  # K; None for whole inner problems
    budget: int


def windows_of(size: Size, label: str) -> tuple[int | None, ...]:
    """The Ks of a method; None for whole inner problems."""
    known = METHODS[label][3]
    return known if size.windows else known[:1]


def optimizer_of(case: Case) -> LearnedOptimizer:
    """The learned optimizer that a case names."""
    options = {key: value for key, value in case.spec.items() if key != "name"}
    return LEARNED_OPTIMIZERS[case.spec["name"]](**options)


def problem_of(case: Case) -> OuterProblem:
    """The meta-training of a case's learned optimizer."""
    family, lopt = make(TASK), optimizer_of(case)
    return OuterProblem(inner_training(family, lopt, unroll_length=T), lopt.init, family.data)


def training(case: Case, setting: Setting, runs: int) -> tuple[Callable[..., Any], int]:
    """`(seeds i32[R], rates f32[R], data) -> theta` at RECORDS + 1 times, leaves [R, RECORDS + 1, ...].

    Compiled; and how many outer steps a run has. The outer optimizer is Adam, gradients clipped to norm 1.
    """
    name, particles, options, _ = METHODS[setting.label]
    options = options | {"num_particles": particles}
    options |= {} if setting.window is None else {"truncation_length": setting.window}
    options |= {} if name == "tbptt" else {"sigma": case.sigma}
    problem = problem_of(case)
    estimator = ESTIMATORS[name](problem.system, **options)
    every = max(1, setting.budget // estimator.inner_steps // RECORDS)

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
    """Title of a setting -> its rate, the meta-losses of the rates, outer steps, seconds of a run.

    The seconds are wall-clock time: that of all seeds, which run together, over their number.

    "thetas" has leaves [seeds, RECORDS + 1, ...]; "label" and "K" say which setting it is, "long" whether it
    is a second run of its method, with as many inner steps as fit into the time of TBPTT.
    """
    settings = {}
    for label in size.labels:
        for window in windows_of(size, label):
            title = label if window == METHODS[label][3][0] else f"{label}, K = {window}"
            settings[title] = Setting(label, window, size.budget)
    found = trained(case, size, seeds, settings)
    longer = {}
    for label in [label for label in size.labels if label != SLOWEST]:
        factor = found[SLOWEST]["seconds"] / found[label]["seconds"]
        longer[f"{label}, long"] = Setting(label, METHODS[label][3][0], int(size.budget * factor))
    return found | trained(case, size, seeds, longer)


def trained(
    case: Case, size: Size, seeds: list[int], settings: dict[str, Setting]
) -> dict[str, dict[str, Any]]:
    """The part of `meta_train` that these settings are: each at its own best rate."""
    problem, found, programs, tried = problem_of(case), {}, {}, []
    runs = max(len(RATES), len(seeds))  # both calls of a program have as many rows

    def call(title, seeds, rates):
        padded = [np.resize(x, runs) for x in (np.int32(seeds), np.float32(rates))]
        began = time.perf_counter()
        thetas = jax.block_until_ready(programs[title](*padded, problem.data))
        seconds = (time.perf_counter() - began) / runs
        common.progress(f"{title}, rates {rates}")
        return jax.tree.map(lambda x: np.asarray(x)[: len(seeds)], thetas), seconds

    for title, setting in settings.items():
        programs[title], outer_steps = training(case, setting, runs)
        found[title] = {"label": setting.label, "K": setting.window or T, "outer_steps": outer_steps}
        found[title] |= {"long": setting.budget != size.budget, "budget": setting.budget}
        tried.append(call(title, [TUNING_SEED] * len(RATES), RATES)[0])
    late = jax.tree.map(lambda *xs: np.concatenate([x[:, -3:].reshape(-1, *x.shape[2:]) for x in xs]), *tried)
    losses = learning.objective(problem, late, jax.random.key(1), episodes=size.episodes)
    for (title, one), loss in zip(found.items(), losses.reshape(len(found), len(RATES), 3), strict=True):
        rate = RATES[int(loss.mean(1).argmin())]
        thetas, seconds = call(title, seeds, [rate] * len(seeds))
        one |= {"rate": rate, "tried": loss.mean(1).tolist(), "seconds": seconds, "thetas": thetas}
    return found
