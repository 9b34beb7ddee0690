"""Named data sets as arrays on the host, and stacks of them on the device.

A name is `BASE` or `BASE[start:stop]`; the slice takes rows of the data set in its own fixed order.
Nothing here needs a network.
"""

import contextlib
import contextvars
import difflib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tasks.data.loaders import ARGUMENT_LOADERS, LOADERS, Dataset

SOURCE = "python"  # the prefix of data that a program gives, and their key in the data of a streamed family
VALID_EVERY = 5  # row i of the (sliced) data set is in "valid" where i % 5 == 4, else in "train"


class Stack(NamedTuple):
    """Data sets of equal example shape, padded to equal rows and stacked."""

    # {"train": arrays, "valid": arrays}, `arrays` being x f32[D, R, *shape], y [D, R], rows i32[D] (the rows
    # that are not padding) and classes i32[D]
    data: dict[str, dict[str, jax.Array]]
    shape: tuple[int, ...]  # shape of one example
    num_classes: int  # largest number of classes; 0 for regression
    equal_classes: bool  # whether all D data sets have that many


def load(name: str) -> Dataset:
    """The data set called `name`; cached, so its arrays must not be written to.

    Names: digits (x scaled to [0, 1]); breast_cancer, wine, iris, diabetes (x, and the target of
    diabetes, standardised to mean 0 and variance 1 over all rows; iris and wine come sorted by
    class, so slice them with care); teacher:SEED (see `teacher`); npz:PATH (arrays x
    and y); deformed:SEED (see `loaders.deformed`); tfds:NAME?options (see `tasks.data.tfds`); hf:PATH?options
    (see `tasks.data.hf`); python:FILE.py:FACTORY (see `tasks.data.source`). Each with an optional slice of
    rows: "digits[:1200]", "teacher:3[100:]".

    Raises:
      ValueError: unknown name (with the nearest valid ones), empty or impossible slice, NaN or
        infinity in the data, labels that are not 0 ... num_classes - 1.
    """
    base, start, stop = _parse(name)
    whole = _load(base)
    if start is None and stop is None:
        return whole
    rows = len(whole.x)
    first, last = start or 0, rows if stop is None else stop
    if not 0 <= first < last <= rows:
        raise ValueError(
            f"datasets: {name!r} asks for rows {first} to {last} of {base!r}, which has {rows} rows"
        )
    return whole._replace(x=whole.x[first:last], y=whole.y[first:last])


def split(dataset: Dataset, which: str) -> Dataset:
    """The "train" or "valid" part of a data set: every fifth row, from the fifth on, is in "valid"."""
    if which not in ("train", "valid"):
        raise ValueError(f"split: no split {which!r}, allowed: 'train', 'valid'")
    valid = np.arange(len(dataset.x)) % VALID_EVERY == VALID_EVERY - 1
    mask = valid if which == "valid" else ~valid
    return dataset._replace(x=dataset.x[mask], y=dataset.y[mask])


def stack(names: Sequence[str]) -> Stack:
    """Loads, splits, pads and stacks data sets, so that tasks on any of them share one program.

    Raises:
      ValueError: no name, unequal example shapes, classification mixed with regression, fewer
        than five rows in one of them.
    """
    if not names:
        raise ValueError("datasets: needs at least one name, got none")
    if _place.get() is _as_is and any(name.startswith(f"{SOURCE}:") for name in names):
        return _source_stack(names)
    sets = [load(name) for name in names]
    for name, dataset in zip(names, sets, strict=True):
        if dataset.shape != sets[0].shape:
            raise ValueError(
                f"datasets: examples of {name!r} have shape {dataset.shape}, those of {names[0]!r} "
                f"{sets[0].shape}; only equal shapes can be stacked"
            )
        if bool(dataset.num_classes) != bool(sets[0].num_classes):
            raise ValueError(f"datasets: {name!r} and {names[0]!r} mix classification with regression")
        if len(dataset.x) < VALID_EVERY:
            raise ValueError(
                f"datasets: {name!r} has {len(dataset.x)} rows, at least {VALID_EVERY} are needed"
            )
    classes = [dataset.num_classes for dataset in sets]
    data = {which: _stack([split(dataset, which) for dataset in sets]) for which in ("train", "valid")}
    return Stack(data, sets[0].shape, max(classes), len(set(classes)) == 1)


