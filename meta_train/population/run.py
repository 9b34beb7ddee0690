"""A population run in a directory: restore, round by round, close."""

import contextlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.checkpoint.files import numbered
from meta_train.checkpoint.in_memory import InMemory
from meta_train.config import file as config_file
from meta_train.errors import Interrupted, RunError
from meta_train.parallel import hosts
from meta_train.population import config as config_lib
from meta_train.population.config import PopulationConfig
from meta_train.population.engine import engine
from meta_train.population.history import History, summary
from meta_train.population.rounds import Population, Record, Stage, advance, begin, best_member
from meta_train.population.streamed import placed, streamed
from meta_train.run import loggers
from meta_train.run.directory import CHECKPOINTS, CONFIG, prepare_as, refuse_changed, settings_of
from meta_train.run.hooks import lost_process
from meta_train.run.metrics import columns
from meta_train.run.provenance import refuse_changed_sources
from meta_train.run.train import SILENT, Display, set_up_jax, stop_signals


class PopulationResult(NamedTuple):
    """What a finished population leaves behind.

    Attributes:
      config: of the population.
      directory: of the run; None for a population in memory.
      slot: the best ranked member.
      fitness: of its last round.
      test: what its trainer reports of it on data that nothing was selected by.
      weights: what that member has trained; of a meta-training, "ema" is the theta to use.
      records: every round, for `lineage.winner`; empty in all processes but the first.
      metrics: name -> f64[rounds], as `columns` gives them; empty in all processes but the first.
      seconds: of this session.
    """

    config: PopulationConfig
    directory: Path | None
    slot: int
    fitness: float
    test: dict[str, float]
    weights: Any
    records: list[Record]
    metrics: dict[str, np.ndarray]
    seconds: float


def run_population(
    config: PopulationConfig, directory: Path | None, *, resume: bool = False, display: Display = SILENT
) -> PopulationResult:
    """Trains a population as a config says.

    Args:
      config: what to do.
      directory: of the run: config.yaml, checkpoints/, lineage.jsonl, metrics.jsonl; created if missing. None
        for a population in memory, which writes nothing: asked to stop, it returns what it has.
      resume: continue the run in that directory, bit for bit as if it had not stopped.
      display: where progress is shown.

    Raises:
      ConfigError: before anything is compiled or written.
      RunError: a directory that holds another run; no member with a finite fitness (the round is named).
      Interrupted: SIGINT or SIGTERM was received; the population is saved.
      CheckpointError, MetricsError: a file could not be written.
    """
    began = time.perf_counter()
    if directory is None and resume:
        raise RunError("resume must be false for a population in memory, which has nothing to go on with")
    set_up_jax(config)  # type: ignore[arg-type]  # its `runtime` section is the same
    hosts.agree("config", config_lib.resolved(config))
    if not hosts.is_first():
        display = SILENT
    loggers.check(config.logging, directory)
    run = build_population(config)
    held, resolved = contextlib.ExitStack(), config_lib.resolved(config)
    directory = hosts.first_then_all(
        lambda: (
            directory and prepare_as(directory, resolved, _read_config, resume or not hosts.is_first(), held)
        )
    )
    try:
        with held:
            stage, history = _train(config, run, directory, resume, display)
        found = run.engine.test(stage.members, run.trainer.data)
        test = {name: np.asarray(values) for name, values in found.items()}
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not hosts.several():
            raise
        raise lost_process("population", error, _last_checkpoint(directory)) from error
    record = history.last()
    slot = best_member(run.controller, record)
    return PopulationResult(
        config,
        directory,
        slot,
        float(record.fitness[slot]),
        {name: float(values[slot]) for name, values in test.items()},
        None if hosts.several() else jax.tree.map(lambda x: x[slot], stage.members.weights),
        history.records(),
        columns(history.rows()),
        time.perf_counter() - began,
    )


