"""A YAML file and overrides as a validated, frozen config: one pipeline for runs and for populations.

Everything that is wrong with a file is found in one go, and before anything compiles. A config is validated
once; only where it is wrong are its parts looked at again, for what else is wrong with them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from meta_train.config import file as config_file
from meta_train.config.places import placed
from meta_train.config.registry import OneOf, as_json, options_model, plain, with_defaults
from meta_train.config.validation import annotations_at, from_validation
from meta_train.errors import ConfigError, Problem, join

Config = TypeVar("Config", bound=BaseModel)


class Found(NamedTuple):
    """What is known of a config before it is accepted.

    Attributes:
      config: the validated config; where it is wrong, the given values with the defaults filled in.
      problems: what is wrong with single values.
    """

    config: Any
    problems: list[Problem]

    def at(self, *path: Any) -> Any:
        """The value at a path; None where it is absent."""
        node = self.config
        for part in path:
            if isinstance(node, BaseModel):
                node = getattr(node, part)
            elif isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, list | tuple) and part in range(len(node)):
                node = node[part]
            else:
                return None
        return node

    def right(self, *path: Any) -> Any:
        """The value at a path; None where it is absent or a problem is about it."""
        here = join(*path) + "."
        if any(here.startswith(p.key + ".") or (p.key + ".").startswith(here) for p in self.problems):
            return None
        return self.at(*path)


class Schema(NamedTuple, Generic[Config]):
    """A kind of config.

    Attributes:
      model: its keys.
      context: what the `OneOf`s of the model look their registries up in.
      prepare: `(raw) -> raw`, before validation.
      checks: `(found) -> problems`, what must fit together as far as it is right on its own.
      alias: `(name of a component) -> the name that it stands for`.
    """

    model: type[Config]
    context: Any = None
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = lambda raw: raw
    checks: Callable[[Found], Iterable[Problem]] = lambda found: ()
    alias: Callable[[Any], Any] = lambda name: name

    def keys_of(self, path: tuple[Any, ...], name: Any) -> set[str] | None:
        """The keys that the component `name` at `path` may have; None where it is none, or unknown."""
        kinds = annotations_at(self.model, path)
        notes = (note for kind in kinds for note in getattr(kind, "__metadata__", ()))
        for one_of in (note for note in notes if isinstance(note, OneOf)):
            known, name = one_of.registry(self.context), self.alias(name)
            if isinstance(name, str) and name in known:
                return {one_of.key, *options_model(known[name], one_of.base).model_fields}
        return None


def load_as(
    schema: Schema[Config], source: str | Path | dict[str, Any], overrides: Iterable[str] = ()
) -> Config:
    """The config of a kind in a YAML file or a dict, with overrides; as `load`."""
    overrides = list(overrides)
    if isinstance(source, dict):
        raw, file = source, ""
    else:
        raw, file = placed(config_file.read(source), Path(source).absolute().parent), str(source)
    raw, problems = config_file.override(raw, overrides, schema.keys_of)
    config, found = _validated(schema, raw)
    overridden = [text.partition("=")[0].strip() + "." for text in overrides]
    for problem in found:
        key = problem.key + "."
        given = any(key.startswith(other) or other.startswith(key) for other in overridden)
        problems.append(problem._replace(file=config_file.COMMAND_LINE if given else file))
    if problems or config is None:
        raise ConfigError(problems)
    return config


def parse_as(schema: Schema[Config], raw: dict[str, Any]) -> Config:
    """The config of a kind that a plain dict holds; as `parse`."""
    config, problems = _validated(schema, raw)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _validated(schema: Schema[Config], raw: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    """The config, None where it is wrong; and everything that is wrong with it, in the order of its keys."""
    try:
        # Files that the config's own file does not name, but an override or a dict, are relative to here.
        raw = schema.prepare(placed(json.loads(as_json(raw)), Path.cwd()))
    except (ValueError, RecursionError, TypeError) as error:
        return None, [Problem("", f"cannot be written as JSON: {str(error) or type(error).__name__}")]
    config, problems = None, []
    try:
        config = schema.model.model_validate_json(as_json(raw), context=schema.context)
    except ValidationError as error:
        problems = from_validation(error, raw, schema.model)
    known = config if config is not None else with_defaults(schema.model, raw, schema.context)
    problems += schema.checks(Found(known, problems))
    order = {key: i for i, key in enumerate(raw)}
    return config, sorted(problems, key=lambda p: order.get(p.key.split(".")[0], len(order)))


def resolved(config: BaseModel) -> dict[str, Any]:
    """The config as plain JSON values, every default filled in; `parse` gives the same config back."""
    return plain(config)


def to_yaml(config: BaseModel) -> str:
    """`resolved` as YAML text; `load` gives the same config back."""
    return config_file.dump(resolved(config))


def digest(config: BaseModel) -> str:
    """sha256, hexadecimal, of the resolved config: equal for equal runs, however their files are written."""
    return hashlib.sha256(json.dumps(resolved(config), sort_keys=True).encode()).hexdigest()
