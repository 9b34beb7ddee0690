"""The history of a population as JSON lines, and what it tells: the winner's ancestors and schedule.

`lineage.jsonl` has one row a round: `{"step": round, "steps": trained at its end, "hypers": {name: [M]},
"scores": [M][E], "fitness": [M], "source": [M], "events": [...]}`. Slot m of the next round goes on with the
state that `source[m]` had at the end of this one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meta_train.errors import RunError
from meta_train.population.base import Controller
from meta_train.population.rounds import Record, best_member
from meta_train.run.metrics import read_jsonl

LINEAGE = "lineage.jsonl"


class Schedule(NamedTuple):
    """The hypers that the weights of one member of the last round were trained with."""

    slots: np.ndarray  # i64[rounds], the member that held the weights in each round
    hypers: dict[str, np.ndarray]  # name -> f64[rounds]
    fitness: np.ndarray  # f64[rounds], of the holder
    round_steps: int  # steps of a round


def to_row(record: Record) -> dict[str, Any]:
    """A record as a row of `lineage.jsonl`, its round apart."""
    row = record._asdict()
    del row["round"]
    return row | {"steps": row.pop("step")}


def from_row(row: dict[str, Any]) -> Record:
    """The record that a row of `lineage.jsonl` holds."""
    return Record(
        row["step"],
        row["steps"],
        {name: np.asarray(values, float) for name, values in row["hypers"].items()},
        np.asarray(row["scores"], float),
        np.asarray(row["fitness"], float),
        np.asarray(row["source"]),
        row["events"],
    )


def read(directory: Path) -> list[Record]:
    """The history of a run, round by round.

    Raises:
      RunError: nothing was trained there yet.
      MetricsError: the file is missing or damaged.
    """
    records = [from_row(row) for row in read_jsonl(Path(directory) / LINEAGE)]
    if not records:
        raise RunError(f"{directory} has not finished a round yet")
    return records


def schedule_of(records: Sequence[Record], slot: int, copied_weights: bool = True) -> Schedule:
    """The way back from a member of the last round, through all members that its weights came from.

    Weights that came from an evaluator are followed into it: while it held them, its hypers were those of
    its child; before that, the weights had the hypers of its parent.

    Args:
      records: every round.
      slot: the member.
      copied_weights: whether a member that is overwritten gets its source's weights (`copied.weights` of the
        config); if it does not, the weights stay in their slot.
    """
    slots = [slot]
    for record in reversed(records[:-1]):
        slots.append(int(record.source[slots[-1]]) if copied_weights else slot)
    slots.reverse()
    hypers = {
        name: np.array([r.hypers[name][s] for r, s in zip(records, slots, strict=True)])
        for name in records[0].hypers
    }
    fitness = np.array([r.fitness[s] for r, s in zip(records, slots, strict=True)])
    return Schedule(np.array(slots), hypers, fitness, records[0].step)


def winner(controller: Controller, records: Sequence[Record], copied_weights: bool = True) -> Schedule:
    """The schedule of the best ranked member of the last round; arguments as those of `schedule_of`."""
    return schedule_of(records, best_member(controller, records[-1]), copied_weights)


def pieces(schedule: Schedule) -> list[dict[str, Any]]:
    """The schedule as constant pieces: `{"from": step, "to": step, "hypers": {...}}`."""
    found: list[dict[str, Any]] = []
    for i in range(len(schedule.slots)):
        hypers = {name: float(values[i]) for name, values in schedule.hypers.items()}
        begin, end = i * schedule.round_steps, (i + 1) * schedule.round_steps
        if found and found[-1]["hypers"] == hypers:
            found[-1]["to"] = end
        else:
            found.append({"from": begin, "to": end, "hypers": hypers})
    return found
