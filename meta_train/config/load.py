"""What a run is: a YAML file and overrides -> a validated, frozen `RunConfig`.

Everything that is wrong with a file is found in one go, and before anything compiles.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meta_train.config import checks as config_checks
from meta_train.config import file as config_file
from meta_train.config.checks import Registries, default_registries
from meta_train.config.registry import as_json
from meta_train.config.schema import RunConfig
from meta_train.errors import ConfigError, Problem

__all__ = ["ConfigError", "RunConfig", "digest", "load", "parse", "resolved", "to_yaml"]


def load(
    path: str | Path, overrides: Iterable[str] = (), *, registries: Registries | None = None
) -> RunConfig:
    """The config in a YAML file, with overrides.

    An override that changes the `name` of a component drops the keys beside it that the newly named
    one does not have, as they came from the file for another one; values of other overrides stay.

    Args:
      path: of the file.
      overrides: `key.sub=value`, set before anything is checked; the value is YAML, and a number
        indexes a list: `estimator.sigma=0.02`, `tasks.0.batch_size=32`.
      registries: where names are looked up; None for the project's own.

    Raises:
      ConfigError: with everything that is wrong, one line each.
    """
    registries = registries or default_registries()
    raw = config_file.read(path)
    raw, problems = config_file.override(raw, overrides, lambda *to: config_checks.keys_of(registries, *to))
    return _parse(raw, problems, registries, str(path), list(overrides))


def parse(raw: dict[str, Any], *, registries: Registries | None = None) -> RunConfig:
    """The config that a plain dict holds, such as a saved `resolved` one.

    Raises:
      ConfigError: with everything that is wrong, one line each.
    """
    return _parse(raw, [], registries or default_registries(), "", [])


def _parse(
    raw: dict[str, Any], problems: list[Problem], registries: Registries, file: str, overrides: list[str]
) -> RunConfig:
    filled, found = config_checks.check(json.loads(as_json(raw)), registries)
    overridden = [text.partition("=")[0].strip() + "." for text in overrides]
    for problem in found:
        key = problem.key + "."
        given = any(key.startswith(other) or other.startswith(key) for other in overridden)
        problems.append(problem._replace(file=config_file.COMMAND_LINE if given else file))
    if problems:
        raise ConfigError(problems)
    return RunConfig.model_validate_json(as_json(filled))


def resolved(config: RunConfig) -> dict[str, Any]:
    """The config as plain JSON values, every default filled in; `parse` gives the same config back."""
    return config.model_dump(mode="json")


def to_yaml(config: RunConfig) -> str:
    """`resolved` as YAML text; `load` gives the same config back."""
    return config_file.dump(resolved(config))


def digest(config: RunConfig) -> str:
    """sha256, hexadecimal, of the resolved config: equal for equal runs, however their files are written."""
    return hashlib.sha256(json.dumps(resolved(config), sort_keys=True).encode()).hexdigest()
