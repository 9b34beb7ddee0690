"""Measured trainings of the rivals on disk. An entry's name holds a hash of all that could change it."""

import hashlib
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from meta_train.errors import RunError
from meta_train.evaluation import baselines as optax_baselines
from meta_train.evaluation import curves
from meta_train.evaluation.files import replace
from tasks.base import TaskFamily


class Digests(NamedTuple):
    """What a family is: `program` without the values of its data, `data` those values."""

    program: str
    data: str


def digests(family: TaskFamily) -> Digests:
    """Hashes of a family's data, and of its lowered program: sampling, initialisation, losses, gradients.

    Families of equal `program` differ in the values of their data alone: one compiled program trains them.
    """

    def whole(key, data):
        task = family.task(family.sample(key))
        params = task.init(key)
        loss = jax.value_and_grad(task.loss)
        return params, {split: loss(params, key, arrays) for split, arrays in data.items()}

    traced = jax.jit(whole).trace(jax.random.key(0), family.data)
    constants = hash_of([], jax.device_get(traced.jaxpr.consts))
    return Digests(
        hash_of([traced.lower().as_text(), constants], []),
        hash_of([], jax.device_get(family.data)),
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


def code_version() -> str:
    """Hash of the versions, the device kind, and the files that decide what a training computes."""
    files = (curves.__file__, optax_baselines.__file__, Path(__file__).with_name("measure.py"))
    device = jax.devices()[0].device_kind
    return hash_of(
        [
            f"jax {jax.__version__} optax {optax.__version__} {jax.default_backend()} {device}",
            *(Path(file).read_text(encoding="utf-8") for file in files),
        ],
        [],
    )


def load(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an entry, or None if it is missing or damaged in any way."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays if arrays.pop("sha256").tobytes().decode() == hash_of([], arrays) else None
    except Exception:  # numpy and zipfile raise a dozen types on damaged files; the entry is recomputed
        return None


def store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an entry at once; only warns if it cannot."""
    buffer = io.BytesIO()
    sha256 = np.frombuffer(hash_of([], arrays).encode(), np.uint8)
    np.savez_compressed(buffer, allow_pickle=False, sha256=sha256, **arrays)
    try:
        replace(path, buffer.getvalue())
    except RunError as error:
        warnings.warn(f"cannot keep the tuned baseline in {path.parent}: {error}", stacklevel=2)
