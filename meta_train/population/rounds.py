"""A population from round to round, in memory. The command adds files to this; notebooks call it directly."""

from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.errors import ConfigError, RunError
from meta_train.population import engine as engine_lib
from meta_train.population import mesh as mesh_lib
from meta_train.population.base import Controller, Decision, Member, Outcome, Rhythm, Trainer
from meta_train.population.check_trainer import problems_of
from meta_train.population.space import Hypers, Space
from meta_train.population.streamed import placed, streamed


class Record(NamedTuple):
    """One round of M members; a list of them is the whole history of a population."""

    round: int  # number, from 0
    step: int  # steps that every member has trained at its end
    hypers: Hypers  # of this round
    scores: np.ndarray  # f64[M, E]
    fitness: np.ndarray  # f64[M]; -inf where not finite
    # i64[M], the member whose state at the end of this round each member starts the next one with
    source: np.ndarray
    events: list[dict[str, Any]]  # of the decision after this round


class Stage(NamedTuple):
    """Everything that a population is between two rounds."""

    round: int  # rounds done
    members: Member  # states on the devices
    hypers: Hypers  # of the next round
    controller: dict  # its state
    ancestors: np.ndarray  # i64[M], the member of the first round that each descends from


class Population(NamedTuple):
    """What does not change from one round to the next."""

    trainer: Trainer
    controller: Controller
    space: Space
    rhythm: Rhythm
    engine: engine_lib.Engine
    seed: int


def population(
    trainer: Trainer,
    controller: Controller,
    space: Space,
    rhythm: Rhythm,
    *,
    seed: int = 0,
    copy: engine_lib.Copy = engine_lib.Copy(),  # noqa: B008 (immutable)
    mesh: Any = None,
    chunk: int | None = None,
) -> Population:
    """A population that is ready to begin, its data on every device; arguments as those of its parts.

    Raises:
      ConfigError: parts that do not fit together, as they would be refused in a config.
    """
    problems = problems_of(trainer, space, rhythm)
    if problems:
        raise ConfigError(problems)
    run = engine_lib.engine(trainer, controller.num_members, rhythm, copy=copy, mesh=mesh, chunk=chunk)
    return Population(placed(trainer, run.mesh), controller, space, rhythm, run, seed)


def begin(population: Population) -> Stage:
    """All members before the first round.

    Raises:
      ValueError: a decision of the controller that does not fit the population.
    """
    state, decision = population.controller.init(_rng(population, 0))
    _check(population, decision)
    members = population.engine.init(
        _key(population, 0), engine_lib.to_device(population.space, decision.hypers)
    )
    members = population.engine.gather(members, decision.source.astype(np.int32))
    return Stage(0, members, decision.hypers, state, _weights_from(population, decision.source))


def advance(population: Population, stage: Stage, data: Any = None, *, last: bool) -> tuple[Stage, Record]:
    """One round and, unless it is the last one, the decision after it. The given members are donated.

    The generator and the keys of a round depend on its number alone, so no random state has to be saved.

    Args:
      population: what is trained.
      stage: before the round.
      data: those of `StreamedData.at` where the trainer has streams; None for the trainer's own.
      last: whether it is the last round.

    Raises:
      RunError: no ranked member has a finite fitness.
      ValueError: a decision of the controller that does not fit the population.
    """
    rhythm, data = population.rhythm, population.trainer.data if data is None else data
    hypers = engine_lib.to_device(population.space, stage.hypers)
    number = np.asarray(stage.round, np.int32)
    members, scores = population.engine.train(stage.members, hypers, _key(population, 1), number, data)
    scores = np.asarray(scores, np.float64)
    fitness, step = fitness_of(scores, rhythm.average), (stage.round + 1) * rhythm.round_steps
    if not np.isfinite(fitness[population.controller.ranked]).any():
        raise RunError(f"no member has a finite fitness any more after round {stage.round + 1} (step {step})")
    everyone = np.arange(len(scores))
    state, decision = stage.controller, Decision(everyone, stage.hypers, [])
    if not last:
        rng = _rng(population, stage.round + 1)
        outcome = Outcome(step, scores, fitness, stage.hypers)
        state, decision = population.controller.step(stage.controller, outcome, rng)
        _check(population, decision)
        if (decision.source != everyone).any():
            members = population.engine.gather(members, decision.source.astype(np.int32))
    record = Record(stage.round, step, stage.hypers, scores, fitness, decision.source, decision.events)
    ancestors = stage.ancestors[_weights_from(population, decision.source)]
    return Stage(stage.round + 1, members, decision.hypers, state, ancestors), record


def _check(population: Population, decision: Decision) -> None:
    m, source = population.controller.num_members, decision.source
    if source.shape != (m,) or not np.issubdtype(source.dtype, np.integer):
        raise ValueError(f"source must be i64[{m}], got {source.dtype}{list(source.shape)}")
    if source.min() < 0 or source.max() >= m:
        raise ValueError(f"source must name members 0 to {m - 1}, got {source.tolist()}")
    shapes = {name: np.shape(values) for name, values in decision.hypers.items()}
    if shapes != dict.fromkeys(population.space, (m,)):
        raise ValueError(f"hypers must be f64[{m}] of each of {', '.join(population.space)}, got {shapes}")


def _weights_from(population: Population, source: np.ndarray) -> np.ndarray:
    """i64[M], the member whose weights each one continues with: its own where weights are not copied."""
    return source if population.engine.copy.weights else np.arange(len(source))


def evolve(population: Population, rounds: int) -> tuple[Stage, list[Record]]:
    """A whole run in memory: the last stage, and the record of every round (errors as of `advance`)."""
    stage, records = begin(population), []
    with streamed(population.trainer, population.engine.mesh) as stream:
        for number in range(rounds):
            data = stream.at(number * population.rhythm.round_steps)
            stage, record = advance(population, stage, data, last=number == rounds - 1)
            records.append(record)
    return stage, records


def fitness_of(scores: np.ndarray, average: int) -> np.ndarray:
    """f64[M]: the mean of each member's last `average` evaluations; -inf if any evaluation is not finite."""
    finite = np.isfinite(scores).all(axis=1)
    return np.where(finite, np.where(np.isfinite(scores), scores, 0)[:, -average:].mean(axis=1), -np.inf)


def best_member(controller: Controller, record: Record) -> int:
    """The ranked member with the highest fitness."""
    return int(controller.ranked[np.argmax(record.fitness[controller.ranked])])


def _key(population: Population, stream: int) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(population.seed), stream)
    return mesh_lib.everywhere(key, population.engine.mesh)


def _rng(population: Population, number: int) -> np.random.Generator:
    return np.random.default_rng([population.seed, number])
