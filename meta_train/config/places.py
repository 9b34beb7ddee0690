"""Where in a config names of components stand, and what becomes of the ones that are files."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meta_train.config.own import is_file, split
from tasks.data import paths

# The key that a component, or a list of components, stands under -> the registry of its name.
REGISTRY_AT = {
    "tasks": "tasks",
    "task": "tasks",
    "test_task": "tasks",
    "augment": "augmentations",
    "estimator": "estimators",
    "learned_optimizer": "learned_optimizers",
    "outer_optimizer": "outer_optimizers",
    "optimizer": "outer_optimizers",
    "trainer": "trainers",
    "controller": "controllers",
}

FOLDERS = ("init_from", "compilation_cache")  # keys of folders; `~` and `pretrained:NAME` stay as they are


def names(raw: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """The place and the name of every component that a config, as plain values, names."""
    if isinstance(raw, dict):
        if registry_at(place) and isinstance(raw.get("name"), str):
            yield place, raw["name"]
        for key, value in raw.items():
            yield from names(value, (*place, key))
    elif isinstance(raw, list):
        for i, value in enumerate(raw):
            yield from names(value, (*place, i))


def registry_at(place: tuple[Any, ...]) -> str | None:
    """The registry that the name of a component at a place is looked up in; None where none stands."""
    keys = [part for part in place if not isinstance(part, int)]
    return REGISTRY_AT.get(keys[-1]) if keys else None


def placed(raw: Any, directory: Path) -> Any:
    """The config with the paths in it that are relative to a directory made absolute."""

    def absolute(name: str) -> str:
        where, attribute = split(name) or ("", "")
        return f"{os.path.abspath(directory / os.path.expanduser(where))}:{attribute}"

    def absolute_folder(path: str) -> str:
        return os.path.abspath(directory / path)

    return _with_files(raw, absolute, lambda name: paths.absolute(name, directory), absolute_folder)


def portable(raw: Any) -> Any:
    """The config with the name alone of each file: what stays the same when a file is moved or published.

    Of a folder the last two names stay: most artefacts are called `RUN/optimizer`."""
    return _with_files(raw, short, paths.short, lambda path: "/".join(path.split("/")[-2:]))


def short(name: str) -> str:
    """A name without the directories of its file: `line.py:line_fit`."""
    return f"{Path(name.rpartition(':')[0]).name}:{name.rpartition(':')[2]}" if is_file(name) else name


def last(name: str) -> str:
    """What a component is called in tables and metrics: the factory's name."""
    return name.rpartition(":")[2] or name


def _with_files(
    raw: Any,
    change: Callable[[str], str],
    change_data: Callable[[str], str],
    change_folder: Callable[[str], str],
    place: tuple[Any, ...] = (),
) -> Any:
    changes = change, change_data, change_folder
    if isinstance(raw, str) and place and place[-1] in FOLDERS:
        return raw if ":" in raw or raw.startswith("~") else change_folder(raw)
    if isinstance(raw, list):
        if place and place[-1] in paths.KEYS:
            return [change_data(value) if isinstance(value, str) else value for value in raw]
        return [_with_files(value, *changes, (*place, i)) for i, value in enumerate(raw)]
    if not isinstance(raw, dict):
        return raw
    found = {key: _with_files(value, *changes, (*place, key)) for key, value in raw.items()}
    name = raw.get("name")
    if registry_at(place) and isinstance(name, str) and is_file(name):
        found["name"] = change(name)
    return found
