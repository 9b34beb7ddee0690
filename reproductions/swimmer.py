"""Swimmer: a linear policy of 16 numbers trained by PES, full ES, truncated ES, ARS and ES with ranks.

Returns of whole episodes of 1000 steps against environment steps, each method with its own best setting of
the same grid, chosen on other seeds. Truncated ES sees only what an action earns within its window of 100
steps and hardly moves; the others learn to swim.
"""

from functools import partial
from typing import Any

from reproductions import common, control
from reproductions.control import Budget, Method
from reproductions.systems.swimmer import swimmer

T, K, PAIRS = 1000, 100, 10
LENGTHS, WINDOWED = (0.03, 0.1, 0.3), {"num_particles": PAIRS, "truncation_length": K}
METHODS = {
    "ARS": Method("ars", {}, (0.01, 0.02, 0.05)),
    "ES with ranks": Method("rank_es", {}, (0.01, 0.03, 0.1)),
    "full ES": Method("full_es", {"num_particles": 4}, LENGTHS),
    "PES": Method("pes", WINDOWED, LENGTHS),
    "truncated ES": Method("truncated_es", WINDOWED | {"carry": "pos"}, LENGTHS),
}
SIGMAS, SOLVED, GYM = (0.05, 0.1, 0.2), 325.0, 360.0
BUDGET = Budget(total=480_000, tuning=160_000, points=20, episodes=2, threshold=SOLVED)
FAST = Budget(total=120_000, tuning=0, points=3, episodes=2, threshold=SOLVED)


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """480 000 environment steps per seed after tuning; --fast: PES alone at one setting, 120 000."""
    problem = swimmer(unroll_length=T)
    if fast:
        curves = control.compare(problem, {"PES": METHODS["PES"]._replace(steps=(0.1,))}, (0.2,), FAST, seeds)
    else:
        curves = control.compare(problem, METHODS, SIGMAS, BUDGET, seeds)
    return {"curves": curves, "summary": control.summary(curves, SOLVED)}


draw = partial(
    control.draw, threshold=SOLVED, note="solved, by the ARS paper (325; Gym: 360)", ylim=(-30, 400)
)

if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
