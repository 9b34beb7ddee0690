"""Controllers alone: they see numbers, so a test can make the numbers up."""

import json

import numpy as np
import pytest

from meta_train.population.base import Outcome, Rhythm, Setting
from meta_train.population.controllers import CONTROLLERS, fire_pbt, mf_pbt, pbt, random_search
from meta_train.population.exploit import EXPLOITS, best, tournament, truncation, ttest
from meta_train.population.space import linear, log

RHYTHM = Rhythm(100, 20)
SPACE = {"rate": log(bounds=(1e-3, 1.0)), "decay": linear(bounds=(0.0, 1.0))}
SETTING = Setting(SPACE, RHYTHM)
SMALL = {"subpopulations": (4, 4), "evaluators": (3,)}


def rng(seed=0):
    return np.random.default_rng(seed)


def outcome(scores, hypers, number):
    scores = np.asarray(scores, float)
    fitness = np.where(np.isfinite(scores).all(1), scores[:, -3:].mean(1), -np.inf)
    return Outcome((number + 1) * RHYTHM.round_steps, scores, fitness, hypers)


class Driven:
    """A controller that is fed by `play(scores [M, 5])`."""

    def __init__(self, controller, seed=0):
        self.controller, self.seed, self.round = controller, seed, 0
        self.state, self.last = controller.init(rng(seed))

    def play(self, scores):
        given = outcome(scores, self.last.hypers, self.round)
        self.round += 1
        self.state, self.last = self.controller.step(self.state, given, rng(1000 * self.seed + self.round))
        return self.last

    def events(self, kind):
        return [event for event in self.last.events if event["event"] == kind]


def flat(values):
    return np.repeat(np.asarray(values, float)[:, None], 5, 1)


# Exploit rules.


def test_truncation_copies_the_best_quarter_over_the_worst():
    fitness = np.array([3.0, 1, 8, 7, 5, 6, 2, 4])
    found = set()
    for seed in range(50):
        source = truncation()(fitness, flat(fitness), rng(seed))
        assert np.flatnonzero(source != np.arange(8)).tolist() == [1, 6]
        found |= set(source[[1, 6]].tolist())
    assert found == {2, 3}


@pytest.mark.parametrize("rule", EXPLOITS)
def test_a_member_that_is_not_finite_is_overwritten_and_never_copied(rule):
    fitness = np.array([-np.inf, 1, 2, -np.inf, 3, -np.inf, 4, 5])
    for seed in range(200):
        source = EXPLOITS[rule]()(fitness, np.nan_to_num(flat(fitness), neginf=0), rng(seed))
        assert np.isfinite(fitness[source]).all(), seed


@pytest.mark.parametrize("rule", EXPLOITS)
def test_where_no_member_is_finite_none_is_overwritten(rule):
    source = EXPLOITS[rule]()(np.full(4, -np.inf), flat([0] * 4), rng())
    assert source.tolist() == [0, 1, 2, 3]


def test_a_member_that_nothing_is_known_of_is_left_alone():
    fitness = np.array([np.nan, 1, 2, 3, 4, np.nan, 5, 6])
    for rule in (truncation(), tournament(), best(), ttest()):
        source = rule(fitness, flat(fitness), rng())
        assert source[0] == 0 and source[5] == 5 and not set(source[[1, 2, 3, 4, 6, 7]]) & {0, 5}


def test_ties_are_broken_so_that_equal_members_are_told_apart():
    sources = [tournament()(np.zeros(2), flat([0, 0]), rng(seed)).tolist() for seed in range(20)]
    assert sorted({tuple(source) for source in sources}) == [(0, 0), (1, 1)]


def test_best_copies_one_over_all():
    assert best()(np.array([1.0, 5, 2]), flat([1, 5, 2]), rng()).tolist() == [1, 1, 1]