def _train(
    config: PopulationConfig, run: Population, directory: Path | None, resume: bool, display: Display
) -> tuple[Stage, History]:
    """Trains the remaining rounds: the last stage, and the history of all rounds."""
    every, keep = config.checkpoint.every, config.checkpoint.max_to_keep
    settings = {} if directory is None else {"settings": settings_of(directory)}
    if directory is None:
        store: Any = InMemory(keep=False)
    else:
        store = Checkpoints(directory / CHECKPOINTS, max_to_keep=keep, warn=display.warn)
    with store as checkpoints, stop_signals() as asked_to_stop:
        stage, meta = begin(run), {}
        restored = checkpoints.restore(stage.members) if resume else None
        if restored is not None and directory is not None:  # one in memory restores nothing
            stage, meta = _stage(restored), restored.meta
            refuse_changed(directory, restored.step, meta, display.warn)
            display.say(f"resumed after round {stage.round}")
        first, done = stage.round if resume else None, stage.round * config.round_steps
        with (
            streamed(run.trainer, run.engine.mesh, done, meta.get("streams")) as stream,
            History(config, directory, first, meta.get("wandb_id"), display) as history,
        ):
            if stage.round < config.rounds:
                display.begin(stage.round)
            while stage.round < config.rounds:
                data = stream.at(stage.round * config.round_steps)
                stage, record = advance(run, stage, data, last=stage.round + 1 == config.rounds)
                row = summary(run.controller, record, stage)
                history.write(record, row)
                display.step(stage.round)
                display.row(row)
                stop = asked_to_stop()
                if stop or stage.round == config.rounds or (every and stage.round % every == 0):
                    streams = stream.position(stage.round * config.round_steps)
                    meta = _meta(stage, streams, history.wandb_id) | settings
                    checkpoints.save(stage.round, stage.members, meta)
                if stop and stage.round < config.rounds:
                    if directory is None:
                        display.warn(f"stopped after round {stage.round}")
                        break
                    checkpoints.wait()
                    raise Interrupted(stage.round, "round")
    return stage, history


def _last_checkpoint(directory: Path | None) -> str:
    if directory is None:
        return "nothing is saved of a population in memory"
    saved = numbered(directory / CHECKPOINTS)
    return f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet"


def build_population(config: PopulationConfig) -> Population:
    """The population that a config describes."""
    parts = config_lib.assemble(config)
    num_members = parts.controller.num_members
    compiled = engine(
        parts.trainer,
        num_members,
        parts.rhythm,
        copy=parts.copy,
        mesh=config_lib.mesh_of(config, num_members),
        chunk=config.member_chunk,
    )
    trainer = placed(parts.trainer, compiled.mesh)
    return Population(trainer, parts.controller, parts.space, parts.rhythm, compiled, config.seed)


def load_config(directory: Path) -> PopulationConfig:
    """The config of a population's directory (RunError if it is not one, or a source of it has changed)."""
    file = Path(directory) / CONFIG
    if not file.is_file():
        raise RunError(f"{directory} is not the directory of a run: there is no {CONFIG} in it")
    raw = config_file.read(file)
    if "controller" not in raw:
        raise RunError(f"{directory} is not the directory of a population: its {CONFIG} has no controller")
    refuse_changed_sources(Path(directory), file)
    return config_lib.load(file)


def holds_population(directory: Path) -> bool:
    """Whether a directory is that of a population, not of a single run or anything else."""
    file = Path(directory) / CONFIG
    return file.is_file() and "controller" in config_file.read(file)


def _read_config(file: Path) -> dict[str, Any]:
    return config_lib.resolved(load_config(file.parent))


def _meta(stage: Stage, streams: dict[str, Any], wandb_id: str | None) -> dict[str, Any]:
    return {
        "hypers": {name: values.tolist() for name, values in stage.hypers.items()},
        "controller": stage.controller,
        "ancestors": stage.ancestors.tolist(),
        "wandb_id": wandb_id,
        "streams": streams,
    }


def _stage(restored: Any) -> Stage:
    meta = restored.meta
    hypers = {name: np.asarray(values, float) for name, values in meta["hypers"].items()}
    return Stage(restored.step, restored.state, hypers, meta["controller"], np.asarray(meta["ancestors"]))
