"""Data that a program gives: any sequence, `grain` data set or iterable of examples, by its factory's name.

A name is `python:MODULE:FACTORY` or `python:FILE.py:FACTORY`, perhaps with `?classes=N`. The factory takes no
arguments. It returns the examples, each a pair (x, y) or a mapping with the keys x and y: x an array, y a
class (an integer below `classes`) or a number. A config that names one runs its code.
"""

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MOST_ROWS = 1_000_000  # that are held in memory without a stream
VALID_FROM = 1280  # first examples of which every fifth is for validation, where they come one after another
MOST_STATES = 4096  # places to which a source that knows its state can go back


class Rows(NamedTuple):
    """One split of a source, which gives its rows when they are asked for.

    Attributes:
      length: how many there are; None where they come one after another, and their number is unknown.
      read: `(numbers i64[n]) -> {"x": f32[n, *shape], "y": [n]}`; where `length` is None the numbers must be
        successive: earlier ones than before begin the source again, later ones skip what lies between.
      state: `(number) -> ` where the source stood before this row, as a JSON value; None if it cannot tell.
      restore: `(number, state)`: makes the source go on from there.
    """

    length: int | None
    read: Callable[[np.ndarray], dict[str, np.ndarray]]
    state: Callable[[int], Any]
    restore: Callable[[int, Any], None]


class Source(NamedTuple):
    """What a name stands for: `train` and `valid` rows, the shape of x, the classes (0: y is a number)."""

    train: Rows
    valid: Rows
    shape: tuple[int, ...]
    classes: int


def open_source(argument: str) -> Source:
    """The source of a name, without its prefix.

    Every fifth example is for validation; where they come one after another, every fifth of the first 1280.

    Raises:
      ValueError: no such factory, or what it returns holds no such examples.
    """
    begin, classes = _factory(argument)
    examples = begin()
    by_number = hasattr(examples, "__len__") and hasattr(examples, "__getitem__")
    if not by_number and not isinstance(examples, Iterable):
        raise ValueError(f"datasets: python:{argument} must return examples, got {type(examples).__name__}")
    first = next(iter(examples), None)
    if first is None:
        raise ValueError(f"datasets: python:{argument} has no examples")
    x, y = _pair(first, argument)
    if y.dtype.kind in "iub" and not classes:
        raise ValueError(f"datasets: python:{argument} has classes as y; say how many: ?classes=N")
    if y.dtype.kind not in "iub" and classes:
        raise ValueError(f"datasets: python:{argument} has classes={classes}, but y is no integer: {y}")
    stack = _stacker(argument, x.shape, classes)
    train, valid = _by_number(examples, stack) if by_number else _in_order(begin, stack)
    if not valid.length:
        raise ValueError(f"datasets: python:{argument} has too few examples, at least 5 are needed")
    return Source(train, valid, x.shape, classes)


def read_all(argument: str) -> tuple[np.ndarray, np.ndarray, int, tuple[int, ...], str]:
    """A finite source as the fields of a `loaders.Dataset` (ValueError if it has over a million examples)."""
    source = open_source(argument)
    begin, _ = _factory(argument)
    examples = list(itertools.islice(iter(begin()), MOST_ROWS + 1))
    if len(examples) > MOST_ROWS:
        raise ValueError(
            f"datasets: python:{argument} has more than {MOST_ROWS:,} examples: give its task a stream"
        )
    found = _stacker(argument, source.shape, source.classes)(examples)
    x = found["x"].reshape(len(examples), -1)
    return x, found["y"], source.classes, source.shape, f"python:{argument}"


def _factory(argument: str) -> tuple[Callable[[], Any], int]:
    """The function that a name stands for, and its number of classes."""
    name, _, options = argument.partition("?")
    where, _, attribute = name.rpartition(":")
    key, _, value = options.partition("=")
    if options and (key != "classes" or not value.isdecimal()):
        raise ValueError(f"datasets: python:{argument} may have the option ?classes=N alone")
    try:
        module = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        factory = getattr(module, attribute)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"datasets: cannot load python:{name}: {reason}") from error
    return factory, int(value or 0)


def _load_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ValueError("there is no such file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pair(example: Any, argument: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        x, y = (example["x"], example["y"]) if isinstance(example, dict) else example
        return np.asarray(x), np.asarray(y)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"datasets: an example of python:{argument} must be (x, y) or {{'x': x, 'y': y}}, "
            f"got {type(example).__name__}"
        ) from None


