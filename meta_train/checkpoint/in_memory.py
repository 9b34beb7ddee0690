"""What stands for the checkpoints of a run that writes no files."""

from typing import Any

import jax

from meta_train.checkpoint.files import Restored


class InMemory:
    """The newest saved state, on the host: the methods of `Checkpoints` without a disk.

    Args:
      keep: whether a saved state is kept; where it is not, `restore` gives nothing back.
    """

    directory = None

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._kept: Restored | None = None

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def save(self, step: int, state: Any, meta: dict | None = None, *, replace: bool = False) -> None:
        """Copies a state to the host, in place of the one before; see `Checkpoints.save`."""
        del replace
        if self._keep:
            self._kept = Restored(step, jax.device_get(state), dict(meta or {}))

    def restore(self, target: Any, *, step: int | None = None) -> Restored | None:
        """The state that was saved last, None without one."""
        del target, step
        return self._kept

    def steps(self) -> list[int]:
        """The step of the state that was saved last."""
        return [] if self._kept is None else [self._kept.step]

    def wait(self) -> None:
        """Returns at once: nothing is written."""

    def give_up(self) -> None:
        """Does nothing: no other process is needed."""
