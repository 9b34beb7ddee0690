"""MF-PBT: sub-populations that evolve at different rates, and exchange members."""

from typing import Annotated

import numpy as np
from annotated_types import Ge, MinLen

from meta_train.population import space as space_lib
from meta_train.population.base import Controller, Decision, Setting


def mf_pbt(
    setting: Setting,
    *,
    every_rounds: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (1, 5, 20),
    subpopulation: Annotated[int, Ge(4)] = 8,
) -> Controller:
    """Multiple-frequencies PBT (Doulazmi et al. 2025).

    Sub-population i evolves every `every_rounds[i]` rounds. Then its best quarter and its second one go
    on; a member of the third gives way to a better one of another sub-population's best quarter,
    drawn at random; the last quarter copies the best and explores. A migrant from a faster sub-population
    brings its weights alone and goes on with the hypers of the local best; one from a slower
    or equally fast one brings its hypers too.

    Args:
      setting: what is searched.
      every_rounds: rounds between two evolutions of each sub-population, ascending.
      subpopulation: members of each, a multiple of 4.

    Raises:
      ValueError: rounds that do not ascend, sizes that are not a multiple of 4.

    Source: Doulazmi et al., "Multiple-Frequencies Population-Based Training", arXiv 2506.03225, 2025.
    Differs from it in: whom a member of the third quarter meets was not verified (ours: a uniform draw).
    """
    if list(every_rounds) != sorted(every_rounds):
        raise ValueError(f"every_rounds must ascend, got {list(every_rounds)}")
    if subpopulation % 4:
        raise ValueError(f"subpopulation must be a multiple of 4, got {subpopulation}")
    num_members, quarter = subpopulation * len(every_rounds), subpopulation // 4
    rows = np.arange(num_members).reshape(len(every_rounds), subpopulation)

    def init(rng):
        return {"round": 0}, Decision(rows.ravel(), space_lib.sample(setting.space, rng, num_members), [])

    def step(state, outcome, rng):
        number = state["round"] + 1
        fitness = outcome.fitness
        order = [group[np.lexsort((rng.permutation(subpopulation), -fitness[group]))] for group in rows]
        source, hypers_from, losers, events = rows.ravel().copy(), rows.ravel().copy(), [], []

        def move(slot, origin, hypers_of, event):
            if np.isfinite(fitness[origin]) and slot != origin:
                source[slot], hypers_from[slot] = origin, hypers_of
                events.append({"slot": int(slot), "event": event, "source": int(origin)})
                return True
            return False

        for i, ranked in enumerate(order):
            if number % every_rounds[i]:
                continue
            winners, third, last = ranked[:quarter], ranked[-2 * quarter : -quarter], ranked[-quarter:]
            foreign = [(j, m) for j, o in enumerate(order) if j != i for m in o[:quarter]]
            for slot in third:
                if not foreign:
                    break
                j, origin = foreign[rng.integers(len(foreign))]
                if fitness[origin] > fitness[slot]:
                    move(slot, origin, winners[0] if every_rounds[j] < every_rounds[i] else origin, "migrate")
            for slot in last:
                origin = rng.choice(winners)
                losers += [slot] if move(slot, origin, origin, "exploit") else []
        hypers = space_lib.take(outcome.hypers, hypers_from) if setting.copy_hypers else outcome.hypers
        hypers = space_lib.explore(setting.space, rng, hypers, np.asarray(losers, int))
        return {"round": number}, Decision(source, hypers, events)

    groups = {f"every {n} rounds": group.tolist() for n, group in zip(every_rounds, rows, strict=True)}
    if len(groups) < len(rows):
        groups = {
            f"{i + 1}: every {n} rounds": g.tolist()
            for i, (n, g) in enumerate(zip(every_rounds, rows, strict=True))
        }
    return Controller(groups, rows.ravel(), init, step)
