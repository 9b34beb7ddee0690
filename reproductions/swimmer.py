"""Swimmer: a linear policy of 16 numbers trained by PES, full ES, truncated ES, ARS and ES with ranks.

Returns of whole episodes of 1000 steps against environment steps. Truncated ES sees only what an action earns
within its window of 100 steps and hardly moves; the others learn to swim. Then why little noise may fail.
"""

from functools import partial
from itertools import product
from typing import Any

from reproductions import common, control, fragility
from reproductions.control import Budget, Method
from reproductions.systems.swimmer import swimmer

T, K, PAIRS = 1000, 100, 10
WINDOWED = {"num_particles": PAIRS, "truncation_length": K}
METHODS = {
    "ARS": Method("ars", {}, ((0.1, 0.02),)),
    "ES with ranks": Method("rank_es", {}, tuple(product((0.1, 0.2), (0.03, 0.1)))),
    "full ES": Method("full_es", {"num_particles": 4}, ((0.1, 0.1),)),
    "PES": Method("pes", WINDOWED, ((0.2, 0.1),)),
    "truncated ES": Method("truncated_es", WINDOWED | {"carry": "pos"}, ((0.03, 0.02),)),
}
THRESHOLD = 325.0  # solved, by the ARS paper
BUDGET = Budget(total=480_000, tuning=160_000, points=12, episodes=5, threshold=THRESHOLD)
FAST = Budget(total=120_000, tuning=0, points=3, episodes=2, threshold=THRESHOLD)


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """480 000 environment steps per seed after tuning, and the returns around two policies.

    --fast: PES only, 120 000, without the latter.
    """
    problem = swimmer(unroll_length=T)
    methods = {"PES": METHODS["PES"]} if fast else METHODS
    curves = control.compare(problem, methods, FAST if fast else BUDGET, seeds)
    result = {"curves": curves, "summary": control.summary(curves, THRESHOLD)}
    if not fast:
        result["fragility"] = fragility.measure(problem, seeds, updates=40, pairs=128)
        result["summary"] |= fragility.summary(result["fragility"])
    return result


draw = partial(control.draw, threshold=THRESHOLD, note="solved: 325", ylim=(-20, 400))

if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
