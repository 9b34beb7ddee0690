"""The rows of a stream: what they are read from, and which of them stand at a place of the stream."""

import functools
import hashlib
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, Any]
SOURCE = "python"  # the key of a program's rows in the data of a family
MOST_SHUFFLED = 10_000_000  # rows of a program; more come in their own order, as another one would be large


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
      source: rows that a program gives, in place of those of `host`, which then holds none; None without.
    """

    label: str
    host: Arrays
    buffer_rows: int
    chunk: int
    every: int
    timeout: float
    seed: int
    source: Any = None


def digest(stream: Stream) -> str:
    """sha256 of the data, hexadecimal; of a program's rows, of their number, the first and the last."""
    if stream.source is not None:
        length = stream.source.length
        return digest_of({"rows": np.array([length]), **stream.source.read(np.array([0, length - 1]))})
    return digest_of(stream.host)


def digest_of(arrays: Arrays) -> str:
    """sha256 of arrays, hexadecimal."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.data.cast("B") if array.size else b"")
    return found.hexdigest()


def take(stream: Stream, positions: np.ndarray) -> Arrays:
    """Rows of every data set at places of the stream, of the arrays that have rows."""
    if stream.source is not None:
        return {name: rows[None] for name, rows in _read(stream, positions).items()}
    found: dict[str, list] = {name: [] for name in _row_arrays(stream.host)}
    for d, rows in enumerate(np.asarray(stream.host["rows"])):
        picked = _rows_at(stream, d, int(rows), positions)
        for name, parts in found.items():
            parts.append(stream.host[name][d][picked])
    return {name: np.stack(parts) for name, parts in found.items()}


def _read(stream: Stream, positions: np.ndarray) -> Arrays:
    """Rows of a program at places of the stream."""
    source = stream.source
    if source.length is not None:
        many = source.length > MOST_SHUFFLED
        return source.read(
            positions % source.length if many else _rows_at(stream, 0, source.length, positions)
        )
    order = np.argsort(positions)  # one after another, a chunk at a time: a resumed run begins with a chunk
    pieces = [source.read(positions[order[i : i + stream.chunk]]) for i in range(0, len(order), stream.chunk)]
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return {name: rows[np.argsort(order)] for name, rows in joined.items()}


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


def in_order(stream: Stream) -> bool:
    """Whether its rows come one after another, so that only their source could say which they were."""
    return stream.source is not None and stream.source.length is None
