"""Acrobot: a network of 64 numbers swings two links up, trained by PES, ES and searches.

Returns of whole episodes of 200 steps against environment steps, each method with its own best setting of
the same grid, chosen on other seeds.
"""

from functools import partial
from itertools import product
from typing import Any

from reproductions import common, control
from reproductions.control import Budget, Method
from reproductions.systems.acrobot import acrobot

T, K, PAIRS = 200, 20, 10
WINDOWED = {"num_particles": PAIRS, "truncation_length": K}
SIGMAS, LENGTHS = (0.03, 0.1, 0.3), (0.1, 0.3, 1.0)
GRID = tuple(product(SIGMAS, LENGTHS))
METHODS = {
    "ARS": Method("ars", {}, tuple(product(SIGMAS, (0.01, 0.03, 0.1)))),
    "ES with ranks": Method("rank_es", {}, tuple(product(SIGMAS, (0.03, 0.1, 0.3)))),
    "full ES": Method("full_es", {"num_particles": 4}, GRID),
    "PES": Method("pes", WINDOWED, GRID),
    "truncated ES": Method("truncated_es", WINDOWED | {"carry": "pos"}, GRID),
}
THRESHOLD = -70.0
BUDGET = Budget(total=160_000, tuning=96_000, points=20, episodes=8, threshold=THRESHOLD)
FAST = Budget(total=40_000, tuning=0, points=4, episodes=4, threshold=THRESHOLD)


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """160 000 environment steps per seed after tuning; --fast: PES alone at one setting, 40 000."""
    problem = acrobot(unroll_length=T)
    if fast:
        one = {"PES": METHODS["PES"]._replace(settings=((0.3, 0.3),))}
        curves = control.compare(problem, one, FAST, seeds)
    else:
        curves = control.compare(problem, METHODS, BUDGET, seeds)
    return {"curves": curves, "summary": control.summary(curves, THRESHOLD)}


draw = partial(control.draw, threshold=THRESHOLD, note="", ylim=(-205, -20))

if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
