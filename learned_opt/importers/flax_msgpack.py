"""Reader of flax's msgpack files: maps of arrays, without flax and without running anything."""

from typing import Any

import ml_dtypes  # a dependency of jax
import numpy as np

from learned_opt.importers.foreign import as_float32
from learned_opt.importers.settings import ImportProblem

NDARRAY, NUMPY_SCALAR = 1, 3  # msgpack extension types, as flax numbers them
CHUNKED = "__msgpack_chunked_array__"
MOST_DEPTH, MOST_ENTRIES = 100, 100_000  # of all maps together


def decode(raw: bytes, where: str) -> Any:
    """The tree in a file that flax's `to_bytes` or `msgpack_serialize` wrote.

    Args:
      raw: the file's content.
      where: its name, for the error messages.

    Returns:
      Nested dicts; the leaves are numpy arrays (in native byte order) and numbers, texts, None.

    Raises:
      ImportProblem: not such a file, damaged, or holding what is neither array nor number.
    """
    try:
        import msgpack
    except ImportError as error:
        raise ImportProblem(f"{where} is a msgpack file: reading it needs `pip install msgpack`") from error
    entries = 0

    def mapping(pairs):
        nonlocal entries
        entries += len(pairs)
        if entries > MOST_ENTRIES:
            raise ValueError(f"more than {MOST_ENTRIES:,} entries")
        return dict(pairs)

    def sequence(items):
        raise ValueError(f"a list of {len(items)}, where arrays and maps are expected")

    limits = {"max_array_len": MOST_ENTRIES, "max_map_len": MOST_ENTRIES}
    hooks = {"ext_hook": _extension, "object_pairs_hook": mapping, "list_hook": sequence}
    try:
        return _join_chunks(msgpack.unpackb(raw, raw=False, **hooks, **limits))
    except (ValueError, TypeError, RecursionError, MemoryError, msgpack.UnpackException) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ImportProblem(f"{where} is damaged, or no msgpack file of flax: {said}") from error


def _extension(code: int, payload: bytes) -> np.ndarray:
    import msgpack

    if code not in (NDARRAY, NUMPY_SCALAR):
        raise ValueError(f"extension type {code} is not an array")
    fields = msgpack.unpackb(payload, raw=False, max_array_len=64)
    if not isinstance(fields, list) or len(fields) != 3:
        raise ValueError("an array is not (shape, dtype, bytes)")
    shape, name, content = fields
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an array of the shape {shape}")
    array = np.frombuffer(content, _dtype(name)).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))


def _dtype(name: str) -> np.dtype:
    """The dtype of that name. Bytes are little-endian, on every machine, unless the name says otherwise."""
    if name == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    dtype = np.dtype(name)
    if dtype.kind not in "fiub":
        raise ValueError(f"an array of the dtype {name}")
    return dtype if dtype.byteorder == ">" else dtype.newbyteorder("<")


def _join_chunks(tree: Any, depth: int = 0) -> Any:
    """Flax splits arrays of more than 2^30 bytes into maps of flat pieces; here they are joined again."""
    if depth > MOST_DEPTH:
        raise ValueError(f"nested more than {MOST_DEPTH} deep")
    if not isinstance(tree, dict):
        return tree
    if CHUNKED not in tree:
        return {key: _join_chunks(value, depth + 1) for key, value in tree.items()}
    try:
        shape, chunks = ([part[str(i)] for i in range(len(part))] for part in (tree["shape"], tree["chunks"]))
        return np.concatenate(chunks).reshape([int(n) for n in shape])
    except (KeyError, TypeError) as error:
        raise ValueError("a chunked array without all of its chunks") from error


def flatten(tree: Any, where: str) -> dict[str, np.ndarray]:
    """The leaves of a tree of meta-parameters by path ("rnn_params.rnn/linear.w"), as float32.

    Raises:
      ImportProblem: a leaf is not an array of real floating-point numbers.
    """
    found = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
            return
        array = np.asarray(node)
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            what = "a text" if isinstance(node, (str, bytes)) else array.dtype.name
            raise ImportProblem(f"{where} holds no meta-parameters at {path or 'its top'}: {what}")
        found[path] = as_float32(array)

    walk(tree, "")
    return found
