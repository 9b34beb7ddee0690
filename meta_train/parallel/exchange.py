"""Short messages between the processes of one run, and decisions that they take together.

Collectives (`gather`, `anybody`, `together`) are called by all processes in the same order, in the main
thread, and fail at once where one of them is dead. `publish`, `receive` and `delete` use the key-value store
of JAX's coordinator: a background thread may call them while the main thread trains.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

POLL = 0.2  # seconds after which a receiver checks whether it should give up
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
    """A name that no other exchange has, the same in every process; all must ask in the same order."""
    return f"meta_train/{next(_numbers)}"


def publish(key: str, text: str) -> None:
    """Stores a message under a key, once, for the other processes."""
    _client().key_value_set(key, text)


def receive(key: str, give_up: threading.Event) -> str:
    """Waits for the message of a key.

    Raises:
      GaveUp: `give_up` was set, or the coordinator is gone.
    """
    while not give_up.is_set():
        try:
            return _client().blocking_key_value_get(key, int(1000 * POLL))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise GaveUp("the coordinator is gone") from error
    raise GaveUp("another process is gone")


def delete(prefix: str) -> None:
    """Deletes the messages of all keys that begin with this directory."""
    _client().key_value_delete(prefix)


def _client() -> Any:
    from jax._src import distributed  # jax has no public name for it; Orbax takes it from here too

    return distributed.global_state.client
