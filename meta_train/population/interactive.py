"""Populations from Python: what a notebook calls, with or without files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meta_train.population import config as config_lib
from meta_train.population import lineage
from meta_train.population.config import PopulationConfig
from meta_train.population.pictures import draw_population, figure_of
from meta_train.population.run import PopulationResult, load_config, run_population
from meta_train.run.display import progress_display
from meta_train.run.train import Display


def load_population_config(
    source: str | Path | dict[str, Any], overrides: Iterable[str] = ()
) -> PopulationConfig:
    """The config of a population in a YAML file or a dict, with overrides.

    Args:
      source: path of the file, whose relative paths are relative to it; or what such a file would hold.
      overrides: `key.sub=value`, as for `load_config`.

    Raises:
      ConfigError: with everything that is wrong, one line each.
    """
    return config_lib.load(source, overrides)


def round_words(row: dict) -> dict[str, str]:
    """What the progress bar shows of a row of a population's metrics."""
    return {"fitness": f"best {row['fitness/best']:.4f}  median {row['fitness/median']:.4f}"}


def train_population(
    config: PopulationConfig,
    directory: str | Path | None = None,
    *,
    resume: bool = False,
    display: Display | None = None,
) -> PopulationResult:
    """Trains a population as a config says, in a directory or in memory.

    Args:
      config: what to do, from `load_population_config`.
      directory: of the run; made if it is not there. None for a population in memory, which writes nothing
        and cannot be resumed.
      resume: go on with the population that is there, bit for bit as if it had not stopped.
      display: where progress is shown; None for a bar on a terminal and in a notebook, and a line every 30
        seconds elsewhere; `Display()` for nothing.

    Returns:
      The best member, its weights, every round as a record, and the metrics as arrays.

    Raises:
      ConfigError: before anything is compiled or written.
      RunError: a directory that holds another run; no member with a finite fitness (the round is named).
      Interrupted: a run in a directory was interrupted; the population is saved.
      CheckpointError, MetricsError: a file could not be written.
    """
    directory = None if directory is None else Path(directory)
    if display is not None:
        return run_population(config, directory, resume=resume, display=display)
    with progress_display(config.rounds, unit="round", words=round_words) as shown:
        return run_population(config, directory, resume=resume, display=shown)


def plot_population(run: str | Path | PopulationResult) -> Any:
    """Every member's fitness and hyperparameters over time, and who copied whom, as a matplotlib figure.

    Args:
      run: directory of a population, or what `train_population` returned.

    Raises:
      RunError: not the directory of a population, or no round is finished.
      MetricsError: its lineage is missing or damaged.
    """
    if isinstance(run, PopulationResult):
        config, records = run.config, run.records
    else:
        config, records = load_config(Path(run)), lineage.read(Path(run))
    parts = config_lib.assemble(config)
    figure = figure_of(parts.space)
    draw_population(
        parts.controller,
        parts.space,
        records,
        figure,
        log=[name for name, spec in config.hypers.items() if spec["name"] == "log"],
        copied_weights=config.copied.weights,
    )
    return figure
