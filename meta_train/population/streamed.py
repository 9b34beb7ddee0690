"""Streamed data of a population: all members share the buffers, which are refreshed between rounds."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jax.sharding import Mesh

from meta_train.core.stream import Feeds
from meta_train.population import mesh as mesh_lib
from meta_train.population.base import Trainer

TRAIN = "train"  # the part of a trainer's data that is label -> split -> arrays, and streamed


class StreamedData(NamedTuple):
    """What a population trains on while it runs."""

    at: Callable[[int], Any]  # `(step) -> data` of a round that begins at this step; steps ascend
    # `(step) -> ` where the streams are at this step, for a checkpoint
    position: Callable[[int], dict[str, Any]]


@contextlib.contextmanager
def streamed(
    trainer: Trainer, mesh: Mesh, step: int = 0, saved: dict[str, Any] | None = None
) -> Iterator[StreamedData]:
    """The data of a trainer on the mesh from a step on, with the buffers of its streams kept up to date.

    Args:
      trainer: its data are on the mesh already, or are streamed.
      mesh: of `member_mesh`.
      step: where training begins or continues.
      saved: `position` in a checkpoint of that step.

    Raises:
      RunError: data that differ from those of the checkpoint; a stream that stalls.
    """
    if not trainer.streams:
        yield StreamedData(lambda step: trainer.data, lambda step: {})
        return
    put = lambda arrays: mesh_lib.everywhere(arrays, mesh)  # noqa: E731
    with Feeds(trainer.streams, trainer.data[TRAIN], put, step, saved) as feeds:
        feeds.check(step, saved or {})

        def at(step: int) -> Any:
            feeds.advance(step)
            return trainer.data | {TRAIN: feeds.data}

        yield StreamedData(at, feeds.position)


def placed(trainer: Trainer, mesh: Mesh) -> Trainer:
    """The trainer with its data on every device of the mesh; streamed arrays stay on the host."""
    if not trainer.streams:
        return trainer._replace(data=mesh_lib.everywhere(trainer.data, mesh))
    families = {
        label: mesh_lib.everywhere({k: v for k, v in splits.items() if k not in streams}, mesh)
        | {k: splits[k] for k in streams}
        for label, splits in trainer.data[TRAIN].items()
        for streams in [("train",) if label in trainer.streams else ()]
    }
    rest = {name: x for name, x in trainer.data.items() if name != TRAIN}
    return trainer._replace(data=mesh_lib.everywhere(rest, mesh) | {TRAIN: families})
