"""What a run is: a YAML file and overrides as a validated, frozen `RunConfig`."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meta_train.config.checks import Registries, default_registries, run_schema
from meta_train.config.pipeline import Schema, digest, load_as, parse_as, resolved, to_yaml
from meta_train.config.schema import RunConfig
from meta_train.errors import ConfigError

__all__ = ["ConfigError", "RunConfig", "digest", "load", "parse", "resolved", "to_yaml"]


@functools.cache
def _default() -> Schema[RunConfig]:
    return run_schema(default_registries())


def _schema(registries: Registries | None) -> Schema[RunConfig]:
    return _default() if registries is None else run_schema(registries)


def load(
    source: str | Path | dict[str, Any],
    overrides: Iterable[str] = (),
    *,
    registries: Registries | None = None,
) -> RunConfig:
    """The config in a YAML file or a dict, with overrides.

    An override that changes the `name` of a component drops its sibling keys that the newly named
    one does not have, as they came from the file for another one; values of other overrides stay.

    Args:
      path: of the file. Paths in it (`FILE.py:FACTORY`, data, `init_from`, ...) are relative to its
        directory; those of an override to the current one.
      overrides: `key.sub=value`, set before anything is checked; the value is YAML, and a number
        indexes a list: `estimator.sigma=0.02`, `tasks.0.batch_size=32`.
      registries: where names are looked up; None for the project's own.

    Raises:
      ConfigError: with everything that is wrong, one line each.
    """
    return load_as(_schema(registries), source, overrides)


def parse(raw: dict[str, Any], *, registries: Registries | None = None) -> RunConfig:
    """The config that a plain dict holds, such as a saved `resolved` one.

    Raises:
      ConfigError: with everything that is wrong, one line each.
    """
    return parse_as(_schema(registries), raw)
