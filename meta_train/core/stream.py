"""Training data too large for the device: a buffer of fixed size, refreshed between outer steps.

The rows pass through the buffer in a shuffled order that is a function of the seed alone, and what the
buffer holds is a function of the outer step: so a resumed run sees the same rows, bit for bit, and nothing of
the data has to be in a checkpoint but where the stream stood and a digest of what it reads.
"""

import functools
import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Stalled
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.errors import RunError

Arrays = dict[str, Any]


class Stream(NamedTuple):
    """The training split of one family, on the host, and how it passes through the device.

    Attributes:
      label: of the family, for errors.
      host: arrays on the host: x [D, R, ...] and others of D data sets by R rows, `rows` i32[D] and what
        else does not count rows.
      buffer_rows: B, rows of each data set on the device.
      chunk: C, rows of each that one refresh replaces; divides B.
      every: outer steps between refreshes.
      timeout: seconds that a refresh may take before the run stops.
      seed: of the order.
    """

    label: str
    host: Arrays
    buffer_rows: int
    chunk: int
    every: int
    timeout: float
    seed: int


def stream(
    label: str, host: Arrays, *, buffer_rows: int, chunk: int | None, every: int, timeout: float, seed: int
) -> Stream:
    """Checks what can be streamed.

    Args:
      label: of the family.
      host: its training split, as `tasks.data.datasets.stack` makes it, on the host.
      buffer_rows: B; more than there are rows is allowed, and then everything fits.
      chunk: C; None for an eighth of B.
      every: outer steps between refreshes.
      timeout: in seconds.
      seed: of the order.

    Raises:
      ValueError: data that are no table of rows, a chunk that does not divide the buffer.
    """
    if not isinstance(host, dict) or not {"x", "y", "rows"} <= set(host):
        raise ValueError("stream must be given to a task on tables of rows (x, y), this one has none")
    chunk = max(1, buffer_rows // 8) if chunk is None else chunk
    if buffer_rows % chunk:
        raise ValueError(f"stream.chunk must divide stream.rows ({buffer_rows}), got {chunk}")
    return Stream(label, host, buffer_rows, chunk, every, timeout, seed)


def refreshes(stream: Stream, outer_step: int) -> int:
    """How often the buffer was refreshed before this outer step runs."""
    return outer_step // stream.every


def buffer_at(stream: Stream, count: int) -> Arrays:
    """The buffer on the host after `count` refreshes: arrays [D, B, ...]."""
    slots = np.arange(stream.buffer_rows)
    newest = stream.buffer_rows + count * stream.chunk - 1
    positions = newest - (newest - slots) % stream.buffer_rows
    rows = np.minimum(stream.host["rows"], stream.buffer_rows).astype(np.int32)
    return {**stream.host, **_take(stream, positions), "rows": rows}


def chunk_at(stream: Stream, count: int) -> tuple[Arrays, int]:
    """What refresh `count` (from 1 on) brings, arrays [D, C, ...], and the first slot that it fills."""
    first = stream.buffer_rows + (count - 1) * stream.chunk
    return _take(stream, first + np.arange(stream.chunk)), first % stream.buffer_rows


def digest(stream: Stream) -> str:
    """sha256 of the data, hexadecimal."""
    found = hashlib.sha256()
    for name in sorted(stream.host):
        array = np.ascontiguousarray(stream.host[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.data.cast("B") if array.size else b"")
    return found.hexdigest()


def _take(stream: Stream, positions: np.ndarray) -> Arrays:
    """Rows of every data set at places of the stream, of the arrays that have rows."""
    found: dict[str, list] = {name: [] for name in _row_arrays(stream.host)}
    for d, rows in enumerate(np.asarray(stream.host["rows"])):
        picked = _rows_at(stream, d, int(rows), positions)
        for name, parts in found.items():
            parts.append(stream.host[name][d][picked])
    return {name: np.stack(parts) for name, parts in found.items()}


def _row_arrays(host: Arrays) -> list[str]:
    return [
        name for name, array in host.items() if array.ndim >= 2 and array.shape[:2] == host["x"].shape[:2]
    ]


def _rows_at(stream: Stream, d: int, rows: int, positions: np.ndarray) -> np.ndarray:
    """Row numbers of data set d; each pass over the data has an order of its own."""
    if rows <= stream.buffer_rows:  # everything fits, in its own order
        return np.minimum(positions % stream.buffer_rows, rows - 1)
    passes, places = np.divmod(positions, rows)
    picked = np.empty(len(positions), np.int64)
    for one in np.unique(passes):
        here = passes == one
        picked[here] = _order(stream.seed, d, int(one), rows)[places[here]]
    return picked


@functools.lru_cache(maxsize=8)
def _order(seed: int, d: int, one: int, rows: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, d * 2**32 + one])).permutation(rows)


