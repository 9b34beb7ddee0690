"""Where the numbers of a run go: writers, and the JSONL file that is the record of truth."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learned_opt.artefact.atomic import write_file
from learned_opt.artefact.reading import FileError, parse_json, read_bytes
from meta_train.errors import MetricsError


class Writer(NamedTuple):
    """What takes a run's rows.

    Attributes:
      write: `(step, row) -> None`; `row` maps names to scalars (NumPy's and jax's too).
      close: `() -> None`; no row may follow.
      run_id: the Weights & Biases id, to be given back on resume; None for other writers.
      rows: `() -> int`, how many are in the file; 0 for other writers.
    """

    write: Callable[[int, dict[str, Any]], None]
    close: Callable[[], None]
    run_id: str | None = None
    rows: Callable[[], int] = lambda: 0


def all_of(writers: Sequence[Writer]) -> Writer:
    """One writer for several. All are closed, also if one of them fails; the first error is raised."""

    def write(step: int, row: dict[str, Any]) -> None:
        for writer in writers:
            writer.write(step, row)

    def close() -> None:
        errors = []
        for writer in writers:
            try:
                writer.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    run_id = next((w.run_id for w in writers if w.run_id), None)
    return Writer(write, close, run_id, lambda: max((w.rows() for w in writers), default=0))


def nothing() -> Writer:
    """A writer that drops its rows."""
    return Writer(lambda step, row: None, lambda: None)


def guarded(
    name: str,
    write: Callable[[int, dict[str, Any]], Any],
    close: Callable[[], Any],
    run_id: str | None = None,
    *,
    warn: Callable[[str], None],
) -> Writer:
    """A writer whose first failure is a warning, and which drops the rows that follow it.

    Args:
      name: of the logger, for the warning.
      write: see `Writer`.
      close: see `Writer`; not called after a failure.
      run_id: see `Writer`.
      warn: called with one line.
    """
    alive = True

    def attempt(act: Callable[[], Any]) -> None:
        nonlocal alive
        if not alive:
            return
        try:
            act()
        except Exception as error:
            alive = False
            warn(f"{name} failed ({first_line(error)}): going on without it")

    return Writer(lambda step, row: attempt(lambda: write(step, row)), lambda: attempt(close), run_id)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def plain(value: Any) -> Any:
    """A value as Python's own types: arrays become numbers or lists.

    Raises:
      TypeError: it is nothing that JSON has a form for.
    """
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        array = np.asarray(value)
        if array.dtype.kind in "biufV":  # V: bfloat16 and its like
            return (array if array.dtype.kind != "V" else array.astype(np.float32)).tolist()
    raise TypeError(f"a {type(value).__name__} cannot be logged")


_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _to_strict(value: Any) -> Any:
    """JSON has no NaN: non-finite numbers are written as the strings that `float` reads."""
    if isinstance(value, dict):
        return {name: _to_strict(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_to_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _from_strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _from_strict(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_from_strict(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def jsonl_writer(path: str | os.PathLike, *, resume_step: int | None = None) -> Writer:
    """A writer of JSON lines: one object a row, `{"step": 10, "loss": 0.5, ...}`, strict JSON.

    Every row is handed to the operating system, whole, before `write` returns: killing the process
    loses none. NaN and infinities, which JSON does not have, are the strings "NaN", "Infinity" and
    "-Infinity"; `read_jsonl` turns them back.

    Args:
      path: the file; its directory must exist.
      resume_step: None for a new file. On resume, the first step that will be written again: rows of
        this step and later ones are dropped, and a last line that a killed process left torn; the file is
        replaced by the rest in one rename.

    Raises:
      MetricsError: here, the file exists and `resume_step` is None, or it is damaged; here and in
        `write`, the file cannot be written (disk full); the rows written before stay as they were.
    """
    path, count = Path(path), 0
    try:
        if resume_step is not None and path.exists():
            count = _rewind(path, resume_step)
        elif path.exists() and path.stat().st_size:
            raise MetricsError(f"{path} exists already: resume the run, or choose another directory")
        file = open(path, "ab", buffering=0)
    except (OSError, FileError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MetricsError(f"cannot write metrics to {path}: {reason}") from error

    def write(step: int, row: dict[str, Any]) -> None:
        nonlocal count
        if "step" in row:
            raise MetricsError("a row may not have an entry named step: the step is given apart")
        try:
            values = {str(name): plain(value) for name, value in row.items()}
        except TypeError as error:
            raise MetricsError(f"row of step {step}: {error}") from error
        line = json.dumps(_to_strict({"step": int(step), **values}), allow_nan=False).encode() + b"\n"
        end = os.fstat(file.fileno()).st_size
        try:
            while line:
                line = line[file.write(line) :]
        except OSError as error:
            os.ftruncate(file.fileno(), end)
            raise MetricsError(f"cannot write metrics to {path}: {error.strerror}") from error
        count += 1

    return Writer(write, file.close, rows=lambda: count)


def memory_writer(rows: list[dict[str, Any]]) -> Writer:
    """A writer that appends its rows to a list, each as `read_jsonl` would give it back."""

    def write(step: int, row: dict[str, Any]) -> None:
        rows.append({"step": int(step), **{str(name): plain(value) for name, value in row.items()}})

    return Writer(write, lambda: None, rows=lambda: len(rows))


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows as arrays of equal length, one for each name; rows of the same step become one.

    Args:
      rows: from `read_jsonl`, steps ascending.

    Returns:
      name -> f64[S], NaN at a step whose rows do not have this name; "step" -> i64[S], the last outer step
      that a row describes, counted from 0. Entries that are not numbers are left out.
    """
    merged: dict[int, dict[str, Any]] = {}
    for row in rows:
        merged.setdefault(row["step"], {}).update(row)
    names = dict.fromkeys(name for row in merged.values() for name in row if name != "step")

    def column(name: str) -> np.ndarray:
        return np.array([row.get(name, math.nan) for row in merged.values()], float)

    numbers = [name for name in names if all(map(_is_number, (row.get(name, 0) for row in merged.values())))]
    return {"step": np.array(list(merged), np.int64), **{name: column(name) for name in numbers}}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _lines(path: Path) -> list[tuple[bytes, dict]]:
    """The lines of a file with their rows; a torn last line is left out."""
    *whole, last = read_bytes(path).split(b"\n")
    rows = []
    for number, line in enumerate([*whole, last], 1):
        try:
            row = parse_json(line, "it")
            if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
                raise FileError("it should be a mapping with a step")
            rows.append((line, row))
        except FileError as error:
            if number > len(whole):
                break  # what follows the last newline was never wholly written, or is nothing
            raise MetricsError(
                f"{path}, line {number}, is not a row of metrics: {error}; delete this line to continue "
                "without its numbers"
            ) from error
    return rows


def _rewind(path: Path, step: int) -> int:
    """Drops the rows of this step and of later ones; returns how many are left."""
    before = read_bytes(path)
    kept = [line + b"\n" for line, row in _lines(path) if row["step"] < step]
    if b"".join(kept) != before:
        write_file(path, b"".join(kept))
    return len(kept)


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a file that `jsonl_writer` wrote, in its order, each with its "step".

    A torn last line is left out.

    Raises:
      MetricsError: there is no such file, or a line of it is not a row (the number is named).
    """
    try:
        return [_from_strict(row) for _, row in _lines(Path(path))]
    except FileError as error:
        raise MetricsError(f"cannot read metrics: {error}") from error