def _stack(sets: list[Dataset]) -> dict[str, jax.Array]:
    rows = [len(dataset.x) for dataset in sets]
    x = np.zeros((len(sets), max(rows), *sets[0].shape), np.float32)
    y = np.zeros((len(sets), max(rows)), sets[0].y.dtype)
    for i, dataset in enumerate(sets):
        x[i, : rows[i]] = dataset.x.reshape(-1, *dataset.shape)
        y[i, : rows[i]] = dataset.y
    classes = [dataset.num_classes for dataset in sets]
    return _place.get()(
        {"x": x, "y": y, "rows": np.array(rows, np.int32), "classes": np.array(classes, np.int32)}
    )


def _source_stack(names: Sequence[str]) -> Stack:
    """The rows of a program as a stream reads them: arrays of no rows, and `SOURCE` in place of the rest."""
    from tasks.data import source

    if len(names) > 1:
        raise ValueError(
            f"datasets: {names[0]!r} must be the only data set of a streamed task, got {len(names)}"
        )
    found = source.open_source(names[0].partition(":")[2])
    y = np.zeros((1, 0), np.int32 if found.classes else np.float32)

    def split(rows: source.Rows) -> dict[str, Any]:
        length = np.array([np.iinfo(np.int32).max if rows.length is None else rows.length], np.int32)
        x = np.zeros((1, 0, *found.shape), np.float32)
        classes = np.array([found.classes], np.int32)
        return {"x": x, "y": y, "rows": length, "classes": classes, SOURCE: rows}

    data: dict[str, Any] = {"train": split(found.train), "valid": split(found.valid)}
    return Stack(data, found.shape, found.classes, True)


def _as_is(arrays: Any) -> Any:
    return arrays


_place: contextvars.ContextVar[Callable] = contextvars.ContextVar("place", default=jax.device_put)


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Families made in here keep their data on the host, for a stream to bring them to the device."""
    token = _place.set(_as_is)
    try:
        yield
    finally:
        _place.reset(token)


def _parse(name: str) -> tuple[str, int | None, int | None]:
    match = re.fullmatch(r"(.+?)(?:\[(\d*):(\d*)\])?", name)
    if match is None:
        raise ValueError(f"datasets: {name!r} is not a name; write NAME or NAME[start:stop]")
    base, start, stop = match.groups()
    return base, int(start) if start else None, int(stop) if stop else None


@functools.lru_cache(maxsize=64)
def _load(base: str) -> Dataset:
    kind, colon, argument = base.partition(":")
    loaders = ARGUMENT_LOADERS if colon else LOADERS
    if kind not in loaders or (colon and not argument):
        names = [*LOADERS, *(f"{prefix}:" for prefix in ARGUMENT_LOADERS)]
        near = difflib.get_close_matches(kind, [n.rstrip(":") for n in names], n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near and near != [kind] else ""
        raise ValueError(f"datasets: unknown data set {base!r}{hint} (allowed: {', '.join(names)}...)")
    dataset = ARGUMENT_LOADERS[kind](argument) if colon else LOADERS[kind](kind)
    check(dataset, base)
    dataset.x.setflags(write=False)
    dataset.y.setflags(write=False)
    return dataset


def check(dataset: Dataset, name: str) -> None:
    """Refuses (ValueError) a data set that is not what `Dataset` says, or not finite."""
    x, y, num_classes = dataset.x, dataset.y, dataset.num_classes
    if x.ndim != 2 or x.dtype != np.float32 or len(x) != len(y) or y.ndim != 1 or not x.size:
        raise ValueError(
            f"datasets: {name!r} needs x f32[rows, features] and y [rows], got {x.shape}, {y.shape}"
        )
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(x).all(1) & np.isfinite(y)))
        raise ValueError(f"datasets: {name!r} holds NaN or infinity, first in row {row}")
    if num_classes and (y.min() < 0 or y.max() >= num_classes):
        raise ValueError(
            f"datasets: labels of {name!r} must lie in 0..{num_classes - 1}, got {y.min()}..{y.max()}"
        )