def test_the_t_test_copies_only_what_is_significantly_better():
    noise = rng(1).normal(size=(2, 10))
    apart = noise + np.array([[0.0], [5.0]])
    assert ttest()(apart.mean(1), apart, rng()).tolist() == [1, 1]
    close = noise - noise.mean(1, keepdims=True) + np.array([[0.0], [0.1]])
    assert ttest()(close.mean(1), close, rng()).tolist() == [0, 1]


def test_quantiles_that_meet_are_refused():
    with pytest.raises(ValueError, match="^top must be at most 1 - bottom .0.5., got 0.6$"):
        truncation(top=0.6, bottom=0.5)


# All controllers.


def small(name):
    sizes = {"fire_pbt": SMALL | {"smoother": "none"}, "mf_pbt": {"every_rounds": (1, 2), "subpopulation": 4}}
    return CONTROLLERS[name](SETTING, **sizes.get(name, {"num_members": 8}))


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_decision_is_a_gather_of_members_and_legal_hypers(name):
    controller, generator = small(name), rng(3)
    driven, m = Driven(controller), small(name).num_members
    evaluators = set(range(m)) - set(controller.ranked.tolist())
    lineage = np.arange(m)
    for _ in range(300):
        scores = generator.normal(size=(m, 5)).cumsum(1)
        scores[generator.random(m) < 0.03] = np.nan
        before = driven.last.hypers
        source, hypers, events = driven.play(scores)
        assert source.shape == (m,) and source.min() >= 0 and source.max() < m
        lineage = lineage[source]
        for key, low, high in (("rate", 1e-3, 1.0), ("decay", 0.0, 1.0)):
            assert hypers[key].min() >= low and hypers[key].max() <= high
        told = {event["slot"] for event in events}
        for slot in np.flatnonzero(source != np.arange(m)).tolist():
            assert slot in told or slot in evaluators or source[slot] in evaluators
        for event in events:
            if event["event"] == "exploit":
                assert event["source"] not in evaluators and np.isfinite(scores[event["source"]]).all()
        untouched = [s for s in range(m) if s not in told and s not in evaluators]
        assert all((hypers[key][untouched] == before[key][untouched]).all() for key in hypers)


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_state_that_went_through_json_goes_on_alike(name):
    generator = rng(5)
    scores = generator.normal(size=(6, small(name).num_members, 5))
    straight, resumed = Driven(small(name)), Driven(small(name))
    for number, row in enumerate(scores):
        straight.play(row)
        if number == 3:
            resumed.state = json.loads(json.dumps(resumed.state))
            hypers = {k: json.loads(json.dumps(v.tolist())) for k, v in resumed.last.hypers.items()}
            resumed.last = resumed.last._replace(hypers={k: np.asarray(v) for k, v in hypers.items()})
        resumed.play(row)
    assert straight.state == resumed.state and straight.last.events == resumed.last.events
    for key in SPACE:
        np.testing.assert_array_equal(straight.last.hypers[key], resumed.last.hypers[key])


@pytest.mark.parametrize("name", CONTROLLERS)
def test_a_step_does_not_modify_the_state_it_is_given(name):
    driven = Driven(small(name))
    before, hypers = json.dumps(driven.state), {k: v.copy() for k, v in driven.last.hypers.items()}
    given = outcome(rng().normal(size=(small(name).num_members, 5)), driven.last.hypers, 0)
    driven.controller.step(driven.state, given, rng())
    assert json.dumps(driven.state) == before
    assert all((given.hypers[k] == hypers[k]).all() for k in hypers)


# Random search and PBT.


def test_random_search_changes_nothing():
    driven = Driven(random_search(SETTING, num_members=5))
    before = driven.last
    after = driven.play(rng().normal(size=(5, 5)))
    assert after.source.tolist() == [0, 1, 2, 3, 4] and after.hypers is not None
    np.testing.assert_array_equal(after.hypers["rate"], before.hypers["rate"])


