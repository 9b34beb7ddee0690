"""Config -> everything that a run is made of. Nothing is compiled here, and nothing written."""

import copy
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from learned_opt import LEARNED_OPTIMIZERS, ArtefactError, LearnedOptimizer
from learned_opt.artefact.format import fit_theta
from learned_opt.artefact.load import packaged_like
from learned_opt.artefact.load import read as read_artefact
from meta_train.config.checks import default_registries
from meta_train.config.load import RunConfig
from meta_train.config.outer_optimizer import outer_optimizer
from meta_train.config.places import last, short
from meta_train.config.registry import Factory, Spec, build, different_options
from meta_train.config.schema import TrainingTask
from meta_train.core import devices
from meta_train.core.outer import OuterStep, make_outer_step
from meta_train.core.rotation import Rotation, make_mixture_step
from meta_train.core.stream import Stream, buffer_at, stream
from meta_train.core.system import UnrolledSystem
from meta_train.errors import ConfigError, Problem
from meta_train.estimators import GradientEstimator
from meta_train.inner import Objective, inner_training
from meta_train.parallel import hosts
from meta_train.run.placement import devices_of, split_over
from meta_train.run.shapes import check_gradient, check_memory, check_system
from tasks import TaskFamily, check_family, make, name_of
from tasks.data import datasets
from tasks.rings import HELD_OUT

LONGEST_CALL = 32  # outer steps: a longer one would make progress, Ctrl-C and the first metrics wait


class Experiment(NamedTuple):
    """Every object of a run.

    Attributes:
      config: what it was made from.
      lopt: the learned optimizer.
      families: label -> task family that is meta-trained on.
      estimator: of the mean over the families, its particles split over the mesh.
      outer: the jitted functions.
      data: what `outer.step` takes in addition to the state, on the device or devices; where it is
        streamed, that of outer step 0.
      streams: label -> the stream of a family whose data pass through a buffer.
      mesh: devices that the particles are split over.
      steps_per_call: outer steps that one call of `outer.step` does.
    """

    config: RunConfig
    lopt: LearnedOptimizer
    families: dict[str, TaskFamily]
    estimator: GradientEstimator
    outer: OuterStep
    data: Any
    streams: dict[str, Stream]
    mesh: Mesh
    steps_per_call: int


def assemble(config: RunConfig, *, trace: bool = True) -> Experiment:
    """Builds the objects of a run and checks that they fit together, by shapes alone.

    Args:
      config: what to build.
      trace: whether to trace a step and a gradient of each family, which finds what a factory cannot see; a
        caller that traces the outer step itself, such as the forecast, may leave it out.

    Raises:
      ConfigError: an option that a factory refuses, a task or system whose shapes are not as they must be.
    """
    lopt = learned_optimizer(config)
    mesh = _refuse("", devices.particle_mesh, devices_of(config))
    families, estimators, weights, streams = {}, {}, {}, {}
    for i, task in enumerate(config.tasks):
        label = task.label
        if task.stream is None:
            family = build_family(task.spec, f"tasks.{i}")
        else:
            with datasets.on_host():
                family = build_family(task.spec, f"tasks.{i}")
            family, streams[label] = _refuse(f"tasks.{i}", streamed, config, task, family)
        _refuse(f"tasks.{i}", check_family, family)
        system = _refuse("inner", inner_system, config, family, lopt)
        estimator = build(default_registries().estimators, config.estimator, system, where="estimator")
        families[label] = family
        _refuse("estimator", check_memory, estimator, lopt)
        if trace:
            _refuse(f"tasks.{i}", check_system, system, lopt, family.data)
            _refuse("estimator", check_gradient, estimator, lopt, family.data)
        estimators[label], weights[label] = estimator, task.weight
    apart, estimator = _refuse("runtime", split_over, config, estimators, weights, mesh, lopt)
    steps_per_call = call_length(config)
    everywhere = NamedSharding(mesh, PartitionSpec())
    data = {label: family.data for label, family in families.items()}
    data = jax.device_put(hosts.global_array(data), everywhere)
    common = {"ema": config.outer_optimizer.ema, "trained": lopt.trained}
    optimizer = outer_optimizer(config.outer_optimizer.spec, config.outer_steps, "outer_optimizer")
    if config.rotation is None:
        outer = make_outer_step(lopt.init, estimator, optimizer, steps_per_call=steps_per_call, **common)
    else:
        rotation = _refuse("rotation", rotation_of, config, weights)
        common["scaling"] = config.loss_scaling
        outer = make_mixture_step(lopt.init, apart, optimizer, rotation, data, everywhere, **common)
        steps = estimator.inner_steps * rotation.active // len(weights)
        estimator = estimator._replace(inner_steps=steps)
    return Experiment(config, lopt, families, estimator, outer, data, streams, mesh, steps_per_call)


