"""The history of a population as JSON lines, and what it tells: the winner's ancestors and schedule.

`lineage.jsonl` has one row a round: `{"step": round, "steps": trained at its end, "hypers": {name: [M]},
"scores": [M][E], "fitness": [M], "source": [M], "events": [...]}`. Slot m of the next round goes on with the
state that `source[m]` had at the end of this one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from learned_opt.artefact.reading import one_line
from meta_train.errors import MetricsError, RunError
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


class _Row(BaseModel):
    """One line of `lineage.jsonl`, of M members."""

    model_config = ConfigDict(strict=True)

    step: NonNegativeInt
    steps: NonNegativeInt
    hypers: dict[str, list[float]]
    scores: list[list[float]]
    fitness: Annotated[list[float], Field(min_length=1)]
    source: list[NonNegativeInt]
    events: list[dict[str, Any]]

    @model_validator(mode="after")
    def _of_one_population(self) -> "_Row":
        m = len(self.fitness)
        lengths = {len(one) for one in (self.scores, self.source, *self.hypers.values())}
        if lengths != {m} or len(set(map(len, self.scores))) != 1 or max(self.source) >= m:
            raise ValueError(f"its lists are not those of {m} members")
        return self


def from_row(row: dict[str, Any]) -> Record:
    """The record that a row of `lineage.jsonl` holds (pydantic's ValidationError if it holds none)."""
    found = _Row.model_validate(row)
    return Record(
        found.step,
        found.steps,
        {name: np.asarray(values, float) for name, values in found.hypers.items()},
        np.asarray(found.scores, float),
        np.asarray(found.fitness, float),
        np.asarray(found.source),
        found.events,
    )


def read(directory: Path) -> list[Record]:
    """The history of a run, round by round.

    Raises:
      RunError: nothing was trained there yet.
      MetricsError: the file is missing or damaged.
    """
    file, records = Path(directory) / LINEAGE, []
    for number, row in enumerate(read_jsonl(file)):
        try:
            records.append(from_row(row))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'the row'}: {first['msg']}"
            raise MetricsError(f"{file}, line {number + 1}, is damaged: {one_line(reason)}") from error
        one, then = records[-1], records[0]
        alike = len(one.source) == len(then.source) and one.hypers.keys() == then.hypers.keys()
        if one.round != number or not alike:
            raise MetricsError(f"{file}, line {number + 1}, is not round {number} of this population")
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
