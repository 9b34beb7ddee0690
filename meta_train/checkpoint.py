"""Checkpoints of a run: the whole outer state, in Orbax's format, verified when it comes back.

On the disk a checkpoint is a directory named after its outer step: `<step>/state` holds the arrays
as Orbax writes them, `<step>/manifest.json` the path, dtype and shape of every leaf, the SHA-256 of
every file, and the caller's `meta`. (Orbax itself does not notice a flipped byte.)
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import jax

from meta_train.checkpoint_files import UNFINISHED, Damaged, Restored, move, numbered, read, reason_of, write
from meta_train.checkpoint_format import CheckpointError, to_host

__all__ = ["CheckpointError", "Checkpoints", "Restored"]


class Checkpoints:
    """The checkpoints in one directory: a context manager, which waits for the last save.

    Writing goes on in one background thread, behind a copy of the state on the host: the state's
    buffers may be donated as soon as `save` returns. What fails there is raised as CheckpointError
    by the next call.

    Guarantees. A checkpoint is written under another name and flushed to the disk (fsync); one rename
    then makes it appear, complete; older ones are deleted only after that. So when the process is
    killed at any moment the last completed checkpoint is there, and after a power failure too, as far
    as the disk keeps what it acknowledged. A save that fails (disk full) leaves the earlier ones as
    they were. Reading never changes the directory. One process at a time may write.

    With several processes (`jax.distributed`), all must call `save` and `restore`, on a file system
    that they share; the first one writes.

    Args:
      directory: where the checkpoints are; made by the first save.
      max_to_keep: how many to keep, >= 1; None keeps all. To keep the best one apart, open a second
        `Checkpoints(run / "best", max_to_keep=1)` and save with `replace=True`.
      warn: called with one line for every damaged or unfinished checkpoint that is skipped.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        max_to_keep: int | None = 3,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"max_to_keep must be >= 1 or None, got {max_to_keep}")
        self.directory = Path(directory).absolute()
        self._max_to_keep = max_to_keep
        self._warn = warn
        self._damaged: set[int] = set()  # found by restore; the next save moves them out of the way
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            self.close()
        except CheckpointError as late:
            if error is None:
                raise
            self._warn(str(late))  # what is already on its way up says more

    def close(self) -> None:
        """Waits for the last save; raises CheckpointError if it failed. Later saves are possible."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def wait(self) -> None:
        """Returns when the last save is on the disk; raises CheckpointError, once, if it failed."""
        if self._pending is not None:
            wait_for([self._pending])  # may be interrupted (Ctrl-C) and called again
            pending, self._pending = self._pending, None
            pending.result()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending, without those that restore found damaged."""
        self.wait()
        return [step for step in self._on_disk() if step not in self._damaged]

    def save(self, step: int, state: Any, meta: dict | None = None, *, replace: bool = False) -> None:
        """Saves a state; returns once it is copied, the writing goes on behind.

        Args:
          step: the outer step, >= 0.
          state: any pytree of arrays (jax or NumPy, any size), typed PRNG keys and Python numbers.
          meta: what else to remember, anything JSON can hold; `restore` gives it back.
          replace: what to do with checkpoints of this step or later ones: refuse (False), or delete
            them once this one is safely written.

        Raises:
          CheckpointError: the previous save failed; a leaf cannot be saved; there is a checkpoint of
            this step or a later one; `meta` is not JSON.
        """
        self.wait()
        step = int(step)
        newer = [s for s in self._on_disk() if s >= step and s not in self._damaged]
        if step < 0:
            raise CheckpointError(f"step must be >= 0, got {step}")
        if newer and not replace:
            raise CheckpointError(f"cannot save step {step}: {self.directory} already has step {newer[-1]}")
        try:
            plain_meta = json.loads(json.dumps(meta or {}))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"meta of checkpoint {step} is not JSON: {error}") from None
        leaves, arrays = to_host(state)
        if not any(array.size for array in arrays):
            raise CheckpointError(f"the state of step {step} has no data to save")
        if jax.process_index() == 0:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
            self._pending = self._thread.submit(self._write, step, leaves, arrays, plain_meta, newer)

    def restore(self, target: Any, *, step: int | None = None) -> Restored | None:
        """The newest checkpoint that is undamaged, or that of one step.

        A damaged checkpoint is named through `warn` with the reason, and the one before is tried.
        The next save moves it to `damaged/`, so that its step is free again and nothing is lost.

        Args:
          target: a state like the one saved, concrete or abstract (`jax.eval_shape`, with or without
            shardings): what comes back has its structure, its kinds of leaves and its shardings,
            whatever the number of devices that it was saved on.
          step: that step or nothing; None for the newest.

        Returns:
          What was saved, bit for bit; None if there is no checkpoint at all.

        Raises:
          CheckpointError: the previous save failed; the checkpoint does not fit `target` (the first
            leaf in which they differ is named; no older one is tried); all checkpoints are damaged;
            there is none of that step, or it is damaged.
        """
        self.wait()
        if step is not None:
            if step not in self._on_disk():
                raise CheckpointError(f"{self.directory} has no checkpoint {step}, only {self.steps()}")
            try:
                return read(self._path(step), target)
            except Damaged as damage:
                raise CheckpointError(f"checkpoint {self._path(step)} is damaged: {damage}") from damage
        for path in sorted(self.directory.glob(f"*{UNFINISHED}")):
            self._warn(f"{path} is a half-written checkpoint: skipped")
        # Last come those that an interrupted replacement had set aside.
        candidates = numbered(self.directory)[::-1] + numbered(self.directory / "replaced")[::-1]
        self._damaged = set()
        for path in candidates:
            try:
                return read(path, target)
            except Damaged as damage:
                self._warn(f"checkpoint {path} is damaged: {damage}: skipped")
                self._damaged |= {int(path.name)} if path.parent == self.directory else set()
        if candidates:
            newest = candidates[0].name
            raise CheckpointError(f"every checkpoint in {self.directory} is damaged; the newest is {newest}")
        return None

    def _path(self, step: int) -> Path:
        return self.directory / str(step)

    def _on_disk(self) -> list[int]:
        return [int(path.name) for path in numbered(self.directory)]

    def _write(self, step: int, leaves: list, arrays: list, meta: dict, newer: list[int]) -> None:
        """In the background thread. Order matters: set aside, write, flush, and only then delete."""
        replaced = self.directory / "replaced"
        moved = []
        try:
            self._clean()
            if newer:
                shutil.rmtree(replaced, ignore_errors=True)  # of an older, interrupted replacement
            for s in newer:
                moved.append((move(self._path(s), replaced), self._path(s)))
            write(self._path(step), leaves, arrays, meta)
        except Exception as error:
            for source, back in moved:
                if not back.exists():
                    source.rename(back)
            good = [s for s in self._on_disk() if s not in self._damaged]
            raise CheckpointError(
                f"cannot save checkpoint {step} in {self.directory}: {reason_of(error)}"
                + (f"; the last good one is {good[-1]}" if good else "")
            ) from error
        shutil.rmtree(replaced, ignore_errors=True)
        if self._max_to_keep is not None:
            for old in numbered(self.directory)[: -self._max_to_keep]:
                shutil.rmtree(old, ignore_errors=True)

    def _clean(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.glob(f"*{UNFINISHED}"):
            shutil.rmtree(path, ignore_errors=True)
        for step in sorted(self._damaged):
            move(self._path(step), self.directory / "damaged")
        self._damaged = set()
