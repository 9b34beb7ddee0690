"""Runs from Python: what a notebook calls, with or without files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meta_train.config.load import RunConfig
from meta_train.errors import MetricsError, RunError
from meta_train.run import train as train_lib
from meta_train.run.directory import CONFIG, METRICS
from meta_train.run.display import progress_display
from meta_train.run.metrics import columns, read_jsonl
from meta_train.run.plots import draw_runs
from meta_train.run.train import Display, Result

Run = str | Path | Result


def train(
    config: RunConfig,
    directory: str | Path | None = None,
    *,
    resume: bool = False,
    display: Display | None = None,
    profile: str | Path | None = None,
) -> Result:
    """Meta-trains as a config says, in a directory or in memory.

    Args:
      config: what to do, from `load_config`.
      directory: of the run: its config, checkpoints and metrics. Made if it is not there. None for a run in
        memory, which writes nothing and cannot be resumed.
      resume: go on with the run that is there, bit for bit as if it had not stopped.
      display: where progress is shown; None for a bar on a terminal and in a notebook, and a line every 30
        seconds elsewhere; `Display()` for nothing.
      profile: where to write a JAX trace of the second to fourth call of the outer step; None for none.

    Returns:
      The meta-parameters, the best ones by held-out score, and the metrics as arrays. A run in memory that
      is interrupted (Ctrl-C, the stop button of a notebook) returns what it has.

    Raises:
      ConfigError: before anything is compiled or written.
      RunError: a directory that holds another run, or training that cannot go on.
      Interrupted: a run in a directory was interrupted; its state is saved.
      CheckpointError, MetricsError: the disk refused; the last good checkpoint can be restored.
    """
    options: dict[str, Any] = {"resume": resume, "profile": None if profile is None else Path(profile)}
    directory = None if directory is None else Path(directory)
    if display is not None:
        return train_lib.run(config, directory, display=display, **options)
    with progress_display(config.outer_steps) as shown:
        return train_lib.run(config, directory, display=shown, **options)


def load_metrics(directory: str | Path) -> dict[str, np.ndarray]:
    """The metrics of a run or of a population as arrays, also while it runs.

    Args:
      directory: of the run.

    Returns:
      name -> f64[S], one entry for each step that has a row, NaN where its rows do not have this name; "step"
      -> i64[S], the last outer step (of a population, the round) that a row describes, counted from 0.
      `pandas.DataFrame` takes it as it is.

    Raises:
      RunError: not the directory of a run.
      MetricsError: nothing was logged yet, or the file is damaged.
    """
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise RunError(f"{directory} is not the directory of a run: there is no {CONFIG} in it")
    if not (directory / METRICS).exists():
        raise MetricsError(f"{directory} has no metrics yet: there is no {METRICS} in it")
    return columns(read_jsonl(directory / METRICS))


def plot(*runs: Run, labels: Sequence[str] | None = None, inner_steps: bool = False) -> Any:
    """Meta-losses, signal-to-noise ratios and held-out scores of runs, as a matplotlib figure.

    Args:
      *runs: directories of runs, or what `train` returned; one or more.
      labels: one for each run; None for the names of the directories, and of runs in memory "run 1", ...
      inner_steps: draw over inner steps, which cost alike whatever the estimator, not over outer steps.

    Returns:
      The figure; a notebook draws it, `figure.savefig(file)` writes it.

    Raises:
      RunError: no run, not the directory of a run, labels of another number.
      MetricsError: nothing was logged yet, or a file is damaged.
    """
    if not runs:
        raise RunError("plot needs at least one run, got none")
    if labels is not None and len(labels) != len(runs):
        raise RunError(f"labels must be as many as runs ({len(runs)}), got {len(labels)}")
    names = list(labels or (_name(run, i) for i, run in enumerate(runs, 1)))
    if len(set(names)) < len(names):  # "a/run" and "b/run" are distinguished
        names = [str(_directory(run) or name) for run, name in zip(runs, names, strict=True)]
    names = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]
    metrics = [run.metrics if isinstance(run, Result) else load_metrics(run) for run in runs]
    return draw_runs(dict(zip(names, metrics, strict=True)), inner_steps=inner_steps)


def _directory(run: Run) -> Path | None:
    return run.directory if isinstance(run, Result) else Path(run)


def _name(run: Run, number: int) -> str:
    directory = _directory(run)
    return f"run {number}" if directory is None else directory.resolve().name
