"""The data sets behind the names: scikit-learn's, made up ones, and files of the user's own."""

import functools
import importlib.util
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.data.files import open_regular

if TYPE_CHECKING:
    from tasks.data import tfds as tfds_data

MOST_CLASSES = 1_000_000
MOST_BYTES = 2**34  # of an array of an npz file
RESERVED_ROWS = 1200  # `digits` from this row on is for evaluation only
RESERVED_SEEDS = 9000  # made-up data with a seed of this or more is for evaluation only


class Dataset(NamedTuple):
    """A table of examples in host memory."""

    x: np.ndarray  # f32[rows, features]
    y: np.ndarray  # i32[rows] class labels, or f32[rows] targets
    num_classes: int  # classes that `y` counts; 0 for regression
    shape: tuple[int, ...]  # shape of one example, a rearrangement of `features`: (8, 8, 1) for digits
    source: str  # where the data came from, in words


def standardised(x: np.ndarray) -> np.ndarray:
    """f32 columns of mean 0 and variance 1; a constant column becomes 0."""
    x = np.asarray(x, np.float64)
    std = x.std(0)
    return ((x - x.mean(0)) / np.where(std > 0, std, 1.0)).astype(np.float32)


def _digits_file() -> Path | None:
    """scikit-learn's file of digits, found without importing it: 80 MB and seconds less."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    return file if file.is_file() else None


@functools.lru_cache(maxsize=8)
def _sklearn(name: str) -> Dataset:
    file = _digits_file() if name == "digits" else None
    if file is not None:
        table = np.loadtxt(file, delimiter=",")  # 64 pixels of 0 to 16, and the class
        return _digits(table[:, :-1], table[:, -1])
    try:
        from sklearn import datasets  # slow, and only training needs it
    except ImportError as error:
        raise ValueError(
            f"datasets: {name!r} needs scikit-learn: pip install 'learned-opt[train]'"
        ) from error
    bunch = getattr(datasets, f"load_{name}")()
    x, y = np.asarray(bunch.data), np.asarray(bunch.target)
    if name == "digits":
        return _digits(x, y)
    source = f"scikit-learn, load_{name}"
    x = standardised(x)
    if name == "diabetes":
        return Dataset(x, standardised(y), 0, (x.shape[1],), source)
    return Dataset(x, y.astype(np.int32), int(y.max()) + 1, (x.shape[1],), source)


def _digits(x: np.ndarray, y: np.ndarray) -> Dataset:
    source = "scikit-learn, load_digits"
    return Dataset((x / 16).astype(np.float32), y.astype(np.int32), 10, (8, 8, 1), source)


def _seed(kind: str, argument: str) -> int:
    if not argument.isdecimal() or int(argument) >= 2**32:
        raise ValueError(f"datasets: seed of '{kind}:{argument}' must be an integer in 0..4294967295")
    return int(argument)


def teacher(
    argument: str, *, rows: int = 2048, features: int = 64, classes: int = 10, hidden: int = 32
) -> Dataset:
    """`teacher:SEED`: 2048 Gaussian inputs of 64 features, labelled by a random 64-32-10 relu MLP.

    Each logit is standardised over the rows before the argmax, which balances the labels. The
    example shape is (8, 8, 1), that of digits, so that the two stack.
    """
    # RandomState, because numpy promises that its stream never changes.
    draw = np.random.RandomState(_seed("teacher", argument))
    x = draw.standard_normal((rows, features))
    hidden_layer = np.maximum(x @ draw.standard_normal((features, hidden)) / features**0.5, 0)
    logits = hidden_layer @ draw.standard_normal((hidden, classes))
    logits = (logits - logits.mean(0)) / logits.std(0)
    y = logits.argmax(1).astype(np.int32)
    return Dataset(x.astype(np.float32), y, classes, (8, 8, 1), f"random MLP, seed {argument}")


def deformed(argument: str, *, variants: int = 32, side: int = 16) -> Dataset:
    """`deformed:SEED`: scikit-learn's digits at 16x16 pixels, rotated, scaled, sheared, shifted and noisy.

    Seeds below RESERVED_SEEDS deform the digits below RESERVED_ROWS, the others those from there on. Each
    digit has 32 variants. Row i is a variant of digit `5 * (i // 160) + i % 5` of these: neither the training
    and validation rows of a slice nor two slices whose ends are multiples of 160 share a digit.
    """
    seed = _seed("deformed", argument)
    digits = _sklearn("digits")
    first = RESERVED_ROWS if seed >= RESERVED_SEEDS else 0
    groups = (len(digits.x) - first if first else RESERVED_ROWS) // 5
    rows = np.arange(groups * 5 * variants)
    source = first + 5 * (rows // (5 * variants)) + rows % 5
    draw = np.random.RandomState(seed)
    angle, log_scale, shear = (draw.uniform(-1, 1, len(rows)) * most for most in (0.4, 0.2, 0.2))
    shift = draw.uniform(-1, 1, (len(rows), 2, 1))
    cos, sin = (f(angle) / np.exp(log_scale) for f in (np.cos, np.sin))
    matrix = np.array([[cos, -sin + shear], [sin, cos]]).transpose(2, 0, 1)  # from new to old coordinates
    place = (np.arange(side) + 0.5) * 8 / side - 4
    grid = np.stack(np.meshgrid(place, place, indexing="ij")).reshape(2, -1)
    x = _bilinear(digits.x.reshape(-1, 8, 8), source, matrix @ grid + shift + 3.5)
    x = x * draw.uniform(0.7, 1.3, (len(rows), 1)) + 0.1 * draw.standard_normal(x.shape)
    text = f"{digits.source}, deformed, seed {argument}"
    return Dataset(x.astype(np.float32), digits.y[source], 10, (side, side, 1), text)


def _bilinear(images: np.ndarray, which: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[R, P]: images [N, H, W] number `which` [R] at places [R, 2, P], in pixels; 0 outside."""
    padded = np.zeros((len(images), images.shape[1] + 3, images.shape[2] + 3))
    padded[:, 1:-2, 1:-2] = images
    low = np.floor(at)
    part = at - low
    rows, columns = (np.clip(low[:, k] + 1, 0, images.shape[k + 1] + 1).astype(int) for k in (0, 1))
    inside = (np.abs(at - 3.5) < 4.5).all(1)
    out = np.zeros(rows.shape)
    for i in (0, 1):
        for j in (0, 1):
            weight = np.abs(1 - i - part[:, 0]) * np.abs(1 - j - part[:, 1])
            out += weight * padded[which[:, None], rows + i, columns + j]
    return out * inside


