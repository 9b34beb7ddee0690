"""Directories that are written completely or not at all."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Makes or replaces a directory of exactly these files; a crash leaves the old one or the new one."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    suffix = secrets.token_hex(4)
    new, old = (directory.with_name(f".{directory.name}.{word}-{suffix}") for word in ("new", "old"))
    try:
        new.mkdir()
        for name, content in files.items():
            _write(new / name, content)
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    except BaseException:
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    _sync(directory.parent)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
