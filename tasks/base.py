"""What an inner problem is: pure, unbatched functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any
Data = Any
Cfg = Any


class Task(NamedTuple):
    """One inner problem.

    Attributes:
      init: `(key) -> params`; the key is consumed. Random initial parameters.
      loss: `(params, key, data) -> f32[]`; the key is consumed: it picks the minibatch and any
        noise, so that the same key gives the same loss. `data` is one split of the family's data.
    """

    init: Callable[[jax.Array], Params]
    loss: Callable[[Params, jax.Array, Data], jax.Array]


class TaskFamily(NamedTuple):
    """A distribution over tasks that share shapes.

    Attributes:
      sample: `(key) -> cfg`, a pytree of arrays that tells one task from another; () if fixed.
      task: `(cfg) -> Task`.
      data: split name ("train", "valid", and "test" where there is one) -> arrays on the device, or () for a
        task without data. It travels as an *argument* of the jitted functions: what they close over is baked
        into the program.
      delay: (least, most) steps by which gradients are delayed in meta-training, drawn per inner problem.
    """

    sample: Callable[[jax.Array], Cfg]
    task: Callable[[Cfg], Task]
    data: dict[str, Data]
    delay: tuple[int, int] = (0, 0)


NO_DATA: dict[str, Data] = {"train": (), "valid": ()}  # of families that draw their own


def fixed(task: Task, data: dict[str, Data] | None = None) -> TaskFamily:
    """A family of one task. `data` as in `TaskFamily`; None for a task that draws its own."""
    return TaskFamily(lambda key: (), lambda cfg: task, NO_DATA if data is None else data)
