"""Measured trainings on disk: a file for each optimizer, task and length, with a record for each run.

The name of a file holds a hash of everything that decides what a run does: the lowered programs of the loop,
the task and the optimizer, the task's data, theta, the length, what is read, the versions and the device. A
record is known by a hash of its setting and seed. So code that is moved or commented keeps its entries, code
that computes something else loses them, and an evaluation that was killed goes on where it was.
"""

import functools
import hashlib
import io
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from meta_train.errors import RunError
from meta_train.evaluation.curves import Curves, trainer
from meta_train.evaluation.files import replace
from meta_train.evaluation.optimizers import Contestant
from tasks.base import Task, TaskFamily, fixed

SAVE_EVERY = 20  # seconds


class Digests(NamedTuple):
    """What a family is: its `program` without the values of its `data`, and the shapes of its `params`."""

    program: str
    data: str
    params: Any


def digests(family: TaskFamily) -> Digests:
    """Hashes of a family's data, and of its lowered program: sampling, initialisation, losses, gradients.

    Families of equal `program` differ in the values of their data alone: one compiled program trains them.
    """

    def whole(key, data):
        task = family.task(family.sample(key))
        params = task.init(key)
        loss = jax.value_and_grad(task.loss)
        return params, {split: loss(params, key, arrays) for split, arrays in data.items()}

    key = jax.random.key(0)
    return Digests(
        _lowered(whole, key, family.data),
        hash_of([], jax.device_get(family.data)),
        jax.eval_shape(lambda k: family.task(family.sample(k)).init(k), key),
    )


def hash_of(texts: Iterable[str], arrays: Any) -> str:
    """sha256 of texts and of a pytree of arrays."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    for path, x in jax.tree_util.tree_leaves_with_path(arrays):
        x = np.asarray(x)
        digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape} ".encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def optimizer_digest(contestant: Contestant, params: Any) -> str:
    """Hash of the lowered program of an optimizer on parameters of these shapes."""
    row = jax.tree.map(lambda x: x[0], contestant.settings)
    row = row if contestant.shared is None else (row, contestant.shared)

    def whole(setting, num_steps, params, loss):
        opt = optax.with_extra_args_support(contestant.build(setting, num_steps))
        updates, state = opt.update(params, opt.init(params), params, value=loss)
        read = params if contestant.eval_params is None else contestant.eval_params(params, state)
        return updates, state, read

    return _lowered(whole, row, np.int32(2), params, np.float32(0))


@functools.cache
def loop_digest() -> str:
    """Hash of the training loop around task and optimizer, of the versions and of the device."""
    toy = Task(lambda key: jax.random.normal(key, (2,)), lambda params, key, data: (params**2).sum())
    train = trainer(fixed(toy), lambda rate, num_steps: optax.sgd(rate), 4, num_valid_batches=2)
    keys, stops = jax.random.split(jax.random.key(0), 2), np.array([2, 4], np.int32)
    args = np.ones(1, np.float32), None, keys, np.int32(4), stops, np.ones(2, np.int32), train.data
    device = jax.devices()[0].device_kind
    versions = f"jax {jax.__version__} {jax.default_backend()} {device}"
    return hash_of([train.run.trace(*args).lower().as_text(), versions], [])


def _lowered(function: Any, *args: Any) -> str:
    traced = jax.jit(function).trace(*args)
    return hash_of([traced.lower().as_text()], jax.device_get(traced.jaxpr.consts))


class Entry:
    """The records of one optimizer on one task at one length: `(setting, seed) -> curves`, kept in a file.

    Args:
      path: the file; None keeps them in memory alone.
      settings: the rows, a pytree with a leading axis.
      keys: key[S].
    """

    def __init__(self, path: Path | None, settings: Any, keys: jax.Array):
        self.path, self.saved = path, time.monotonic()
        rows = range(len(jax.tree.leaves(settings)[0]))
        self.rows = [hash_of([], jax.tree.map(lambda x, i=i: x[i], settings)) for i in rows]
        self.keys = [key.tobytes().hex() for key in np.asarray(jax.random.key_data(keys))]
        self.found = {} if path is None else _read(path)

    def name(self, row: int, seed: int) -> str:
        """What a run is called."""
        return hash_of([self.rows[row], self.keys[seed]], [])[:32]

    def complete(self, rows: Iterable[int], seeds: Iterable[int]) -> bool:
        """Whether every run of these rows and seeds is known."""
        return all(self.name(row, seed) in self.found for row in rows for seed in seeds)

    def get(self, rows: Iterable[int], seeds: Iterable[int]) -> tuple[np.ndarray, ...] | None:
        """Train [L, S, T], valid and test [L, S, M]; None if a run is not known."""
        names = [[self.name(row, seed) for seed in seeds] for row in rows]
        if any(name not in self.found for of_row in names for name in of_row):
            return None
        runs = [[self.found[name] for name in of_row] for of_row in names]
        return tuple(np.array([[run[i] for run in of_row] for of_row in runs]) for i in range(3))

    def put(self, rows: Iterable[int], seeds: Iterable[int], found: Sequence[np.ndarray]) -> None:
        """Keeps runs, and writes the file if the last time was a while ago."""
        for i, row in enumerate(rows):
            for j, seed in enumerate(seeds):
                self.found[self.name(row, seed)] = tuple(part[i, j] for part in found)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Writes the file, with what another process has put there meanwhile; only warns if it cannot."""
        if self.path is None:
            return
        self.found = _read(self.path) | self.found
        self.saved = time.monotonic()
        arrays = {"names": np.array(list(self.found))}
        for i, part in enumerate(("train", "valid", "test")):
            arrays[part] = np.array([run[i] for run in self.found.values()])
        buffer = io.BytesIO()
        sha256 = np.frombuffer(hash_of([], arrays).encode(), np.uint8)
        np.savez(buffer, allow_pickle=False, sha256=sha256, **arrays)
        try:
            replace(self.path, buffer.getvalue())
        except RunError as error:
            warnings.warn(f"what was measured is not kept: {error}", stacklevel=2)


class Entries:
    """The entries of families that are trained side by side, as `curves` wants them.

    Args:
      entries: one for each family.
      rows: the entries' rows that `curves` runs.
      seeds: the same of their seeds.
    """

    def __init__(self, entries: Sequence[Entry], rows: Sequence[int], seeds: Sequence[int]):
        self.entries, self.rows, self.seeds = entries, np.array(rows), np.array(seeds)

    def get(self, rows: np.ndarray, seeds: range) -> Curves | None:
        """The curves of all families, or None if a run of one of them is not known."""
        found = [entry.get(self.rows[rows], self.seeds[seeds]) for entry in self.entries]
        known = [one for one in found if one is not None]
        return Curves(*map(np.stack, zip(*known, strict=True))) if len(known) == len(found) else None

    def put(self, rows: np.ndarray, seeds: range, found: Curves) -> None:
        """Hands each family's curves to its entry."""
        for g, entry in enumerate(self.entries):
            entry.put(self.rows[rows], self.seeds[seeds], [part[g] for part in found])


def _read(path: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """The records of a file; none if it is missing or damaged in any way."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if arrays.pop("sha256").tobytes().decode() != hash_of([], arrays):
            return {}
        names, *parts = (arrays[part] for part in ("names", "train", "valid", "test"))
        return {str(name): tuple(run) for name, *run in zip(names, *parts, strict=True)}
    except Exception:  # numpy and zipfile raise a dozen types on damaged files; the runs are repeated
        return {}
