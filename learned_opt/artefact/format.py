"""A trained optimizer as a small directory: `theta.safetensors`, `config.json`, and a card, `README.md`.

config.json says what the weights mean (format version, architecture, options, the horizon trained
for, every array's path, shape and dtype), where they come from (provenance, the configuration of
the meta-training, the evaluation), and the sha256 of its own content and the weights'. Nothing is ever
unpickled.
"""

import hashlib
import json
import math
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
from learned_opt.artefact.reading import FileError, one_line, read_bytes, read_json
from learned_opt.base import LearnedOptimizer, Theta

FORMAT = "learned-opt artefact"
VERSION = 1
WEIGHTS, CONFIG, CARD = "theta.safetensors", "config.json", "README.md"
# What the Hugging Face Hub leaves beside an artefact that was downloaded.
LEFT_BY_HUB = {".gitattributes", ".cache", ".huggingface"}


class ArtefactError(FileError):
    """A directory is not an artefact, or is damaged, or does not fit the architecture it names. One line."""


class Artefact(NamedTuple):
    """What an artefact holds.

    Attributes:
      lopt: the learned optimizer, built from `name` and `options`.
      theta: its trained meta-parameters, numpy arrays.
      name: the architecture, a key of LEARNED_OPTIMIZERS.
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
) -> None:
    """Writes an artefact: completely or not at all.

    Args:
      directory: where. It is made, or replaced, card included, if it is an artefact already (or empty).
      name: the architecture, a key of LEARNED_OPTIMIZERS.
      options: the keyword arguments that its factory was called with.
      theta: meta-parameters of that architecture, all finite.
      horizon: T of the inner trainings it was trained on, or (shortest, longest), or None if unknown.
      provenance: JSON-like, as are `config` and `evaluation`; numpy scalars and tuples are allowed.
        JSON has no NaN and no infinity: they are stored as null.
      config: the configuration of the meta-training.
      evaluation: the evaluation table.
      parameters: of the largest model that it was trained or tested on, or None if unknown.

    Raises:
      ArtefactError: theta is not of the architecture, or not finite; the directory holds something else,
        or cannot be written.
    """
    # safetensors writes the memory as it lies: a transposed view would come back scrambled.
    theta = jax.tree.map(lambda x: np.array(x, order="C"), theta)
    lopt = make_optimizer(name, options)
    fit_theta(lopt, theta, "theta")
    arrays = _by_path(theta)
    _refuse_non_finite(arrays, "theta")
    weights = safetensors.numpy.save(arrays)
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSION,
        "architecture": name,
        "options": options,
        "horizon": horizon,
        "theta": {path: {"shape": x.shape, "dtype": x.dtype.name} for path, x in arrays.items()},
        "theta_sha256": _sha256(weights),
        "provenance": provenance,
        "config": config,
        "evaluation": evaluation,
    }
    if parameters is not None:
        content["parameters"] = parameters
    content = _jsonable(content)
    content["sha256"] = _sha256(_encode(content))
    what = (architecture_named(name).__doc__ or name).partition("\n")[0]
    card = model_card(content, lopt, what).encode()
    try:
        target = _to_be_written(directory)
        write_directory(target, {WEIGHTS: weights, CONFIG: _encode(content), CARD: card})
    except OSError as error:
        raise ArtefactError(f"{directory} cannot be written: {error.strerror or error}") from error


def read_directory(directory: str | os.PathLike) -> Artefact:
    """Reads an artefact from a local directory, checking all of it.

    Args:
      directory: what `save` wrote.

    Returns:
      The artefact; `lopt.build(theta, num_steps)` is the optimizer.

    Raises:
      ArtefactError: a file is missing, damaged, foreign or of a newer format; theta does not fit.
    """
    directory = settled(directory)
    weights_file = directory / WEIGHTS
    try:
        content = _read_config(directory / CONFIG)
        weights = read_bytes(weights_file)
    except FileError as error:
        raise ArtefactError(str(error)) from error
    if _sha256(weights) != content["theta_sha256"]:
        raise ArtefactError(f"{weights_file} is damaged: its sha256 is not the one that {CONFIG} records")
    try:
        arrays = safetensors.numpy.load(weights)
    except Exception as error:  # besides SafetensorError, KeyError for a type that NumPy lacks
        raise ArtefactError(f"{weights_file} is not a safetensors file: {error}") from error
    kinds = {path: {"shape": list(x.shape), "dtype": x.dtype.name} for path, x in arrays.items()}
    if kinds != content["theta"]:
        raise ArtefactError(f"{weights_file} does not hold the arrays that {CONFIG} records")
    _refuse_non_finite(arrays, str(weights_file))
    _refuse_sizes(content["options"], arrays, str(directory / CONFIG))
    lopt = make_optimizer(content["architecture"], content["options"])
    theta = fit_theta(lopt, arrays, str(weights_file))
    fields = ("options", "horizon", "provenance", "config", "evaluation")
    known = {field: content[field] for field in fields} | {"parameters": content.get("parameters")}
    return Artefact(lopt, theta, content["architecture"], **known)


def _refuse_non_finite(arrays: Mapping[str, np.ndarray], where: str) -> None:
    for path, array in arrays.items():
        if not np.isfinite(array).all():
            raise ArtefactError(f"{where} is not finite at {path}")


def _refuse_sizes(options: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Refuses widths and depths that the weights do not have, before a network of them is traced."""
    widest = max(1000, sum(array.size for array in arrays.values()))
    deepest = max(100, len(arrays))
    for name, value in options.items():
        most = deepest if name.startswith("num_") else widest
        if name != "fused_from" and isinstance(value, int) and value > most:
            raise ArtefactError(f"{where}: option {name} is {value}, the weights allow at most {most}")


