"""Streamed data of a population: all members share the buffers, which are refreshed between rounds."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jax.sharding import Mesh

from meta_train.core.stream import Feeds
from meta_train.population import mesh as mesh_lib
from meta_train.population.base import Trainer

TRAIN = "train"  # what of a trainer's data is label -> split -> arrays, and streamed


class Feed(NamedTuple):
    """What a population trains on while it runs.

    Attributes:
      at: `(step) -> data` of a round that begins there; steps ascend.
      position: `(step) -> ` where the streams stand, for a checkpoint.
    """

    at: Callable[[int], Any]
    position: Callable[[int], dict[str, Any]]


@contextlib.contextmanager
def fed(trainer: Trainer, mesh: Mesh, step: int = 0, saved: dict[str, Any] | None = None) -> Iterator[Feed]:
    """The data of a trainer on the mesh from a step on, the buffers of its streams kept up to date.

    Args:
      trainer: whose data are on the mesh already, or are streamed.
      mesh: of `member_mesh`.
      step: where training begins or goes on.
      saved: `position` of a checkpoint at that step.

    Raises:
      RunError: other data than those of the checkpoint; a stream that stalls.
    """
    if not trainer.streams:
        yield Feed(lambda step: trainer.data, lambda step: {})
        return
    put = lambda arrays: mesh_lib.everywhere(arrays, mesh)  # noqa: E731
    with Feeds(trainer.streams, trainer.data[TRAIN], put, step) as feeds:
        feeds.check(step, saved or {})

        def at(step: int) -> Any:
            feeds.advance(step)
            return trainer.data | {TRAIN: feeds.data}

        yield Feed(at, feeds.position)


def placed(trainer: Trainer, mesh: Mesh) -> Trainer:
    """The trainer with its data on every device of the mesh; what is streamed stays where it is."""
    if not trainer.streams:
        return trainer._replace(data=mesh_lib.everywhere(trainer.data, mesh))

    def one(label, splits):
        first = {TRAIN: splits[TRAIN]} if label in trainer.streams else {}
        rest = {split: x for split, x in splits.items() if split not in first}
        return mesh_lib.everywhere(rest, mesh) | first

    rest = {name: mesh_lib.everywhere(x, mesh) for name, x in trainer.data.items() if name != TRAIN}
    families = {label: one(label, splits) for label, splits in trainer.data[TRAIN].items()}
    return trainer._replace(data=rest | {TRAIN: families})
