"""What the pages of control share: estimators and searches at equal environment steps, all seeds at once.

A method may have several settings of its noise (sigma) and its step. A shorter run on other seeds chooses the
one with the highest mean return over the run; only that one is trained with the seeds of the page.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from meta_train.core.outer import make_outer_step
from meta_train.estimators import ESTIMATORS
from meta_train.estimators.noise import set_sigma
from reproductions import common
from reproductions.ars import ars, rank_es
from reproductions.populations import half_width, interval
from reproductions.systems.outer_problem import OuterProblem

SEARCHES = {"ars": ars, "rank_es": rank_es}
TUNING_SEEDS = [101, 102, 103]
# (key, sigmas f32[R], steps f32[R], seeds i32[R], updates, every) -> thetas, leaves [R, points + 1, ...]
Runs = Callable[[jax.Array, jax.Array, jax.Array, int, int], Any]


class Method(NamedTuple):
    """One line of the picture.

    Attributes:
      name: of an estimator or of a search (`SEARCHES`).
      options: of its factory.
      settings: pairs of sigma and step size (the length of an outer step for an estimator).
    """

    name: str
    options: dict[str, Any]
    settings: tuple[tuple[float, float], ...]


class Budget(NamedTuple):
    """Environment steps of a run, and how it is measured.

    Attributes:
      total: environment steps of each seed's run.
      tuning: those of the runs that choose the settings.
      points: returns measured in a run, after the first.
      episodes: of each measurement.
      threshold: return that counts as solved.
    """

    total: int
    tuning: int
    points: int
    episodes: int
    threshold: float


def normalised_sgd(length: float | jax.Array) -> optax.GradientTransformation:
    """Steps of one length against the gradient: ARS's division by the returns' spread, without a scale."""

    def update(updates, state, params=None):
        norm = optax.tree.norm(updates)
        return jax.tree.map(lambda g: -length * g / jnp.maximum(norm, 1e-12), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def runs(problem: OuterProblem, method: Method) -> tuple[Runs, int]:
    """`(sigmas, steps, seeds, updates, every) -> thetas` of R runs at once, and the cost of an update.

    The thetas have leaves [R, updates // every + 1, ...]; the cost is in environment steps.
    """
    make, cost = (_search if method.name in SEARCHES else _estimated)(problem, method)

    def many(sigmas, steps, seeds, updates, every):
        one = jax.jit(jax.vmap(lambda sigma, step, seed: make(sigma, step, seed, updates, every)))
        return jax.tree.map(np.asarray, one(sigmas, steps, seeds))

    return many, cost


def whole_episode(problem: OuterProblem) -> Callable[[Any, jax.Array], jax.Array]:
    """`(theta, key) -> return f32[]` of one whole episode; the key is consumed."""
    length = problem.system.max_length
    assert length is not None

    def episode(theta, key):
        key_init, key_steps = jax.random.split(key)
        state, _ = problem.system.init(theta, key_init)
        keys = jax.random.split(key_steps, length)
        return -jax.lax.scan(lambda s, k: problem.system.step(theta, s, k, ()), state, keys)[1].sum()

    return episode


def _search(problem, method):
    length, options = problem.system.max_length, {"directions": 4} | method.options
    _, unravel = ravel_pytree(problem.init_theta(jax.random.key(0)))
    whole = whole_episode(problem)

    def episode(flat, key):
        return whole(unravel(flat), key)

    def run(sigma, step, seed, updates, every):
        key_theta, key = jax.random.split(jax.random.key(seed))
        theta, _ = ravel_pytree(problem.init_theta(key_theta))
        search = SEARCHES[method.name]
        found = search(episode, theta, key, iterations=updates, noise=sigma, step_size=step, **options)
        return jax.vmap(unravel)(found[::every])

    return run, 2 * options["directions"] * length


def _estimated(problem, method):
    estimator = ESTIMATORS[method.name](problem.system, **method.options)

    def run(sigma, step, seed, updates, every):
        outer = make_outer_step(problem.init_theta, estimator, normalised_sgd(step), steps_per_call=every)
        state = outer.init(jax.random.key(seed))
        state = state._replace(estimator_state=set_sigma(state.estimator_state, sigma))

        def call(state, _):
            return outer.step(state, ())[0], state.theta

        state, thetas = jax.lax.scan(call, state, None, updates // every)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), thetas, state.theta)

    return run, estimator.inner_steps


def returns(problem: OuterProblem, thetas: Any, episodes: int) -> np.ndarray:
    """f64[R, P]: mean return of the same whole episodes at each theta, leaves [R, P, ...]."""
    length = problem.system.max_length
    assert length is not None
    shape = jax.tree.leaves(thetas)[0].shape[:2]
    flat = jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, *x.shape[2:]), thetas)
    losses = common.mean_losses(
        problem.system, flat, jax.random.key(1_000_000), (), num_steps=length, episodes=episodes
    )
    return -length * losses.reshape(shape)


def compare(
    problem: OuterProblem,
    methods: dict[str, Method],
    budget: Budget,
    seeds: list[int],
) -> dict[str, Any]:
    """Every method with its own best setting, at equal environment steps.

    Returns:
      label -> {"steps": [P], "returns": [S, P], "sigma", "step": the setting, "tuning": [[sigma, step, mean
      return over the tuning runs], ...] (empty where there is but one setting)}.
    """
    curves = {}
    for label, method in methods.items():
        many, cost = runs(problem, method)

        def measured(settings, seeds, total, method=method, many=many, cost=cost):
            every = max(1, total // cost // budget.points)
            grid = [(sigma, step, seed) for sigma, step in settings for seed in seeds]
            sigma, step, seed = (jnp.asarray(x) for x in zip(*grid, strict=True))
            thetas = many(sigma, step, seed, every * budget.points, every)
            found = returns(problem, thetas, budget.episodes)
            at = np.arange(found.shape[1]) * every * cost
            return at, found.reshape(len(settings), len(seeds), -1)

        settings, tuning = list(method.settings), []
        if len(settings) > 1:
            _, found = measured(settings, TUNING_SEEDS, budget.tuning)
            tuning = [(*s, float(mean)) for s, mean in zip(settings, found.mean((1, 2)), strict=True)]
            settings = [max(tuning, key=lambda row: row[2])[:2]]
        at, found = measured(settings, seeds, budget.total)
        (setting,) = settings
        curves[label] = {"steps": at.tolist(), "returns": found[0].tolist(), "tuning": tuning}
        curves[label] |= {"sigma": setting[0], "step": setting[1]}
        common.progress(label)
    return curves


def until(curve: dict[str, Any], threshold: float) -> np.ndarray:
    """f64[S]: environment steps until a seed's return first reaches the threshold; infinite if never.

    Linear between measurements.
    """
    steps, found = np.asarray(curve["steps"], float), np.asarray(curve["returns"])
    reached = np.full(len(found), np.inf)
    for seed, line in enumerate(found):
        above = np.flatnonzero(line >= threshold)
        if len(above):
            last = above[0]
            before = max(last - 1, 0)
            reached[seed] = np.interp(threshold, line[[before, last]], steps[[before, last]])
    return reached


def summary(curves: dict[str, Any], threshold: float) -> dict[str, str]:
    """Per method: the setting, return over the run and at its end, steps to the threshold."""
    lines = {}
    for label, curve in curves.items():
        found, reached = np.asarray(curve["returns"]), until(curve, threshold)
        over_run, end = found.mean(1), found[:, -1]
        lines[label] = (
            f"sigma {curve['sigma']:g}, step {curve['step']:g}; over the run {interval(over_run.tolist())}; "
            f"end {interval(end.tolist())}, least {end.min():.1f}; {threshold:g} reached by "
            f"{np.isfinite(reached).sum()} of {len(reached)}, median after {np.median(reached):.0f} steps"
        )
    return lines


def draw(result: dict[str, Any], figure: Any, *, threshold: float, note: str, ylim: tuple[float, float]):
    """Left: mean return against environment steps with 95 % t-intervals. Right: every seed's steps to it."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for i, (label, curve) in enumerate(result["curves"].items()):
        found, colour = np.asarray(curve["returns"]), common.COLOURS[i]
        seeds = len(found)
        mean, half, steps = found.mean(0), half_width(found), np.asarray(curve["steps"]) / 1000
        left.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
        left.plot(steps, mean, color=colour, label=label)
        reached = np.sort(until(curve, threshold)) / 1000
        share = np.arange(1, seeds + 1) / seeds
        end = steps[-1]
        shown = np.isfinite(reached)
        ends = np.concatenate([[0], reached[shown], [end]])
        right.step(ends, np.concatenate([[0], share[shown], [shown.mean()]]), color=colour, where="post")
    left.axhline(threshold, color="0.5", linewidth=0.8, linestyle=":")
    left.annotate(note, (0, threshold), color="0.4", textcoords="offset points", xytext=(0, 3))
    left.set(xlabel="thousands of environment steps", ylabel="return of a whole episode", ylim=ylim)
    right.set(xlabel="thousands of environment steps", ylim=(0, 1.05))
    right.set(ylabel=f"share of seeds that reached {threshold:g}")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(result["curves"]))
