"""Files that anyone may have written, read with bounds: every refusal is one `FileError` of one line.

The readers of configs, artefacts, manifests, metrics and of other codebases' files all begin here. A FIFO, a
device or a directory is refused instead of being waited for; no more bytes are read than the caller allows;
JSON is parsed only if it is not nested more deeply than `MOST_DEPTH`.
"""

import json
import os
import re
import stat
from typing import Any

MOST_BYTES = 2**29  # of any file: larger than every published learned optimizer
MOST_TEXT = 2**23  # bytes of a JSON or YAML text: parsed, it takes up to twenty times as much memory
MOST_DEPTH = 100  # of lists and mappings in each other

_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


class FileError(ValueError):
    """A file cannot be read, or does not hold what it should. The message is one line that names it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, 1000))


def one_line(text: str, width: int = 300) -> str:
    """A text in one line, without control characters, cut to `width` characters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= width else f"{line[:width]} ..."


def refused(where: str | os.PathLike, reason: str) -> FileError:
    """The error that names a file and the reason, in one line."""
    return FileError(f"{one_line(str(where))} {one_line(reason)}")


def read_bytes(path: str | os.PathLike, *, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
      FileError: there is no such file, it is not a regular file, it is too large, or the disk fails.
    """
    try:
        # Opening a FIFO would otherwise wait for a writer.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                raise refused(path, f"cannot be read: it is {kind}")
            content = b"" if status.st_size > most else file.read(most + 1)
            if status.st_size > most or len(content) > most:
                size = max(status.st_size, len(content))
                raise refused(path, f"cannot be read: it has {size:,} bytes, allowed are {most:,}")
            return content
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a null byte in the path
        if isinstance(error, FileError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or "it does not fit into memory"
        raise refused(path, f"cannot be read: {reason}") from error


def read_text(path: str | os.PathLike, *, most: int = MOST_TEXT) -> str:
    """The content of a file as UTF-8 text.

    Raises:
      FileError: as `read_bytes`; the content is not UTF-8 (the first wrong byte is named).
    """
    try:
        return read_bytes(path, most=most).decode()
    except UnicodeDecodeError as error:
        raise refused(path, f"is not UTF-8 text (byte {error.start})") from error


def parse_json(content: bytes, where: str | os.PathLike) -> Any:
    """The value of a JSON text; `where` names it in the error.

    Raises:
      FileError: it is not JSON, not UTF-8, nested too deeply, or has a number of thousands of digits.
    """
    depth = 0
    if content.count(b"[") + content.count(b"{") > MOST_DEPTH:
        for match in _BRACKETS.finditer(content):
            depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(match[0], 0)
            if depth > MOST_DEPTH:
                raise refused(where, f"is nested more than {MOST_DEPTH} deep")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError: also bad UTF-8, and too many digits
        reason = str(error).partition(";")[0]
        raise refused(where, f"is damaged or foreign: not JSON ({reason})") from error


def read_json(path: str | os.PathLike, *, most: int = MOST_TEXT) -> Any:
    """The value of a JSON file; raises FileError as `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, most=most), path)
