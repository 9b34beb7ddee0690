"""One checkpoint on the disk: `state/`, which Orbax writes, and `manifest.json`: what must be there."""

import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.checkpoint_format import CheckpointError, Leaf, check_fit, pack, unpack

FORMAT = 1  # of the manifest; to be raised when an older reader could not understand it
UNFINISHED = ".unfinished"
SPARE_BYTES = 2**20  # for the manifest and Orbax's own files


class Damaged(Exception):
    """What is on the disk is not what was saved; the message says how."""


class Restored(NamedTuple):
    """A checkpoint that was read and verified.

    Attributes:
      step: the outer step that it was saved at.
      state: the state, structured and placed like the target of `Checkpoints.restore`.
      meta: what was given to `Checkpoints.save`.
    """

    step: int
    state: Any
    meta: dict


def write(path: Path, leaves: list[Leaf], arrays: list[np.ndarray], meta: dict) -> None:
    """Writes a checkpoint under another name, flushes it to the disk, and only then gives it its own."""
    unfinished = path.with_name(path.name + UNFINISHED)
    # Asked beforehand, because TensorStore prints tracebacks of its own when a write fails.
    if shutil.disk_usage(path.parent).free < sum(array.nbytes for array in arrays) + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(unfinished / "state", args=_orbax().args.StandardSave(pack(arrays)))
        files = sorted(file for file in unfinished.rglob("*") if file.is_file())
        body = {
            "format": FORMAT,
            "step": int(path.name),
            "meta": meta,
            "leaves": [list(leaf) for leaf in leaves],
            "files": {str(file.relative_to(unfinished)): _file_digest(file) for file in files},
        }
        manifest = json.dumps(body | {"sha256": _digest(body)}, indent=1)
        (unfinished / "manifest.json").write_text(manifest)
        for place in [*unfinished.rglob("*"), unfinished]:
            _flush(place)
        unfinished.rename(path)
        _flush(path.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def read(path: Path, target: Any) -> Restored:
    """Reads a checkpoint; Orbax gets to see no file that is not what was written.

    Raises:
      Damaged: it is not what was written.
      CheckpointError: it is, but does not fit the target, or a later version of this project wrote it.
    """
    body = _read_manifest(path)
    leaves = [Leaf(name, dtype, tuple(shape), impl) for name, dtype, shape, impl in body["leaves"]]
    try:
        check_fit(leaves, target)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path} does not fit: {error}") from None
    for name, digest in body["files"].items():
        try:
            same = _file_digest(path / name) == digest
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({reason_of(error)})") from error
        if not same:
            raise Damaged(f"{name} is not what was written, by its digest")
    try:
        with _checkpointer() as checkpointer:
            stored = checkpointer.restore(path / "state", args=_orbax().args.StandardRestore())
    except MemoryError:
        raise
    except Exception as error:  # Orbax raises bare Exceptions too
        raise Damaged(f"its arrays cannot be read ({reason_of(error)})") from error
    return Restored(body["step"], unpack(leaves, stored, target), body["meta"])


def _read_manifest(path: Path) -> dict:
    try:
        body = json.loads((path / "manifest.json").read_bytes())
        signed = body.pop("sha256")
    except OSError as error:
        raise Damaged(f"its manifest cannot be read ({reason_of(error)})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged("its manifest is not one") from error
    if _digest(body) != signed:
        raise Damaged("the digest of its manifest does not match")
    if body["format"] != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {body['format']}, only {FORMAT} is known here")
    if str(body["step"]) != path.name:
        raise Damaged(f"it holds step {body['step']}")
    return body


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot flush a directory
            raise
    finally:
        os.close(descriptor)


@functools.cache
def _orbax() -> ModuleType:
    """Orbax, imported when first needed (half a second), and without its log.

    It reports every failure by exception as well; the records would only repeat it, with tracebacks.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    return ocp


def _checkpointer() -> Any:
    ocp = _orbax()
    # Every leaf is a NumPy array, so no process needs another one to read or write.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def numbered(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest first."""
    if not directory.is_dir():
        return []
    steps = [path for path in directory.iterdir() if re.fullmatch("[0-9]+", path.name)]
    return sorted(steps, key=lambda path: int(path.name))


def move(path: Path, into: Path) -> Path:
    """Moves a checkpoint into another directory, under a name that is free there."""
    into.mkdir(exist_ok=True)
    free, count = into / path.name, 1
    while free.exists():
        free, count = into / f"{path.name}-{count}", count + 1
    return path.rename(free)


def reason_of(error: BaseException) -> str:
    """One short line for an exception of the file system, of TensorStore or of Orbax."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {line[:160]}"
