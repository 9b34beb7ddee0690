"""The config of a population: its keys, and everything that is wrong with one, before anything compiles."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Interval, MinLen
from pydantic import ValidationError

from meta_train.config import file as config_file
from meta_train.config import registry
from meta_train.config.registry import Spec, as_json, build
from meta_train.config.schema import Checkpoint, Count, Runtime, Section, WandB
from meta_train.config.validation import from_validation, from_value_error
from meta_train.errors import ConfigError, Problem
from meta_train.population.base import Controller, Rhythm, Setting, Trainer
from meta_train.population.check_trainer import problems_of
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.engine import Copy
from meta_train.population.mesh import divided, member_mesh
from meta_train.population.space import SCALES, Space
from meta_train.population.trainers import TRAINERS


class CopiedParts(Section):
    """What a member that is overwritten gets from its source."""

    weights: bool = True
    """What is trained."""
    opt_state: bool = True
    """The state of the optimizer that trains it."""
    inner: bool = True
    """Everything else: a meta-trainer's running inner problems, which begin anew if they are not copied."""
    hypers: bool = True
    """The hyperparameters, which are then explored."""


class MemberMesh(Section):
    """How the members, and the particles of each, are split over devices: M times P of them."""

    members: Count = 1
    """M, devices that the members are split over; divides their number."""
    particles: Count = 1
    """P, devices that the particles of each member are split over; divides `num_particles`."""


class PopulationLogging(Section):
    """Where rows go beside lineage.jsonl and metrics.jsonl."""

    wandb: WandB = WandB()
    """Weights & Biases."""


class PopulationConfig(Section):
    """A population run, every default filled in."""

    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    """All randomness of the run comes from it."""
    rounds: Count
    """Rounds of training; between two of them the controller decides."""
    round_steps: Count
    """Steps of a round, "ready" in the papers."""
    eval_every: Count
    """Steps between evaluations; divides `round_steps`."""
    average: Count = 3
    """Last evaluations of a round whose mean is its fitness."""
    trainer: Spec
    """What is trained: its name and options."""
    hypers: Annotated[dict[str, Spec], MinLen(1)]
    """The hyperparameters that are searched: name -> scale and options."""
    controller: Spec
    """The algorithm: its name and options."""
    copied: CopiedParts = CopiedParts()
    """What a member that is overwritten gets from its source."""
    checkpoint: Checkpoint = Checkpoint(every=1, max_to_keep=2)
    """Saving the whole population; `every` counts rounds."""
    logging: PopulationLogging = PopulationLogging()
    """Where rows go beside lineage.jsonl and metrics.jsonl."""
    mesh: MemberMesh = MemberMesh()
    """How members and particles are split over devices."""
    member_chunk: Annotated[int, Ge(1)] | None = None
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


def load(path: str | Path, overrides: Iterable[str] = ()) -> PopulationConfig:
    """The config in a YAML file, with `key.sub=value` overrides.

    Raises:
      ConfigError: with everything that is wrong, one line each.
    """
    overrides = list(overrides)
    raw, problems = config_file.override(config_file.read(path), overrides, lambda path, name: None)
    config, found = _parse(raw)
    given = [text.partition("=")[0].strip() for text in overrides]
    for problem in found:
        ours = any((problem.key + ".").startswith(key + ".") for key in given)
        problems.append(problem._replace(file=config_file.COMMAND_LINE if ours else str(path)))
    if problems or config is None:
        raise ConfigError(problems)
    return config


def parse(raw: dict[str, Any]) -> PopulationConfig:
    """The config that a plain dict holds (ConfigError as `load`)."""
    config, problems = _parse(raw)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def resolved(config: PopulationConfig) -> dict[str, Any]:
    """The config as plain JSON values, every default filled in."""
    return config.model_dump(mode="json")


def digest(config: PopulationConfig) -> str:
    """sha256, hexadecimal, of the resolved config."""
    return hashlib.sha256(json.dumps(resolved(config), sort_keys=True).encode()).hexdigest()


def _parse(raw: dict[str, Any]) -> tuple[PopulationConfig | None, list[Problem]]:
    raw = json.loads(as_json(raw))
    filled, problems = dict(raw), []
    for key, known in (("trainer", TRAINERS), ("controller", CONTROLLERS)):
        if key in raw:
            filled[key], found = registry.fill(known, raw[key], key)
            problems += found
    if isinstance(raw.get("hypers"), dict):
        pairs = {name: registry.fill(SCALES, spec, f"hypers.{name}") for name, spec in raw["hypers"].items()}
        filled["hypers"] = {name: spec for name, (spec, _) in pairs.items()}
        problems += [problem for _, found in pairs.values() for problem in found]
    config = None
    try:
        config = PopulationConfig.model_validate_json(as_json(filled))
    except ValidationError as error:
        named = {problem.key for problem in problems}
        problems += [p for p in from_validation(error, filled, PopulationConfig) if p.key not in named]
    if config is not None and not problems:
        try:
            assemble(config)
        except ConfigError as error:
            problems += error.problems
    return config, problems


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
    if controller is not None:
        attempt(member_mesh, config.mesh.members, controller.num_members, config.mesh.particles)
    if problems or trainer is None or controller is None:
        raise ConfigError(problems)
    copied = config.copied
    return Parts(trainer, controller, space, rhythm, Copy(copied.weights, copied.opt_state, copied.inner))
