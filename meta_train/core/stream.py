"""Training data too large for the device: a buffer of fixed size, refreshed between outer steps.

The rows pass through the buffer in a shuffled order that is a function of the seed alone, and what the
buffer holds is a function of the outer step: so a resumed run sees the same rows, bit for bit, and nothing of
the data has to be in a checkpoint but where the stream stood and a digest of what it reads.
"""

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Stalled
from typing import Any

import jax
import numpy as np

from meta_train.core.stream_rows import SOURCE, Arrays, Stream, digest, digest_of, in_order, take
from meta_train.errors import RunError


def stream(
    label: str, host: Arrays, *, buffer_rows: int, chunk: int | None, every: int, timeout: float, seed: int
) -> Stream:
    """Checks what can be streamed.

    Args:
      label: of the family.
      host: its training split, as `tasks.data.datasets.stack` makes it, on the host; under "python" the rows
        that a program gives, `tasks.data.source.Rows`.
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
    arrays = {name: array for name, array in host.items() if name != SOURCE}
    return Stream(label, arrays, buffer_rows, chunk, every, timeout, seed, host.get(SOURCE))


def refreshes(stream: Stream, outer_step: int) -> int:
    """How often the buffer was refreshed before this outer step runs."""
    return outer_step // stream.every


def buffer_at(stream: Stream, count: int) -> Arrays:
    """The buffer on the host after `count` refreshes: arrays [D, B, ...]."""
    slots = np.arange(stream.buffer_rows)
    newest = stream.buffer_rows + count * stream.chunk - 1
    positions = newest - (newest - slots) % stream.buffer_rows
    rows = np.minimum(stream.host["rows"], stream.buffer_rows).astype(np.int32)
    return {**stream.host, **take(stream, positions), "rows": rows}


def chunk_at(stream: Stream, count: int) -> tuple[Arrays, int]:
    """What refresh `count` (from 1 on) brings, arrays [D, C, ...], and the first slot that it fills."""
    first = stream.buffer_rows + (count - 1) * stream.chunk
    return take(stream, first + np.arange(stream.chunk)), first % stream.buffer_rows


class Feeds:
    """The streams of a run between two calls of its outer step: a context manager with one thread.

    Args:
      streams: label -> stream.
      data: label -> split -> arrays, on the device; those of the streams are replaced.
      put: host arrays -> device arrays, in the sharding of the run.
      outer_step: where the run begins or goes on.
      saved: `position` in the checkpoint of that step, where there is one.
    """

    def __init__(
        self,
        streams: dict[str, Stream],
        data: Arrays,
        put: Callable[[Any], Any],
        outer_step: int = 0,
        saved: dict[str, Any] | None = None,
    ):
        self._streams, self._put = streams, put
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stream") if streams else None
        self._next: dict[str, Future] = {}
        self._digests: dict[str, str] = {}
        self._done: dict[str, int] = {}
        self._newest: dict[str, dict[int, str]] = {label: {} for label in streams}
        self.data = dict(data)
        for label, one in streams.items():
            count = self._done[label] = refreshes(one, outer_step)
            buffer = self._first_buffer(one, count, (saved or {}).get(label, {}).get("state"))
            self.data[label] = {**data[label], "train": put(buffer)}
            self._prefetch(label, count + 1)

    def _first_buffer(self, one: Stream, count: int, state: Any) -> Arrays:
        try:
            if state is not None:
                one.source.restore(count * one.chunk, state)
            buffer = buffer_at(one, count)
        except Exception as error:  # a source is anybody's code
            raise RunError(f"the data stream of task {one.label!r} cannot be read: {error}") from error
        if in_order(one):
            newest = (count * one.chunk - one.chunk + np.arange(one.chunk)) % one.buffer_rows
            self._newest[one.label][count] = digest_of({k: buffer[k][:, newest] for k in ("x", "y")})
        return buffer

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
        """Where the streams stand, for a checkpoint: label -> refreshes and a digest of the data.

        Of rows that come one after another: of the newest chunk, with the state of their source, if any.
        """
        found = {}
        for label, one in self._streams.items():
            count = refreshes(one, outer_step)
            found[label] = {"refreshes": count, "digest": self._digest(label, count)}
            if in_order(one) and (state := one.source.state(count * one.chunk)) is not None:
                found[label]["state"] = state
        return found

    def check(
        self, outer_step: int, saved: dict[str, Any], warn: Callable[[str], None] = warnings.warn
    ) -> None:
        """Compares the data with those that a checkpoint's `position` tells of.

        Raises:
          RunError: they are others. A source that does not repeat itself is a warning: nothing can bring its
            rows back.
        """
        for label, place in self.position(outer_step).items():
            same = saved.get(label, place)["digest"] == place["digest"]
            if not same and in_order(self._streams[label]):
                warn(
                    f"the data stream of task {label!r} does not repeat itself: the run goes on with other "
                    "rows than it would have seen without a break"
                )
            elif not same:
                raise RunError(
                    f"the data of task {label!r} are not those of the checkpoint at outer step {outer_step}: "
                    f"digest {place['digest'][:12]}, then {saved[label]['digest'][:12]}"
                )

    def _digest(self, label: str, count: int) -> str:
        if in_order(one := self._streams[label]):
            if count not in self._newest[label]:
                self._wait(one)
            return self._newest[label][count]
        if label not in self._digests:
            self._digests[label] = digest(self._streams[label])
        return self._digests[label]

    def _prefetch(self, label: str, count: int) -> None:
        one = self._streams[label]
        assert self._thread is not None

        def read():
            chunk, slot = chunk_at(one, count)
            if in_order(one):
                newest = self._newest[label]
                newest[count] = digest_of({name: chunk[name] for name in ("x", "y")})
                newest.pop(count - 3, None)
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
