"""One checkpoint on the disk: `state/`, which Orbax writes, and `manifest.json`: what must be there."""

import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from learned_opt.artefact import atomic
from learned_opt.artefact.reading import FileError, one_line, read_json
from meta_train.checkpoint.format import Leaf, check_fit, pack, shardings, stored_shape, unpack
from meta_train.errors import CheckpointError
from meta_train.parallel import exchange

# Of the manifest; to be raised when an older reader could not understand it.
FORMAT = 1  # one process wrote everything
FORMAT_SHARDS = 2  # every process wrote its shards
UNFINISHED = ".unfinished"
MOST_MANIFEST = 2**26  # bytes
SPARE_BYTES = 2**20  # for the manifest and Orbax's own files
LATE_SECONDS = 0.5  # in which the threads of a failed write are expected to end


class Damaged(Exception):
    """What is on the disk is not what was saved; the message says how."""


class Restored(NamedTuple):
    """A checkpoint that was read and verified."""

    step: int  # the outer step that it was saved at
    state: Any  # the state, structured and placed like the target of `Checkpoints.restore`
    meta: dict  # what was given to `Checkpoints.save`


def write(path: Path, leaves: list[Leaf], arrays: list[np.ndarray], meta: dict) -> None:
    """Writes a checkpoint under another name, flushes it to the disk, and only then gives it its own."""
    draft = unfinished(path)
    refuse_full_disk(path.parent, sum(array.nbytes for array in arrays))
    try:
        with _checkpointer() as checkpointer:
            checkpointer.save(draft / "state", args=orbax().args.StandardSave(pack(arrays)))
        sign(path, FORMAT, leaves, digests(files_in(draft), draft), meta)
    except BaseException:
        discard(draft)
        raise


def discard(draft: Path) -> None:
    """Removes a draft, and what TensorStore's threads still write there after Orbax has given up."""
    quiet = time.monotonic() + LATE_SECONDS
    while time.monotonic() < quiet:
        atomic.remove(draft)
        time.sleep(LATE_SECONDS / 20)


def sign(path: Path, format_: int, leaves: list[Leaf], found: dict[str, str], meta: dict) -> None:
    """Gives a checkpoint, whose arrays are written, its manifest, and then its name."""
    draft = unfinished(path)
    body = {
        "format": format_,
        "step": int(path.name),
        "meta": meta,
        "leaves": [list(leaf) for leaf in leaves],
        "files": found,
    }
    manifest = json.dumps(body | {"sha256": _digest(body)}, indent=1)
    (draft / "manifest.json").write_text(manifest)
    atomic.sync(*draft.rglob("*"), draft)
    draft.rename(path)
    atomic.sync(path.parent)


def unfinished(path: Path) -> Path:
    """What a checkpoint is called until it is complete."""
    return path.with_name(path.name + UNFINISHED)


def refuse_full_disk(directory: Path, needed: int) -> None:
    """Asked beforehand, because TensorStore prints tracebacks of its own when a write fails (OSError)."""
    if shutil.disk_usage(directory).free < needed + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def files_in(directory: Path) -> list[Path]:
    """All files under a directory, in order; none if it is not there."""
    return sorted(file for file in directory.rglob("*") if file.is_file())