def _stacker(argument: str, shape: tuple[int, ...], classes: int) -> Callable[[list], dict[str, np.ndarray]]:
    """Examples as arrays, refused (ValueError) where one is unlike the first, not finite, or of no class."""

    def stack(examples: list) -> dict[str, np.ndarray]:
        pairs = [_pair(example, argument) for example in examples]
        for x, y in pairs:
            if x.shape != shape or y.shape != ():
                raise ValueError(
                    f"datasets: examples of python:{argument} must have x {shape} and a number y, got "
                    f"{x.shape} and {y.shape}"
                )
        x = np.array([x for x, _ in pairs], np.float32).reshape(len(pairs), *shape)
        y = np.array([y for _, y in pairs], np.int32 if classes else np.float32)
        if not np.isfinite(x).all() or not np.isfinite(y).all():
            raise ValueError(f"datasets: python:{argument} holds NaN or infinity")
        if classes and len(y) and not 0 <= y.min() <= y.max() < classes:
            raise ValueError(
                f"datasets: labels of python:{argument} must lie in 0..{classes - 1}, "
                f"got {y.min()}..{y.max()}"
            )
        return {"x": x, "y": y}

    return stack


def _by_number(examples: Any, stack: Callable) -> tuple[Rows, Rows]:
    """Rows of a sequence: any of them at any time."""

    def rows(length: int, place: Callable[[int], int]) -> Rows:
        read = lambda numbers: stack([examples[place(int(i))] for i in numbers])  # noqa: E731
        return Rows(length, read, lambda number: None, lambda number, state: None)

    valid = len(examples) // 5
    return rows(len(examples) - valid, lambda i: i + i // 4), rows(valid, lambda i: 5 * i + 4)


def _in_order(begin: Callable[[], Iterable], stack: Callable) -> tuple[Rows, Rows]:
    """Rows of an iterable; when it ends it is begun again."""
    reader, states = _Reader(begin), {}

    def read(numbers: np.ndarray) -> dict[str, np.ndarray]:
        first = int(numbers[0])
        if first < reader.number:
            reader.begin_again()
        while reader.number < first:
            reader.next()
        states[first] = reader.state()
        while len(states) > MOST_STATES:
            del states[min(states)]
        return stack([reader.next() for _ in numbers])

    some = itertools.islice(iter(begin()), VALID_FROM)
    valid = stack([example for i, example in enumerate(some) if i % 5 == 4])
    keep = lambda numbers: {name: array[numbers] for name, array in valid.items()}  # noqa: E731
    held = Rows(len(valid["y"]), keep, lambda number: None, lambda number, state: None)
    return Rows(None, read, states.get, reader.restore), held


class _Reader:
    """The examples of an iterable that are for training, again and again."""

    def __init__(self, begin: Callable[[], Iterable]) -> None:
        self._begin = begin
        self.begin_again()

    def begin_again(self) -> None:
        """Goes back to the first row."""
        self.number, self._raw = 0, 0
        self._iterator: Iterator = iter(self._begin())

    def next(self) -> Any:
        """The row of this number (ValueError if the source has no more and cannot be begun again)."""
        for _ in range(VALID_FROM):
            try:
                example = next(self._iterator)
            except StopIteration:
                if not self._raw:
                    raise ValueError(
                        f"gives no more rows after {self.number}, and cannot begin again"
                    ) from None
                self._raw, self._iterator = 0, iter(self._begin())
                continue
            self._raw += 1
            if self._raw > VALID_FROM or self._raw % 5:
                self.number += 1
                return example
        raise ValueError("has too few rows: at least 1 in 5 must be for training")

    def state(self) -> Any:
        """Where the iterator stands, if it can tell in JSON's terms, as `grain`'s do; None if not."""
        get = getattr(self._iterator, "get_state", None)
        state = None if get is None or not hasattr(self._iterator, "set_state") else get()
        return {"raw": self._raw, "iterator": state} if isinstance(state, dict) else None

    def restore(self, number: int, state: Any) -> None:
        """Goes to where the row of this number comes next."""
        self._iterator = iter(self._begin())
        self._iterator.set_state(state["iterator"])  # type: ignore[attr-defined]
        self.number, self._raw = number, state["raw"]
