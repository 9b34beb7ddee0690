"""The config of a population: its keys, and everything that is wrong with one, before anything compiles."""

import functools
from typing import Annotated, Any, NamedTuple

import jax
from annotated_types import MinLen
from jax.sharding import Mesh

from meta_train.config.pipeline import Found, Schema, digest, load_as, parse_as, resolved
from meta_train.config.registry import OneOf, Spec, build
from meta_train.config.schema import (
    Checkpoint,
    Count,
    Devices,
    Runtime,
    Section,
    Seed,
    Size,
    TensorBoard,
    Trackio,
    WandB,
)
from meta_train.config.validation import from_value_error
from meta_train.core.devices import widest
from meta_train.errors import ConfigError, Problem
from meta_train.population.base import Controller, Rhythm, Setting, Trainer
from meta_train.population.check_trainer import problems_of
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.engine import Copy
from meta_train.population.mesh import divided, member_mesh
from meta_train.population.space import SCALES, Space
from meta_train.population.trainers import TRAINERS

__all__ = ["PopulationConfig", "assemble", "digest", "load", "mesh_of", "parse", "resolved"]


class CopiedParts(Section):
    """What a member that is overwritten gets from its source."""

    weights: bool = True
    """What is trained."""
    opt_state: bool = True
    """The state of the optimizer that trains it."""
    inner: bool = True
    """Everything else: a meta-trainer's running inner problems, which begin again if they are not copied."""
    hypers: bool = True
    """The hyperparameters, which are then explored."""


class MemberMesh(Section):
    """How the members, and the particles of each, are split over devices: M times P of them."""

    members: Devices = 1
    """M, devices that the members are split over; divides their number. `auto` takes as many as there are and
    as divide it."""
    particles: Size = 1
    """P, devices that the particles of each member are split over; divides `num_particles`."""


class PopulationLogging(Section):
    """Where rows go in addition to lineage.jsonl and metrics.jsonl."""

    wandb: WandB = WandB()
    """Weights & Biases."""
    tensorboard: TensorBoard = TensorBoard()
    """TensorBoard."""
    trackio: Trackio = Trackio()
    """trackio."""


class PopulationConfig(Section):
    """A population run, every default filled in."""

    seed: Seed = 0
    """All randomness of the run comes from it."""
    rounds: Count
    """Rounds of training; between two of them the controller decides."""
    round_steps: Count
    """Steps of a round, "ready" in the papers."""
    eval_every: Count
    """Steps between evaluations; divides `round_steps`."""
    average: Count = 3
    """Last evaluations of a round whose mean is its fitness."""
    trainer: Annotated[Spec, OneOf(lambda _: TRAINERS)]
    """What is trained: its name and options."""
    hypers: Annotated[dict[str, Annotated[Spec, OneOf(lambda _: SCALES)]], MinLen(1)]
    """The hyperparameters that are searched: name -> scale and options."""
    controller: Annotated[Spec, OneOf(lambda _: CONTROLLERS)]
    """The algorithm: its name and options."""
    copied: CopiedParts = CopiedParts()
    """What a member that is overwritten gets from its source."""
    checkpoint: Checkpoint = Checkpoint(every=1, max_to_keep=2)
    """Saving the whole population; `every` counts rounds."""
    logging: PopulationLogging = PopulationLogging()
    """Where rows go in addition to lineage.jsonl and metrics.jsonl."""
    mesh: MemberMesh = MemberMesh()
    """How members and particles are split over devices."""
    member_chunk: Size | None = None
    """Members trained at once on a device, when memory is short; null for all."""
    runtime: Runtime = Runtime()
    """How the run uses the machine."""


class Parts(NamedTuple):
    """The objects that a config names."""

    trainer: Trainer
    controller: Controller
    space: Space
    rhythm: Rhythm
    copy: Copy


def _assembled(found: Found) -> list[Problem]:
    """What is wrong with the parts that a config names, once its values are right."""
    if isinstance(found.config, PopulationConfig):
        try:
            assemble(found.config)
        except ConfigError as error:
            return list(error.problems)
    return []


SCHEMA = Schema(PopulationConfig, checks=_assembled)
load = functools.partial(load_as, SCHEMA)
"""`(path, overrides) -> PopulationConfig`: as `meta_train.config.load.load`, for populations."""
parse = functools.partial(parse_as, SCHEMA)
"""`(raw) -> PopulationConfig`: the config that a plain dict holds."""


def mesh_of(config: PopulationConfig, num_members: int) -> Mesh:
    """The devices of a population. Only training needs them: results are read on any machine.

    Raises:
      ConfigError: more devices than there are, or a number that does not divide the members.
    """
    members, particles = config.mesh.members, config.mesh.particles
    if members == "auto":
        processes = jax.process_count()
        members = widest(num_members, len(jax.devices()) // particles, -(-processes // particles)) or 1
    try:
        return member_mesh(members, num_members, particles)
    except ValueError as error:
        raise ConfigError([from_value_error(error, "", ())]) from error


def assemble(config: PopulationConfig) -> Parts:
    """Builds what a config names, and checks that it fits together. Nothing is compiled.

    Raises:
      ConfigError: with all that is wrong.
    """
    problems: list[Problem] = []

    def attempt(fn, *args, **kwargs) -> Any:
        try:
            return fn(*args, **kwargs)
        except ConfigError as error:
            problems.extend(error.problems)
        except ValueError as error:
            problems.append(from_value_error(error, "", ()))

    rhythm = Rhythm(config.round_steps, config.eval_every, config.average)
    space = {
        name: attempt(build, SCALES, spec, where=f"hypers.{name}") for name, spec in config.hypers.items()
    }
    trainer = attempt(build, TRAINERS, config.trainer, tuple(space), where="trainer")
    problems += problems_of(trainer, space, rhythm, config.trainer["name"])
    if not problems:
        attempt(divided, trainer, config.mesh.particles)
    controller = None
    if not any(problem.key == "eval_every" for problem in problems):
        setting = Setting(space, rhythm, config.copied.hypers)
        controller = attempt(build, CONTROLLERS, config.controller, setting, where="controller")
    if problems or trainer is None or controller is None:
        raise ConfigError(problems)
    copied = config.copied
    return Parts(trainer, controller, space, rhythm, Copy(copied.weights, copied.opt_state, copied.inner))
