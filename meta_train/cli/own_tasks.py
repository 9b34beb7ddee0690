"""What the command line names from outside of this project: tasks, the factory of a learned optimizer."""

from collections.abc import Mapping
from typing import Any

from meta_train.config.checks import default_registries
from meta_train.config.own import explained, load, split
from meta_train.config.registry import Factory
from meta_train.errors import ConfigError, PieceError, Problem
from meta_train.run.experiment import build_family
from tasks import TaskFamily, check_family, expand


def own_tasks(name: str) -> dict[str, TaskFamily]:
    """Task families of one's own by their labels.

    Args:
      name: `FILE.py:TASKS` or `package.module:TASKS`, relative to the current directory. TASKS is a family, a
        mapping of labels to families, or a function of no arguments that returns either. In the place of a
        family may stand what a config writes of one, `{"name": NAME, option: value, ...}`.

    Raises:
      ConfigError: nothing is there, or something else. One line.
    """
    try:
        where, attribute = split(name) or ("", "")
        found = load(where, attribute, name)
        if callable(found):
            found = found()
    except PieceError as error:
        raise _refused(str(error)) from error
    except Exception as error:  # whatever a person's own function raises
        raise _refused(f"{name} fails: {explained(error)}") from error
    families = found if isinstance(found, Mapping) and "name" not in found else {attribute: found}
    if not families:
        raise _refused(f"{name} has no tasks")
    return {str(label): _family(value, str(label), name) for label, value in families.items()}


def _family(value: Any, label: str, name: str) -> TaskFamily:
    if isinstance(value, Mapping):
        value = build_family(expand(value), label)
    try:
        check_family(value, label)
    except ValueError as error:
        raise _refused(f"{name}: {error}") from error
    return value


def own_optimizer(name: str) -> Factory:
    """The factory of a learned optimizer of one's own (ConfigError, one line)."""
    try:
        return default_registries().learned_optimizers[name]
    except (KeyError, PieceError) as error:
        text = str(error) if isinstance(error, PieceError) else f"{name} is not of the form FILE.py:FACTORY"
        raise ConfigError([Problem("--architecture", text)]) from error


def _refused(message: str) -> ConfigError:
    return ConfigError([Problem("--tasks", message)])