class Feeds:
    """The streams of a run between two calls of its outer step: a context manager with one thread.

    Args:
      streams: label -> stream.
      data: label -> split -> arrays, on the device; those of the streams are replaced.
      put: host arrays -> device arrays, in the sharding of the run.
      outer_step: where the run begins or goes on.
    """

    def __init__(
        self, streams: dict[str, Stream], data: Arrays, put: Callable[[Any], Any], outer_step: int = 0
    ):
        self._streams, self._put = streams, put
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream") if streams else None
        self._next: dict[str, Future] = {}
        self._digests: dict[str, str] = {}
        self._done: dict[str, int] = {}
        self.data = dict(data)
        for label, one in streams.items():
            count = self._done[label] = refreshes(one, outer_step)
            self.data[label] = {**data[label], "train": put(buffer_at(one, count))}
            self._prefetch(label, count + 1)

    def __enter__(self) -> "Feeds":
        return self

    def __exit__(self, *_) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def advance(self, outer_step: int) -> None:
        """Brings the buffers to where they must be when this outer step runs.

        Raises:
          RunError: a stream that cannot be read, or that stalls.
        """
        for label, one in self._streams.items():
            while self._done[label] < refreshes(one, outer_step):
                chunk, slot = self._wait(one)
                data = self.data[label]
                self.data[label] = {
                    **data,
                    "train": {**data["train"], **_refresh(data["train"], chunk, slot)},
                }
                self._done[label] += 1
                self._prefetch(label, self._done[label] + 1)

    def position(self, outer_step: int) -> dict[str, Any]:
        """Where the streams stand, for a checkpoint: label -> refreshes and a digest of the data."""
        return {
            label: {"refreshes": refreshes(one, outer_step), "digest": self._digest(label)}
            for label, one in self._streams.items()
        }

    def check(self, outer_step: int, saved: dict[str, Any]) -> None:
        """Refuses (RunError) to go on with other data than those that a checkpoint's `position` tells of."""
        for label, place in self.position(outer_step).items():
            if saved.get(label, place) != place:
                raise RunError(
                    f"the data of task {label!r} are not those of the checkpoint at outer step {outer_step}: "
                    f"digest {place['digest'][:12]}, then {saved[label]['digest'][:12]}"
                )

    def _digest(self, label: str) -> str:
        if label not in self._digests:
            self._digests[label] = digest(self._streams[label])
        return self._digests[label]

    def _prefetch(self, label: str, count: int) -> None:
        one = self._streams[label]
        assert self._thread is not None

        def read():
            chunk, slot = chunk_at(one, count)
            return self._put(chunk), self._put(np.int32(slot))

        self._next[label] = self._thread.submit(read)

    def _wait(self, one: Stream):
        try:
            return self._next[one.label].result(one.timeout)
        except Stalled:
            raise RunError(
                f"the data stream of task {one.label!r} gave nothing for {one.timeout:g} s (stream.timeout)"
            ) from None
        except Exception as error:
            raise RunError(f"the data stream of task {one.label!r} cannot be read: {error}") from error


@functools.partial(jax.jit, donate_argnums=0)
def _replace(buffers: Arrays, chunk: Arrays, slot: jax.Array) -> Arrays:
    return {name: jax.lax.dynamic_update_slice_in_dim(buffers[name], chunk[name], slot, 1) for name in chunk}


def _refresh(train: Arrays, chunk: Arrays, slot: jax.Array) -> Arrays:
    return _replace({name: train[name] for name in chunk}, chunk, slot)
