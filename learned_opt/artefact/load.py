"""Opening a trained optimizer by its name: a directory, `pretrained:NAME`, or `hub:user/name`."""

import difflib
import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import optax

from learned_opt.architectures.options import check_num_steps
from learned_opt.artefact.format import (
    CONFIG,
    Architecture,
    Artefact,
    ArtefactError,
    architecture_named,
    make_optimizer,
    read_directory,
)
from learned_opt.artefact.hub import PREFIX, download
from learned_opt.artefact.limits import warn_of_horizon, warning_of_size

Schedule = Callable[[Any], Any]

PRETRAINED = "pretrained:"


def read(directory: str | os.PathLike, *, architecture: Architecture | None = None) -> Artefact:
    """Reads an artefact, checking all of it.

    Args:
      directory: what `save` wrote, or "hub:user/name[@revision]", on the Hugging Face Hub, or
        "pretrained:NAME", one that comes with this package.
      architecture: the factory of an architecture that is not of this package, and only of such a one. It is
        called with the artefact's options. What an artefact calls its architecture is never looked up: code
        runs only where it is given here.

    Returns:
      The artefact; `lopt.build(theta, num_steps)` is the optimizer.

    Raises:
      ArtefactError: a file is missing, damaged, foreign or of a newer format; theta does not fit.
    """
    return read_directory(_local(directory), architecture)


def load(
    directory: str | os.PathLike,
    *,
    num_steps: int | None = None,
    learning_rate: float = 1.0,
    weight_decay: float | None = None,
    schedule: Schedule | Literal["learned"] | None = "learned",
    architecture: Architecture | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A trained optimizer as an optax transformation.

    Args:
      directory: an artefact, as `save` or `meta-train export` write it, or "hub:user/name[@revision]",
        one on the Hugging Face Hub, which is downloaded or taken from its cache, or "pretrained:NAME",
        one that comes with this package.
      num_steps: the number of steps of the training to come; not needed by every architecture.
      learning_rate: relative to what was learned: every step, weight decay included, is multiplied by it.
      weight_decay: in place of the artefact's own, for architectures with such an option; >= 0.
      schedule: "learned"; or one of your own, `(count) -> factor on the artefact's learning rate`, as optax
        makes them (`optax.cosine_decay_schedule(1.0, 10_000)`); or None for a constant rate. The last two are
        for architectures whose schedule can be left out (`spectral`), which then do not need `num_steps`.
      architecture: the factory of an architecture that is not of this package, see `read`.

    Returns:
      The transformation, for `optax.chain`, `optax.masked`, jit, vmap, scan. Its `update` wants
      `params`, and `value=loss` if the architecture looks at the loss. A step whose gradients are not finite
      is skipped: its updates are zero and the state stays as it was.

    Raises:
      ArtefactError: see `read`.
      ValueError: the architecture needs `num_steps` and it was not given, or it is not a whole number >= 1;
        or it has no such weight decay or schedule.

    Warns:
      UserWarning: `num_steps`, or (when `init` sees them) the number of parameters, is far outside what the
        optimizer was trained and tested on. Once for each artefact in a process.
    """
    artefact = _with_options(read(directory, architecture=architecture), weight_decay, schedule, architecture)
    if num_steps is None and "num_steps" in artefact.lopt.needs:
        trained = "" if artefact.horizon is None else f" (it was trained for {_horizon(artefact.horizon)})"
        raise ValueError(
            f"{artefact.name} needs num_steps, the number of steps of the training to come{trained}: "
            "pass num_steps=..."
        )
    check_num_steps(num_steps)
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        raise ValueError(f"learning_rate must be > 0, a factor on what was learned, got {learning_rate}")
    if "num_steps" in artefact.lopt.needs:
        warn_of_horizon(str(directory), artefact.horizon, num_steps)
    tx = artefact.lopt.build(artefact.theta, num_steps)
    tx = warning_of_size(tx, str(directory), artefact.parameters)
    if callable(schedule):
        tx = optax.chain(tx, optax.scale_by_schedule(lambda count: learning_rate * schedule(count)))
    elif learning_rate != 1:
        tx = optax.chain(tx, optax.scale(learning_rate))
    return optax.with_extra_args_support(tx)


def _with_options(
    artefact: Artefact,
    weight_decay: float | None,
    schedule: Schedule | str | None,
    foreign: Architecture | None,
) -> Artefact:
    """The artefact with other options in place of its own; what its architecture does not have is refused."""
    asked: dict[str, Any] = {}
    if weight_decay is not None:
        if not (weight_decay >= 0 and math.isfinite(weight_decay)):
            raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
        asked["weight_decay"] = weight_decay
    if schedule is None or callable(schedule):
        asked["schedule"] = "constant"
    elif schedule != "learned":
        raise ValueError(f"schedule must be 'learned', None or a function of the count, got {schedule!r}")
    known = inspect.signature(architecture_named(artefact.name, foreign)).parameters
    for option in asked:
        if option not in known:
            raise ValueError(f"{artefact.name} has no {option} of its own that could be replaced")
    if not asked:
        return artefact
    options = {**artefact.options, **asked}
    return artefact._replace(lopt=make_optimizer(artefact.name, options, foreign), options=options)


def _local(directory: str | os.PathLike) -> Path:
    if isinstance(directory, str) and directory.startswith(PREFIX):
        return download(directory)
    if isinstance(directory, str) and directory.startswith(PRETRAINED):
        return _packaged(directory.removeprefix(PRETRAINED))
    if not Path(directory).exists() and (meant := packaged_like(directory)):
        raise ArtefactError(f"there is no directory {directory}{meant}")
    return Path(directory)


def _packaged(name: str) -> Path:
    """The directory of an optimizer that comes with this package, inside the installed package."""
    there = _names()
    if name not in there:
        raise ArtefactError(
            f"{PRETRAINED}{name} is not among the packaged optimizers: {', '.join(there) or 'there are none'}"
        )
    return _HOME / name


_HOME = Path(__file__).parents[1] / "pretrained"


def _names() -> list[str]:
    return sorted(path.parent.name for path in _HOME.glob(f"*/{CONFIG}"))


def packaged_like(text: str | os.PathLike) -> str:
    """How a message about a path that does not exist ends: with the packaged optimizer of a similar name."""
    close = difflib.get_close_matches(os.fspath(text), _names(), n=1, cutoff=0.75)
    return f"; did you mean {PRETRAINED}{close[0]}?" if close else ""


def _horizon(horizon: int | list[int]) -> str:
    return f"{horizon} steps" if isinstance(horizon, int) else f"{horizon[0]} to {horizon[-1]} steps"
