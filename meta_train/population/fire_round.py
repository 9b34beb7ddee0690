"""One decision of FIRE PBT: who copies whom, which evaluations end, which begin."""

import copy
from typing import Any, NamedTuple

import numpy as np

from meta_train.population import improvement
from meta_train.population import space as space_lib
from meta_train.population.base import Decision, Outcome, Setting
from meta_train.population.exploit import Exploit


class Rules(NamedTuple):
    """The options of `fire_pbt`.

    `members` holds the rows of P1, P2, ...; `evaluators` those that serve P2, P3, ...
    """

    setting: Setting
    members: tuple[tuple[int, ...], ...]
    evaluators: tuple[tuple[int, ...], ...]
    exploit: Exploit
    max_eval_steps: int
    min_steps_before_eval: int
    p_stat: float
    smoother: str
    binomial_test: bool
    gap_stat: improvement.GapStat
    child: str


class _Round:
    """One decision while it is made: a copy of the state, and what will happen before the next round."""

    def __init__(self, rules: Rules, state: dict, step: int, hypers, rng: np.random.Generator) -> None:
        self.rules, self.step, self.rng = rules, step, rng
        self.state = copy.deepcopy(state)
        self.curves: list[list[float]] = self.state["curves"]
        self.evaluations: list[dict | None] = self.state["evaluations"]
        self.queues: list[list[int]] = self.state["queues"]
        self.hypers = hypers
        self.source = np.arange(len(self.curves))
        self.fresh: set[int] = set()  # overwritten in this round: their new hypers have no fitness yet
        self.fitness: dict[int, float] = {}  # as the members' own sub-population ranks them
        self.events: list[dict[str, Any]] = []
        self._smoothed: dict[int, improvement.Curve] = {}
        self.first_evaluator = rules.evaluators[0][0]

    def decision(self) -> tuple[dict, Decision]:
        return self.state, Decision(self.source, self.hypers, self.events)

    def log(self, slot: int, event: str, **more: Any) -> None:
        self.events.append({"slot": int(slot), "event": event, **more})

    def curve(self, slot: int) -> improvement.Curve:
        if slot not in self._smoothed:
            self._smoothed[slot] = improvement.curve(self.curves[slot], self.rules.smoother)
        return self._smoothed[slot]

    def set_curve(self, slot: int, values: list[float]) -> None:
        self.curves[slot] = list(values)
        self._smoothed.pop(slot, None)

    def evaluation(self, evaluator: int) -> dict | None:
        return self.evaluations[evaluator - self.first_evaluator]

    def running(self, i: int) -> dict[int, dict]:
        """Evaluator -> its evaluation, for the evaluators of the i-th sub-population that are busy."""
        return {e: found for e in self.rules.evaluators[i - 1] if (found := self.evaluation(e)) is not None}

    def end(self, evaluator: int, event: str, **more: Any) -> None:
        """Makes the evaluator idle and its parent the last in the queue."""
        found = self.evaluation(evaluator)
        assert found is not None
        self.log(evaluator, event, parent=found["parent"], child=found["child"], **more)
        self.queues[found["i"] - 1].append(found["parent"])
        self.evaluations[evaluator - self.first_evaluator] = None


def init(rules: Rules, rng: np.random.Generator) -> tuple[dict, Decision]:
    """Draws the members' hypers and begins the first evaluations, all with one random child's hypers."""
    num_members = rules.evaluators[-1][-1] + 1
    state = {
        "curves": [[] for _ in range(num_members)],
        "evaluations": [None] * sum(map(len, rules.evaluators)),
        "queues": [list(parents) for parents in rules.members[1:]],
    }
    now = _Round(rules, state, 0, space_lib.sample(rules.setting.space, rng, num_members), rng)
    _assign(now)
    return now.decision()


def step(rules: Rules, state: dict, outcome: Outcome, rng: np.random.Generator) -> tuple[dict, Decision]:
    """The step of every sub-population, then the evaluations: lost ones, failures, successes and new ones."""
    now = _Round(rules, state, outcome.step, {k: v.copy() for k, v in outcome.hypers.items()}, rng)
    broken = set(np.flatnonzero(~np.isfinite(outcome.fitness)).tolist())
    for slot, scores in enumerate(outcome.scores):
        now.set_curve(slot, [] if slot in broken else [*now.curves[slot], *map(float, scores)])
    for i, members in enumerate(rules.members):
        now.fitness |= _fitness(now, i, members, outcome, broken)
        _exploit(now, members, outcome, broken)
    _refresh(now)
    for i in range(1, len(rules.members)):
        _end_lost(now, i, broken)
        _conclude(now, i)
    _assign(now)
    return now.decision()


def _fitness(now: _Round, i: int, members, outcome: Outcome, broken: set[int]) -> dict[int, float]:
    """Of the members of the i-th sub-population: NaN where unknown, -inf where broken."""
    if i == 0:
        return {m: float(outcome.fitness[m]) for m in members}
    curves = {e["parent"]: now.curve(slot) for slot, e in now.running(i).items() if slot not in broken}
    rate = {
        m: sum(improvement.gap(one, other, now.rules.gap_stat) for r, other in curves.items() if r != m)
        for m, one in curves.items()
    }
    return {m: -np.inf if m in broken else rate.get(m, np.nan) for m in members}


