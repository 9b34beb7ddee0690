"""An evaluation as plain JSON values: tables, page, CSV file and leaderboard are made of them."""

import csv
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from learned_opt.artefact.reading import FileError, one_line, read_json
from meta_train.errors import RunError
from meta_train.evaluation.compare import LOSS, PER_TASK, SPEED_UP, VALID, WALL_CLOCK
from meta_train.evaluation.results import ALL, LEARNED, Evaluation

FORMAT, VERSION = "meta-train/evaluation", 2
CSV_HEAD = "name,task,ring,horizon,comparison,"  # how every CSV file begins
TITLES = {
    "per_task_tuned": "against rivals tuned for each task and horizon",
    "single_setting": "against the best single setting of each rival for all tasks",
    "equal_budget": "at equal tuning budget: its step tuned with as many trials",
}


def document(evaluation: Evaluation, **what: Any) -> dict[str, Any]:
    """Everything but the curves as plain JSON values; None for what diverged or was not measured.

    Args:
      evaluation: from `evaluate`.
      **what: was evaluated: put in front.
    """
    headline = evaluation.scores[ALL][PER_TASK][SPEED_UP]
    mean = headline.geometric_mean
    cells = [
        {key: value for key, value in cell._asdict().items() if key != "train"}
        | {"outcomes": {name: outcome._asdict() for name, outcome in cell.outcomes.items()}}
        for cell in evaluation.cells
    ]
    scores = {
        group: {
            name: {
                metric: score._asdict()
                | {key: getattr(score, key)._asdict() for key in ("geometric_mean", "iqm", "median")}
                for metric, score in metrics.items()
            }
            for name, metrics in comparisons.items()
        }
        for group, comparisons in evaluation.scores.items()
    }
    return plain(
        {"format": FORMAT, "version": VERSION}
        | what
        | {
            "speed_up": {
                "mean": mean.value,
                "low": mean.low,
                "high": mean.high,
                "worst": headline.worst,
            },
            "divergence_rate": evaluation.divergence_rate,
            "wrong_horizon": evaluation.wrong_horizon,
            "ms_per_step": evaluation.ms_per_step,
            "state_bytes_per_parameter": evaluation.state_bytes_per_parameter,
            "single_setting": evaluation.single_setting,
            "scores": scores,
            "profiles": {name: found._asdict() for name, found in evaluation.profiles.items()},
            "cells": cells,
            "settings": dataclasses.asdict(evaluation.settings),
            "environment": evaluation.environment,
            "seconds": evaluation.seconds,
            "cpu_seconds": evaluation.cpu_seconds,
        }
    )


def to_csv(doc: dict[str, Any]) -> str:
    """One row for each task, horizon, comparison and rival, as text with a header."""
    text = io.StringIO()
    head = (
        "name",
        "task",
        "ring",
        "horizon",
        "comparison",
        "setting",
        "rival",
        "rival_setting",
        "diverged_seeds",
    )
    head += (SPEED_UP, "speed_up_is_lower_bound", WALL_CLOCK, LOSS, VALID, "ms_per_step", "adam_ms_per_step")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(head)
    for cell in doc["cells"]:
        ms = doc["ms_per_step"][cell["task"]]
        for comparison, outcome in cell["outcomes"].items():
            for rival, ratio in outcome[LOSS].items():
                rows.writerow(
                    (doc.get("name"), cell["task"], cell["ring"], cell["horizon"], comparison)
                    + (outcome["setting"], rival, outcome["rival_setting"].get(rival), cell["diverged"])
                    + (outcome[SPEED_UP], outcome["censored"], outcome[WALL_CLOCK], ratio)
                    + (outcome[VALID][rival], ms[LEARNED], ms["adam"])
                )
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
    return found


def plain(x: Any) -> Any:
    """As JSON values: text keys, lists, and None for what is not finite."""
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(value) for value in x]
    if isinstance(x, (np.ndarray, np.generic)):
        return plain(x.tolist())
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x
