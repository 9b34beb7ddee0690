"""Rows to dashboards in addition to metrics.jsonl, as the `logging` section of a config asks.

A logger is a `metrics.Writer`. Whatever goes wrong in one while a run trains is reported once, and the run
goes on without it; metrics.jsonl stays the record of truth. A new one is one function here, one line in
`open_all`, and its options in `meta_train.config.schema`.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meta_train.config import file as config_file
from meta_train.errors import ConfigError, Problem
from meta_train.run.metrics import Writer, first_line, guarded, plain
from meta_train.run.wandb_writer import wandb_writer

PACKAGES = {"tensorboard": "tensorboardX", "trackio": "trackio"}  # logger -> the module that it needs


def check(options: Any, directory: Path | None) -> None:
    """Refuses loggers that cannot work, before anything is compiled.

    Args:
      options: the `logging` section of a config.
      directory: of the run; None for a run in memory.

    Raises:
      ConfigError: a package is not installed, or a run in memory is to be logged.
    """
    enabled = {name: getattr(options, name).enabled for name in PACKAGES}
    problems = []
    for name, package in PACKAGES.items():
        if enabled[name] and importlib.util.find_spec(package) is None:
            message = f"needs the package {package}: pip install 'learned-opt[{name}]'"
            problems.append(Problem(f"logging.{name}.enabled", message))
    if directory is None:
        message = "must be false for a run in memory, which writes no files"
        problems += [Problem(f"logging.{name}.enabled", message, True) for name in PACKAGES if enabled[name]]
        if (mode := options.wandb.mode) != "disabled":
            message = "must be disabled for a run in memory, which writes no files"
            problems.append(Problem("logging.wandb.mode", message, mode))
    if problems:
        raise ConfigError(problems)


def open_all(
    options: Any,
    directory: Path,
    *,
    config: dict[str, Any],
    resume_step: int | None,
    wandb_id: str | None,
    warn: Callable[[str], None],
    say: Callable[[str], None],
) -> list[Writer]:
    """The writers of all loggers that a config enables.

    Args:
      options: the `logging` section of the config; the keys of each part are the writer's options.
      directory: of the run.
      config: shown with the run.
      resume_step: the first step that will be written again; None for a new run.
      wandb_id: of an earlier part of this run (`Writer.run_id`); None for a new run.
      warn: called with one line for what goes wrong.
      say: called with where the rows can be looked at.
    """
    common = {"directory": directory, "config": config, "warn": warn, "say": say}
    found = [wandb_writer(**options.wandb.model_dump(), run_id=wandb_id, **common)]
    for name, writer in {"tensorboard": tensorboard_writer, "trackio": trackio_writer}.items():
        part = getattr(options, name).model_dump()
        if part.pop("enabled"):
            try:
                found.append(writer(**part, resume_step=resume_step, **common))
            except Exception as error:
                warn(f"{name} cannot start ({first_line(error)}): going on without it")
    return found


def tensorboard_writer(
    *,
    directory: Path,
    config: dict[str, Any],
    resume_step: int | None,
    warn: Callable[[str], None],
    say: Callable[[str], None],
) -> Writer:
    """A writer of TensorBoard's event files, in the subfolder `tensorboard` of the run.

    Each session writes a file of its own. Of a resumed run, TensorBoard leaves out the rows of earlier
    sessions that are written again. The arguments are those of `open_all`.
    """
    from tensorboardX import SummaryWriter

    folder = Path(directory) / "tensorboard"
    events = SummaryWriter(str(folder), purge_step=resume_step)
    if resume_step is None:
        events.add_text("config", f"```yaml\n{config_file.dump(config)}```", 0)
    say(f"TensorBoard: tensorboard --logdir {folder}")

    def write(step: int, row: dict[str, Any]) -> None:
        for name, value in plain(row).items():
            if isinstance(value, int | float):
                events.add_scalar(name, value, int(step))
        events.flush()

    return guarded("TensorBoard", write, events.close, warn=warn)


def trackio_writer(
    *,
    project: str,
    name: str | None,
    space_id: str | None,
    directory: Path,
    config: dict[str, Any],
    resume_step: int | None,
    warn: Callable[[str], None],
    say: Callable[[str], None],
) -> Writer:
    """A writer to trackio, which keeps all runs of a project in one local database (`trackio show`).

    Args:
      project: of trackio.
      name: of the run; None for the name of its directory. A resumed run goes on under the same name.
      space_id: a Hugging Face Space to log to, "user/name"; None for the local database.
      directory: of the run.
      config: see `open_all`, as the rest.
      resume_step: where a run is resumed.
      warn: called with one line for what goes wrong.
      say: called with how to look at the project.
    """
    import trackio  # type: ignore[import-not-found]  # nothing else here needs it

    with contextlib.redirect_stdout(io.StringIO()):  # its greeting would tear the progress bar
        run = trackio.init(
            project=project,
            name=name or Path(directory).resolve().name,
            space_id=space_id,
            config=config,
            resume="never" if resume_step is None else "allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
    say(f"trackio: trackio show --project {project}")

    def close() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            run.finish()

    return guarded("trackio", lambda step, row: run.log(plain(row), step=int(step)), close, warn=warn)
