"""Opening a trained optimizer by its name: a directory, `pretrained:NAME`, or `hub:user/name`."""

import os
from pathlib import Path

import optax

from learned_opt.artefact.format import CONFIG, Artefact, ArtefactError, read_directory
from learned_opt.artefact.hub import PREFIX, download

PRETRAINED = "pretrained:"


def read(directory: str | os.PathLike) -> Artefact:
    """Reads an artefact, checking all of it.

    Args:
      directory: what `save` wrote, or "hub:user/name[@revision]", on the Hugging Face Hub, or
        "pretrained:NAME", one that comes with this package.

    Returns:
      The artefact; `lopt.build(theta, num_steps)` is the optimizer.

    Raises:
      ArtefactError: a file is missing, damaged, foreign or of a newer format; theta does not fit.
    """
    return read_directory(_local(directory))


def load(
    directory: str | os.PathLike, *, num_steps: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """A trained optimizer as an optax transformation.

    Args:
      directory: an artefact, as `save` or `meta-train export` write it, or "hub:user/name[@revision]",
        one on the Hugging Face Hub, which is downloaded or taken from its cache, or "pretrained:NAME",
        one that comes with this package.
      num_steps: the number of steps of the training to come; not needed by every architecture.

    Returns:
      The transformation, for `optax.chain`, `optax.masked`, jit, vmap, scan. Its `update` wants
      `params`, and `value=loss` if the architecture looks at the loss.

    Raises:
      ArtefactError: see `read`.
      ValueError: the architecture needs `num_steps` and it was not given, or is not positive.
    """
    artefact = read(directory)
    if num_steps is None and "num_steps" in artefact.lopt.needs:
        trained = "" if artefact.horizon is None else f" (it was trained for {_horizon(artefact.horizon)})"
        raise ValueError(
            f"{artefact.name} needs num_steps, the number of steps of the training to come{trained}: "
            "call load(directory, num_steps=...)"
        )
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"num_steps must be >= 1, got {num_steps}")
    return artefact.lopt.build(artefact.theta, num_steps)


def _local(directory: str | os.PathLike) -> Path:
    if isinstance(directory, str) and directory.startswith(PREFIX):
        return download(directory)
    if isinstance(directory, str) and directory.startswith(PRETRAINED):
        return _packaged(directory.removeprefix(PRETRAINED))
    return Path(directory)


def _packaged(name: str) -> Path:
    """The directory of an optimizer that comes with this package, inside the installed package."""
    home = Path(__file__).parents[1] / "pretrained"
    there = sorted(path.parent.name for path in home.glob(f"*/{CONFIG}"))
    if name not in there:
        raise ArtefactError(
            f"{PRETRAINED}{name} is not among the packaged optimizers: {', '.join(there) or 'there are none'}"
        )
    return home / name


def _horizon(horizon: int | list[int]) -> str:
    return f"{horizon} steps" if isinstance(horizon, int) else f"{horizon[0]} to {horizon[-1]} steps"
