"""Meta-training itself as a member of a population: outer learning rate, sigma, task weights are searched."""

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge

from learned_opt import LearnedOptimizer
from meta_train.config import load as config_lib
from meta_train.config.checks import default_registries
from meta_train.config.outer_optimizer import optimizers
from meta_train.config.registry import build, option_parameters
from meta_train.config.schema import RunConfig
from meta_train.core import combine, devices
from meta_train.core.outer import OuterState, only, update_theta
from meta_train.core.system import Rollout
from meta_train.errors import ConfigError, join
from meta_train.estimators import GradientEstimator
from meta_train.estimators.noise import set_sigma
from meta_train.population.base import Member, Trainer
from meta_train.population.scoring import mean_log_loss
from meta_train.population.traced_optimizers import PLACEHOLDER, numbers_of, others_of, searched_optimizer
from meta_train.run.experiment import build_family, inner_system, learned_optimizer, streamed
from meta_train.run.placement import particle_chunk
from meta_train.run.shapes import check_gradient, check_system
from tasks import check_family
from tasks.data import datasets

SIGMA = "sigma"
WEIGHT = "weight."  # and the label of a task
TINY = 1e-12  # the least weight that the program sees


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
    same tasks, initial parameters and minibatches. A population can search every number of the outer
    optimizer (`learning_rate`, `b1`, `clip_norm`, ...), `sigma` if the estimator keeps it in its state,
    and, with several tasks, `weight.LABEL` of each, which replaces the task's `weight`.

    Args:
      searched: names of the hyperparameters that the population searches.
      config: keys as in a config of `meta-train run`; `mesh.particles`, `checkpoint`, `logging` and `seed`
        are ignored, as the population has its own.
      horizon: steps of the inner trainings that the fitness averages.
      num_seeds: inner trainings per task.

    Raises:
      ConfigError: what is wrong with the config.
      ValueError: `sigma` is searched with an estimator whose state does not hold it; a rotation, as members
        share a program; streamed tasks without `selection.tasks`, which the fitness needs then.
    """
    settings = run_settings(config, searched)
    lopt = learned_optimizer(settings)
    estimators, data, streams = _estimators(settings, lopt)
    if SIGMA in searched:
        _check_sigma(estimators, lopt, settings.estimator["name"])
    selected = settings.selection.tasks or [task.spec for task in settings.tasks]
    test_specs = () if isinstance(settings.evaluation.tasks, str) else settings.evaluation.tasks
    families = {
        "selection": [build_family(spec, "selection.tasks") for spec in selected],
        "test": [build_family(spec, "evaluation.tasks") for spec in test_specs],
    }
    make = searched_optimizer(settings.outer_optimizer.spec, searched, settings.outer_steps)
    score = partial(mean_log_loss, lopt=lopt, horizon=horizon, num_seeds=num_seeds)

    def init(key, hypers):
        key_theta, key_estimator = jax.random.split(key)
        theta = lopt.init(key_theta)
        inner = _mixture(settings, estimators).init(theta, key_estimator)
        return Member({"theta": theta, "ema": theta}, make(hypers).init(theta), inner)

    def test(member, data):
        return {"test_log_loss": tested(member.weights["ema"], data["test"])} if families["test"] else {}

    def split(num_devices: int) -> Trainer:
        apart, together = _split(settings, estimators, num_devices, lopt)
        alike = 1 if settings.mesh.deterministic else num_devices  # every device scores all seeds
        fitness = score(families["selection"], stream=0, num_devices=alike)
        return whole._replace(
            step=_step(settings, apart, make, searched, lopt, together),
            score=lambda member, data: -fitness(member.weights["ema"], data["selection"]),
        )

    fitness, tested = score(families["selection"], stream=0), score(families["test"], stream=1)
    whole = Trainer(
        init,
        _step(settings, estimators, make, searched, lopt),
        lambda member, data: -fitness(member.weights["ema"], data["selection"]),
        {"train": data} | {use: [f.data for f in some] for use, some in families.items()},
        hypers=(*numbers_of(settings.outer_optimizer.name), SIGMA, *_weight_names(settings)),
        static=_static(settings),
        restart=restart,
        test=test,
        least=dict.fromkeys(_weight_names(settings), 0.0),
        streams=streams,
        particles=Member(False, False, combine.AverageState._make([True, False, False])),
        split=split,
    )
    return whole


def _step(settings, estimators, make, searched, lopt, together=combine.means) -> Callable[..., Member]:
    """One outer step of a member, the means of whose families `together` gives."""

    def update(before, grad, hypers):
        ema = settings.outer_optimizer.ema
        return update_theta(before, grad, make(hypers), ema=ema, trained=lopt.trained)[:3]

    if settings.mesh.deterministic:
        # XLA simplifies divisions by a vector, one number per member, differently in a program for one device
        # than for several; those by a scalar it treats alike. So the members are updated one by one.
        update = jax.custom_batching.sequential_vmap(update)

    def step(member, hypers, key, data):
        theta, inner = member.weights["theta"], member.inner
        if SIGMA in searched:
            inner = set_sigma(inner, hypers[SIGMA])
        estimator = _mixture(settings, estimators, hypers, together)
        estimate, inner = estimator.estimate(theta, inner, key, data["train"])
        grad = only(lopt.trained, estimate.grad)
        before = OuterState(theta, member.weights["ema"], member.opt_state, None, key, key)
        theta, ema, opt_state = update(before, grad, hypers)
        return Member({"theta": theta, "ema": ema}, opt_state, inner)

    return step


def _mixture(settings, estimators, hypers=None, together=combine.means) -> GradientEstimator:
    """The mean over the families; weights that are searched replace those of the config."""
    hypers = hypers or {}
    # If all are 0 they get equal weights, instead of 0 / 0.
    weights = {
        task.label: jnp.maximum(hypers[WEIGHT + task.label], TINY)
        if WEIGHT + task.label in hypers
        else task.weight
        for task in settings.tasks
    }
    scaling = settings.loss_scaling
    return combine.average(estimators, weights=weights, scaling=scaling, together=together)


def _split(settings, estimators, num_devices, lopt) -> tuple[dict[str, GradientEstimator], Callable]:
    """The estimators of a device's own particles, and what gives the means over those of all devices."""
    for label, one in estimators.items():
        if one.num_particles % num_devices:
            raise ValueError(
                f"mesh.particles must divide the {one.num_particles} particles of a member (task "
                f"{label!r}), got {num_devices}"
            )
    chunks = {label: particle_chunk(settings, one, lopt, num_devices) for label, one in estimators.items()}
    # All particles of a single device at once are the same everywhere too.
    deterministic = settings.mesh.deterministic and (num_devices > 1 or None not in chunks.values())
    apart = {
        label: devices.own_particles(one, num_devices, chunk=chunks[label], deterministic=deterministic)
        for label, one in estimators.items()
    }
    options = {"num_devices": num_devices, "chunks": chunks, "deterministic": deterministic}
    return apart, partial(devices.means_over_devices, **options)


