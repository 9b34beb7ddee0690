"""How long a contestant trains for the horizons of an evaluation, and where its losses are read."""

from collections.abc import Iterator
from typing import NamedTuple

from meta_train.evaluation.optimizers import Contestant
from meta_train.evaluation.protocol import ADAM, Settings


class Run(NamedTuple):
    """One length of a contestant's trainings: where it reads validation losses, and where test losses too."""

    length: int
    stops: tuple[int, ...]
    tested: tuple[int, ...]


def longest(contestant: Contestant, settings: Settings) -> int:
    """Steps of its longest training."""
    return settings.archive_steps if contestant.name == ADAM else settings.horizons[-1]


def runs_of(contestant: Contestant, settings: Settings) -> Iterator[Run]:
    """A run for each horizon; a single one for a contestant that does not depend on the number of steps."""

    def readings(horizon):
        at = (round(horizon * (i + 1) / settings.readings) for i in range(settings.readings))
        return sorted({max(1, stop) for stop in at})

    if contestant.constant:
        length = longest(contestant, settings)
        stops = sorted({length, *(stop for h in settings.horizons for stop in readings(h))})
        yield Run(length, tuple(stops), settings.horizons)
    else:
        for horizon in settings.horizons:
            yield Run(horizon, tuple(readings(horizon)), (horizon,))


def steps_of(contestant: Contestant, settings: Settings) -> int:
    """Inner steps of one setting on one seed, at all lengths."""
    return sum(run.length for run in runs_of(contestant, settings))
