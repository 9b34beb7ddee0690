"""Random search: members that never meet."""

from typing import Annotated

import numpy as np
from annotated_types import Ge

from meta_train.population import space as space_lib
from meta_train.population.base import Controller, Decision, Setting


def random_search(setting: Setting, *, num_members: Annotated[int, Ge(1)] = 16) -> Controller:
    """Independent members with hypers drawn once: what a population must beat.

    Args:
      setting: what is searched.
      num_members: how many.
    """
    everybody = np.arange(num_members)

    def init(rng):
        return {}, Decision(everybody, space_lib.sample(setting.space, rng, num_members), [])

    def step(state, outcome, rng):
        return state, Decision(everybody, outcome.hypers, [])

    return Controller({"members": everybody.tolist()}, everybody, init, step)
