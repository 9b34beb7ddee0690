"""Checkpoints of a run: the whole outer state, in Orbax's format, verified when it comes back.

On the disk a checkpoint is a directory named after its outer step: `<step>/state` holds the arrays
as Orbax writes them, `<step>/manifest.json` the path, dtype and shape of every leaf, the SHA-256 of
every file, and the caller's `meta`. (Orbax itself does not notice a flipped byte.)

This file decides what is kept, skipped and deleted; `files` writes and reads one checkpoint, `shards` one of
several processes, `format` knows what a state is.
"""

import functools
import json
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any

import jax

from learned_opt.artefact import atomic
from meta_train.checkpoint import shards as checkpoint_shards
from meta_train.checkpoint.files import UNFINISHED, Damaged, Restored, move, numbered, read, reason_of, write
from meta_train.checkpoint.format import to_store
from meta_train.errors import CheckpointError
from meta_train.parallel import exchange

PATIENCE = 5.0  # seconds that a save may still take where another process may be gone
POLL = 0.02  # seconds between looks at what is being written
ATTEMPTS = 10  # to restore while another process deletes what is being read
SLOW = 5.0  # seconds that training waits for the disk before a warning


class Checkpoints:
    """The checkpoints in one directory: a context manager, which waits for the last save.

    Writing goes on in one background thread, behind a copy of the state on the host: the state's buffers may
    be donated as soon as `save` returns. What fails there is raised as CheckpointError by the next call.

    Guarantees. A checkpoint is written under another name and flushed to the disk (fsync); one rename gives
    it its own; older ones are deleted only after that. So a process that is killed at any moment leaves
    the last completed checkpoint, and so does a power failure, as far as the disk keeps what it acknowledged.
    A save that fails (disk full) leaves the earlier ones. Reading changes nothing. One process may write.

    With several processes (`jax.distributed`), all must call every method but `give_up`, in the same
    order, on a file system that they share. Each writes its own shards, each verifies its part of the files
    and reads its own shards, on whatever number of processes and devices; the first one names, moves and
    deletes. What all of them have (theta alone) the first one writes.

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
        self._together = False  # the pending save is one of all processes
        self._given_up = threading.Event()
        self._slow = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is not None and self._together:
            self.give_up()  # this process may be the only one here
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
        """Returns when the last save is on the disk; raises CheckpointError, once, if it failed.

        Where another process is dead, it raises an error of JAX's own, at once."""
        if self._pending is not None:
            while self._together and exchange.anybody(not self._pending.done()):
                time.sleep(POLL)
            wait_for([self._pending])  # may be interrupted (Ctrl-C) and called again
            pending, self._pending = self._pending, None
            together, self._together = self._together, False
            exchange.together(pending.result, CheckpointError) if together else pending.result()

    def give_up(self) -> None:
        """Asks nothing more of other processes, which may be gone; soon abandons a save that needs them."""
        pending = [self._pending] if self._pending is not None and self._together else []
        wait_for(pending, timeout=PATIENCE)
        self._given_up.set()
        wait_for(pending)
        if pending:
            self._pending, self._together = None, False

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending, without those that restore found damaged."""
        self.wait()
        return [step for step in self._agreed_steps() if step not in self._damaged]

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
        self._wait_for_previous()
        step = int(step)
        if step < 0:
            raise CheckpointError(f"step must be >= 0, got {step}")
        newer = [s for s in self._agreed_steps() if s >= step and s not in self._damaged]
        if newer and not replace:
            raise CheckpointError(f"cannot save step {step}: {self.directory} already has step {newer[-1]}")
        try:
            plain_meta = json.loads(json.dumps(meta or {}))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"meta of checkpoint {step} is not JSON: {error}") from None
        leaves, arrays = to_store(state)
        if not any(array.size for array in arrays):
            raise CheckpointError(f"the state of step {step} has no data to save")
        if any(isinstance(array, jax.Array) for array in arrays):
            self._save_shards(step, leaves, arrays, plain_meta, newer)
        elif jax.process_index() == 0:
            self._pending = self._behind(self._write, step, leaves, arrays, plain_meta, newer)
        if jax.process_index():
            self._damaged = set()  # the first process moves them

    def restore(self, target: Any, *, step: int | None = None) -> Restored | None:
        """The newest checkpoint that is undamaged, or that of one step.

        A damaged checkpoint is named through `warn` with the reason, and the one before is tried.
        The next save moves it to `damaged/`, so that its step is free again and nothing is lost. Another
        process may save meanwhile, and delete what is being read here: then there is another attempt.

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
            if step not in self._agreed_steps():
                raise CheckpointError(f"{self.directory} has no checkpoint {step}, only {self.steps()}")
            path = self._path(step)
            try:
                return read(path, target)
            except Damaged as damage:
                raise CheckpointError(f"checkpoint {path} is damaged: {damage}") from damage
        for path in sorted(self.directory.glob(f"*{UNFINISHED}")):
            self._warn(f"{path} is a half-written checkpoint: skipped")
        for _ in range(ATTEMPTS):
            # Last come those that an interrupted replacement had set aside.
            found = numbered(self.directory)[::-1] + numbered(self.directory / "replaced")[::-1]
            candidates, deleted, self._damaged = self._agreed(found), False, set()
            for path in candidates:
                try:
                    return read(path, target)
                except Damaged as damage:
                    if exchange.anybody(not path.exists()):
                        deleted = True
                        continue
                    self._warn(f"checkpoint {path} is damaged: {damage}: skipped")
                    self._damaged |= {int(path.name)} if path.parent == self.directory else set()
            if not candidates:
                return None
            if not deleted:
                break
        newest = candidates[0].name
        raise CheckpointError(f"every checkpoint in {self.directory} is damaged; the newest is {newest}")

    def _wait_for_previous(self) -> None:
        began = time.monotonic()
        self.wait()
        waited = time.monotonic() - began
        if waited > SLOW and not self._slow:
            self._slow = True
            self._warn(f"the disk is slow: training waited {waited:.0f} s for a save in {self.directory}")

    def _path(self, step: int) -> Path:
        return self.directory / str(step)

    def _agreed_steps(self) -> list[int]:
        return [int(path.name) for path in self._agreed(numbered(self.directory))]

    def _agreed(self, paths: list[Path]) -> list[Path]:
        """The paths that the first process sees now: it changes them, so another one may look too late."""
        if self._given_up.is_set():
            return paths
        names = exchange.gather(json.dumps([str(path.relative_to(self.directory)) for path in paths]))
        return [self.directory / name for name in json.loads(names[0])]

    def _behind(self, function: Callable, *args: Any) -> Future:
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        return self._thread.submit(function, *args)

    def _write(self, step: int, leaves: list, arrays: list, meta: dict, newer: list[int]) -> None:
        """In the background thread. Order matters: set aside, write, flush, and only then delete."""
        moved: list[tuple[Path, Path]] = []
        try:
            self._make_room(newer, moved)
            write(self._path(step), leaves, arrays, meta)
        except Exception as error:
            raise self._failure(step, reason_of(error), moved) from error
        self._tidy()

    def _save_shards(self, step: int, leaves: list, arrays: list, meta: dict, newer: list[int]) -> None:
        """The same order, with all processes: set aside here, the rest behind."""
        moved: list[tuple[Path, Path]] = []
        prepare = functools.partial(self._make_room, newer, moved)
        try:
            save = checkpoint_shards.start(self._path(step), leaves, arrays, meta, prepare)
        except CheckpointError as error:
            raise self._failure(step, str(error), moved) from error
        self._pending, self._together = self._behind(self._finish_shards, step, save, moved), True

    def _finish_shards(self, step: int, save: checkpoint_shards.Save, moved: list) -> None:
        try:
            checkpoint_shards.finish(save, self._given_up)
        except (CheckpointError, exchange.GaveUp) as error:
            raise self._failure(step, str(error), moved) from error
        if jax.process_index() == 0:
            self._tidy()

    def _make_room(self, newer: list[int], moved: list[tuple[Path, Path]]) -> None:
        """Sets aside what is to be replaced; `moved` tells where from."""
        self._clean()
        if newer:
            atomic.remove(self.directory / "replaced")  # of an older, interrupted replacement
        for s in newer:
            moved.append((move(self._path(s), self.directory / "replaced"), self._path(s)))

    def _failure(self, step: int, reason: str, moved: list[tuple[Path, Path]]) -> CheckpointError:
        for source, back in moved:
            if not back.exists():
                source.rename(back)
        good = [int(p.name) for p in numbered(self.directory) if int(p.name) not in self._damaged]
        return CheckpointError(
            f"cannot save checkpoint {step} in {self.directory}: {reason}"
            + (f"; the last good one is {good[-1]}" if good else "")
        )

    def _tidy(self) -> None:
        atomic.remove(self.directory / "replaced")
        if self._max_to_keep is not None:
            for old in numbered(self.directory)[: -self._max_to_keep]:
                atomic.remove(old)

    def _clean(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            if path.name.endswith(UNFINISHED) or atomic.is_litter(path):
                shutil.rmtree(path, ignore_errors=True)
        for step in sorted(self._damaged):
            move(self._path(step), self.directory / "damaged")
        self._damaged = set()
