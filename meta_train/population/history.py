"""The rows of a population while it trains: lineage.jsonl, metrics.jsonl, the loggers, or memory alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from meta_train.parallel import hosts
from meta_train.population import config as config_lib
from meta_train.population import lineage
from meta_train.population.base import Controller
from meta_train.population.config import PopulationConfig
from meta_train.population.rounds import Record, Stage, best_member
from meta_train.run import loggers
from meta_train.run.directory import METRICS
from meta_train.run.metrics import Writer, all_of, jsonl_writer, memory_writer, read_jsonl


class History:
    """All rounds so far, of process 0 alone; its files are closed in any case."""

    def __init__(
        self, config: PopulationConfig, directory: Path | None, resume_round, wandb_id, display
    ) -> None:
        self._directory = directory
        self._lineage: Writer = all_of([])
        self._metrics: Writer = all_of([])
        self._records: list[Record] = []
        self._rows: list[dict[str, Any]] = []
        self.wandb_id = wandb_id
        if not hosts.is_first():
            return
        if directory is None:
            self._metrics = memory_writer(self._rows)
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
        """Adds a round, and its `summary`."""
        self._records.append(record)
        self._lineage.write(record.round, lineage.to_row(record))
        self._metrics.write(record.round, row)

    def last(self) -> Record:
        """The last round, of an earlier session if this one has none (RunError if there is none at all)."""
        if self._records or self._directory is None:
            return self._records[-1]
        return lineage.read(self._directory)[-1]  # by every process, as all of them report it

    def records(self) -> list[Record]:
        """All rounds, of earlier sessions too; none in a process that is not the first."""
        if self._directory is None:
            return list(self._records)
        return lineage.read(self._directory) if hosts.is_first() else []

    def rows(self) -> list[dict[str, Any]]:
        """The `summary` of each of them."""
        if self._directory is None:
            return self._rows
        return read_jsonl(self._directory / METRICS) if hosts.is_first() else []

    def __enter__(self) -> "History":
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
