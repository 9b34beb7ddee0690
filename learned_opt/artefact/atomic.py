"""Files and directories that are written completely or not at all, and the lock of a directory.

Content is written to a draft next to its destination, `.NAME.new-TOKEN`, flushed to the disk, and takes the
destination's name with one rename. A process that is killed between any two system calls leaves the old or
the new content, and perhaps a draft, which the next writer of the same name removes: writers lock their
drafts (flock), so only the drafts of dead processes go.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where drafts are neither locked nor removed
    fcntl = None

NEW, OLD = "new", "old"
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


class Busy(Exception):
    """Another process holds the lock. The message says who, as far as it is known."""


def write_file(path: str | os.PathLike, content: bytes | str) -> None:
    """Makes or replaces a file; the directory must exist.

    Raises:
      OSError: it cannot be written; an earlier content is as it was.
    """
    path = Path(os.path.realpath(path))
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # /dev/stdout and the like are written to, not replaced
        return
    with _draft(path, directory=False) as draft:
        _write(draft, content)
        os.replace(draft, path)
    sync(path.parent)


def write_directory(directory: str | os.PathLike, files: Mapping[str, bytes]) -> None:
    """Makes or replaces a directory, so that it holds exactly these files; makes those above it.

    Raises:
      OSError: it cannot be written; an earlier content is as it was.
    """
    directory = settled(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from error
    with _draft(directory, directory=True) as draft:
        for name, content in files.items():
            _write(draft / name, content)
        sync(draft)
        if not directory.exists():
            draft.rename(directory)
        elif not _exchanged(draft, directory):
            old = directory.with_name(f"{_prefix(directory, OLD)}{secrets.token_hex(4)}")
            directory.rename(old)
            draft.rename(directory)
            shutil.rmtree(old, ignore_errors=True)
    sync(directory.parent)


def settled(directory: str | os.PathLike) -> Path:
    """The directory, which gets its content back if a replacement was interrupted between two renames.

    That can happen only where the file system has no exchange of two names.
    """
    directory = Path(directory)
    with contextlib.suppress(OSError):
        if not directory.exists():
            for old in _litter(directory, OLD):
                old.rename(directory)
    return directory


def remove(directory: Path) -> None:
    """Deletes a directory, if it is there: at once for those who read it, who never see a part of it."""
    with contextlib.suppress(FileNotFoundError):
        gone = directory.with_name(f"{_prefix(directory, NEW)}{secrets.token_hex(4)}")
        directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def clean(path: Path) -> None:
    """Removes what writers of this file or directory left when they were killed."""
    with contextlib.suppress(OSError):
        for litter in [*_litter(path, NEW), *(_litter(path, OLD) if path.exists() else ())]:
            with contextlib.suppress(OSError, Busy), _flock(litter):
                shutil.rmtree(litter) if litter.is_dir() else litter.unlink()


def is_litter(path: Path) -> bool:
    """Whether this is what a writer leaves when it is killed, and no content."""
    return path.name.startswith(".") and (f".{NEW}-" in path.name or f".{OLD}-" in path.name)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Holds the lock of a file, which is made and stays; the kernel releases it when the process ends.

    Where the file system has no locks, nothing is locked.

    Raises:
      Busy: another process holds it.
      OSError: the file cannot be made.
    """
    file.touch()
    with _flock(file):
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield


def sync(*paths: Path) -> None:
    """Waits until files, or the entries of directories, are on the disk."""
    for path in paths:
        with _opened(path) as descriptor:
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some cannot flush a directory
                    raise


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _flock(path: Path) -> Iterator[None]:
    with _opened(path) as descriptor:
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(path.read_text(errors="replace")[:80] if path.is_file() else "") from error
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL):
                raise
        yield


@contextlib.contextmanager
def _draft(path: Path, *, directory: bool) -> Iterator[Path]:
    """A locked draft of a file or a directory; what is left under its name is removed at the end."""
    clean(path)
    with contextlib.ExitStack() as stack:
        while True:
            draft = path.with_name(f"{_prefix(path, NEW)}{secrets.token_hex(4)}")
            draft.mkdir() if directory else draft.touch(exist_ok=False)
            # Another process may clean before the draft is locked: then there is one more attempt.
            with contextlib.suppress(FileNotFoundError, Busy):
                stack.enter_context(_flock(draft))
                draft.stat()
                break
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True) if directory else draft.unlink(missing_ok=True)


def _prefix(path: Path, word: str) -> str:
    """Of the names of drafts; short enough for every file system that could hold the path itself."""
    return f".{os.fsdecode(os.fsencode(path.name)[:200])}.{word}-"


def _litter(path: Path, word: str) -> list[Path]:
    prefix = _prefix(path, word)
    return sorted(other for other in path.parent.iterdir() if other.name.startswith(prefix))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _exchanged(a: Path, b: Path) -> bool:
    """Whether two names were exchanged in one system call, which not every file system has."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    return rename(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0