def test_pbt_copies_weights_and_hypers_then_explores():
    driven = Driven(pbt(SETTING, num_members=8))
    before = driven.last.hypers["rate"]
    after = driven.play(flat([0, 1, 2, 3, 4, 5, 6, 7]))
    assert (after.source[2:] == np.arange(2, 8)).all() and set(after.source[:2]) <= {6, 7}
    np.testing.assert_array_equal(after.hypers["rate"][2:], before[2:])
    factor = after.hypers["rate"][:2] / before[after.source[:2]]
    clipped = np.isin(after.hypers["rate"][:2], (1e-3, 1.0))
    assert (clipped | np.isclose(factor[:, None], (0.5, 0.8, 1.25, 2.0)).any(1)).all()


def test_hypers_stay_where_they_are_not_copied():
    keep = {"name": "keep"}
    space = {"rate": log(bounds=(1e-3, 1.0), explore=keep)}
    driven = Driven(pbt(Setting(space, RHYTHM, copy_hypers=False), num_members=8))
    before = driven.last.hypers["rate"]
    after = driven.play(flat(range(8)))
    assert set(after.source[:2]) <= {6, 7}
    np.testing.assert_array_equal(after.hypers["rate"], before)


def test_nothing_evolves_during_the_burn_in():
    driven = Driven(pbt(SETTING, num_members=4, burn_in_steps=250))
    moved = [(driven.play(flat(range(4))).source != np.arange(4)).any() for _ in range(4)]
    assert moved == [False, False, True, True]


def test_without_an_exploit_rule_everybody_explores():
    driven = Driven(pbt(SETTING, num_members=4, exploit=None))
    before = driven.last.hypers["rate"]
    after = driven.play(flat(range(4)))
    assert after.source.tolist() == [0, 1, 2, 3] and (after.hypers["rate"] != before).any()


# FIRE PBT. Rows 0-3 are P1, 4-7 are P2, 8-10 the evaluators of P2.


def fire(**options):
    return Driven(fire_pbt(SETTING, **(SMALL | options)))


def rows(p1, p2, evaluators):
    """Curves of one round: each entry is a start and a slope per evaluation."""
    return np.stack([start + slope * np.arange(5) for start, slope in [*p1, *p2, *evaluators]])


CALM = [(3.0, 0.001), (2.0, 0.001), (1.0, 0.001), (0.0, 0.001)]
NOTHING = [(0.0, 0.0)] * 4


def test_the_first_evaluators_hold_parents_with_one_childs_hypers():
    first = fire().last
    assert first.source[8:].tolist() == [4, 5, 6] and first.source[:8].tolist() == list(range(8))
    child = {event["child"] for event in first.events}
    assert len(child) == 1 and child <= {0, 1, 2, 3}
    assert (first.hypers["rate"][8:] == first.hypers["rate"][child.pop()]).all()


def test_an_evaluator_takes_the_hypers_of_the_best_child_that_was_not_overwritten():
    driven = fire()
    for _ in range(20):
        scores = rows(CALM, NOTHING, [(-9, -1)] * 3)
        driven.play(scores)
        for event in driven.events("evaluate"):
            assert event["child"] == 0
            assert driven.last.hypers["rate"][event["slot"]] == driven.last.hypers["rate"][0]


def test_any_child_is_taken_where_that_is_asked_for():
    children = set()
    for seed in range(8):
        driven = Driven(fire_pbt(SETTING, **SMALL, child="random"), seed)
        for _ in range(8):
            driven.play(rows(CALM, NOTHING, [(-9, -1)] * 3))
            children |= {event["child"] for event in driven.events("evaluate")}
    assert len(children) > 1


def until_success(driven, scores, rounds=8):
    for _ in range(rounds):
        driven.play(scores(driven.round))
        if driven.events("success"):
            return driven.events("success")
    return []


