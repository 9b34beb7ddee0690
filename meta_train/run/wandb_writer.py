"""Rows to Weights & Biases, in addition to the JSONL file. Nothing that happens here stops a training run."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from meta_train.run.metrics import Writer, first_line, guarded, nothing, plain

_PATIENCE = 20  # seconds for the server to answer, and for the last rows to be sent


def wandb_writer(
    *,
    mode: Literal["online", "offline", "disabled"],
    project: str,
    directory: str | os.PathLike,
    name: str | None = None,
    entity: str | None = None,
    config: dict[str, Any] | None = None,
    run_id: str | None = None,
    warn: Callable[[str], None] = warnings.warn,
    say: Callable[[str], None] = lambda line: None,
) -> Writer:
    """A writer to Weights & Biases.

    Whatever goes wrong there is reported once through `warn`, and training goes on: `online` without
    network or account becomes `offline` within 30 seconds; if that fails too, rows are dropped.
    Resumed with `run_id`, an online run goes on as the same run (W&B ignores rows of steps that it
    has already, which are the same rows); an offline one becomes a second part with the same id,
    which `wandb sync` merges.

    Args:
      mode: "online"; "offline", which needs neither account nor network (`wandb sync` uploads the
        run later); "disabled", which does not even import wandb. It overrides WANDB_MODE.
      project: the W&B project.
      directory: W&B's files go to its subfolder `wandb`, and nowhere else.
      name: the run's name; None lets W&B invent one.
      entity: the W&B user or team; None for the account's default.
      config: shown with the run.
      run_id: of an earlier part of this run (`Writer.run_id`, from the checkpoint); None for a new run.
      warn: called with one line.
      say: called with the address of an online run.

    Returns:
      The writer. Its `run_id` is None when nothing is logged; `close` waits for the upload, at most
      20 seconds.
    """
    if mode == "disabled":
        return nothing()

    def begin(mode: Literal["online", "offline"]) -> Any:
        folder = Path(directory).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        # Its service writes a log there; the default is in the home directory.
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))
        import wandb

        return wandb.init(
            mode=mode,
            project=project,
            name=name,
            entity=entity,
            dir=str(folder),
            config=config,
            id=run_id,
            resume="allow" if run_id else None,
            reinit="create_new",  # never the run that the calling program may have open
            settings=_settings(wandb),
        )

    try:
        run = begin(mode)
        if mode == "online":
            say(f"Weights & Biases: {run.url}")
        return _writer(run, warn)
    except Exception as error:
        reason = first_line(error)
    if mode == "offline":
        warn(f"Weights & Biases cannot start ({reason}): going on without it")
        return nothing()
    try:
        writer = _writer(begin("offline"), warn)
    except Exception:
        warn(f"Weights & Biases cannot be reached ({reason}): going on without it")
        return nothing()
    warn(
        f"Weights & Biases cannot be reached ({reason}): going on offline, `wandb sync` uploads the run later"
    )
    return writer


def _writer(run: Any, warn: Callable[[str], None]) -> Writer:
    write = lambda step, row: run.log(plain(row), step=int(step))  # noqa: E731
    return guarded("Weights & Biases", write, run.finish, run.id, warn=warn)


def _settings(wandb: Any) -> Any:
    return wandb.Settings(
        init_timeout=_PATIENCE,
        login_timeout=_PATIENCE,
        finish_timeout=_PATIENCE,
        console="off",  # it would take stdout from the progress bar
        silent=True,  # and without it, two waits for the server instead of one
    )
