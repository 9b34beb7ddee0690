"""A checkpoint that several processes write together, each its own shards, through Orbax.

In the caller's thread, the first process makes the directory, and all copy their shards to the host. In a
background thread, each process writes its shards (`state/ocdbt.process_I`), flushes them and notes their
digests beside them (`part_I.json`); when all have done so, the first process merges the indices, signs the
manifest and renames the directory. Until that rename there is no checkpoint. No device takes part, so
training goes on meanwhile.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from learned_opt.artefact import atomic
from meta_train.checkpoint import files
from meta_train.checkpoint.format import Leaf, pack
from meta_train.errors import CheckpointError
from meta_train.parallel import exchange


class Save(NamedTuple):
    """A save on its way."""

    path: Path  # of the checkpoint, once it is complete
    leaves: list[Leaf]  # what it holds
    meta: dict  # the caller's
    topic: str  # where its processes meet
    handler: Any  # Orbax's
    futures: list  # what Orbax is still writing here
    error: str  # why this process cannot write its part; "" if it can


def start(
    path: Path,
    leaves: list[Leaf],
    arrays: list[np.ndarray | jax.Array],
    meta: dict,
    prepare: Callable[[], None],
) -> Save:
    """Copies this process's shards to the host and starts to write them; all processes must call it.

    Args:
      path: of the checkpoint.
      leaves: what it holds.
      arrays: in their order; all of them global arrays, or the same in every process.
      meta: anything JSON can hold.
      prepare: called in the first process before anything is written.

    Raises:
      CheckpointError: the first process cannot prepare the directory.
    """
    unfinished = files.unfinished(path)

    def make_room():
        try:
            prepare()
            files.refuse_full_disk(path.parent, sum(array.nbytes for array in arrays))
            (unfinished / "state").mkdir(parents=True)
        except Exception as error:
            raise CheckpointError(files.reason_of(error)) from error

    exchange.together(make_room if jax.process_index() == 0 else lambda: None, CheckpointError)
    handler, futures, error = None, [], ""
    try:
        handler = _handler()
        args = files.orbax().args.PyTreeSave(pack(arrays))
        futures = _run(handler.async_save(_epath(unfinished / "state"), args=args)) or []
    except Exception as failed:
        error = files.reason_of(failed)
    return Save(path, leaves, meta, exchange.topic(), handler, futures, error)


def finish(save: Save, give_up: threading.Event) -> None:
    """Writes this process's part, and in the first one the rest, once all have done so; in the background.

    Args:
      save: as `start` returned it.
      give_up: set when the other processes are not to be waited for any longer.

    Raises:
      CheckpointError: in the first process: one of them could not.
      exchange.GaveUp: the others are not there any longer.
    """
    me = jax.process_index()
    part = json.dumps(_part(save, me))
    with contextlib.suppress(OSError):  # what is missing is noticed in the first process
        _note(save, me).write_text(part)
    exchange.meet(save.topic, give_up)
    if me == 0:
        try:
            _complete(save)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(files.reason_of(error)) from error


def _note(save: Save, process: int) -> Path:
    """Where a process says what it wrote."""
    return files.unfinished(save.path) / f"part_{process}.json"


def _part(save: Save, process: int) -> dict:
    """The digests of the files that this process wrote, which are on the disk; or why they are not."""
    unfinished = files.unfinished(save.path)
    error = save.error
    for future in save.futures:
        try:
            future.result()
        except Exception as failed:
            error = error or files.reason_of(failed)
    if error:
        return {"error": error}
    try:
        own = files.files_in(unfinished / "state" / f"ocdbt.process_{process}")
        found = files.digests(own, unfinished)
        atomic.sync(*own)
    except OSError as failed:
        return {"error": files.reason_of(failed)}
    return {"files": found}


def _complete(save: Save) -> None:
    """In the first process: all parts are there, the rest is written, and the whole gets its name."""
    unfinished = files.unfinished(save.path)
    found: dict[str, str] = {}
    errors = []
    for process in range(jax.process_count()):
        part: dict[str, Any] = {"error": "what was written could not be noted"}
        with contextlib.suppress(OSError, ValueError):
            part = json.loads(_note(save, process).read_text())
            _note(save, process).unlink()
        found |= part.get("files", {})
        if "error" in part:
            errors.append(f"{part['error']} (process {process})")
    try:
        if errors:
            raise CheckpointError(errors[0])
        save.handler.finalize(_epath(unfinished / "state"))
        rest = [file for file in files.files_in(unfinished) if str(file.relative_to(unfinished)) not in found]
        found |= files.digests(rest, unfinished)
        files.sign(save.path, files.FORMAT_SHARDS, save.leaves, found, save.meta)
    except BaseException:
        files.discard(unfinished)
        raise


def _handler() -> Any:
    """Orbax's handler for several processes, without its own communication: that is above."""
    ocp = files.orbax()
    handlers = ocp.type_handlers
    registry = handlers.create_type_handler_registry(
        (np.ndarray, handlers.NumpyHandler()),
        (jax.Array, handlers.ArrayHandler(enable_write_sharding_file=False)),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _epath(path: Path) -> Any:
    from etils import epath

    return epath.Path(path)


def _run(coroutine: Any) -> Any:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()