def lead(number):
    """Evaluator 8 starts at its child's level and rises faster; the others stay below."""
    i = 5 * number
    return rows([(3 + 0.01 * i, 0.01), *CALM[1:]], NOTHING, [(2.9 + 0.3 * i, 0.3), (-9, 0), (-9, 0)])


def test_an_evaluator_that_gets_ahead_replaces_its_childs_weights_and_not_its_hypers():
    driven = fire()
    driven.state["evaluations"] = [e | {"child": 0} for e in driven.state["evaluations"]]
    before = driven.last.hypers["rate"][0]
    (event,) = until_success(driven, lead)
    assert (event["slot"], event["child"]) == (8, 0)
    assert driven.last.source[0] == 8
    assert driven.last.hypers["rate"][0] == before


def test_after_a_success_the_childs_curve_is_the_winners():
    driven = fire()
    driven.state["evaluations"] = [e | {"child": 0} for e in driven.state["evaluations"]]
    played = []

    def scores(number):
        played.append(lead(number)[8])
        return lead(number)

    assert until_success(driven, scores)
    assert driven.state["curves"][0] == pytest.approx(np.concatenate(played).tolist())


def test_of_two_winners_on_one_child_the_second_must_beat_the_first():
    driven = fire()
    driven.state["evaluations"] = [e | {"child": 0} for e in driven.state["evaluations"]]

    def scores(number):
        i = 5 * number
        fast, slower = (2.9 + 0.3 * i, 0.3), (2.9 + 0.2 * i, 0.2)
        return rows([(3 + 0.01 * i, 0.01), *CALM[1:]], NOTHING, [fast, slower, (-9, 0)])

    (success,) = until_success(driven, scores)
    assert success["slot"] == 8
    assert ("beaten", 9) in [(e.get("why"), e["slot"]) for e in driven.events("stop")]


def test_without_the_binomial_test_any_gap_succeeds_at_once():
    driven = fire(binomial_test=False)
    driven.state["evaluations"] = [e | {"child": 0} for e in driven.state["evaluations"]]
    assert until_success(driven, lead, rounds=1)


def test_a_chance_lead_does_not_pass_the_binomial_test():
    driven = fire(smoother="none")
    driven.state["evaluations"] = [e | {"child": 0} for e in driven.state["evaluations"]]
    scores = rows(CALM, NOTHING, [(3.0, 0.0)] * 3)
    scores[8] = [3.0, 3.0, 3.0, 3.0, 9.0]  # one point ahead: a gap, but 1 of 5
    driven.play(scores)
    assert not driven.events("success")


def test_an_evaluation_without_overlap_ends_at_the_limit_and_not_before():
    driven = fire(max_eval_steps=300, smoother="none")
    driven.state["evaluations"] = [e | {"child": 0} for e in driven.state["evaluations"]]
    ended = []
    for number in range(
        3
    ):  # far below its child, but the fastest of the three: its parent is never overwritten
        driven.play(rows(CALM, NOTHING, [(-9 + 0.5 * number, 0.1), (-9, 0), (-9, -0.1)]))
        ended.append([e["why"] for e in driven.events("stop") if e["slot"] == 8])
    assert ended == [[], [], ["no overlap"]]


def test_patience_falls_linearly_with_the_steps_of_an_evaluation():
    driven = fire(max_eval_steps=300, smoother="none")
    driven.state["evaluations"] = [e | {"child": 0} for e in driven.state["evaluations"]]
    scores = rows([(3, 0), *CALM[1:]], NOTHING, [(0, 0), (-9, 0), (-9, -0.1)])
    scores[8] = [3.0, 3.1, 2.9, 3.1, 3.1]
    driven.play(scores)  # 3 of 5 ahead: p = 0.5 < 0.01 + 1 - 100 / 300
    assert 8 not in [e["slot"] for e in driven.last.events]
    scores[8] = [2.9, 3.1, 2.9, 3.1, 2.9]
    driven.play(scores)  # 5 of 10: p = 0.62 > 0.01 + 1 - 200 / 300
    assert ("no lead", 8) in [(e.get("why"), e["slot"]) for e in driven.last.events]


