"""A trained optimizer as a small directory: `theta.safetensors`, `config.json`, and a card, `README.md`.

config.json says what the weights mean (format version, architecture, options, the horizon trained
for, every array's path, shape and dtype), where they come from (provenance, the configuration of
the meta-training, the evaluation), and the sha256 of its own content and the weights'. Nothing is ever
unpickled.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from learned_opt.architectures import LEARNED_OPTIMIZERS
from learned_opt.artefact.atomic import is_litter, settled, write_directory
from learned_opt.artefact.card import model_card
from learned_opt.artefact.content import (
    CONFIG,
    FORMAT,
    VERSION,
    WEIGHTS,
    ArtefactError,
    encode,
    is_artefact,
    jsonable,
    read_config,
    refuse_non_finite,
    refuse_sizes,
    sha256,
)
from learned_opt.artefact.reading import FileError, one_line, read_bytes
from learned_opt.base import LearnedOptimizer, Theta

CARD = "README.md"
Architecture = Callable[..., LearnedOptimizer]
# What the Hugging Face Hub leaves next to an artefact that was downloaded.
LEFT_BY_HUB = {".gitattributes", ".cache", ".huggingface"}


class Artefact(NamedTuple):
    """What an artefact holds.

    Attributes:
      lopt: the learned optimizer, built from `name` and `options`.
      theta: its trained meta-parameters, numpy arrays.
      name: the architecture, a key of LEARNED_OPTIMIZERS, or that of a foreign one.
      options: the keyword arguments of its factory.
      horizon: T of the inner trainings that it was trained on: a number, or the shortest and the
        longest; None if not recorded.
      provenance: who made it, when, from what; free-form JSON.
      config: the configuration of its meta-training, or None.
      evaluation: its evaluation table, or None.
      parameters: of the largest model that it was trained or tested on, or None if not recorded.
    """

    lopt: LearnedOptimizer
    theta: Theta
    name: str
    options: dict[str, Any]
    horizon: int | list[int] | None
    provenance: dict[str, Any]
    config: Any
    evaluation: Any
    parameters: int | None = None


def save(
    directory: str | os.PathLike,
    *,
    name: str,
    options: Mapping[str, Any],
    theta: Theta,
    horizon: int | tuple[int, int] | None,
    provenance: Mapping[str, Any],
    config: Any = None,
    evaluation: Any = None,
    parameters: int | None = None,
    architecture: Architecture | None = None,
) -> None:
    """Writes an artefact: completely or not at all.

    Args:
      directory: where. It is made, or replaced, card included, if it is an artefact already (or empty).
      name: the architecture, a key of LEARNED_OPTIMIZERS; or any other name, for a foreign one.
      options: the keyword arguments that its factory was called with.
      theta: meta-parameters of that architecture, all finite.
      horizon: T of the inner trainings it was trained on, or (shortest, longest), or None if unknown.
      provenance: JSON-like, as are `config` and `evaluation`; numpy scalars and tuples are allowed.
        JSON has no NaN and no infinity: they are stored as null.
      config: the configuration of the meta-training.
      evaluation: the evaluation table.
      parameters: of the largest model that it was trained or tested on, or None if unknown.
      architecture: the factory of a foreign one, which whoever loads the artefact has to give as well.

    Raises:
      ArtefactError: theta is not of the architecture, or not finite; the directory holds something else,
        or cannot be written.
    """
    # safetensors writes the memory as it lies: a transposed view would come back scrambled.
    theta = jax.tree.map(lambda x: np.array(x, order="C"), theta)
    lopt = make_optimizer(name, options, architecture)
    fit_theta(lopt, theta, "theta")
    arrays = _by_path(theta)
    refuse_non_finite(arrays, "theta")
    weights = safetensors.numpy.save(arrays)
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSION,
        "architecture": name,
        "options": options,
        "horizon": horizon,
        "theta": {path: {"shape": x.shape, "dtype": x.dtype.name} for path, x in arrays.items()},
        "theta_sha256": sha256(weights),
        "provenance": provenance,
        "config": config,
        "evaluation": evaluation,
    }
    if parameters is not None:
        content["parameters"] = parameters
    content = jsonable(content)
    content["sha256"] = sha256(encode(content))
    what = (architecture_named(name, architecture).__doc__ or name).partition("\n")[0]
    card = model_card(content, lopt, what, foreign=architecture is not None).encode()
    try:
        target = _to_be_written(directory)
        write_directory(target, {WEIGHTS: weights, CONFIG: encode(content), CARD: card})
    except OSError as error:
        raise ArtefactError(f"{directory} cannot be written: {error.strerror or error}") from error


def read_directory(directory: str | os.PathLike, architecture: Architecture | None = None) -> Artefact:
    """Reads an artefact from a local directory, checking all of it.

    Args:
      directory: what `save` wrote.
      architecture: the factory of a foreign architecture, and of no other.

    Returns:
      The artefact; `lopt.build(theta, num_steps)` is the optimizer.

    Raises:
      ArtefactError: a file is missing, damaged, foreign or of a newer format; theta does not fit.
    """
    content, arrays = read_content(directory)
    file = settled(directory) / CONFIG
    if architecture is None:  # whose options are known to be sizes
        refuse_sizes(content["options"], arrays, str(file))
    try:
        lopt = make_optimizer(content["architecture"], content["options"], architecture)
    except ArtefactError as error:
        raise ArtefactError(f"{file}: {error}") from error
    theta = fit_theta(lopt, arrays, str(settled(directory) / WEIGHTS))
    fields = ("options", "horizon", "provenance", "config", "evaluation", "parameters")
    return Artefact(lopt, theta, content["architecture"], **{field: content[field] for field in fields})


def read_content(directory: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of config.json and the arrays by path: all that can be checked without the architecture.

    Raises:
      ArtefactError: a file is missing, damaged, foreign or of a newer format; an array is not finite.
    """
    directory = settled(directory)
    weights_file = directory / WEIGHTS
    try:
        content = read_config(directory / CONFIG)
        weights = read_bytes(weights_file)
    except FileError as error:
        raise ArtefactError(str(error)) from error
    if sha256(weights) != content["theta_sha256"]:
        raise ArtefactError(f"{weights_file} is damaged: its sha256 is not the one that {CONFIG} records")
    try:
        arrays = safetensors.numpy.load(weights)
    except Exception as error:  # besides SafetensorError, KeyError for a type that NumPy lacks
        raise ArtefactError(f"{weights_file} is not a safetensors file: {error}") from error
    kinds = {path: {"shape": list(x.shape), "dtype": x.dtype.name} for path, x in arrays.items()}
    if kinds != content["theta"]:
        raise ArtefactError(f"{weights_file} does not hold the arrays that {CONFIG} records")
    refuse_non_finite(arrays, str(weights_file))
    return content, arrays


