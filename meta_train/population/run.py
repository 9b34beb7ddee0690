"""A population run in a directory: restore, round by round, close."""

import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.checkpoint.files import numbered
from meta_train.config import file as config_file
from meta_train.errors import Interrupted, RunError
from meta_train.parallel import hosts
from meta_train.population import config as config_lib
from meta_train.population import lineage
from meta_train.population.base import Controller
from meta_train.population.config import PopulationConfig
from meta_train.population.engine import engine
from meta_train.population.rounds import Population, Record, Stage, advance, begin, best_member
from meta_train.population.streamed import placed, streamed
from meta_train.run import loggers
from meta_train.run.directory import CHECKPOINTS, CONFIG, METRICS, prepare_as
from meta_train.run.hooks import lost_process
from meta_train.run.metrics import Writer, all_of, jsonl_writer
from meta_train.run.provenance import refuse_changed_sources
from meta_train.run.train import SILENT, Display, set_up_jax, stop_signals


class PopulationResult(NamedTuple):
    """What a finished population leaves behind."""

    directory: Path  # of the run
    slot: int  # the best ranked member
    fitness: float  # of its last round
    test: dict[str, float]  # what its trainer reports of it on data that nothing was selected by
    seconds: float  # of this session


def run_population(
    config: PopulationConfig, directory: Path, *, resume: bool = False, display: Display = SILENT
) -> PopulationResult:
    """Trains a population as a config says.

    Args:
      config: what to do.
      directory: of the run: config.yaml, checkpoints/, lineage.jsonl, metrics.jsonl; created if missing.
      resume: continue the run in that directory, bit for bit as if it had not stopped.
      display: where progress is shown.

    Raises:
      ConfigError: before anything is compiled or written.
      RunError: a directory that holds another run; no member with a finite fitness (the round is named).
      Interrupted: SIGINT or SIGTERM was received; the population is saved.
      CheckpointError, MetricsError: a file could not be written.
    """
    began = time.perf_counter()
    set_up_jax(config)  # type: ignore[arg-type]  # its `runtime` section is the same
    hosts.agree("config", config_lib.resolved(config))
    if not hosts.is_first():
        display = SILENT
    loggers.check(config.logging, directory)
    run = build_population(config)
    held = contextlib.ExitStack()
    directory = hosts.first_then_all(
        lambda: prepare_as(
            directory, config_lib.resolved(config), _read_config, resume or not hosts.is_first(), held
        )
    )
    try:
        with held:
            stage, record = _train(config, run, directory, resume, display)
        found = run.engine.test(stage.members, run.trainer.data)
        test = {name: np.asarray(values) for name, values in found.items()}
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not hosts.several():
            raise
        raise lost_process("population", error, _last_checkpoint(directory)) from error
    slot = best_member(run.controller, record)
    test = {name: float(values[slot]) for name, values in test.items()}
    return PopulationResult(directory, slot, float(record.fitness[slot]), test, time.perf_counter() - began)


def _train(
    config: PopulationConfig, run: Population, directory: Path, resume: bool, display: Display
) -> tuple[Stage, Record]:
    """Trains the remaining rounds: the last stage, and the record of the last round."""
    every, record = config.checkpoint.every, None
    with (
        Checkpoints(
            directory / CHECKPOINTS, max_to_keep=config.checkpoint.max_to_keep, warn=display.warn
        ) as checkpoints,
        stop_signals() as asked_to_stop,
    ):
        stage, meta = begin(run), {}
        restored = checkpoints.restore(stage.members) if resume else None
        if restored is not None:
            stage, meta = _stage(restored), restored.meta
            display.say(f"resumed after round {stage.round}")
        first, done = stage.round if resume else None, stage.round * config.round_steps
        with (
            streamed(run.trainer, run.engine.mesh, done, meta.get("streams")) as stream,
            _Files(config, directory, first, meta.get("wandb_id"), display) as files,
        ):
            if stage.round < config.rounds:
                display.begin(stage.round)
            while stage.round < config.rounds:
                data = stream.at(stage.round * config.round_steps)
                stage, record = advance(run, stage, data, last=stage.round + 1 == config.rounds)
                row = summary(run.controller, record, stage)
                files.write(record, row)
                display.step(stage.round)
                display.row(row)
                stop = asked_to_stop()
                if stop or stage.round == config.rounds or (every and stage.round % every == 0):
                    streams = stream.position(stage.round * config.round_steps)
                    checkpoints.save(stage.round, stage.members, _meta(stage, streams, files.wandb_id))
                if stop and stage.round < config.rounds:
                    checkpoints.wait()
                    raise Interrupted(stage.round, "round")
    return stage, record or lineage.read(directory)[-1]


def _last_checkpoint(directory: Path) -> str:
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


class _Files:
    """lineage.jsonl, metrics.jsonl and the loggers, of process 0 alone; closed in any case."""

    def __init__(self, config: PopulationConfig, directory: Path, resume_round, wandb_id, display) -> None:
        self._lineage: Writer = all_of([])
        self._metrics: Writer = all_of([])
        self.wandb_id = wandb_id
        if not hosts.is_first():
            return
        self._lineage = jsonl_writer(directory / lineage.LINEAGE, resume_step=resume_round)
        metrics = jsonl_writer(directory / METRICS, resume_step=resume_round)
        dashboards = loggers.open_all(
            config.logging,
            directory,
            config=config_lib.resolved(config),
            resume_step=resume_round,
            wandb_id=wandb_id,
            warn=display.warn,
            say=display.say,
        )
        self._metrics = all_of([metrics, *dashboards])
        self.wandb_id = self._metrics.run_id

    def write(self, record: Record, row: dict[str, float]) -> None:
        self._lineage.write(record.round, lineage.to_row(record))
        self._metrics.write(record.round, row)

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *exception: Any) -> None:
        all_of([self._lineage, self._metrics]).close()


def summary(controller: Controller, record: Record, stage: Stage) -> dict[str, float]:
    """The round in a row of scalars.

    `fitness/best`, `fitness/median`, `fitness/SLOT`; `GROUP/NAME/q10`, `q50`, `q90` of every hyperparameter;
    `events/KIND`; `diverged`; `ancestors`, the members of the first round that still have descendants;
    `evaluators_busy`.
    """
    ranked = record.fitness[controller.ranked]
    row: dict[str, float] = {"steps": record.step, "best_slot": best_member(controller, record)}
    row |= {"fitness/best": float(ranked.max()), "fitness/median": float(np.median(ranked))}
    row |= {f"fitness/{slot}": float(value) for slot, value in enumerate(record.fitness)}
    row["diverged"] = float(np.mean(~np.isfinite(record.fitness)))
    row["ancestors"] = len(np.unique(stage.ancestors[controller.ranked]))
    for label, members in controller.groups.items():
        for name, values in record.hypers.items():
            for q in (10, 50, 90):
                row[f"{label}/{name}/q{q}"] = float(np.percentile(values[members], q))
    for kind, count in Counter(event["event"] for event in record.events).items():
        row[f"events/{kind}"] = count
    if "evaluations" in stage.controller:
        busy = [found is not None for found in stage.controller["evaluations"]]
        row["evaluators_busy"] = float(np.mean(busy))
    return row