def test_parents_are_evaluated_in_the_order_of_their_waiting():
    driven = fire()
    order = [event["parent"] for event in driven.last.events]
    for _ in range(9):  # constant evaluators below their child: all end at the limit, and nobody is exploited
        driven.play(rows([(3, 0.0)] * 4, NOTHING, [(-9.0, 0.0)] * 3))
        order += [e["parent"] for e in driven.events("evaluate") if e["parent"] not in driven_fresh(driven)]
    assert order[:4] == [4, 5, 6, 7]
    assert len(set(order)) == 4


def driven_fresh(driven):
    return {event["slot"] for event in driven.events("exploit")}


def test_an_evaluation_whose_parent_or_child_was_overwritten_ends():
    driven = fire()
    seen = 0
    for seed in range(30):
        scores = np.random.default_rng(seed).normal(size=(11, 5)).cumsum(1)
        running = {8 + i: e for i, e in enumerate(driven.state["evaluations"]) if e}
        driven.play(scores)
        fresh = driven_fresh(driven)
        lost = {s for s, e in running.items() if e["parent"] in fresh or e["child"] in fresh}
        told = {e["slot"] for e in driven.events("stop") if e["why"] == "overwritten"}
        assert lost == told
        seen += len(lost)
    assert seen


def test_parents_are_ranked_by_how_fast_their_copies_improve():
    # Parent 4's copy improves fastest although parent 4 itself looks worst; parent 6's copy is slowest.
    driven = fire(max_eval_steps=300)
    evaluators = [(0.0, 1.0), (0.0, 0.5), (0.0, 0.1)]
    decision = driven.play(rows([(50, 0.0)] * 4, [(-5, 0), (1, 0), (9, 0), (9, 0)], evaluators))
    assert [(e["slot"], e["source"]) for e in driven.events("exploit") if 4 <= e["slot"] < 8] == [(6, 4)]
    assert decision.source[6] == 4


def test_a_copy_of_an_overwritten_parent_starts_from_the_new_weights():
    driven = fire()
    decision = driven.play(rows([(50, 0.0)] * 4, NOTHING, [(0.0, 1.0), (0.0, 0.5), (0.0, 0.1)]))
    overwritten = {e["slot"]: e["source"] for e in driven.events("exploit")}
    for event in driven.events("evaluate"):
        parent = event["parent"]
        assert decision.source[event["slot"]] == overwritten.get(parent, parent)


def test_a_diverged_parent_is_replaced_even_if_nothing_is_evaluated():
    driven = fire(min_steps_before_eval=10_000)
    scores = rows(CALM, NOTHING, [(0, 0)] * 3)
    scores[5] = np.nan
    decision = driven.play(scores)
    assert decision.source[5] in (4, 6, 7)
    assert decision.source[8:].tolist() == [8, 9, 10]  # idle


def test_three_sub_populations_judge_each_by_the_one_below():
    driven = Driven(fire_pbt(SETTING, subpopulations=(4, 4, 4), evaluators=(2, 3)))
    assert list(driven.controller.groups) == ["P1", "P2", "P3", "evaluators of P2", "evaluators of P3"]
    for seed in range(20):
        driven.play(np.random.default_rng(seed).normal(size=(17, 5)).cumsum(1))
        for event in driven.events("evaluate"):
            parents, children = ((4, 8), (0, 4)) if event["slot"] < 14 else ((8, 12), (4, 8))
            assert parents[0] <= event["parent"] < parents[1]
            assert children[0] <= event["child"] < children[1]


