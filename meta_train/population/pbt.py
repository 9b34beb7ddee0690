"""Population-based training."""

from typing import Annotated

import numpy as np
from annotated_types import Ge

from meta_train.config.registry import Spec, build
from meta_train.population import space as space_lib
from meta_train.population.base import Controller, Decision, Setting
from meta_train.population.exploit import EXPLOITS


def pbt(
    setting: Setting,
    *,
    num_members: Annotated[int, Ge(2)] = 16,
    exploit: Spec | None = {"name": "truncation"},  # noqa: B006 (read only)
    burn_in_steps: Annotated[int, Ge(0)] = 0,
) -> Controller:
    """Population-based training (Jaderberg et al. 2017), in synchronous rounds.

    After each round the exploit rule says who copies whom, by the fitness of that round; a member
    that was overwritten explores new hypers. Greedy: what pays at the next evaluation wins.

    Args:
      setting: what is searched. A hyperparameter that explores by `keep` makes "exploit only".
      num_members: how many.
      exploit: `{name: RULE, and options}`; null for nobody copying and everybody exploring.
      burn_in_steps: steps before the first exploit.

    Source: Jaderberg et al., "Population Based Training of Neural Networks", arXiv 1711.09846, 2017.
    Differs from it in: rounds, in which all members are ready at once; the share that is overwritten is
      25 % by default (FIRE PBT's), not 20 %.
    """
    rule = None if exploit is None else build(EXPLOITS, exploit, where="exploit")
    everybody = np.arange(num_members)

    def init(rng):
        return {}, Decision(everybody, space_lib.sample(setting.space, rng, num_members), [])

    def step(state, outcome, rng):
        if outcome.step < burn_in_steps:
            return state, Decision(everybody, outcome.hypers, [])
        source = everybody if rule is None else rule(outcome.fitness, outcome.scores, rng)
        moved = everybody if rule is None else np.flatnonzero(source != everybody)
        hypers = space_lib.take(outcome.hypers, source) if setting.copy_hypers else outcome.hypers
        events = [{"slot": int(i), "event": "exploit", "source": int(source[i])} for i in moved]
        return state, Decision(source, space_lib.explore(setting.space, rng, hypers, moved), events)

    return Controller({"members": everybody.tolist()}, everybody, init, step)
