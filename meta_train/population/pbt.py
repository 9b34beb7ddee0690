"""Population-based training, and random search, in which no member is ever copied."""

from typing import Annotated

import numpy as np
from annotated_types import Ge

from meta_train.config.registry import Spec, build
from meta_train.population import space as space_lib
from meta_train.population.base import Controller, Decision, Setting
from meta_train.population.exploit import EXPLOITS


def random_search(setting: Setting, *, num_members: Annotated[int, Ge(1)] = 16) -> Controller:
    """Independent members whose hypers are drawn once: the least that a population must beat.

    Args:
      setting: what is searched.
      num_members: number of members.
    """
    return _one_group(setting, num_members, lambda state, outcome, rng: (state, _unchanged(outcome)))


def pbt(
    setting: Setting,
    *,
    num_members: Annotated[int, Ge(2)] = 16,
    exploit: Spec | None = {"name": "truncation"},  # noqa: B006 (read only)
    burn_in_steps: Annotated[int, Ge(0)] = 0,
) -> Controller:
    """Population-based training (Jaderberg et al. 2017), in synchronous rounds.

    After each round the exploit rule decides which member copies which, by the fitness of that round; a
    member that was overwritten explores new hypers. This is greedy: what improves the next evaluation wins.

    Args:
      setting: what is searched. With a hyperparameter that explores by `keep` members only exploit.
      num_members: number of members.
      exploit: `{name: RULE, and options}`; null: no member copies, and all explore.
      burn_in_steps: steps before the first exploit.

    Source: Jaderberg et al., "Population Based Training of Neural Networks", arXiv 1711.09846, 2017.
    Differs from it in: rounds, in which all members are ready at once; the share that is overwritten is
      25 % by default (FIRE PBT's), not 20 %.
    """
    rule = None if exploit is None else build(EXPLOITS, exploit, where="exploit")
    members = np.arange(num_members)

    def step(state, outcome, rng):
        if outcome.step < burn_in_steps:
            return state, _unchanged(outcome)
        source = members if rule is None else rule(outcome.fitness, outcome.scores, rng)
        moved = members if rule is None else np.flatnonzero(source != members)
        hypers = space_lib.take(outcome.hypers, source) if setting.copy_hypers else outcome.hypers
        events = [{"slot": int(i), "event": "exploit", "source": int(source[i])} for i in moved]
        return state, Decision(source, space_lib.explore(setting.space, rng, hypers, moved), events)

    return _one_group(setting, num_members, step)


def _one_group(setting: Setting, num_members: int, step) -> Controller:
    members = np.arange(num_members)

    def init(rng):
        return {}, Decision(members, space_lib.sample(setting.space, rng, num_members), [])

    return Controller({"members": members.tolist()}, members, init, step)


def _unchanged(outcome) -> Decision:
    return Decision(np.arange(len(outcome.fitness)), outcome.hypers, [])