def test_an_evaluation_ends_when_another_evaluator_overwrites_its_parent():
    # P2 is rows 4-7, P3 8-11; evaluators 12 and 13 serve P2, 14-16 P3. Evaluator 12 holds a copy of parent
    # 4, whose weights evaluator 14 replaces by its success.
    driven = Driven(fire_pbt(SETTING, subpopulations=(4, 4, 4), evaluators=(2, 3), smoother="none"))
    driven.state["evaluations"] = [
        {"i": 1, "parent": 4, "child": 0, "since": 0},
        {"i": 1, "parent": 5, "child": 0, "since": 0},
        *({"i": 2, "parent": parent, "child": 4, "since": 0} for parent in (8, 9, 10)),
    ]
    driven.state["queues"] = [[6, 7], [11]]
    for number in range(8):
        i = 5 * number
        behind = [(-9.0 + 0.01 * i, 0.01), (-9.0, 0.0)]  # P2's evaluations go on until the limit
        p2 = [(3 + 0.01 * i, 0.01), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)]
        ahead = [(2.9 + 0.3 * i, 0.3), (-9.0, 0.0), (-9.0, 0.0)]
        scores = [start + slope * np.arange(5) for start, slope in [*CALM, *p2, *NOTHING, *behind, *ahead]]
        decision = driven.play(np.stack(scores))
        if driven.events("success"):
            break
    (success,) = driven.events("success")
    assert (success["slot"], success["child"]) == (14, 4) and decision.source[4] == 14
    running = {12 + k: e for k, e in enumerate(driven.state["evaluations"]) if e}
    old = [slot for slot, e in running.items() if e["parent"] == 4 and e["since"] < 100 * driven.round]
    assert not old
    assert (12, "overwritten") in [(e["slot"], e["why"]) for e in driven.events("stop")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exploit": {"name": "ttest"}}, "^exploit must not be ttest: P2, P3, ... are ranked by their rate"),
        ({"max_eval_steps": 139}, "^max_eval_steps must hold at least 7 evaluations for the binomial test"),
        ({"evaluators": (5,)}, "^evaluators must be at most the 4 members of P2, got 5$"),
        ({"evaluators": (1, 1)}, "^evaluators must be one number for each sub-population but the first"),
    ],
)
def test_what_could_never_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fire_pbt(SETTING, **(SMALL | options))


# MF-PBT.


def test_a_sub_population_evolves_only_in_its_own_rounds():
    driven = Driven(mf_pbt(SETTING, every_rounds=(1, 3), subpopulation=4))
    moved = []
    for seed in range(6):
        decision = driven.play(np.random.default_rng(seed).normal(size=(8, 5)))
        moved.append(bool((decision.source[4:] != np.arange(4, 8)).any()))
    assert moved == [False, False, True, False, False, True]


def test_a_migrant_from_a_faster_sub_population_takes_the_hypers_of_the_local_best():
    driven = Driven(mf_pbt(SETTING, every_rounds=(1, 2), subpopulation=4))
    driven.play(flat([0] * 8))
    before = driven.last.hypers["rate"].copy()
    decision = driven.play(flat([9, 8, 7, 6, 5, 4, 3, 2]))
    (migrant,) = [e for e in decision.events if e["event"] == "migrate" and e["slot"] >= 4]
    assert migrant["source"] == 0 and decision.source[migrant["slot"]] == 0
    assert decision.hypers["rate"][migrant["slot"]] == before[4]


def test_a_migrant_from_a_slower_sub_population_brings_its_hypers():
    driven = Driven(mf_pbt(SETTING, every_rounds=(1, 2), subpopulation=4))
    before = driven.last.hypers["rate"].copy()
    decision = driven.play(flat([3, 2, 1, 0, 9, 8, 7, 6]))
    (migrant,) = [e for e in decision.events if e["event"] == "migrate"]
    assert migrant["source"] == 4 and decision.hypers["rate"][migrant["slot"]] == before[4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_rounds": (5, 1)}, "^every_rounds must ascend"),
        ({"subpopulation": 6}, "^subpopulation must be a multiple of 4"),
    ],
)
def test_impossible_frequencies_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mf_pbt(SETTING, **options)
