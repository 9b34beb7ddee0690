"""An evaluation as plain JSON values: tables, page, CSV file and leaderboard are made of them."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, Strict, ValidationError, model_validator

from learned_opt.artefact.reading import FileError, one_line, read_json
from meta_train.errors import RunError
from meta_train.evaluation.results import Evaluation

# Settings that evaluations must share for their numbers to compare.
ALIKE = ("horizons", "num_seeds", "num_tuning_seeds", "archive_steps", "smoothing", "final_steps", "seed")
ALIKE += ("rivals", "rates", "tune_decay")
HEADLINES = ("speed_up", "wall_clock_speed_up", "loss_ratio/best", "valid_ratio/best", "to_target/best")
FORMAT, VERSION = "meta-train/evaluation", 3
CSV_HEAD = "name,task,ring,horizon,comparison,"  # how every CSV file begins


def document(evaluation: Evaluation, **what: Any) -> dict[str, Any]:
    """Everything but the curves as plain JSON values; None for what diverged or was not measured.

    Args:
      evaluation: from `evaluate`.
      **what: was evaluated: put in front.
    """
    headline = evaluation.scores["all"]["per_task_tuned"]["speed_up"]
    mean = headline.geometric_mean
    cells = [
        {key: value for key, value in cell._asdict().items() if key != "train"} for cell in evaluation.cells
    ]
    costs = [ms["learned"] / ms["adam"] for ms in evaluation.ms_per_step.values()]
    found = evaluation._asdict() | {"cells": cells, "settings": dataclasses.asdict(evaluation.settings)}
    first = {
        "speed_up": {"mean": mean.value, "low": mean.low, "high": mean.high, "worst": headline.worst},
        "step_cost": [min(costs), max(costs)],
    }
    return plain({"format": FORMAT, "version": VERSION} | what | first | found)


def to_csv(doc: dict[str, Any]) -> str:
    """One row for each task, horizon, comparison and rival, as text with a header."""
    ratios = ("loss_ratio", "valid_ratio", "best_valid_ratio", "test_ratio", "to_target")
    head = ("name", "task", "ring", "horizon", "comparison", "setting", "rival", "rival_setting")
    head += ("weight_decay", "diverged_seeds", "speed_up", "speed_up_is_lower_bound", "wall_clock_speed_up")
    head += (*ratios, "wall_clock_to_target", "steps_to_target", "significant_steps_to_target")
    head += ("ms_per_step", "adam_ms_per_step", "rival_ms_per_step")
    rows = []
    for cell in doc["cells"]:
        ms = doc["ms_per_step"][cell["task"]]
        for comparison, outcome in cell["outcomes"].items():
            for rival in outcome["loss_ratio"]:
                steps = outcome["target_steps"][rival]
                rows.append(
                    (doc.get("name"), cell["task"], cell["ring"], cell["horizon"], comparison)
                    + (outcome["setting"], rival, outcome["rival_setting"].get(rival))
                    + (outcome["rival_hyper"].get(rival, {}).get("weight_decay"), cell["diverged"])
                    + (outcome["speed_up"], outcome["censored"], outcome["wall_clock_speed_up"])
                    + tuple(outcome[ratio][rival] for ratio in ratios)
                    + (outcome["wall_clock_to_target"].get(rival), steps["steps"], steps["significant"])
                    + (ms["learned"], ms["adam"], ms.get(cell["best"] if rival == "best" else rival))
                )
    return csv_text(head, rows)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file with a header, as text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def to_json(doc: dict[str, Any]) -> str:
    """Strict JSON text."""
    return json.dumps(doc, indent=1, allow_nan=False) + "\n"


def read(path: Path, *, any_version: bool = False) -> dict[str, Any]:
    """A document that was written by this version, or by any.

    Args:
      path: the JSON file, or the directory that holds `evaluation.json`.

    Raises:
      RunError: there is none, or it is damaged or of another version.
    """
    path = Path(path)
    file = path / "evaluation.json" if path.is_dir() else path
    try:
        found = read_json(file, most=2**26)
    except FileError as error:
        raise RunError(f"{path} holds no evaluation: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RunError(f"{file} is not an evaluation: its 'format' should be {FORMAT!r}")
    if found.get("version") != VERSION and not any_version:
        version = one_line(repr(found.get("version")), 40)
        raise RunError(f"{file} is of version {version} of the format, this reads {VERSION}: evaluate again")
    try:
        if found.get("version") == VERSION:
            _Document.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = ": ".join((".".join(map(str, first["loc"])) or "the whole", first["msg"]))
        raise RunError(f"{file} is damaged: {one_line(reason)}") from error
    return found


Number = Annotated[float | None, Strict()]
Ratios = dict[str, Number]


class _Interval(BaseModel):
    value: Number
    low: Number
    high: Number


class _Score(BaseModel):
    geometric_mean: _Interval
    iqm: _Interval
    median: _Interval
    worst: Number
    cells: int


class _Steps(BaseModel):
    steps: int | None
    significant: int | None


class _Outcome(BaseModel):
    speed_up: float
    censored: bool
    wall_clock_speed_up: Number
    loss_ratio: Ratios
    valid_ratio: Ratios
    to_target: Ratios
    wall_clock_to_target: Ratios
    target_steps: dict[str, _Steps]
    rival_setting: dict[str, float]


class _Cell(BaseModel):
    task: str
    ring: str
    horizon: int
    diverged: int
    best: str
    best_valid: str
    loss: dict[str, list[Number]]
    valid: dict[str, list[Number]]
    at_grid_edge: dict[str, bool]
    outcomes: dict[str, _Outcome]


class _Document(BaseModel):
    """What the tables, the page and the leaderboard need of an evaluation."""

    name: str = ""
    speed_up: dict[Literal["mean", "low", "high", "worst"], Number]
    divergence_rate: float
    wrong_horizon: Ratios
    step_cost: tuple[float, float]
    ms_per_step: dict[str, dict[str, float]]
    state_bytes_per_parameter: dict[str, float]
    single_setting: dict[str, float]
    scores: dict[str, dict[str, dict[str, _Score]]]
    cells: Annotated[list[_Cell], Field(min_length=1)]
    settings: dict[str, Any]
    environment: dict[str, str]

    @model_validator(mode="after")
    def _complete(self) -> "_Document":
        first = {"per_task_tuned": dict.fromkeys(HEADLINES)}
        _require(self.scores, dict.fromkeys(("all", *self.scores), first), "scores")
        both = {"learned": None, "adam": None}
        for cell in self.cells:
            _require(cell.outcomes, {"per_task_tuned": None}, f"outcomes of {cell.task}")
            _require(cell.loss, {"learned": None, cell.best: None}, f"losses of {cell.task}")
            _require(self.ms_per_step, {cell.task: both}, "ms_per_step")
        _require(self.settings, dict.fromkeys((*ALIKE, "trials")), "settings")
        _require(self.state_bytes_per_parameter, both, "state_bytes_per_parameter")
        return self


def _require(found: Any, keys: dict[str, Any], where: str) -> None:
    for key, below in keys.items():
        if key not in found:
            raise ValueError(f"{where} lacks {key!r}")
        _require(found[key], below or {}, f"{where}.{key}")


def plain(x: Any) -> Any:
    """As JSON values: text keys, lists, and None for what is not finite."""
    if hasattr(x, "_asdict"):
        return plain(x._asdict())
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(value) for value in x]
    if isinstance(x, (np.ndarray, np.generic)):
        return plain(x.tolist())
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x
