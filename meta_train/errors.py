"""Every error that a user can meet: the exceptions, and `Problem`, one line about one mistake in a config."""

import difflib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

NO_VALUE = object()  # None is a value that a file can hold


class Problem(NamedTuple):
    """One thing that is wrong; `str` gives exactly one line.

    Attributes:
      key: dotted path of the option, "" for the whole file.
      message: what is wrong or what is allowed.
      value: what was given; `NO_VALUE` where nothing was, or where the message shows it.
      suggestion: the nearest valid name, the allowed ones; may be "".
      file: the config file, or "command line"; may be "".
    """

    key: str
    message: str
    value: Any = NO_VALUE
    suggestion: str = ""
    file: str = ""

    def __str__(self) -> str:
        value = "" if self.value is NO_VALUE else f" (value {show(self.value)})"
        suggestion = f"; {self.suggestion}" if self.suggestion else ""
        key = self.key if len(self.key) <= 200 else f"{self.key[:200]}..."
        where = "".join(f"{part}: " for part in (self.file, key) if part)
        return " ".join(f"{where}{self.message}{value}{suggestion}".split())


class ConfigError(Exception):
    """A config that cannot be run: `problems` holds all that is wrong with it, `str` a line for each."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__(*self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def show(value: Any, width: int = 60) -> str:
    """A value on one line of at most `width` characters, as a config file would write it."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 3] + "..."


def nearest(name: Any, allowed: Iterable[str], unlisted: Iterable[str] = (), more: str = "") -> str:
    """The suggestion for a name that is not allowed: the nearest one that is, and all of them.

    Args:
      name: what was given.
      allowed: names that are.
      unlisted: others that are, too many to be named here.
      more: where those are listed.
    """
    allowed = sorted(allowed)
    names = [*allowed, *sorted(unlisted)]
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    close = close or [other for other in names if str(name) and str(name) in other]
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}allowed: {', '.join(allowed) or 'none'}{more}"


def first_difference(a: Any, b: Any, path: str = "") -> tuple[str, Any, Any]:
    """The dotted key at which two different JSON values begin to differ, and what stands there in each."""
    if isinstance(a, dict) and isinstance(b, dict):
        key = next(key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key))
        return first_difference(a.get(key), b.get(key), join(path, key))
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        i = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        return first_difference(a[i], b[i], join(path, i))
    return path, a, b


def join(*parts: Any) -> str:
    """A dotted key; empty parts are left out."""
    return ".".join(str(part) for part in parts if part != "")


class PieceError(Exception):
    """A name in a config stands for no factory that can be used. One line."""


class RunError(Exception):
    """A run that cannot go on. The message is one line that says why, and what is saved."""


class LostProcess(RunError):
    """Another process of the run has ended, and this one cannot go on without it."""


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM); its state at `step` is saved."""

    def __init__(self, step: int, unit: str = "outer step"):
        self.step = step
        super().__init__(f"interrupted after {unit} {step}; the checkpoint is saved")


class CheckpointError(Exception):
    """A checkpoint cannot be written, or there is none that can be restored. One line, for the user."""


class MetricsError(Exception):
    """Metrics cannot be written or read. One line, for the user."""
