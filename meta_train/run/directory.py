"""The directory of a run: what lies where, who may write there, and how a trained theta comes back.

config.yaml      the resolved config
sources/         those of what it names from outside of this project, see `meta_train.run.provenance`
checkpoints/     the whole outer state, newest few
best/            theta of the best held-out score
metrics.jsonl    one row a line
.lock            locked by the process that writes, and never removed
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from learned_opt.artefact.atomic import Busy, is_litter, locked, write_file
from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.config import file as config_file
from meta_train.config import load as config_lib
from meta_train.config.load import RunConfig
from meta_train.config.places import portable
from meta_train.config.registry import as_json
from meta_train.errors import CheckpointError, RunError, first_difference, show
from meta_train.parallel import hosts
from meta_train.run.experiment import Experiment, assemble
from meta_train.run.provenance import SOURCES, record, refuse_changed_sources

CONFIG, METRICS, CHECKPOINTS, BEST, LOCK = "config.yaml", "metrics.jsonl", "checkpoints", "best", ".lock"
# What may differ when a run is resumed: it does not change what is computed.
FREE = ("checkpoint", "logging", "mesh", "runtime")


def prepare(directory: Path, config: RunConfig, resume: bool, held: contextlib.ExitStack) -> Path:
    """Makes the directory of a new run, or checks that it holds this one; locks it until `held` is closed.

    Raises:
      RunError: a run is there and `resume` is false, or the one there was made by another config; another
        process is writing there; the directory holds something else, or cannot be written.
    """
    return prepare_as(
        directory,
        config_lib.resolved(config),
        lambda file: config_lib.resolved(load_config(file.parent)),
        resume,
        held,
    )


def prepare_as(
    directory: Path,
    resolved: dict[str, Any],
    read: Callable[[Path], dict[str, Any]],
    resume: bool,
    held: contextlib.ExitStack,
) -> Path:
    """`prepare` for any kind of config: `resolved` as plain values, and how such a file is read back."""
    directory = Path(directory)
    file = directory / CONFIG
    try:
        if not file.exists() and directory.exists() and not all(map(_is_left_over, directory.iterdir())):
            raise RunError(f"{directory} is not empty and holds no run: choose another directory with --out")
        if hosts.is_first():
            directory.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(directory / LOCK))
        if not file.exists():
            record(directory, resolved)
            write_file(file, config_file.dump(resolved))
            return directory
    except Busy as holder:
        raise RunError(
            f"{directory} is in use by {str(holder) or 'another process'}: wait until that run has ended, or "
            "choose another directory with --out"
        ) from holder
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error.strerror}") from error
    if not resume:
        raise RunError(f"{directory} holds a run already: --resume goes on with it, --out starts another")
    _refuse_other(read(file), resolved, directory)
    return directory


def _is_left_over(path: Path) -> bool:
    """Whether a run that was killed before it had a config left this (earlier versions: `config.tmp`)."""
    return path.name in (LOCK, SOURCES, "config.tmp") or is_litter(path)


def _refuse_other(there: dict, here: dict, directory: Path) -> None:
    found = difference(there, here)
    if found:
        path, old, new = found
        raise RunError(f"{directory} holds a run with another config: {path} is {old} there, {new} here")


def difference(there: dict, here: dict) -> tuple[str, str, str] | None:
    """The first key whose value differs, and both values.

    Keys that a resumed run may change do not count, nor does where a file lies whose factory is named: its
    content is compared by `refuse_changed_sources`.
    """
    old, new = (portable({k: v for k, v in one.items() if k not in FREE}) for one in (there, here))
    if old == new:
        return None
    path, a, b = first_difference(old, new)
    return path, show(a), show(b)


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
      RunError: not the directory of a run, or the source of something that its config names has changed.
      ConfigError: its config is not one that this version can read.
    """
    if not (Path(directory) / CONFIG).is_file():
        raise RunError(f"{directory} is not the directory of a run: there is no {CONFIG} in it")
    refuse_changed_sources(Path(directory), Path(directory) / CONFIG)
    return config_lib.load(Path(directory) / CONFIG)


def settings_of(directory: Path) -> dict[str, Any]:
    """The content of config.yaml as it stands there, without what a resumed run may change.

    Every checkpoint holds it, so that a later change of the file does not go unnoticed, whatever the version
    of this project that reads it.
    """
    raw = json.loads(as_json(config_file.read(Path(directory) / CONFIG)))
    return {key: value for key, value in raw.items() if key not in FREE}


def refuse_changed(directory: Path, step: int, meta: dict, warn: Callable[[str], None]) -> None:
    """Refuses a config.yaml that is not the one that a checkpoint was made with.

    Earlier versions recorded a digest of the whole config, with what a resumed run may change: where it does
    not match, a warning is all that can be said.

    Raises:
      RunError: the first key whose value differs is named.
    """
    file = Path(directory) / CONFIG
    if "settings" in meta:
        found = difference(meta["settings"], settings_of(directory))
        if found:
            path, then, now = found
            raise RunError(
                f"{file} was changed after the run began: {path} is {now}, but checkpoint {step} was made "
                f"with {then}; change it back"
            )
    elif "config" in meta:
        raw = json.loads(as_json(config_file.read(file)))
        if hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest() != meta["config"]:
            warn(
                f"{file} differs from the config of checkpoint {step}: it was changed, or the run was resumed"
            )


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
      RunError: not a run, nothing saved yet, or config.yaml was changed since.
      CheckpointError: all checkpoints are damaged.
    """
    directory = Path(directory)
    config = load_config(directory)
    config = config.model_copy(update={"mesh": type(config.mesh)(particles=1)})
    # What theta began with is no longer needed, and may be gone.
    experiment = assemble(config.model_copy(update={"init_from": None}))._replace(config=config)
    checkpoints, best = open_checkpoints(directory, config.checkpoint.max_to_keep, warn)
    state = jax.eval_shape(experiment.outer.init, jax.random.key(0))
    with checkpoints, best:
        try:
            restored = None if last else best.restore({"theta": state.theta})
        except CheckpointError as error:
            warn(f"{error}: the newest checkpoint is taken instead of the best one")
            restored = None
        which = "best" if restored is not None else "last"
        restored = restored or checkpoints.restore(state)
    if restored is None:
        raise RunError(f"{directory} has no checkpoint yet")
    refuse_changed(directory, restored.step, restored.meta, warn)
    theta = restored.state["theta"] if which == "best" else restored.state.theta_ema
    return Trained(experiment, theta, restored.step, which, restored.meta.get("score"))
