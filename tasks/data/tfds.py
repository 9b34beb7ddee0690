"""TFDS data sets as arrays, read without tensorflow, and cached as one file each.

A name is `tfds:NAME` or `tfds:NAME?option=value&option=value`. Only what is prepared on this
machine in a random-access format (array_record, parquet) can be read; nothing is downloaded.
"""

import difflib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Options(NamedTuple):
    """What may follow the `?`."""

    split: str = "train"  # any TFDS split, also "train[:10%]" or "train+test"
    limit: int = 0  # at most so many rows, the first ones; 0 for all
    size: int = 0  # images are resized to size x size (area average); 0 leaves them
    grey: int = 0  # 1 makes colour images grey
    standardise: int = 0  # 1 gives every feature mean 0 and variance 1; otherwise bytes are divided by 255
    input: str = ""  # feature that is x; "" for the supervised one, or all numbers but the target
    target: str = ""  # feature that is y; "" for the supervised one
    data_dir: str = ""  # where TFDS keeps its data; "" for its default (the variable TFDS_DATA_DIR)


class Table(NamedTuple):
    """Rows of a data set: x f32[rows, ...], y i64[rows] or f32[rows], num_classes (0: regression)."""

    x: np.ndarray
    y: np.ndarray
    num_classes: int
    source: str


def read_table(argument: str) -> Table:
    """Images or a table, from `NAME?options`.

    Raises:
      ValueError: an unknown data set, split, feature or option; a data set that is not prepared
        (with the command that prepares it); features that are not numbers.
    """
    name, options = parse(argument)
    builder = open_builder(name, options)
    x_names, y_name = _columns(builder, options)
    num_classes = int(getattr(builder.info.features[y_name], "num_classes", 0) or 0)

    def compute() -> dict[str, np.ndarray]:
        xs, ys = [], []
        for row in _rows(builder, options):
            xs.append(example([row[column] for column in x_names], options))
            ys.append(row[y_name])
        return {"x": np.stack(xs), "y": np.asarray(ys)}

    arrays = cached(builder, options, compute)
    source = f"TFDS {builder.info.full_name}, {options.split}"
    return finish(arrays["x"], arrays["y"], num_classes, options, source)


def finish(x: np.ndarray, y: np.ndarray, num_classes: int, options: Options, source: str) -> Table:
    """Standardises x if asked, and counts the classes of integer labels where their number is not given."""
    if options.standardise:
        flat = x.reshape(len(x), -1).astype(np.float64)
        std = flat.std(0)
        x = ((flat - flat.mean(0)) / np.where(std > 0, std, 1)).astype(np.float32).reshape(x.shape)
    if y.dtype.kind in "iu" and not num_classes:
        num_classes = int(y.max()) + 1
    return Table(x, y, num_classes, source)


def read_text(argument: str) -> tuple[bytes, str]:
    """All texts of a data set joined by newlines, and their source, from `NAME?options`.

    Raises:
      ValueError: as `read_table`, or a feature that is not text.
    """
    import tensorflow_datasets as tfds

    name, options = parse(argument)
    builder = open_builder(name, options)
    features = builder.info.features
    texts = [key for key in features if isinstance(features[key], tfds.features.Text)]
    column = options.input or (texts[0] if texts else "")
    if column not in texts:
        raise ValueError(f"texts: tfds:{name} has no text feature {column!r}, it has: {_names(features)}")

    def compute() -> dict[str, np.ndarray]:
        joined = b"\n".join(bytes(row[column]) for row in _rows(builder, options))
        return {"bytes": np.frombuffer(joined, np.uint8)}

    content = cached(builder, options, compute)["bytes"].tobytes()
    return content, f"TFDS {builder.info.full_name}, {options.split}, {column}"


def parse(argument: str, kind: str = "tfds") -> tuple[str, Options]:
    """`NAME?split=train&size=8` -> name and options; ValueError for an option that does not exist."""
    name, _, query = argument.partition("?")
    options = {}
    for part in filter(None, query.split("&")):  # not parse_qsl, which turns the + of splits into a space
        key, _, value = part.partition("=")
        if key not in Options._fields:
            near = difflib.get_close_matches(key, Options._fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"datasets: {kind}:{name} has no option {key!r}{hint} (allowed: {', '.join(Options._fields)})"
            )
        if isinstance(Options._field_defaults[key], int) and not value.isdecimal():
            raise ValueError(
                f"datasets: option {key} of {kind}:{name} must be an integer >= 0, got {value!r}"
            )
        options[key] = int(value) if isinstance(Options._field_defaults[key], int) else value
    return name, Options(**options)


