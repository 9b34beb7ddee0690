"""The sources of one's own pieces: recorded in the directory of a run that begins, compared when it goes on.

sources/sources.json          place in the config -> its name, and the sha256 of each file that it is made of
sources/DIGEST_FILE.py        a copy of each, to look at or to put back; it is never executed

Of a `FILE.py:FACTORY` that is the file; of a `package.module:factory` the module and whatever it imports of
its own top-level package. What either imports of other packages is not recorded.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learned_opt.artefact.atomic import write_file
from learned_opt.artefact.reading import FileError, read_bytes, read_json
from meta_train.config import file as config_file
from meta_train.config.own import MOST_BYTES, entry_points, split
from meta_train.config.places import names, registry_at
from meta_train.errors import RunError, join

SOURCES, RECORD = "sources", "sources.json"


def record(directory: Path, resolved: dict[str, Any]) -> None:
    """Writes the sources of the own pieces of a config into the directory of its run; nothing without any.

    Raises:
      RunError: a source that cannot be read.
    """
    found, copies = {}, {}
    for place, name in names(resolved):
        files = {key: _content(file, place, name) for key, file in (files_of(name, place) or {}).items()}
        if files:
            digests = {key: _sha256(content) for key, content in files.items()}
            found[join(*place)] = {"name": name, "files": digests}
            copies |= {_copy(digests[key], key): content for key, content in files.items()}
    if not found:
        return
    (directory / SOURCES).mkdir(exist_ok=True)
    for file, content in copies.items():
        write_file(directory / SOURCES / file, content)
    write_file(directory / SOURCES / RECORD, json.dumps(found, indent=1) + "\n")


def refuse_changed_sources(directory: Path, config: Path) -> None:
    """Refuses (RunError) a run one of whose own pieces is gone, or is another than when the run began.

    Nothing is executed for it, but for the packages that a module lies in.
    """
    raw = config_file.read(config)
    for place, name in names(raw):
        files = files_of(name, place)
        if files is None:
            continue
        where = f"{config}: {join(*place, 'name')} is {name}"
        then = _recorded(directory, join(*place), where)
        for key, digest in then.items():
            copy = directory / SOURCES / _copy(digest, key)
            if key not in files or not files[key].is_file():
                gone = files.get(key, key)
                raise RunError(
                    f"{where}, but {gone} is gone: put it back, or write there where it is now ({copy})"
                )
            if _sha256(_content(files[key], place, name)) != digest:
                raise RunError(
                    f"{where}, and {files[key]} was changed after the run began: change it back to {copy}"
                )
        more = sorted(files.keys() - then.keys())
        if more:
            raise RunError(f"{where}, which imports {files[more[0]]} now: it did not when the run began")


def digests_of(name: str, place: tuple[Any, ...]) -> dict[str, str]:
    """The sha256 of each source file of a piece of one's own; empty for a name of the project."""
    return {key: _sha256(_content(file, place, name)) for key, file in (files_of(name, place) or {}).items()}


def files_of(name: str, place: tuple[Any, ...]) -> dict[str, Path] | None:
    """The source files of a piece of one's own, by file name or module; None for a name of the project."""
    parts = split(name)
    if parts is None:
        found = entry_points(f"meta_train.{registry_at(place)}").get(name, [])
        parts = split(found[0]) if len(found) == 1 else None
    if parts is None:
        return None
    where = parts[0]
    return {Path(where).name: Path(where)} if where.endswith(".py") else dict(_modules(where))


def _modules(name: str) -> Iterator[tuple[str, Path]]:
    """A module, the packages above it, and what these import of their own top-level package."""
    parts = name.split(".")
    todo, seen = [".".join(parts[: i + 1]) for i in range(len(parts))], set()
    while todo:
        module = todo.pop()
        spec = None if module in seen else _spec(module)
        seen.add(module)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            yield module, Path(spec.origin)
            package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
            todo += [m for m in _imported(Path(spec.origin), package) if m.partition(".")[0] == parts[0]]


def _spec(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except Exception:  # a package above it is none, or fails: whoever loads it says so
        return None


def _imported(file: Path, package: str) -> Iterator[str]:
    """The modules that a file may import: `from a import b` names a.b as well, which need not be one."""
    try:
        tree = ast.parse(read_bytes(file, most=MOST_BYTES))
    except (FileError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _recorded(directory: Path, place: str, where: str) -> dict[str, str]:
    try:
        return read_json(directory / SOURCES / RECORD)[place]["files"]
    except (FileError, KeyError, TypeError) as error:
        raise RunError(
            f"{where}, and {directory / SOURCES / RECORD} does not say of what source the run was made"
        ) from error


def _content(file: Path, place: tuple[Any, ...], name: str) -> bytes:
    try:
        return read_bytes(file, most=MOST_BYTES)
    except FileError as error:
        raise RunError(f"{join(*place, 'name')} is {name}: {error}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _copy(digest: str, key: str) -> str:
    return f"{digest[:12]}_{key if key.endswith('.py') else f'{key}.py'}"
