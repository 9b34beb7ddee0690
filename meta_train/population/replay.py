"""The winner's schedule, trained again from scratch: what the paper reports of a population."""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.checkpoint.files import Damaged, numbered, read_manifest
from meta_train.errors import CheckpointError, RunError
from meta_train.evaluation.files import replace
from meta_train.population import lineage
from meta_train.population.base import Rhythm, Trainer
from meta_train.population.config import assemble
from meta_train.population.engine import Engine, engine, to_device
from meta_train.population.lineage import Schedule
from meta_train.population.rounds import fitness_of
from meta_train.population.run import load_config
from meta_train.population.space import Space
from meta_train.population.streamed import streamed
from meta_train.run.directory import CHECKPOINTS, refuse_changed

REPLAY_STREAM = 2**31  # of keys that no population draws from


class Replay(NamedTuple):
    """A schedule trained with S new seeds."""

    scores: np.ndarray  # f64[S, evaluations]
    fitness: np.ndarray  # f64[S], of the last round
    test: dict[str, np.ndarray]  # name -> f64[S]


def replay(
    trainer: Trainer,
    space: Space,
    rhythm: Rhythm,
    hypers: dict[str, np.ndarray],
    *,
    num_seeds: int = 5,
    seed: int = 0,
) -> Replay:
    """Trains fresh members, one per seed, with a schedule of hypers: name -> f64[rounds]."""
    given = {name: np.tile(np.asarray(v)[:, None], num_seeds) for name, v in hypers.items()}
    return scheduled(engine(trainer, num_seeds, rhythm), trainer, space, rhythm, given, seed=seed)


def scheduled(
    run: Engine,
    trainer: Trainer,
    space: Space,
    rhythm: Rhythm,
    hypers: dict[str, np.ndarray],
    *,
    seed: int = 0,
) -> Replay:
    """Trains the members of an engine, each with a schedule of its own: name -> f64[rounds, members]."""
    key = jax.random.fold_in(jax.random.key(seed), REPLAY_STREAM)
    rounds = len(next(iter(hypers.values())))

    def at(number):
        return to_device(space, {name: values[number] for name, values in hypers.items()})

    members, found = run.init(jax.random.fold_in(key, 0), at(0)), []
    with streamed(trainer, run.mesh) as stream:
        for number in range(rounds):
            data = stream.at(number * rhythm.round_steps)
            members, scores = run.train(
                members, at(number), jax.random.fold_in(key, 1), np.int32(number), data
            )
            found.append(np.asarray(scores, np.float64))
    test = {name: np.asarray(values) for name, values in run.test(members, trainer.data).items()}
    return Replay(np.concatenate(found, 1), fitness_of(found[-1], rhythm.average), test)


def winners_schedule(directory: Path) -> Schedule:
    """The schedule of a finished run's best member.

    Raises:
      RunError: the run is not finished, or config.yaml was changed since it began.
    """
    config = load_config(directory)
    for path in numbered(Path(directory) / CHECKPOINTS):
        with contextlib.suppress(Damaged, CheckpointError):  # the lineage has all that is read here
            refuse_changed(directory, int(path.name), read_manifest(path)["meta"], lambda text: None)
    records = lineage.read(directory)
    if len(records) < config.rounds:
        raise RunError(f"{directory} has done {len(records)} of {config.rounds} rounds: resume it first")
    return lineage.winner(assemble(config).controller, records, config.copied.weights)


def export_schedule(directory: Path, file: Path) -> Schedule:
    """Writes the winner's schedule as JSON: constant pieces, and the members that held the weights."""
    schedule = winners_schedule(directory)
    write_json(
        file,
        {
            "round_steps": schedule.round_steps,
            "fitness": float(schedule.fitness[-1]),
            "pieces": lineage.pieces(schedule),
            "slots": schedule.slots.tolist(),
        },
    )
    return schedule


def replay_run(directory: Path, file: Path, *, num_seeds: int, seed: int) -> tuple[Schedule, Replay]:
    """Replays the winner's schedule of a run, and writes the results as JSON."""
    schedule = winners_schedule(directory)
    parts = assemble(load_config(directory))
    found = replay(parts.trainer, parts.space, parts.rhythm, schedule.hypers, num_seeds=num_seeds, seed=seed)
    value = {"population_fitness": float(schedule.fitness[-1]), "seed": seed}
    value |= {"fitness": found.fitness.tolist(), "scores": found.scores.tolist()}
    write_json(file, value | {"test": {name: values.tolist() for name, values in found.test.items()}})
    return schedule, found


def write_json(file: Path, value: Any) -> None:
    """Writes strict JSON (RunError if it cannot be written)."""
    replace(file, json.dumps(value, indent=1) + "\n")