def learned_optimizer(config: RunConfig) -> LearnedOptimizer:
    """The config's learned optimizer; with `init_from` its `init` gives the theta of that artefact.

    Raises:
      ConfigError: an option that the factory refuses; no artefact, or one of another optimizer.
    """
    lopt = build(default_registries().learned_optimizers, config.learned_optimizer, where="learned_optimizer")
    if config.init_from is None:
        return lopt
    name = short(config.learned_optimizer["name"])
    try:
        found = read_artefact(os.path.expanduser(config.init_from), architecture=own_architecture(config))
        if found.name != name:
            raise ArtefactError(f"must be an artefact of {name}, got one of {found.name}")
        theta = fit_theta(lopt, found.theta, "theta")
        factory = default_registries().learned_optimizers[config.learned_optimizer["name"]]
        for line in different_options(factory, config.learned_optimizer, found.options):
            warnings.warn(f"init_from: learned_optimizer has {line} as its artefact has", stacklevel=2)
    except (ArtefactError, ImportError) as error:
        local = ":" not in config.init_from and not Path(config.init_from).exists()
        message = "there is no such directory; `meta-train export RUN` writes RUN/optimizer"
        message += packaged_like(Path(config.init_from).name)
        problem = (
            Problem("init_from", message, config.init_from) if local else Problem("init_from", str(error))
        )
        raise ConfigError([problem]) from error
    return lopt._replace(init=lambda key: jax.tree.map(jnp.asarray, theta))


def own_architecture(config: RunConfig) -> Factory | None:
    """The factory of a learned optimizer that is not of this project; None for one that is."""
    name = config.learned_optimizer["name"]
    return None if name in LEARNED_OPTIMIZERS else default_registries().learned_optimizers[name]


def initial_theta(config: RunConfig, init: Any) -> Any:
    """The theta that a run with this config starts from; `init` is that of its learned optimizer."""
    return jax.jit(init)(jax.random.split(jax.random.key(config.seed), 3)[0])


def rotation_of(config: RunConfig, weights: dict[str, float]) -> Rotation:
    """Which families are active when, by the config's `rotation` (ValueError with several processes)."""
    options = config.rotation
    assert options is not None
    if hosts.several():
        raise ValueError(
            "rotation must be null with several processes, whose families are all in one program"
        )
    return Rotation(tuple(weights), tuple(weights.values()), options.active, options.every, config.seed)


def streamed(config: RunConfig, task: TrainingTask, family: TaskFamily) -> tuple[TaskFamily, Stream]:
    """A family with data on the host as one with the buffer of outer step 0, and the stream behind it.

    Raises:
      ValueError: data that cannot be streamed, a chunk that does not divide the buffer.
    """
    options = task.stream
    assert options is not None
    streams = {
        split: stream(
            task.label,
            arrays,
            buffer_rows=options.rows,
            chunk=options.chunk,
            every=options.every,
            timeout=options.timeout,
            seed=config.seed,
        )
        for split, arrays in family.data.items()
    }
    first = {split: buffer_at(one, 0) for split, one in streams.items()}
    return family._replace(data=first), streams["train"]


def inner_system(config: RunConfig, family: TaskFamily, lopt: LearnedOptimizer) -> UnrolledSystem:
    """The unrolled system of one family, as the config's `inner` section says."""
    length, rates = config.inner.unroll_length, config.inner.learning_rate
    return inner_training(
        family,
        lopt,
        unroll_length=length if isinstance(length, int) else (length.min, length.max),
        # Estimators without a truncation length unroll whole inner problems.
        multiple=config.estimator.get("truncation_length", 1),
        objective=Objective(**config.inner.objective.model_dump()),
        learning_rate=None if rates is None else (rates.min, rates.max),
    )


def call_length(config: RunConfig) -> int:
    """The outer steps of one call: the largest divisor, up to 32, of all that happens every n steps."""
    if config.rotation is not None:
        return 1
    cadences = [config.outer_steps, config.logging.every, config.selection.every, config.checkpoint.every]
    cadences += [task.stream.every for task in config.tasks if task.stream is not None]
    common = math.gcd(*(n for n in cadences if n))
    return max(n for n in range(1, LONGEST_CALL + 1) if common % n == 0)


def held_out_families(config: RunConfig) -> dict[str, TaskFamily]:
    """The families of the config's `evaluation`, by name.

    Raises:
      ConfigError: an option that a factory refuses.
    """
    if config.evaluation.tasks == "held_out":
        return {name: make(spec) for name, spec in HELD_OUT.items()}
    return _families(config.evaluation.tasks, "evaluation.tasks")


def selection_families(config: RunConfig) -> dict[str, TaskFamily]:
    """The families of the config's `selection`, by name; none where it has no `every`.

    Raises:
      ConfigError: an option that a factory refuses.
    """
    return _families(config.selection.tasks, "selection.tasks") if config.selection.every else {}


def _families(specs: Sequence[Spec], where: str) -> dict[str, TaskFamily]:
    families = {}
    for i, spec in enumerate(specs):
        name = spec.get("label") or name_of(spec, last(spec["name"]))
        name = name if name not in families else f"{name}_{i}"
        families[name] = build_family(spec, f"{where}.{i}")
    return families


def build_family(spec: Spec, where: str) -> TaskFamily:
    """The task family of a spec, with the augmentations of its `augment`.

    Raises:
      ConfigError: an option that a factory refuses.
    """
    options, known = copy.copy(spec), default_registries()
    augmentations = options.pop("augment", ())
    options.pop("label", None)
    family = build(known.tasks, options, where=where)
    for j, augmentation in enumerate(augmentations):
        family = build(known.augmentations, augmentation, family, where=f"{where}.augment.{j}")
    return family


def _refuse(key, function, *args):
    """Calls a function; a ValueError of its becomes a problem of the config at `key`."""
    try:
        return function(*args)
    except ValueError as error:
        raise ConfigError([Problem(key, str(error))]) from error
