"""Short messages between the processes of one run, and decisions that they take together.

Collectives (`gather`, `anybody`, `together`) are called by all processes in the same order, in the main
thread, and fail at once where one of them is dead. `meet` is a barrier of JAX's coordinator, through Orbax: a
background thread may wait there while the main thread trains.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

PATIENCE = 1.0  # seconds after which one who waits checks whether to give up
_numbers = itertools.count()


class GaveUp(Exception):
    """The other processes are not waited for any longer."""


def gather(text: str) -> list[str]:
    """The texts of all processes, by process."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray(mine.size))).reshape(-1)
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: mine.size] = mine
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes().decode() for row, size in zip(texts, sizes, strict=True)]


def anybody(mine: bool) -> bool:
    """Whether it is true in any process."""
    if jax.process_count() == 1:
        return mine
    from jax.experimental import multihost_utils

    return bool(np.asarray(multihost_utils.process_allgather(np.asarray(mine))).any())


def together(function: Callable[[], Any], *errors: type[Exception]) -> Any:
    """Calls a function in every process; an error of these kinds in one of them is raised in all."""
    found, raised = None, None
    try:
        found = function()
    except errors as error:
        raised = error
    if jax.process_count() > 1:
        kinds = [kind.__name__ for kind in errors]
        mine = "" if raised is None else f"{kinds.index(type(raised).__name__)} {raised}"
        for message in filter(None, gather(mine)):
            kind, _, line = message.partition(" ")
            raise errors[int(kind)](line) from raised
    if raised is not None:
        raise raised
    return found


def topic() -> str:
    """A name that no other meeting has, the same in every process; all must ask in the same order."""
    return f"meta_train/{next(_numbers)}"


def meet(name: str, give_up: threading.Event) -> None:
    """Returns when all processes have called it with this name; a background thread may.

    Raises:
      GaveUp: `give_up` was set, or another process is gone.
    """
    from orbax.checkpoint import multihost

    barrier = multihost.get_barrier_sync_fn()
    for attempt in itertools.count():  # all processes see each of them end alike
        if give_up.is_set():
            raise GaveUp("another process is gone")
        try:
            return barrier(key=f"{name}/{attempt}", timeout_ms=int(1000 * PATIENCE))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise GaveUp("another process is gone") from error
