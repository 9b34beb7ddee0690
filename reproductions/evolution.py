"""CMA-ES and SNES of evosax on few meta-parameters, against random search and PES with Adam.

Three inner problems: the learning rates of the toy regression (2 numbers), the learning-rate schedule of an
MLP (2), and learnable Adam (4). An evolution strategy asks for a population, each member is the loss of a
whole inner problem, and all members of a generation meet the same one. Every method has eight rollouts at a
time, spends the same inner steps, and chooses one of four settings on seeds of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from meta_train.core.outer import make_outer_step
from meta_train.core.system import start, unroll
from meta_train.estimators import ESTIMATORS
from meta_train.testing.subject import build
from reproductions import common, learning
from reproductions.populations import half_width, interval, spread
from reproductions.systems.mlp_schedule import mlp_schedule
from reproductions.systems.outer_problem import OuterProblem
from reproductions.systems.toy_regression import toy_regression

# label: where it comes from, its name there, and the settings that it chooses from: the first std of an
# evolution strategy, the outer learning rate of Adam.
SPREADS, RATES = (0.1, 0.3, 1.0, 2.0), (0.01, 0.03, 0.1, 0.3)
METHODS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "CMA-ES": ("evosax", "CMA_ES", SPREADS),
    "SNES": ("evosax", "SNES", SPREADS),
    "random search": ("", "", SPREADS),
    "PES + Adam": ("estimator", "pes", RATES),
}
MEMBERS = 8  # of a population; 4 antithetic pairs
TUNING, RECORDS = 2, 10  # seeds on which the setting is chosen; points of a curve


class Case(NamedTuple):
    """A problem, the inner steps that a run may spend, sigma of PES."""

    make: Callable[[], OuterProblem]
    budget: int
    sigma: float
    episodes: int  # inner problems on which a result is evaluated
    scale: float = 1.0  # of the objective that is reported: 1, the mean loss of a step


def learnable_adam() -> OuterProblem:
    """Learnable Adam (rate, two decays, epsilon) on a 16-16-10 network, 100 steps."""
    import learned_opt
    from meta_train.inner import inner_training
    from tasks import make

    family = make({"name": "teacher_mlp", "features": 16, "hidden": [16], "batch_size": 32})
    lopt = learned_opt.learnable_adam()
    return OuterProblem(inner_training(family, lopt, unroll_length=100), lopt.init, family.data)


def schedule() -> OuterProblem:
    """Rate and decay of a 64-32-10 network on digits, 500 steps: as `lr_schedule` has it."""
    return mlp_schedule(hidden=(32,), batch_size=16, unroll_length=500)


CASES = {
    "toy regression": Case(toy_regression, 80_000, 0.3, 1, 100.0),
    "learning-rate schedule": Case(schedule, 40_000, 0.1, 4),
    "learnable Adam": Case(learnable_adam, 16_000, 0.1, 4),
}
FAST = {"toy regression": CASES["toy regression"]._replace(budget=16_000)}


class Search(NamedTuple):
    """Ask and tell, for theta as one vector f32[D]."""

    init: Callable[[Any], Any]  # std -> state
    ask: Callable[[jax.Array, Any], tuple[jax.Array, Any]]  # key, state -> f32[M, D], state
    tell: Callable[
        [jax.Array, jax.Array, jax.Array, Any], Any
    ]  # key, f32[M, D], losses f32[M], state -> state
    point: Callable[[Any], jax.Array]  # state -> f32[D], what is returned


def strategy(name: str, theta: jax.Array) -> Search:
    """An evolution strategy of evosax around theta f32[D]; its mean is returned."""
    from evosax import algorithms

    algorithm = getattr(algorithms, name)(population_size=MEMBERS, solution=theta)
    params = algorithm.default_params
    return Search(
        lambda std: algorithm.init(jax.random.key(0), theta, params.replace(std_init=std)),
        lambda key, state: algorithm.ask(key, state, params),
        lambda key, thetas, found, state: algorithm.tell(key, thetas, found, state, params)[0],
        algorithm.get_mean,
    )


def random_search(theta: jax.Array) -> Search:
    """Draws around theta f32[D]; the one with the least loss so far is returned."""

    def tell(key, thetas, found, state):
        std, best, least = state
        i = found.argmin()
        better = found[i] < least
        return std, jnp.where(better, thetas[i], best), jnp.where(better, found[i], least)

    return Search(
        lambda std: (std, theta, jnp.float32(jnp.inf)),
        lambda key, state: (theta + state[0] * jax.random.normal(key, (MEMBERS, theta.size)), state),
        tell,
        lambda state: state[1],
    )


def losses(problem: OuterProblem, thetas: Any, key: jax.Array, data: Any) -> jax.Array:
    """f32[M]: mean loss of one whole inner problem at each theta, leaves [M, ...]; the key is consumed.

    All meet the same inner problem: the same start, minibatches and noise.
    """
    system, (key_start, key_unroll) = problem.system, jax.random.split(key)
    length = system.max_length
    assert length is not None

    def one(theta):
        return unroll(system, theta, start(system, theta, key_start), key_unroll, data, length)[1].mean()

    return jax.vmap(one)(thetas)


def evolve(problem: OuterProblem, search: Search, unravel: Any, budget: int) -> Callable[..., Any]:
    """`(std, seed, data) -> theta` f32[RECORDS + 1, D] along a search of `budget` inner steps."""
    generations = budget // (MEMBERS * (problem.system.max_length or 0)) // RECORDS

    def generation(state, key, data):
        key_ask, key_loss, key_tell = jax.random.split(key, 3)
        thetas, state = search.ask(key_ask, state)
        found = losses(problem, jax.vmap(unravel)(thetas), key_loss, data)
        return search.tell(key_tell, thetas, found, state), None

    def run(std, seed, data):
        def part(state, key):
            keys = jax.random.split(key, generations)
            return jax.lax.scan(lambda s, k: generation(s, k, data), state, keys)[0], search.point(state)

        state, points = jax.lax.scan(part, search.init(std), jax.random.split(jax.random.key(seed), RECORDS))
        return jnp.concatenate([points, search.point(state)[None]])

    return run


def descend(problem: OuterProblem, name: str, case: Case) -> Callable[..., Any]:
    """`(rate, seed, data) -> theta` f32[RECORDS + 1, D] along outer training by Adam at equal inner steps."""
    options = {"num_particles": MEMBERS // 2, "truncation_length": 10, "sigma": case.sigma}
    estimator = build(ESTIMATORS[name], problem.system, **options)
    every = case.budget // estimator.inner_steps // RECORDS

    def run(rate, seed, data):
        outer = make_outer_step(problem.init_theta, estimator, optax.adam(rate), steps_per_call=every)

        def call(state, _):
            return outer.step(state, data)[0], ravel_pytree(state.theta)[0]

        state, thetas = jax.lax.scan(call, outer.init(jax.random.key(seed)), None, RECORDS)
        return jnp.concatenate([thetas, ravel_pytree(state.theta)[0][None]])

    return run


def compare(case: Case, label: str, seeds: list[int]) -> dict[str, Any]:
    """The best setting on the tuning seeds, and the objective along the runs of `seeds`, [seeds][records]."""
    problem, (source, name, settings) = case.make(), METHODS[label]
    theta, unravel = ravel_pytree(problem.init_theta(jax.random.key(0)))
    if source == "estimator":
        run = descend(problem, name, case)
    else:
        search = strategy(name, theta) if source else random_search(theta)
        run = evolve(problem, search, unravel, case.budget)
    few = jax.jit(jax.vmap(run, (None, 0, None)))  # TUNING runs at once, in one program

    def train(setting, seeds):
        """f32[seeds, RECORDS + 1, D]."""
        padded = np.resize(seeds, -(-len(seeds) // TUNING) * TUNING).reshape(-1, TUNING)
        return np.concatenate([few(setting, part, problem.data) for part in padded])[: len(seeds)]

    def objective(thetas):
        flat = jax.vmap(unravel)(thetas.reshape(-1, theta.size))
        found = learning.objective(problem, flat, jax.random.key(1000), episodes=case.episodes)
        return case.scale * found.reshape(thetas.shape[:-1])

    tuning = [1000 + i for i in range(TUNING)]
    tried = objective(np.stack([train(setting, tuning)[:, -1] for setting in settings])).mean(1)
    best = settings[int(np.argmin(tried))]
    found = objective(train(best, seeds))
    common.progress(label)
    return {"setting": best, "tried": tried.tolist(), "objective": found.tolist()}


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Three problems, four methods; --fast the first, with a fifth of the steps and two methods and seeds."""
    cases, labels = (FAST, ("CMA-ES", "PES + Adam")) if fast else (CASES, tuple(METHODS))
    found, summary = {}, {}
    for title, case in cases.items():
        common.progress(title)
        found[title] = {label: compare(case, label, seeds[:2] if fast else seeds) for label in labels}
        first = np.mean(found[title][labels[0]]["objective"], 0)[0]
        summary[f"{title}, start"] = f"{first:.3f}"
        for label, one in found[title].items():
            half, end = (np.asarray(one["objective"])[:, i].tolist() for i in (RECORDS // 2, -1))
            tried = ", ".join(f"{x:.3f}" for x in one["tried"])
            cells = [f"{one['setting']:g}", interval(half), interval(end), spread(end), f"tried: {tried}"]
            summary[f"{title}, {label}"] = " | ".join(cells)
    budgets = {title: case.budget for title, case in cases.items()}
    return {"curves": found, "budgets": budgets, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """The objective against inner steps: means over the seeds and their 95 % t-intervals."""
    figure.set_size_inches(3 + 3 * len(result["curves"]), 4)
    panels = figure.subplots(1, len(result["curves"]), squeeze=False)[0]
    for panel, (title, methods) in zip(panels, result["curves"].items(), strict=True):
        for colour, (label, one) in zip(common.COLOURS, methods.items(), strict=False):
            lines = np.asarray(one["objective"])
            steps = np.linspace(0, result["budgets"][title], lines.shape[1])
            half = half_width(lines)
            panel.plot(steps, lines.mean(0), label=label, color=colour)
            panel.fill_between(
                steps, lines.mean(0) - half, lines.mean(0) + half, color=colour, alpha=0.15, linewidth=0
            )
        panel.set(title=title, xlabel="inner steps", yscale="log")
    panels[0].set_ylabel("objective on whole inner problems")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