def architecture_named(name: str) -> Callable[..., LearnedOptimizer]:
    """The factory of an architecture; an unknown name is an ArtefactError."""
    if name not in LEARNED_OPTIMIZERS:
        known = ", ".join(LEARNED_OPTIMIZERS)
        raise ArtefactError(f"unknown architecture {one_line(repr(name), 60)}; known: {known}")
    return LEARNED_OPTIMIZERS[name]


def make_optimizer(name: str, options: Mapping[str, Any]) -> LearnedOptimizer:
    """The learned optimizer of an architecture; an unknown name or option is an ArtefactError."""
    factory = architecture_named(name)
    try:
        return factory(**options)
    except Exception as error:  # the options may be anything
        given = one_line(str(dict(options)))
        raise ArtefactError(f"{name} does not take the options {given}: {error}") from error


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


# The fields of config.json, and whether a value is one; `theta` is compared with the weights.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda x: isinstance(x, str),
    "options": lambda x: isinstance(x, dict),
    "horizon": lambda x: x is None or _are_lengths(x if isinstance(x, list) else [x, x]),
    "theta": lambda x: isinstance(x, dict),
    "theta_sha256": lambda x: isinstance(x, str),
    "provenance": lambda x: isinstance(x, dict),
    "config": lambda x: True,
    "evaluation": lambda x: True,
}


def _are_lengths(x: list) -> bool:
    return len(x) == 2 and all(type(n) is int and n >= 1 for n in x)


def _read_config(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtefactError(f"{path} is not of an artefact: its 'format' should be {FORMAT!r}")
    version = content.get("format_version")
    if isinstance(version, int) and version > VERSION:
        raise ArtefactError(
            f"{path} has format version {version}, this learned_opt reads up to {VERSION}: update it"
        )
    unsigned = {key: value for key, value in content.items() if key != "sha256"}
    try:
        intact = content.get("sha256") == _sha256(_encode(unsigned)) and read_bytes(path) == _encode(content)
    except ValueError:  # NaN and infinity, which are not JSON
        intact = False
    if not intact:
        raise ArtefactError(
            f"{path} is damaged or was edited: its content does not have the sha256 that it records"
        )
    for field, fits in _FIELDS.items():
        if field not in content or not fits(content[field]):
            value = one_line(json.dumps(content[field]), 60) if field in content else "missing"
            raise ArtefactError(f"{path}: {field} is not one of an artefact: {value}")
    return content


def _jsonable(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {str(key): _jsonable(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_jsonable(value) for value in x]
    if isinstance(x, (np.ndarray, np.generic, jax.Array)):
        return _jsonable(np.asarray(x).tolist())
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x


def _encode(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _to_be_written(directory: str | os.PathLike) -> Path:
    """The directory as an absolute path; refused if it holds anything but an artefact, lest that be lost."""
    directory = Path(os.path.abspath(directory))
    if directory.exists() and not directory.is_dir():
        raise ArtefactError(f"{directory} is not a directory")
    if directory == Path.cwd():
        raise ArtefactError(f"{directory} is the current directory: write the artefact to another one")
    there = {p.name for p in directory.iterdir() if not is_litter(p)} if directory.exists() else set()
    if CONFIG in there and not _is_artefact(directory / CONFIG):
        raise ArtefactError(f"{directory} will not be overwritten: {CONFIG} in it is not of an artefact")
    foreign = there - ({WEIGHTS, CONFIG, CARD, *LEFT_BY_HUB} if CONFIG in there else set())
    if foreign:
        raise ArtefactError(
            f"{directory} will not be overwritten: {min(foreign)} in it is not part of an artefact"
        )
    return directory


def _is_artefact(config: Path) -> bool:
    """Whether config.json says that it is of an artefact, damaged as it may be."""
    try:
        content = read_json(config)
    except FileError:
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT
