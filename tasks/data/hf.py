"""Data sets in the layout of the Hugging Face hub, from local Parquet files.

A name is `hf:PATH?option=value&...`, PATH being a Parquet file, or a directory in which the files of
a split have its name in theirs ("data/train-00000-of-00001.parquet"). The options are those of
`tasks.data.tfds.Options` (without `data_dir`). Nothing is downloaded.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.tfds import Options, Table, example, finish, parse


def read_table(argument: str) -> Table:
    """Images or a table, from `PATH?options`.

    Raises:
      ValueError: no such file, split or column; columns that are not numbers or images.
    """
    path, options = parse(argument, "hf")
    table = _read(path, options)
    names = table.column_names
    target = options.target or next((n for n in ("label", "target", "y") if n in names), "")
    if target not in names:
        raise ValueError(
            f"datasets: hf:{path} has no column {target!r}; say ?target=NAME, one of: {', '.join(names)}"
        )
    inputs = _inputs(table, path, options, target)
    y = np.asarray(table[target].to_pylist())
    if y.ndim != 1 or y.dtype.kind not in "iufb":
        raise ValueError(f"datasets: column {target!r} of hf:{path} must hold one number a row")
    columns = [table[name].to_pylist() for name in inputs]
    rows = [example([_decode(value) for value in row], options) for row in zip(*columns, strict=True)]
    if len({row.shape for row in rows}) > 1:
        raise ValueError(f"datasets: images of hf:{path} have different sizes; say ?size=N")
    classes = _class_names(table, target)
    return finish(np.stack(rows), y, classes, options, f"file {path}, {options.split}")


def read_text(argument: str) -> tuple[bytes, str]:
    """All texts of a column joined by newlines, and their source, from `PATH?options`.

    The column is that of the option `input`; by default the first one that holds text.

    Raises:
      ValueError: no such file, split or column; a column that does not hold text.
    """
    import pyarrow as pa

    path, options = parse(argument, "hf")
    table = _read(path, options)
    fields = [table.schema.field(name) for name in table.column_names]
    texts = [f.name for f in fields if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    column = options.input or (texts[0] if texts else "")
    if column not in texts:
        raise ValueError(
            f"texts: hf:{path} has no text column {column!r}, it has: {', '.join(table.column_names)}"
        )
    rows = (value for value in table[column].to_pylist() if value is not None)
    return "\n".join(rows).encode(), f"file {path}, {options.split}, {column}"


def _read(path: str, options: Options) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(f"datasets: hf:{path} needs pyarrow: pip install 'learned-opt[train]'") from error
    found = sorted(Path(path).rglob("*.parquet")) if Path(path).is_dir() else [Path(path)]
    files = [file for file in found if file == Path(path) or options.split in file.name.split("-")[0]]
    if not files:
        there = ", ".join(sorted({file.name for file in found})[:5]) or "no Parquet files"
        raise ValueError(f"datasets: hf:{path} has no split {options.split!r} (there are: {there})")
    try:
        table = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"datasets: cannot read hf:{path}: {str(error).splitlines()[0]}") from error
    return table.slice(0, options.limit or len(table))


def _inputs(table: Any, path: str, options: Options, target: str) -> list[str]:
    names = [options.input] if options.input else [n for n in table.column_names if n != target]
    for name in names:
        if name not in table.column_names:
            raise ValueError(
                f"datasets: hf:{path} has no column {name!r}; there are: {', '.join(table.column_names)}"
            )
    if not options.input and "image" in names:
        return ["image"]
    usable = [name for name in names if _is_input(table.schema.field(name).type)]
    if not usable or (options.input and len(usable) != len(names)):
        raise ValueError(
            f"datasets: hf:{path} has no number or image column among: {', '.join(names)}; say ?input=NAME"
        )
    return usable


def _is_input(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _decode(value: Any) -> Any:
    """An encoded image as u8[H, W, C]; anything else as it is."""
    if not isinstance(value, dict):
        return np.asarray(value, np.float32)
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(value["bytes"])))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _class_names(table: Any, target: str) -> int:
    """How many classes the file's own description gives to a column; 0 if it says nothing."""
    try:
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        return len(features[target].get("names", ()))
    except (TypeError, KeyError, ValueError, AttributeError):
        return 0
