"""Meta-training itself as a member of a population: outer learning rate, sigma, clip are searched."""

import copy
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge

from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer
from meta_train import combine, perturb
from meta_train import config as config_lib
from meta_train.config_schema import RunConfig
from meta_train.estimators import ESTIMATORS, GradientEstimator
from meta_train.experiment import build_family, check_gradient, check_system, inner_system
from meta_train.inner import Objective, inner_training
from meta_train.outer_optimizer import optimizers
from meta_train.population.base import Member, Trainer
from meta_train.population.optimizers import PLACEHOLDER, numbers_of, others_of, searched_optimizer
from meta_train.problems import ConfigError, join
from meta_train.registry import build, option_parameters
from meta_train.system import Rollout
from tasks import check_family

SIGMA = "sigma"


def meta_training(
    searched: tuple[str, ...] = (),
    *,
    config: dict[str, Any],
    horizon: Annotated[int, Ge(1)] = 100,
    num_seeds: Annotated[int, Ge(1)] = 4,
) -> Trainer:
    """Meta-trains as a run's config says; one step is one outer step.

    Fitness is minus the mean over steps of log(training loss) of whole inner trainings with the moving
    average of theta, on the tasks of the config's `selection` (those of `tasks` if it has none): always the
    same tasks, initial parameters and minibatches. Searched can be every number of the outer optimizer
    (`learning_rate`, `b1`, `clip_norm`, ...) and `sigma`, where the estimator keeps it in its state.

    Args:
      searched: names of the hyperparameters that the population searches.
      config: keys as of `meta-train run`'s file; `mesh`, `checkpoint`, `logging` and `seed` are not used.
      horizon: steps of the inner trainings that the fitness averages.
      num_seeds: inner trainings per task.

    Raises:
      ConfigError: what is wrong with the config.
      ValueError: `sigma` is searched with an estimator whose state does not hold it.
    """
    settings = _settings(config, searched)
    lopt = build(LEARNED_OPTIMIZERS, settings.learned_optimizer)
    estimator, data = _estimator(settings, lopt)
    make = searched_optimizer(settings.outer_optimizer.spec, searched, settings.outer_steps)
    if SIGMA in searched:
        _check_sigma(estimator, lopt, settings.estimator["name"])
    judged = settings.selection.tasks or [task.spec for task in settings.tasks]
    judges = [build_family(spec, "selection.tasks") for spec in judged]
    test_specs = () if isinstance(settings.evaluation.tasks, str) else settings.evaluation.tasks
    tests = [build_family(spec, "evaluation.tasks") for spec in test_specs]
    score = _mean_log_loss(judges, lopt, horizon, num_seeds, 0)
    test_score = _mean_log_loss(tests, lopt, horizon, num_seeds, 1) if tests else None
    ema = settings.outer_optimizer.ema

    def init(key, hypers):
        key_theta, key_estimator = jax.random.split(key)
        theta = lopt.init(key_theta)
        inner = estimator.init(theta, key_estimator)
        return Member({"theta": theta, "ema": theta}, make(hypers).init(theta), inner)

    def step(member, hypers, key, data):
        theta, inner = member.weights["theta"], member.inner
        if SIGMA in searched:
            inner = with_sigma(inner, hypers[SIGMA])
        estimate, inner = estimator.estimate(theta, inner, key, data["train"])
        updates, opt_state = make(hypers).update(estimate.grad, member.opt_state, theta)
        theta = optax.apply_updates(theta, updates)
        return Member(
            {"theta": theta, "ema": perturb.mix(ema, member.weights["ema"], theta)}, opt_state, inner
        )

    def test(member, data):
        if test_score is None:
            return {}
        return {"test_log_loss": test_score(member.weights["ema"], data["test"])}

    name = settings.outer_optimizer.name
    return Trainer(
        init,
        step,
        lambda member, data: -score(member.weights["ema"], data["judges"]),
        {"train": data, "judges": [f.data for f in judges], "test": [f.data for f in tests]},
        hypers=(*numbers_of(name), SIGMA),
        static=(
            *others_of(name),
            *(o.name for o in option_parameters(ESTIMATORS[settings.estimator["name"]])),
            *(o.name for o in option_parameters(LEARNED_OPTIMIZERS[settings.learned_optimizer["name"]])),
            *(o.name for o in option_parameters(meta_training)),
            "unroll_length",
        ),
        restart=restart,
        test=test,
    )


