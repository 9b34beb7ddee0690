"""The directory of a run: what lies where, who may write there, and how a trained theta comes back.

config.yaml      the resolved config
checkpoints/     the whole outer state, newest few
best/            theta of the best held-out score
metrics.jsonl    one row a line
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.config import file as config_file
from meta_train.config import load as config_lib
from meta_train.config.load import RunConfig
from meta_train.errors import RunError
from meta_train.run.experiment import Experiment, assemble

CONFIG, METRICS, CHECKPOINTS, BEST = "config.yaml", "metrics.jsonl", "checkpoints", "best"
# What may differ when a run is resumed: it does not change what is computed.
FREE = ("checkpoint", "logging", "mesh", "runtime")


def prepare(directory: Path, config: RunConfig, resume: bool) -> Path:
    """Makes the directory of a new run, or checks that it holds this one.

    Raises:
      RunError: a run is there and `resume` is false, or the one there was made by another config.
    """
    return prepare_as(
        directory,
        config_lib.resolved(config),
        lambda file: config_lib.resolved(config_lib.load(file)),
        resume,
    )


def prepare_as(
    directory: Path, resolved: dict[str, Any], read: Callable[[Path], dict[str, Any]], resume: bool
) -> Path:
    """`prepare` for any kind of config: `resolved` as plain values, and how such a file is read back."""
    directory = Path(directory)
    file = directory / CONFIG
    if file.exists():
        if not resume:
            raise RunError(f"{directory} holds a run already: --resume goes on with it, --out starts another")
        _refuse_other(read(file), resolved, directory)
        return directory
    if directory.exists() and any(directory.iterdir()):
        raise RunError(f"{directory} is not empty and holds no run: choose another directory with --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".tmp")
        draft.write_text(config_file.dump(resolved), encoding="utf-8")
        os.replace(draft, file)
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error.strerror}") from error
    return directory


def _refuse_other(there: dict, here: dict, directory: Path) -> None:
    for key in sorted(there.keys() | here.keys()):
        if key not in FREE and there.get(key) != here.get(key):
            path, old, new = _first_difference(key, there.get(key), here.get(key))
            raise RunError(f"{directory} holds a run with another config: {path} is {old} there, {new} here")


def _first_difference(path: str, a: Any, b: Any) -> tuple[str, Any, Any]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                return _first_difference(f"{path}.{key}", a.get(key), b.get(key))
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        i = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        return _first_difference(f"{path}.{i}", a[i], b[i])
    return path, a, b


def open_checkpoints(
    directory: Path, max_to_keep: int, warn: Callable[[str], None]
) -> tuple[Checkpoints, Checkpoints]:
    """The run's checkpoints, and that of the best theta."""
    return (
        Checkpoints(directory / CHECKPOINTS, max_to_keep=max_to_keep, warn=warn),
        Checkpoints(directory / BEST, max_to_keep=1, warn=warn),
    )


def load_config(directory: Path) -> RunConfig:
    """The config of a run.

    Raises:
      RunError: not the directory of a run.
      ConfigError: its config is not one that this version can read.
    """
    if not (Path(directory) / CONFIG).is_file():
        raise RunError(f"{directory} is not the directory of a run: there is no {CONFIG} in it")
    return config_lib.load(Path(directory) / CONFIG)


class Trained(NamedTuple):
    """What a run has learned so far.

    Attributes:
      experiment: the run's objects, on one device.
      theta: meta-parameters.
      outer_step: that they are of.
      which: "best" (held-out score) or "last" (moving average at the newest checkpoint).
      score: the held-out score, where it is the best.
    """

    experiment: Experiment
    theta: Any
    outer_step: int
    which: str
    score: float | None


def load_trained(directory: Path, warn: Callable[[str], None], *, last: bool = False) -> Trained:
    """The best theta of a run by held-out score; the last one if there was no evaluation, or if `last`.

    Raises:
      RunError: not a run, or nothing saved yet.
      CheckpointError: what is there is damaged.
    """
    directory = Path(directory)
    config = load_config(directory)
    config = config.model_copy(update={"mesh": type(config.mesh)(particles=1)})
    # What theta began with is no longer needed, and may be gone.
    experiment = assemble(config.model_copy(update={"init_from": None}))._replace(config=config)
    checkpoints, best = open_checkpoints(directory, config.checkpoint.max_to_keep, warn)
    state = jax.eval_shape(experiment.outer.init, jax.random.key(0))
    with checkpoints, best:
        restored = None if last else best.restore({"theta": state.theta})
        if restored is not None:
            return Trained(experiment, restored.state["theta"], restored.step, "best", restored.meta["score"])
        restored = checkpoints.restore(state)
    if restored is None:
        raise RunError(f"{directory} has no checkpoint yet")
    return Trained(experiment, restored.state.theta_ema, restored.step, "last", None)