def open_builder(name: str, options: Options) -> Any:
    """The TFDS builder of a prepared data set, or a ValueError that says what to do."""
    try:
        import tensorflow_datasets as tfds  # slow, and only this needs it
    except ImportError as error:
        raise ValueError(
            f"datasets: tfds:{name} needs tensorflow-datasets: pip install 'learned-opt[train]'"
        ) from error
    try:
        builder = tfds.builder(name, data_dir=options.data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"datasets: TFDS has no data set {name!r}, and none is prepared{hint}") from error
    except Exception as error:
        raise ValueError(
            f"datasets: cannot open tfds:{name}: {str(error).strip().splitlines()[0]}"
        ) from error
    recipe = f"tfds.builder({name!r}, file_format='array_record').download_and_prepare()"
    if not (Path(builder.data_path) / "dataset_info.json").is_file():
        raise ValueError(
            f"datasets: tfds:{name} is not prepared in {builder.data_path}; run once, with a network "
            f"and (for many data sets) tensorflow: import tensorflow_datasets as tfds; {recipe}"
        )
    if "tfrecord" in str(builder.info.file_format).lower():
        raise ValueError(
            f"datasets: tfds:{name} is prepared as tfrecord in {builder.data_path}, which only tensorflow "
            f"reads; prepare it again in another data_dir: {recipe}"
        )
    return builder


def cached(builder: Any, options: Options, compute: Any) -> dict[str, np.ndarray]:
    """The arrays of `compute()`, kept in one file next to the data; a damaged file is made again."""
    info = (Path(builder.data_path) / "dataset_info.json").read_bytes()
    key = json.dumps([builder.info.full_name, options._replace(standardise=0, data_dir="")]).encode()
    digest = hashlib.sha256(key + info).hexdigest()[:20]
    path = Path(builder.data_path).parent / ".learned_opt_cache" / f"{digest}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError):
        arrays = compute()
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
            np.savez(file, **arrays)
        os.replace(file.name, path)
    except OSError:
        pass  # a read-only disk costs time, not the run
    return arrays


def _rows(builder: Any, options: Options) -> Iterator[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import track

    try:
        source = builder.as_data_source(options.split)
    except Exception as error:
        splits = ", ".join(builder.info.splits)
        raise ValueError(
            f"datasets: tfds:{builder.name} has no split {options.split!r} (there are: {splits})"
        ) from error
    count = min(options.limit or len(source), len(source))
    console = Console(stderr=True)
    description = f"reading {builder.name}"
    for i in track(range(count), description, console=console, disable=not console.is_terminal):
        yield source[i]


def _columns(builder: Any, options: Options) -> tuple[list[str], str]:
    """Names of the features that are x, and of the one that is y."""
    features, name = builder.info.features, builder.name
    supervised = builder.info.supervised_keys or ("", "")
    target = options.target or (supervised[1] if isinstance(supervised[1], str) else "")
    if target not in features or not _is_number(features[target]) or features[target].shape != ():
        raise ValueError(
            f"datasets: tfds:{name} has no number feature {target!r} to be the target; say ?target=NAME, "
            f"one of: {_names(features)}"
        )
    chosen = options.input or (supervised[0] if isinstance(supervised[0], str) else "")
    columns = [chosen] if chosen else [k for k in features if k != target and _is_number(features[k])]
    for column in columns:
        if column not in features or not _is_number(features[column]):
            raise ValueError(
                f"datasets: feature {column!r} of tfds:{name} is not an image or a number; say ?input=NAME, "
                f"one of: {_names(features)}"
            )
    if not columns:
        raise ValueError(f"datasets: tfds:{name} has no number features, it has: {_names(features)}")
    return columns, target


def _is_number(feature: Any) -> bool:
    dtype = getattr(feature, "np_dtype", None)
    return dtype is not None and np.dtype(dtype).kind in "fiub"


def _names(features: Any) -> str:
    return ", ".join(f"{key} ({type(features[key]).__name__})" for key in features)


def example(values: list[Any], options: Options) -> np.ndarray:
    """One x: an image [H, W, C] in [0, 1], or a vector."""
    if len(values) > 1:
        return np.concatenate([np.ravel(np.asarray(value, np.float32)) for value in values])
    value = np.asarray(values[0])
    x = value.astype(np.float32) / (255 if value.dtype == np.uint8 else 1)
    if x.ndim != 3:
        return x
    if options.grey and x.shape[-1] == 3:
        x = x @ np.array([[0.299], [0.587], [0.114]], np.float32)
    if options.size:
        x = _resize(_resize(x, 0, options.size), 1, options.size)
    return x


def _resize(x: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Area average along one axis: each new pixel is the mean of the stretch that it covers."""
    old = x.shape[axis]
    edges = np.arange(size + 1) * old / size
    low, high = edges[:-1, None], edges[1:, None]
    place = np.arange(old)[None]
    overlap = np.clip(np.minimum(high, place + 1) - np.maximum(low, place), 0, None)
    weights = (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
    return np.moveaxis(np.tensordot(weights, x, (1, axis)), 0, axis)