def _estimator(settings: RunConfig, lopt: LearnedOptimizer) -> tuple[GradientEstimator, dict[str, Any]]:
    """The estimator of the mean over the config's families, on one device, and the families' data."""
    estimators, weights, data = {}, {}, {}
    for task in settings.tasks:
        family = build_family(task.spec, "tasks")
        check_family(family)
        system = inner_system(settings, family, lopt)
        check_system(system, lopt, family.data)
        estimators[task.label] = build(ESTIMATORS, settings.estimator, system)
        check_gradient(estimators[task.label], lopt, family.data)
        weights[task.label], data[task.label] = task.weight, family.data
    return combine.average(estimators, weights=weights, scaling=settings.loss_scaling), data


def _settings(config: dict[str, Any], searched: tuple[str, ...]) -> RunConfig:
    """The run's config; what is searched need not be given in it. Problems are named `config.KEY`."""
    filled = copy.deepcopy(config)
    outer = filled.get("outer_optimizer")
    if isinstance(outer, dict):
        kind = str(outer.get("name", "adam"))
        for name in set(searched) & set(numbers_of(kind) if kind in optimizers() else ()):
            outer.setdefault(name, PLACEHOLDER)
    try:
        settings = config_lib.parse(filled)
    except ConfigError as error:
        raise ConfigError(p._replace(key=join("config", p.key)) for p in error.problems) from None
    if any(task.stream is not None for task in settings.tasks):
        raise ValueError("config must not stream data: members share what is on the device")
    return settings


def with_sigma(state: Any, sigma: Any) -> Any:
    """An estimator's state whose noise, from the next block on, has this std (f32[])."""

    def leaf(path, x):
        return jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape) if _is_sigma(path) else x

    return jax.tree_util.tree_map_with_path(leaf, state)


def _is_sigma(path: tuple) -> bool:
    return bool(path) and getattr(path[-1], "name", None) == SIGMA


def _check_sigma(estimator, lopt, name):
    theta = jax.eval_shape(lopt.init, jax.random.key(0))
    state = jax.eval_shape(estimator.init, theta, jax.random.key(0))
    if not any(_is_sigma(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)):
        raise ValueError(f"sigma is not in the state of the estimator {name}, so it cannot be searched")


def restart(inner: Any) -> Any:
    """An estimator's state whose particles all begin new inner problems at their next window."""

    def mark(x):
        return x._replace(diverged=jnp.ones_like(x.diverged)) if isinstance(x, Rollout) else x

    return jax.tree.map(mark, inner, is_leaf=lambda x: isinstance(x, Rollout))


def _mean_log_loss(families, lopt, horizon, num_seeds, stream):
    """`(theta, data of the families) -> f32[]`, over whole inner trainings on fixed keys."""
    systems = [
        inner_training(family, lopt, unroll_length=horizon, objective=Objective()) for family in families
    ]
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), stream), num_seeds)

    def one(system, theta, key, data):
        key_init, key_steps = jax.random.split(key)
        state, _ = system.init(theta, key_init)

        def step(state, key):
            state, loss = system.step(theta, state, key, data)
            return state, jnp.where(
                jnp.isfinite(loss), jnp.minimum(loss, system.worst_loss), system.worst_loss
            )

        return jax.lax.scan(step, state, jax.random.split(key_steps, horizon))[1].mean()

    def score(theta, data):
        means = [
            jax.vmap(lambda key, system=system, d=d: one(system, theta, key, d))(keys).mean()
            for system, d in zip(systems, data, strict=True)
        ]
        return jnp.stack(means).mean()

    return score