def digests(paths: list[Path], root: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path from `root`."""
    return {str(path.relative_to(root)): _file_digest(path) for path in paths}


def read(path: Path, target: Any) -> Restored:
    """Reads a checkpoint; Orbax gets to see no file that is not what was written.

    With several processes all must call it: each verifies its share of the files and reads its shards, and
    what one of them finds all of them raise.

    Raises:
      Damaged: it is not what was written.
      CheckpointError: it is, but does not fit the target, or a later version of this project wrote it.
    """
    body = exchange.together(lambda: _verified(path, target), Damaged, CheckpointError)
    leaves = _leaves(body)
    stored = exchange.together(lambda: _stored(path, leaves, target), Damaged)
    return Restored(body["step"], unpack(leaves, stored, target), body["meta"])


def _leaves(body: dict) -> list[Leaf]:
    return [Leaf(name, dtype, tuple(shape), impl) for name, dtype, shape, impl in body["leaves"]]


def _verified(path: Path, target: Any) -> dict:
    """The manifest, after a look at those of its files that this process verifies."""
    body = read_manifest(path)
    try:
        check_fit(_leaves(body), target)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path} does not fit: {error}") from None
    verify_files(path, sorted(body["files"])[jax.process_index() :: jax.process_count()], body)
    return body


def verify_files(path: Path, names: Iterable[str], body: dict) -> None:
    """Compares files of a checkpoint with the digests of its manifest (Damaged)."""
    for name in names:
        try:
            same = _file_digest(path / name) == body["files"][name]
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({reason_of(error)})") from error
        if not same:
            raise Damaged(f"{name} is not what was written, by its digest")


def _stored(path: Path, leaves: list[Leaf], target: Any) -> dict[str, Any]:
    """The stored arrays: this process's shards of those that the target spreads over devices."""
    ocp = orbax()
    wanted = {
        name: ocp.RestoreArgs(restore_type=np.ndarray)
        if sharding is None
        else ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding, global_shape=stored_shape(leaf))
        for name, leaf, sharding in shardings(leaves, target)
    }
    return _restored(path, wanted)


def _restored(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    ocp = orbax()
    try:
        with _checkpointer(ocp.PyTreeCheckpointHandler) as checkpointer:
            # Orbax takes no relative paths.
            return checkpointer.restore(
                path.absolute() / "state", args=ocp.args.PyTreeRestore(restore_args=wanted)
            )
    except MemoryError:
        raise
    except Exception as error:  # Orbax raises bare Exceptions too
        raise Damaged(f"its arrays cannot be read ({reason_of(error)})") from error


def read_verified(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The manifest and all arrays of a checkpoint, by the path of their leaf, without a target to fit.

    Raises:
      Damaged, CheckpointError: as `read`.
    """
    body = read_manifest(path)
    verify_files(path, sorted(body["files"]), body)
    leaves = [(f"{i:05d}", leaf) for i, leaf in enumerate(_leaves(body)) if np.prod(stored_shape(leaf))]
    found = _restored(path, {name: orbax().RestoreArgs(restore_type=np.ndarray) for name, _ in leaves})
    return body, {leaf.path: found[name] for name, leaf in leaves}


class Manifest(BaseModel):
    """The fields of `manifest.json`, as `sign` writes them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: int
    step: NonNegativeInt
    meta: dict[str, Any]
    leaves: list[tuple[str, str, list[NonNegativeInt], str]]
    files: dict[str, str]
    sha256: str


def read_manifest(path: Path) -> dict:
    """The manifest of a checkpoint.

    Raises:
      Damaged: it is not what was written.
      CheckpointError: a later version of this project wrote it.
    """
    try:
        body = read_json(path / "manifest.json", most=MOST_MANIFEST)
        signed = body.pop("sha256")
    except FileError as error:
        raise Damaged(f"its manifest is not one ({error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged("its manifest is not one") from error
    if _digest(body) != signed:
        raise Damaged("the digest of its manifest does not match")
    if body.get("format") not in (1, 2):
        found = one_line(str(body.get("format")))
        raise CheckpointError(f"checkpoint {path} has format {found}, only 1 and 2 are known here")
    try:
        Manifest.model_validate_json(json.dumps(body | {"sha256": signed}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Damaged(f"its manifest is not one ({where}: {first['msg']})") from error
    outside = [name for name in body["files"] if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise Damaged(f"its manifest names {one_line(outside[0])}, which is outside of it")
    if str(body["step"]) != path.name:
        raise Damaged(f"it holds step {body['step']}")
    return body


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    if not path.is_file():  # a FIFO would be waited for
        raise OSError(
            errno.EINVAL, "it is not a regular file" if path.exists() else os.strerror(errno.ENOENT)
        )
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def orbax() -> ModuleType:
    """Orbax, imported when first needed (half a second), and without its log.

    It reports every failure by exception as well; the records would only repeat it, with tracebacks.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    return ocp


def _checkpointer(handler: Callable | None = None) -> Any:
    """Orbax for this process alone: no other one is needed to write NumPy arrays, or to read."""
    ocp = orbax()
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    make = handler or ocp.StandardCheckpointHandler
    return ocp.Checkpointer(make(multiprocessing_options=alone), multiprocessing_options=alone)


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
