"""Short texts between the processes of one run, and what they decide together.

Collectives (`gather`, `together`) are called by all processes in the same order, in the main thread, and
fail at once where one of them is dead. `tell` and `hear` pass through the coordinator of JAX's own runtime:
a background thread may use them while the main thread trains.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

NOTICED = 0.2  # seconds after which a listener looks whether it should give up
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
    everybodys = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes().decode() for row, size in zip(everybodys, sizes, strict=True)]


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
        for said in filter(None, gather(mine)):
            kind, _, line = said.partition(" ")
            raise errors[int(kind)](line) from raised
    if raised is not None:
        raise raised
    return found


def topic() -> str:
    """A name that no other exchange has, the same in every process; all must ask in the same order."""
    return f"meta_train/{next(_numbers)}"


def tell(place: str, text: str) -> None:
    """Leaves a text for the other processes at a place, once."""
    _client().key_value_set(place, text)


def hear(place: str, give_up: threading.Event) -> str:
    """Waits for the text of a place.

    Raises:
      GaveUp: `give_up` was set, or the coordinator is gone.
    """
    while not give_up.is_set():
        try:
            return _client().blocking_key_value_get(place, int(1000 * NOTICED))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise GaveUp("the coordinator is gone") from error
    raise GaveUp("another process is gone")


def forget(place: str) -> None:
    """Removes what was said at a place and under it."""
    _client().key_value_delete(place)


def _client() -> Any:
    from jax._src import distributed  # jax has no public name for it; Orbax takes it from here too

    return distributed.global_state.client
