"""What `meta-train verify` checks: the files of a run, a population or an artefact, one against another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learned_opt.architectures import LEARNED_OPTIMIZERS
from learned_opt.artefact.content import CONFIG as ARTEFACT
from learned_opt.artefact.content import WEIGHTS
from learned_opt.artefact.format import read_content, read_directory
from learned_opt.artefact.reading import FileError, one_line
from meta_train.checkpoint.files import Damaged, numbered, read_verified
from meta_train.errors import CheckpointError, ConfigError, MetricsError, RunError
from meta_train.population import lineage
from meta_train.population.lineage import LINEAGE
from meta_train.population.run import holds_population
from meta_train.population.run import load_config as load_population
from meta_train.run.directory import BEST, CHECKPOINTS, CONFIG, METRICS, load_config, refuse_changed
from meta_train.run.metrics import read_jsonl

REFUSALS = (RunError, CheckpointError, MetricsError, ConfigError, FileError, Damaged)


class Check(NamedTuple):
    """One line: what was checked, and whether it holds."""

    passed: bool
    text: str


def verify(directory: Path) -> Iterator[Check]:
    """Checks everything in a directory; nothing is changed.

    Raises:
      RunError: it is the directory of neither a run, a population nor an artefact.
    """
    if (directory / CONFIG).exists():
        yield from _run(directory)
    elif (directory / WEIGHTS).exists() or (directory / ARTEFACT).exists():
        yield _artefact(directory)
    else:
        raise RunError(
            f"{directory} is neither the directory of a run ({CONFIG}) nor of an artefact ({WEIGHTS})"
        )


def _artefact(directory: Path) -> Check:
    try:
        content, _ = read_content(directory)
        name = content["architecture"]
        if name not in LEARNED_OPTIMIZERS:  # its factory is not looked for: verifying runs no code of others
            fits = f"whether it fits {name}, which is not of this package, was not checked"
            return Check(True, f"{directory}: the digests match, theta is finite; {one_line(fits)}")
        found = read_directory(directory)
    except FileError as error:
        return Check(False, str(error))
    return Check(True, f"{directory}: the digests match, theta is finite and fits {found.name}")


def _run(directory: Path) -> Iterator[Check]:
    file = directory / CONFIG
    try:
        is_population = holds_population(directory)
        load_population(directory) if is_population else load_config(directory)
        yield Check(True, f"{file}: a valid config")
    except REFUSALS as error:
        yield Check(False, f"{file}: {one_line(str(error))}")
        return
    newest: dict[str, Any] | None = None
    for path in [*numbered(directory / CHECKPOINTS), *numbered(directory / BEST)]:
        try:
            body, arrays = read_verified(path)
        except REFUSALS as error:
            yield Check(False, f"{path}: {one_line(str(error))}")
            continue
        yield Check(True, f"{path}: {len(body['files'])} files match their digests")
        yield _members(directory, path, body, arrays) if is_population else _theta(path, arrays)
        yield _config(directory, path, body)
        if path.parent.name == CHECKPOINTS:
            newest = body
    if newest is None:
        yield Check(False, f"{directory / CHECKPOINTS}: there is no undamaged checkpoint")
    if is_population:
        yield _rows(directory / LINEAGE, newest, rounds=True)
    yield _rows(directory / METRICS, newest, rounds=is_population)
    if (directory / "optimizer" / WEIGHTS).exists():
        yield _artefact(directory / "optimizer")


def _theta(path: Path, arrays: dict[str, np.ndarray]) -> Check:
    """The theta of a single run is finite."""
    thetas = {name: x for name, x in arrays.items() if name.startswith((".theta", "['theta']"))}
    bad = [name for name, x in thetas.items() if not np.isfinite(x.astype(np.float64)).all()]
    size = sum(x.size for name, x in thetas.items() if not name.startswith(".theta_ema"))
    return Check(
        not bad, f"{path}: state{bad[0]} is not finite" if bad else f"{path}: theta ({size:,}) is finite"
    )


def _members(directory: Path, path: Path, body: dict, arrays: dict[str, np.ndarray]) -> Check:
    """The weights of a population's members are finite, but for those whose fitness was not."""
    try:
        records = lineage.read(directory)
        record = records[body["step"] - 1]
    except (RunError, MetricsError, IndexError) as error:
        reason = f"{directory / LINEAGE} has no round {body['step']}"
        return Check(False, reason if isinstance(error, IndexError) else str(error))
    alive = np.logical_and(np.isfinite(record.fitness), np.isfinite(record.fitness[record.source]))
    for name, x in arrays.items():
        if name.startswith(".weights"):
            if len(x) != len(alive):
                return Check(False, f"{path}: state{name} is of {len(x)} members, not of {len(alive)}")
            finite = np.isfinite(x.reshape(len(alive), -1).astype(np.float64)).all(1)
            wrong = np.flatnonzero(np.logical_and(alive, np.logical_not(finite)))
            if len(wrong):
                return Check(False, f"{path}: state{name} of member {wrong[0]} is not finite")
    return Check(True, f"{path}: the weights of {alive.sum()} of {len(alive)} members are finite")


def _config(directory: Path, path: Path, body: dict) -> Check:
    """The config is the one that the checkpoint was made with."""
    unsure: list[str] = []
    try:
        refuse_changed(directory, body["step"], body["meta"], unsure.append)
    except RunError as error:
        return Check(False, str(error))
    recorded = {"settings", "config"} & body["meta"].keys()
    match = "matches the config" if recorded else "records no config (of an earlier version)"
    return Check(not unsure, unsure[0] if unsure else f"{path}: {match}")


def _rows(file: Path, newest: dict[str, Any] | None, *, rounds: bool) -> Check:
    """The rows are in order, none is there twice, and all that a checkpoint counts are there."""
    try:
        rows = read_jsonl(file)
    except MetricsError as error:
        return Check(False, str(error))
    seen: set[tuple] = set()
    for number, row in enumerate(rows, 1):
        kind = (row["step"], frozenset(row))  # metrics, scores and progress have rows of their own
        if kind in seen:
            return Check(False, f"{file}: line {number} repeats step {row['step']}")
        if number > 1 and row["step"] < rows[number - 2]["step"]:
            return Check(False, f"{file}: line {number}, step {row['step']}, is out of order")
        seen.add(kind)
    if newest is not None:
        before = sum(row["step"] < newest["step"] for row in rows)
        expected = newest["step"] if rounds else newest["meta"].get("rows", before)
        if before != expected:
            what = f"{before} rows before step {newest['step']}, the checkpoint counts {expected}"
            return Check(False, f"{file}: {what}")
    return Check(True, f"{file}: {len(rows)} rows in order")
