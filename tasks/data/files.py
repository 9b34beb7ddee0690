"""Opens the files that options of tasks name."""

import errno
import os
import stat
from typing import BinaryIO


def open_regular(path: str, *, most: int | None = None) -> BinaryIO:
    """A regular file, for reading bytes; a FIFO or a device is refused instead of being waited for.

    Args:
      path: of the file.
      most: bytes that it may have; None for any number.

    Raises:
      OSError: there is no such file, it is not a regular file, or it is too large.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    reason = "" if stat.S_ISREG(status.st_mode) else "it is not a regular file"
    if most is not None and status.st_size > most:
        reason = f"it has {status.st_size:,} bytes, allowed are {most:,}"
    if reason:
        os.close(descriptor)
        raise OSError(errno.EINVAL, reason, path)
    return os.fdopen(descriptor, "rb")