def _exploit(now: _Round, members, outcome: Outcome, broken: set[int]) -> None:
    """The PBT step of one sub-population: marks the members that are overwritten, and gives them hypers."""
    rows = np.asarray(members)
    local = now.rules.exploit(np.asarray([now.fitness[m] for m in members]), outcome.scores[rows], now.rng)
    chosen = rows[local]
    stuck = [k for k, m in enumerate(members) if m in broken and chosen[k] == m]
    sound = [m for m in members if m not in broken] or [
        m for m in range(len(outcome.fitness)) if m not in broken
    ]
    for k in stuck:  # no evaluated member to copy: any finite one is better
        chosen[k] = now.rng.choice(sound)
    moved = rows[chosen != rows]
    now.source[rows] = chosen
    if now.rules.setting.copy_hypers:
        now.hypers = {name: _put(values, rows, values[chosen]) for name, values in now.hypers.items()}
    now.hypers = space_lib.explore(now.rules.setting.space, now.rng, now.hypers, moved)
    for m in moved.tolist():
        now.fresh.add(m)
        now.log(m, "exploit", source=int(now.source[m]))


def _put(values, rows, new):
    values = values.copy()
    values[rows] = new
    return values


def _refresh(now: _Round) -> None:
    """Overwritten members start a new curve and go to the end of the queue."""
    for m in now.fresh:
        now.set_curve(m, [])
        for queue in now.queues:
            if m in queue:
                queue.remove(m)
                queue.append(m)


def _end_lost(now: _Round, i: int, broken: set[int]) -> None:
    for slot, found in now.running(i).items():
        if slot in broken:
            now.end(slot, "stop", why="diverged")
        elif found["parent"] in now.fresh or found["child"] in now.fresh:
            now.end(slot, "stop", why="overwritten")


def _conclude(now: _Round, i: int) -> None:
    """Ends the evaluations that have failed or succeeded; the others continue."""
    succeeded = []
    for slot, found in now.running(i).items():
        trained, a, b = now.step - found["since"], now.curve(slot), now.curve(found["child"])
        why = _failed(now.rules, a, b, trained)
        if why is not None:
            now.end(slot, "stop", why=why)
        elif _succeeds(now.rules, a, b):
            succeeded.append(slot)
    for slot in succeeded:
        found = now.evaluation(slot)
        assert found is not None
        child = found["child"]
        if not _succeeds(now.rules, now.curve(slot), now.curve(child)):  # after another one's success
            now.end(slot, "stop", why="beaten")
            continue
        now.source[child] = slot
        now.set_curve(child, now.curves[slot])
        now.end(slot, "success", lead=improvement.gap(now.curve(slot), now.curve(child), now.rules.gap_stat))
        if i > 1:  # the child is a parent itself: copies of its old weights say nothing about the new ones
            for other, its in now.running(i - 1).items():
                if its["parent"] == child:
                    now.end(other, "stop", why="overwritten")


def _failed(rules: Rules, a: improvement.Curve, b: improvement.Curve, trained: int) -> str | None:
    if improvement.overlap(a, b) is None:
        return "no overlap" if trained >= rules.max_eval_steps else None
    patience = max(0.0, 1 - trained / rules.max_eval_steps)
    if rules.binomial_test:
        return "no lead" if improvement.p_value(a, b) > rules.p_stat + patience else None
    return "no lead" if patience == 0 and improvement.gap(a, b, rules.gap_stat) <= 0 else None


def _succeeds(rules: Rules, a: improvement.Curve, b: improvement.Curve) -> bool:
    if improvement.gap(a, b, rules.gap_stat) <= 0:
        return False
    return not rules.binomial_test or improvement.p_value(a, b) < rules.p_stat


def _assign(now: _Round) -> None:
    """Idle evaluators take the parents that have waited longest, with the hypers of the best child."""
    if now.step < now.rules.min_steps_before_eval:
        return
    for i in range(1, len(now.rules.members)):
        queue = now.queues[i - 1]
        child = _child(now, now.rules.members[i - 1])
        for slot in now.rules.evaluators[i - 1]:
            if now.evaluation(slot) is not None or not queue:
                continue
            parent = queue.pop(0)
            now.evaluations[slot - now.first_evaluator] = {
                "i": i, "parent": parent, "child": child, "since": now.step
            }  # fmt: skip
            now.source[slot] = now.source[parent]  # also if it was overwritten in this round
            now.hypers = {name: _put(v, [slot], v[child]) for name, v in now.hypers.items()}
            now.set_curve(slot, [])
            now.log(slot, "evaluate", parent=parent, child=child)


def _child(now: _Round, members) -> int:
    """The best of the sub-population below, by its own ranking, without those overwritten in this round."""
    settled = [m for m in members if m not in now.fresh] or list(members)
    known = [m for m in settled if np.isfinite(now.fitness.get(m, np.nan))]
    if now.rules.child == "random" or not known:
        return int(now.rng.choice(settled))
    return max(known, key=lambda m: now.fitness[m])