def architecture_named(name: str, foreign: Architecture | None = None) -> Architecture:
    """The factory of an architecture. A name that is unknown leads nowhere, but to the `foreign` one.

    Raises:
      ArtefactError: an unknown name without a factory; a factory for a known one.
    """
    shown = one_line(repr(name), 60)
    if name in LEARNED_OPTIMIZERS and foreign is not None:
        raise ArtefactError(f"the architecture {shown} is one of this package: leave `architecture` out")
    if name in LEARNED_OPTIMIZERS:
        return LEARNED_OPTIMIZERS[name]
    if foreign is None:
        known = ", ".join(LEARNED_OPTIMIZERS)
        raise ArtefactError(
            f"unknown architecture {shown}; known: {known}; if it is your own, or of a package that you "
            "trust, give its factory: architecture=FACTORY, or --architecture FILE.py:FACTORY"
        )
    return foreign


def make_optimizer(
    name: str, options: Mapping[str, Any], foreign: Architecture | None = None
) -> LearnedOptimizer:
    """The learned optimizer of an architecture; an unknown name or option is an ArtefactError."""
    factory = architecture_named(name, foreign)
    try:
        lopt = factory(**options)
    except Exception as error:  # the options may be anything
        given = one_line(str(dict(options)))
        raise ArtefactError(f"{name} does not take the options {given}: {error}") from error
    if not isinstance(lopt, LearnedOptimizer):
        raise ArtefactError(
            f"the factory of {name} must return a LearnedOptimizer, got a {type(lopt).__name__}"
        )
    return lopt


def _by_path(theta: Theta) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(theta)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def fit_theta(lopt: LearnedOptimizer, theta: Theta, where: str) -> Theta:
    """`theta` (or its arrays by path) as the tree of `lopt.init`; the first path that differs is refused."""
    try:
        like = jax.eval_shape(lopt.init, jax.random.key(0))
    except Exception as error:  # options that the factory took and that make no network
        raise ArtefactError(f"{where} does not fit: the options make no network ({error})") from error
    expected, got = _by_path(like), _by_path(theta)
    for path in sorted(expected.keys() | got.keys()):
        want, have = (
            f"{x[path].dtype.name}{list(x[path].shape)}" if path in x else "nothing" for x in (expected, got)
        )
        if want != have:
            raise ArtefactError(
                f"{where} does not fit the architecture at {path}: expected {want}, got {have}"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [got[path] for path in expected])


def _to_be_written(directory: str | os.PathLike) -> Path:
    """The directory as an absolute path; refused if it holds anything but an artefact, lest that be lost."""
    directory = Path(os.path.abspath(directory))
    if directory.exists() and not directory.is_dir():
        raise ArtefactError(f"{directory} is not a directory")
    if directory == Path.cwd():
        raise ArtefactError(f"{directory} is the current directory: write the artefact to another one")
    there = {p.name for p in directory.iterdir() if not is_litter(p)} if directory.exists() else set()
    if CONFIG in there and not is_artefact(directory / CONFIG):
        raise ArtefactError(f"{directory} will not be overwritten: {CONFIG} in it is not of an artefact")
    foreign = there - ({WEIGHTS, CONFIG, CARD, *LEFT_BY_HUB} if CONFIG in there else set())
    if foreign:
        raise ArtefactError(
            f"{directory} will not be overwritten: {min(foreign)} in it is not part of an artefact"
        )
    return directory
