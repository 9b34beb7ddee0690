"""The conformance suite itself: it catches what is wrong, and nothing that is right."""

import functools

import pytest

from meta_train.estimators import CLAIMS, ESTIMATORS
from meta_train.testing.conformance import checks
from meta_train.testing.episodes import check_episodes
from meta_train.testing.subject import Subject
from tests.meta_train.estimators.mutants import MUTANTS, wrong_pes

pytestmark = pytest.mark.usefixtures("quick_compilation")
RIGHT = {name: (ESTIMATORS[name], CLAIMS[name].smoothing) for name in ("pes", "nres", "bptt")}
RIGHT["PES, written out"] = (wrong_pes, "window")


def first_failure(subject):
    """The first check of the suite that fails, and its figures; None if all pass."""
    return next(((name, check.detail) for name, check in checks(subject) if not check.passed), None)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_estimator_is_caught(name):
    assert first_failure(Subject(*MUTANTS[name])) is not None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_estimator_passes_with_every_key(name, seed):
    """About 30 comparisons at |z| < 4 a suite: a false alarm in one of 500 suites, if keys were not fixed."""
    assert first_failure(Subject(*RIGHT[name], seed=seed)) is None


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ("", None),
        ("reports the sum of losses", "loss"),
        ("the same noise in every window", "fresh noise"),
        ("xi is never reset", "resets"),
        ("xi is reset one window late", "resets"),
    ],
)
def test_what_outlives_an_inner_problem_is_caught(wrong, check):
    found = check_episodes(Subject(functools.partial(wrong_pes, wrong=wrong)))
    assert [name for name, one in found.items() if not one.passed][:1] == ([check] if check else [])


def test_there_are_at_least_twenty_wrong_estimators():
    assert len(MUTANTS) >= 20
