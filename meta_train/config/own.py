"""Pieces of one's own in a config: a factory outside of this project, by where it is.

A registry that is `Open` knows, beside its own names, three kinds of others:

  package.module:factory    of a module that can be imported
  path/to/file.py:factory   of a file, which is loaded alone; relative to the config's file
  name                      an entry point of an installed package, of the group `meta_train.KIND`

A config that names one runs its code. So these names are followed where a person wrote them, in a config or
on the command line, and never where they stand in an artefact.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from learned_opt.artefact.reading import FileError, one_line, read_bytes
from meta_train.config.registry import Factory, options_model
from meta_train.errors import PieceError, nearest

FORMS = "PACKAGE.MODULE:FACTORY or FILE.py:FACTORY"
MOST_BYTES = 2**20  # of a source file


class Kind(NamedTuple):
    """What the factories of a registry are.

    Attributes:
      name: of the registry; entry points are of the group `meta_train.NAME`.
      makes: the type that a factory returns.
      takes: the parameters that the program hands over, in order; all others are options.
    """

    name: str
    makes: type
    takes: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The group of its entry points."""
        return f"meta_train.{self.name}"


class Open(dict[str, Factory]):
    """A registry that also finds pieces of one's own; `registry[name]` raises PieceError for a broken one."""

    def __init__(self, kind: Kind, known: dict[str, Factory]) -> None:
        super().__init__(known)
        self.kind = kind

    def __missing__(self, name: str) -> Factory:
        return find(self.kind, name)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and bool(self[name])
        except (KeyError, PieceError):
            return False

    def __iter__(self) -> Iterator[str]:
        known = list(super().__iter__())
        yield from (*known, *(name for name in entry_points(self.kind.group) if name not in known))


def entry_points(group: str) -> dict[str, list[str]]:
    """Name -> where installed packages say that it is, `module:factory`: one place, or several."""
    found: dict[str, list[str]] = {}
    for point in importlib.metadata.entry_points(group=group):
        found.setdefault(point.name, []).append(point.value)
    return {name: sorted(set(values)) for name, values in sorted(found.items())}


def split(name: str) -> tuple[str, str] | None:
    """(module or file, factory) of a name with a colon; None for any other."""
    where, colon, attribute = name.rpartition(":")
    return (where.strip(), attribute.strip()) if colon else None


def is_file(name: str) -> bool:
    """Whether a name is of the form FILE.py:FACTORY."""
    parts = split(name)
    return parts is not None and parts[0].endswith(".py")


def find(kind: Kind, name: str) -> Factory:
    """The factory of one's own that a name stands for.

    Args:
      kind: what it must be.
      name: as in the head of this file; a relative path is relative to the current directory.

    Returns:
      The factory; it raises ValueError, in one line, where it fails or returns something else than it must.

    Raises:
      KeyError: a plain name that is no entry point.
      PieceError: nothing is there, it cannot be loaded, or it is no such factory. One line.
    """
    parts = split(name)
    if parts is None:
        values = entry_points(kind.group).get(name, [])
        if len(values) > 1:
            raise PieceError(f"{name} is of several packages: write one of {', '.join(values)}")
        if not values and re.search(r"[/.]", name):
            raise PieceError(f"{name} is neither a known name nor of the form {FORMS}")
        if not values:
            raise KeyError(name)
        parts = split(values[0]) or (values[0], "")
    factory = load(*parts, name)
    if not callable(factory):
        raise PieceError(f"{name} is no factory: it is of the type {type(factory).__name__}")
    return _as_factory(factory, kind, name)


def load(where: str, attribute: str, name: str) -> Any:
    """What a module or a file defines; `name` is for the messages, which are one line each (PieceError)."""
    if not where or not attribute.isidentifier():
        raise PieceError(f"{name} must be of the form {FORMS}")
    module = load_file(Path(os.path.expanduser(where))) if where.endswith(".py") else _import(where)
    if not hasattr(module, attribute):
        public = [other for other in vars(module) if not other.startswith("_")]
        own = [other for other in public if getattr(vars(module)[other], "__module__", "") == module.__name__]
        raise PieceError(f"{where} has no {attribute}; {nearest(attribute, own)}")
    return getattr(module, attribute)


def load_file(path: Path) -> types.ModuleType:
    """The module of a Python file, executed once for each content that it has.

    Raises:
      PieceError: no such file, or its code fails. One line, with the line of the file.
    """
    path = Path(os.path.abspath(path))
    try:
        content = read_bytes(path, most=MOST_BYTES)
    except FileError as error:
        raise PieceError(str(error)) from error
    return _executed(path, content, hashlib.sha256(content).hexdigest())


@functools.cache
def _executed(path: Path, content: bytes, sha256: str) -> types.ModuleType:
    """What is executed is the content whose digest a run records, not what a stale cache has of it."""
    module = types.ModuleType(f"{path.stem}_{sha256[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and evaluated annotations look for it there
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise PieceError(f"{path} cannot be loaded: {explained(error, str(path))}") from error
    return module


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name == error.name or name.startswith(f"{error.name}."):
            hint = "install its package, or write the path of its file, FILE.py:FACTORY"
            raise PieceError(f"there is no module {one_line(name)}: {hint}") from error
        raise PieceError(f"the module {name} cannot be imported: {explained(error)}") from error
    except (Exception, SystemExit) as error:
        raise PieceError(f"the module {one_line(name)} cannot be imported: {explained(error)}") from error


def explained(error: BaseException, file: str | None = None) -> str:
    """An error of a person's own code: its type, its message, and the last line of `file` that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if file in (None, frame.filename)] or list(frames)
    message, where, line = str(error), mine[-1].filename, mine[-1].lineno
    if isinstance(error, SyntaxError):
        message, where, line = error.msg, error.filename or where, error.lineno
    return f"{type(error).__name__}: {one_line(message)} ({Path(where).name}, line {line})"


@functools.cache
def _as_factory(factory: Callable[..., Any], kind: Kind, name: str) -> Factory:
    """The factory, once its signature is right; what it raises and returns is looked at when it is called."""
    refuse_signature(factory, kind, name)
    code = getattr(inspect.unwrap(factory), "__code__", None)

    @functools.wraps(factory)
    def checked(*args: Any, **options: Any) -> Any:
        try:
            made = factory(*args, **options)
        except ValueError:  # what a factory refuses, in its own words
            raise
        except Exception as error:
            raise ValueError(f"{name} fails: {explained(error, code and code.co_filename)}") from error
        if not isinstance(made, kind.makes):
            raise ValueError(f"{name} must return a {kind.makes.__name__}, got {type(made).__name__}")
        return made

    return checked


def refuse_signature(factory: Callable[..., Any], kind: Kind, name: str) -> None:
    """Refuses (PieceError) a signature that is not a config's schema: see `meta_train.config.registry`."""
    try:
        parameters = list(inspect.signature(factory, eval_str=True).parameters.values())
    except Exception as error:
        raise PieceError(f"{name} has a signature that cannot be read: {explained(error)}") from error
    handed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(handed) > len(kind.takes):
        extra = handed[len(kind.takes)].name
        raise PieceError(f"{name} takes {extra} as a positional argument: put it after a *, as all options")
    if len(handed) < len(kind.takes):
        raise PieceError(f"{name} must take {kind.takes[len(handed)]} as a positional argument")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise PieceError(f"{name} takes any options (**): name each of them, with its type")
    try:
        options_model(factory)
    except Exception as error:  # a type that is missing, or that pydantic knows no schema for
        message = str(error).partition("\n")[0]
        raise PieceError(f"{name} has options that no config can give: {one_line(message)}") from error
