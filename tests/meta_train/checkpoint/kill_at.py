"""Kills a forked child at its n-th system call that changes files, whichever thread or library makes it.

The child is traced (`ptrace`, Linux): SIGKILL comes before the call is carried out. Threads of C++ libraries,
such as those in which TensorStore writes, are traced too.
"""

import ctypes
import os
import platform
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

TRACEME, SYSCALL, SETOPTIONS, SYSCALL_INFO = 0, 24, 0x4200, 0x420E
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000  # TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, EXITKILL
ENTRY, ALL_THREADS = 1, 0x40000000  # of a system call; __WALL

# System call -> its number on x86_64 and on aarch64 (0: it has none).
OPEN = {"openat": (257, 56), "open": (2, 0), "openat2": (437, 437), "creat": (85, 0)}
WRITE = {"write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66), "pwritev": (296, 70)}
WRITE |= {"ftruncate": (77, 46), "fallocate": (285, 47)}
NAMES = {"rename": (82, 0), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, 0)}
NAMES |= {"mkdirat": (258, 34), "rmdir": (84, 0), "unlink": (87, 0), "unlinkat": (263, 35)}
NAMES |= {"truncate": (76, 45), "link": (86, 0), "linkat": (265, 37)}
NAMES |= {"symlink": (88, 0), "symlinkat": (266, 36)}
MACHINES = ("x86_64", "aarch64")
SUPPORTED = platform.system() == "Linux" and platform.machine() in MACHINES


class _Call(ctypes.Structure):
    _fields_ = [
        ("op", ctypes.c_uint8),
        ("_", ctypes.c_uint8 * 23),
        ("number", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
    ]


def _ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> None:
    function = ctypes.CDLL(None, use_errno=True).ptrace
    function.argtypes, function.restype = [ctypes.c_long] * 4, ctypes.c_long
    if function(request, thread, address, data) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _numbers(calls: dict[str, tuple[int, int]]) -> set[int]:
    return {numbers[MACHINES.index(platform.machine())] for numbers in calls.values()} - {0}


def _changes(thread: int, root: str) -> bool:
    """Whether a thread, stopped, is about to change the file system; files below `root` alone are watched."""
    call = _Call()
    _ptrace(SYSCALL_INFO, thread, ctypes.sizeof(call), ctypes.addressof(call))
    if call.op != ENTRY:
        return False
    if call.number in _numbers(WRITE):
        try:
            return os.readlink(f"/proc/{thread}/fd/{call.args[0]}").startswith(root)
        except OSError:
            return False
    if call.number in _numbers({"openat": OPEN["openat"]}):
        return bool(call.args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if call.number in _numbers({"open": OPEN["open"]}):
        return bool(call.args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return call.number in _numbers(OPEN | NAMES)


def child(act: Callable[..., object], *args: object, traced: bool = False) -> int:
    """Forks a child that calls `act(*args)`: its exit code, or, if it is traced, its number at its start."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if traced:
                _ptrace(TRACEME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
            act(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid if traced else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(n: int, root: str, act: Callable[..., object], *args: object) -> int:
    """Kills `act(*args)` before its n-th change of the file system; the exit code, 0 if there are fewer."""
    pid, seen = child(act, *args, traced=True), 0
    os.waitpid(pid, 0)
    _ptrace(SETOPTIONS, pid, 0, OPTIONS)
    _ptrace(SYSCALL, pid)
    while True:
        thread, status = os.waitpid(-1, ALL_THREADS)
        if not os.WIFSTOPPED(status):
            if thread == pid:
                return os.waitstatus_to_exitcode(status)
            continue
        stopped = os.WSTOPSIG(status)
        try:
            if stopped == signal.SIGTRAP | 0x80 and _changes(thread, root):
                seen += 1
                if seen == n:
                    os.kill(pid, signal.SIGKILL)
            quiet = stopped in (signal.SIGTRAP | 0x80, signal.SIGTRAP, signal.SIGSTOP)
            _ptrace(SYSCALL, thread, 0, 0 if quiet else stopped)
        except ProcessLookupError:  # it was killed
            pass


def every_kill(
    parent: str,
    prepare: Callable[[Path], object],
    act: Callable[[Path], object],
    check: Callable[[Path], object],
    final: Callable[[Path], object],
) -> int:
    """Kills `act` before each of its changes; the number of them.

    Args:
      parent: a directory for the directories of the cases.
      prepare: makes what is there before.
      act: what is killed.
      check: raises if, after a kill, neither the old nor the new content is there.
      final: raises if, after `act` was repeated, anything but the new content is there.
    """
    for n in range(1, 10_000):
        root = tempfile.mkdtemp(dir=parent)
        directory = Path(root) / "d"
        assert child(prepare, directory) == 0
        code = killed_at(n, root, act, directory)
        assert code in (0, -signal.SIGKILL), (n, code)
        assert child(check, directory) == 0, f"after the kill before change {n}"
        assert child(act, directory) == 0 and child(final, directory) == 0, f"repeated after change {n}"
        shutil.rmtree(root)
        if code == 0:
            return n - 1
    raise AssertionError("it never ends")
