"""What an importer returns, and the file it reads."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learned_opt.artefact.format import architecture_named, fit_theta, make_optimizer
from learned_opt.importers.ranges import out_of_range
from learned_opt.importers.settings import ImportProblem, SettingProblem


class Foreign(NamedTuple):
    """A learned optimizer that another codebase published, in our terms: the arguments of `learned_opt.save`.

    Attributes:
      name: the architecture, a key of LEARNED_OPTIMIZERS.
      options: the keyword arguments of its factory.
      theta: its meta-parameters, numpy arrays.
      horizon: shortest and longest inner training of its meta-training; None if the source does not say.
      provenance: format, files with their sha256, and what else the source says of itself.
      config: the configuration of its meta-training, if the source has it.
    """

    name: str
    options: dict[str, Any]
    theta: Any
    horizon: tuple[int, int] | None
    provenance: dict[str, Any]
    config: Any = None


class File(NamedTuple):
    """A file of a source, read: `name` is its path as the user wrote it, for the error messages."""

    path: Path
    content: bytes

    @property
    def name(self) -> str:
        """The path as the user wrote it."""
        return str(self.path)

    @property
    def digest(self) -> dict[str, str]:
        """The file and its directory, without the path to them, and its sha256; for the provenance."""
        name = f"{self.path.absolute().parent.name}/{self.path.name}"
        return {name: hashlib.sha256(self.content).hexdigest()}


def digests(*files: File | None) -> dict[str, str]:
    """`digest` of all files that are there."""
    return {name: value for file in files if file for name, value in file.digest.items()}


def read_file(path: Path) -> File:
    """Raises ImportProblem if it cannot be read."""
    try:
        return File(path, path.read_bytes())
    except OSError as error:
        raise ImportProblem(f"{path} cannot be read: {error.strerror or error}") from error


def theta_of(name: str, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str) -> Any:
    """The tree of an architecture from its arrays by path.

    Raises:
      SettingProblem: the options are not the architecture's.
      ArtefactError: the first path that differs.
    """
    problem = out_of_range(architecture_named(name), options)
    if problem:
        raise SettingProblem(f"{where}: {problem}")
    try:
        lopt = make_optimizer(name, options)
    except ValueError as error:
        raise SettingProblem(f"{where}: {error}") from error
    return fit_theta(lopt, dict(arrays), where)


def size(arrays: Mapping[str, np.ndarray], path: str, axis: int, where: str, needed_by: str) -> int:
    """The length of an axis of an array, which must be there.

    Raises:
      ImportProblem: it is not.
    """
    array = arrays.get(path)
    if array is None or not -array.ndim <= axis < array.ndim:
        what = "nothing" if array is None else f"an array of the shape {list(array.shape)}"
        raise ImportProblem(f"{where} is no {needed_by}: at {path} is {what}")
    return array.shape[axis]


def count(arrays: Mapping[str, np.ndarray], prefix: str, suffix: str = "") -> int:
    """How many of prefix0suffix, prefix1suffix, ... there are."""
    n = 0
    while f"{prefix}{n}{suffix}" in arrays:
        n += 1
    return n
