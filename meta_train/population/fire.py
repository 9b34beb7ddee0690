"""FIRE PBT: population-based training that ranks by the rate of improvement, not by the present fitness."""

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, MinLen

from meta_train.config.registry import Spec, build
from meta_train.population import fire_round, improvement
from meta_train.population.base import Controller, Setting
from meta_train.population.exploit import EXPLOITS
from meta_train.population.fire_round import Rules

LEAST_POINTS = 7  # 2^-7 < 0.01 < 2^-6: with fewer, no evaluation could ever succeed


def fire_pbt(
    setting: Setting,
    *,
    subpopulations: Annotated[tuple[Annotated[int, Ge(4)], ...], MinLen(2)] = (8, 8),
    evaluators: tuple[Annotated[int, Ge(1)], ...] = (6,),
    exploit: Spec = {"name": "truncation"},  # noqa: B006 (read only)
    max_eval_steps: Annotated[int, Ge(1)] | None = None,
    min_steps_before_eval: Annotated[int, Ge(0)] = 0,
    p_stat: Annotated[float, Gt(0)] = 0.01,
    smoother: Literal["gp", "ema", "none"] = "gp",
    binomial_test: bool = True,
    gap_stat: improvement.GapStat = "max",
    child: Literal["best", "random"] = "best",
) -> Controller:
    """Faster-improvement-rate PBT (Dalibard & Jaderberg 2021).

    P1 is greedy PBT. Each further sub-population Pi is ranked by how fast copies of its members improve
    *once they train with the hypers of the best member of P(i-1)*: evaluators, ordinary members that
    are not ranked, hold those copies. A copy that gets ahead of the member whose hypers it uses
    replaces its weights. So P1 decays a learning rate greedily, as ever, but from weights that a
    parent prepared with a larger one.

    Where a short-term gain costs nothing in the long run it has no advantage over PBT, and it spends
    the evaluators' share of the work. Sub-populations under 8 are unreliable.

    Args:
      setting: what is searched.
      subpopulations: sizes of P1, P2, ...
      evaluators: how many serve P2, P3, ...: at most as many as members (the paper: three quarters).
      exploit: the rule within each sub-population, over its evaluated members; any but `ttest`.
      max_eval_steps: from here on only a significant lead keeps an evaluation going; null for 3 rounds.
        Holds at least 7 evaluations, without which the sign test cannot become significant.
      min_steps_before_eval: steps before the first evaluation.
      p_stat: level of the sign test.
      smoother: of the curves before they are matched: Gaussian process, moving average or none.
      binomial_test: false lets any positive gap succeed.
      gap_stat: what of the common part of two curves is compared.
      child: whose hypers an evaluator trains with: those of the best member of P(i-1), or of any.

    Raises:
      ValueError: evaluators that do not fit the sub-populations, too few points for the sign test, `ttest`.

    Source: Dalibard & Jaderberg, "Faster Improvement Rate Population Based Training", arXiv 2109.13800, 2021.
    Differs from it in: docs/population.md lists what could not be verified and what stands in for it.
    """
    if exploit.get("name") == "ttest":
        raise ValueError(
            "exploit must not be ttest: P2, P3, ... are ranked by their rate of improvement, one number per "
            "round, which a t-test of evaluations cannot compare"
        )
    rhythm = setting.rhythm
    _check_sizes(subpopulations, evaluators)
    limit = 3 * rhythm.round_steps if max_eval_steps is None else max_eval_steps
    if limit // rhythm.eval_every < LEAST_POINTS:
        raise ValueError(
            f"max_eval_steps must hold at least {LEAST_POINTS} evaluations for the binomial test "
            f"(eval_every is {rhythm.eval_every}), got {limit}"
        )
    bounds = np.cumsum([0, *subpopulations, *evaluators])
    rows = [tuple(range(a, b)) for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    n = len(subpopulations)
    rules = Rules(
        setting,
        tuple(rows[:n]),
        tuple(rows[n:]),
        build(EXPLOITS, exploit, where="exploit"),
        limit,
        min_steps_before_eval,
        p_stat,
        smoother,
        binomial_test,
        gap_stat,
        child,
    )
    groups = {f"P{i + 1}": list(members) for i, members in enumerate(rules.members)}
    groups |= {f"evaluators of P{i + 2}": list(members) for i, members in enumerate(rules.evaluators)}
    ranked = np.arange(int(bounds[n]))
    return Controller(
        groups,
        ranked,
        lambda rng: fire_round.init(rules, rng),
        lambda s, o, rng: fire_round.step(rules, s, o, rng),
    )


def _check_sizes(subpopulations, evaluators):
    if len(evaluators) != len(subpopulations) - 1:
        raise ValueError(
            f"evaluators must be one number for each sub-population but the first "
            f"({len(subpopulations) - 1}), got {list(evaluators)}"
        )
    for i, (parents, several) in enumerate(zip(subpopulations[1:], evaluators, strict=True), 2):
        if several > parents:
            raise ValueError(f"evaluators must be at most the {parents} members of P{i}, got {several}")