def _npz(argument: str) -> Dataset:
    """`npz:PATH`: x [rows, ...], y [rows]: integers are class labels, floats are targets."""
    try:
        with open_regular(argument) as file, zipfile.ZipFile(file) as archive:
            x, y = (_member(archive, f"{name}.npy") for name in "xy")
    except (OSError, KeyError, ValueError, EOFError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        reason = (str(error) or "it does not fit into memory").splitlines()[0]
        raise ValueError(f"datasets: cannot read arrays x and y from {argument!r}: {reason}") from error
    if x.ndim < 2 or y.ndim != 1 or x.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
        raise ValueError(
            f"datasets: {argument!r} must hold numbers x [rows, ...] and y [rows], "
            f"got {x.dtype} {x.shape} and {y.dtype} {y.shape}"
        )
    if y.dtype.kind != "f" and y.size and not 0 <= int(y.min()) <= int(y.max()) < MOST_CLASSES:
        raise ValueError(
            f"datasets: labels of {argument!r} must lie in 0..{MOST_CLASSES - 1}, got {y.min()}..{y.max()}"
        )
    flat = x.reshape(len(x), -1).astype(np.float32)
    source = f"file {argument}"
    if y.dtype.kind == "f":
        return Dataset(flat, y.astype(np.float32), 0, x.shape[1:], source)
    return Dataset(flat, y.astype(np.int32), int(y.max(initial=0)) + 1, x.shape[1:], source)


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an npz file whose header does not promise more than the file holds."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    if size > MOST_BYTES:
        raise ValueError(f"{name} has {size:,} bytes, allowed are {MOST_BYTES:,}")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"the header of {name} asks for {shape} {dtype}, the file holds {size:,} bytes")
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _tfds(argument: str) -> Dataset:
    """`tfds:NAME?options`, see `tasks.data.tfds`."""
    from tasks.data import tfds as tfds_data

    return _from_table(tfds_data.read_table(argument), f"tfds:{argument}")


def _hf(argument: str) -> Dataset:
    """`hf:PATH?options`, see `tasks.data.hf`."""
    from tasks.data import hf as hf_data

    return _from_table(hf_data.read_table(argument), f"hf:{argument}")


def _python(argument: str) -> Dataset:
    """`python:MODULE:FACTORY?classes=N`, see `tasks.data.source`."""
    from tasks.data import source

    return Dataset(*source.read_all(argument))


def _from_table(table: "tfds_data.Table", name: str) -> Dataset:
    if table.x.ndim < 2:
        raise ValueError(f"datasets: {name} has single numbers as examples; say ?input=NAME")
    flat = table.x.reshape(len(table.x), -1).astype(np.float32)
    if table.num_classes:
        return Dataset(flat, table.y.astype(np.int32), table.num_classes, table.x.shape[1:], table.source)
    return Dataset(flat, standardised(table.y), 0, table.x.shape[1:], table.source)


LOADERS: dict[str, Callable[[str], Dataset]] = {
    "digits": _sklearn,
    "breast_cancer": _sklearn,
    "wine": _sklearn,
    "iris": _sklearn,
    "diabetes": _sklearn,
}
ARGUMENT_LOADERS: dict[str, Callable[[str], Dataset]] = {
    "teacher": teacher,
    "deformed": deformed,
    "npz": _npz,
    "tfds": _tfds,
    "hf": _hf,
    "python": _python,
}
