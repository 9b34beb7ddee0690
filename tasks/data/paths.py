"""Names of data that hold a path: where the path is in them, and how it is made absolute or left out."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

KEYS = ("datasets", "texts")  # the options of families that are lists of such names
FILES = ("npz", "hf", "file")  # NAME:PATH, perhaps with ?options or a [slice]


def absolute(name: str, directory: Path) -> str:
    """A name of data with its path, where it has one, made absolute.

    Args:
      name: as a task's `datasets` and `texts` have it: "npz:digits.npz[:100]", "digits", ...
      directory: that a relative path is relative to; "~" is the home directory.
    """
    return _changed(name, lambda path: os.path.abspath(directory / os.path.expanduser(path)))


def short(name: str) -> str:
    """A name of data without the directories of its path: what stays the same when the file is moved."""
    return _changed(name, os.path.basename)


def _changed(name: str, change: Callable[[str], str]) -> str:
    kind, colon, rest = name.partition(":")
    path, question, options = rest.partition("?")
    if colon and path and kind in FILES:
        return f"{kind}:{change(path)}{question}{options}"
    if kind == "python" and (place := path.rpartition(":"))[0].endswith(".py"):
        return f"python:{change(place[0])}:{place[2]}{question}{options}"
    if kind == "tfds" and question:
        return f"{kind}:{path}?{'&'.join(_with_directory(options, change))}"
    return name


def _with_directory(options: str, change: Callable[[str], str]) -> Iterator[str]:
    for option in options.split("&"):
        key, _, value = option.partition("=")
        yield f"{key}={change(value)}" if key == "data_dir" and value else option