def _weight_names(settings: RunConfig) -> tuple[str, ...]:
    """The names of the weights, which only matter relative to each other: a single task has none."""
    return tuple(WEIGHT + task.label for task in settings.tasks) if len(settings.tasks) > 1 else ()


def _static(settings: RunConfig) -> tuple[str, ...]:
    """Options that change shapes or the program."""
    known = default_registries()
    return (
        *others_of(settings.outer_optimizer.name),
        *(o.name for o in option_parameters(known.estimators[settings.estimator["name"]])),
        *(o.name for o in option_parameters(known.learned_optimizers[settings.learned_optimizer["name"]])),
        *(o.name for o in option_parameters(meta_training)),
        "unroll_length",
    )


def _estimators(
    settings: RunConfig, lopt: LearnedOptimizer
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """By label: the estimators of the config's families on one device, the families' data, and streams."""
    estimators, data, streams = {}, {}, {}
    for task in settings.tasks:
        with contextlib.nullcontext() if task.stream is None else datasets.on_host():
            family = build_family(task.spec, "tasks")
        if task.stream is not None:
            family, streams[task.label] = streamed(settings, task, family)
        check_family(family)
        system = inner_system(settings, family, lopt)
        check_system(system, lopt, family.data)
        estimators[task.label] = build(default_registries().estimators, settings.estimator, system)
        check_gradient(estimators[task.label], lopt, family.data)
        data[task.label] = family.data
    return estimators, data, streams


def run_settings(config: dict[str, Any], searched: tuple[str, ...]) -> RunConfig:
    """The run's config inside a population's trainer; it need not contain what is searched.

    Raises:
      ConfigError: named `config.KEY`.
      ValueError: what members of a population do not support.
    """
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
    if any(task.stream is not None for task in settings.tasks) and not settings.selection.tasks:
        raise ValueError("config.selection.tasks must name tasks for the fitness where data are streamed")
    if settings.rotation is not None:
        raise ValueError("config.rotation must be null: all members run one program")
    return settings


def _check_sigma(estimators, lopt, name):
    theta = jax.eval_shape(lopt.init, jax.random.key(0))
    state = [jax.eval_shape(one.init, theta, jax.random.key(0)) for one in estimators.values()]
    try:
        jax.eval_shape(set_sigma, state, 1.0)
    except ValueError:
        raise ValueError(
            f"sigma is not in the state of the estimator {name}, so it cannot be searched"
        ) from None


def restart(inner: Any) -> Any:
    """An estimator's state whose particles all start new inner problems before their next window."""

    def mark(x):
        if not isinstance(x, Rollout):
            return x
        return x._replace(t=x.length, diverged=jnp.ones_like(x.diverged))

    return jax.tree.map(mark, inner, is_leaf=lambda x: isinstance(x, Rollout))
