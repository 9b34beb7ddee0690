"""What every registered estimator must be, whoever wrote it: against closed-form truths and the outer loop.

The tests run over `ESTIMATORS` with what `CLAIMS` says of them; an estimator without an entry there claims
nothing of its mean. Statistical tests: 50 000 independent pairs, fixed keys, |z| < 4 (false alarm 6e-5 a
number) at a standard error under 1 % of the truth, so that a bias of 5 % fails by more than one standard
error.
"""

import inspect

import pytest

from meta_train.estimators import CLAIMS, ESTIMATORS
from meta_train.testing import loop, toys
from meta_train.testing.conformance import LIMITS, UNBIASED, check_pooled
from meta_train.testing.episodes import check_episodes
from meta_train.testing.subject import Subject, build, truncates
from reproductions.systems.influence_balancing import influence_balancing

UNBIASED_NAMES = [name for name, claim in CLAIMS.items() if claim.smoothing]
TRUNCATED_NAMES = [name for name, claim in CLAIMS.items() if not claim.smoothing]
# Compilation is nearly all of the time. These run always, and what is not in CLAIMS; the others can wait.
QUICK = ("gpes", "nres", "pes", "tbptt", "truncated_es")
LATER = ("unbiased: terminal", "unbiased: quadratic", "unbiased: vector")
CHECKS = [pytest.param(name, marks=pytest.mark.slow if name in LATER else ()) for name in UNBIASED]
NAMES = [
    pytest.param(n, marks=pytest.mark.slow if n in CLAIMS and n not in QUICK else ()) for n in ESTIMATORS
]


def failures(found):
    return {name: check.detail for name, check in found.items() if not check.passed}


@pytest.mark.parametrize("name", NAMES)
def test_the_outer_loop_can_rely_on_it(name, quick_compilation):
    found = loop.check_loop(Subject(ESTIMATORS[name]))
    assert failures(found) == {}
    assert "devices" in found


@pytest.mark.parametrize("name", NAMES)
def test_every_inner_problem_of_a_chain_is_like_the_first(name, quick_compilation):
    assert failures(check_episodes(Subject(ESTIMATORS[name]))) == {}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", UNBIASED_NAMES)
def test_the_mean_is_the_smoothed_gradient(name, check, quick_compilation):
    found = UNBIASED[check].check(Subject(ESTIMATORS[name], CLAIMS[name].smoothing or "none"))
    assert found.passed == (check not in CLAIMS[name].mixed), found.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in UNBIASED_NAMES if not CLAIMS[name].mixed])
def test_the_means_of_all_toys_together_are_the_gradients(name, quick_compilation):
    subject = Subject(ESTIMATORS[name], CLAIMS[name].smoothing or "none")
    found = check_pooled({check: case.check(subject) for check, case in (LIMITS | UNBIASED).items()})
    assert found.passed, found.detail


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", TRUNCATED_NAMES)
def test_a_truncated_estimator_is_caught(name, check, quick_compilation):
    assert not UNBIASED[check].check(Subject(ESTIMATORS[name], "none")).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_one_window_of_a_whole_inner_problem_is_full_es_or_backpropagation(name, quick_compilation):
    smoothing = CLAIMS[name].one_window or CLAIMS[name].smoothing
    found = LIMITS["limit: one window"].check(Subject(ESTIMATORS[name], smoothing or "none"))
    assert found.passed, found.detail


@pytest.mark.parametrize("name", ESTIMATORS)
def test_options_are_keyword_only_with_types_and_defaults(name):
    _, *options = inspect.signature(ESTIMATORS[name]).parameters.values()
    for option in options:
        assert option.kind is option.KEYWORD_ONLY and option.default is not option.empty
        assert option.annotation is not option.empty


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if truncates(ESTIMATORS[n])])
def test_a_window_that_does_not_divide_the_length_is_refused(name):
    with pytest.raises(ValueError, match=r"^truncation_length must divide .* got 3$"):
        ESTIMATORS[name](toys.accumulator().system, truncation_length=3)


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if not truncates(ESTIMATORS[n])])
def test_whole_inner_problems_need_one_constant_length(name):
    for system in (loop.probe(), influence_balancing().system):
        with pytest.raises(ValueError, match="^unroll_length must be one constant number"):
            ESTIMATORS[name](system)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_at_least_one_particle_is_asked_for(name):
    with pytest.raises(ValueError, match="^num_particles must be >= 1, got 0$"):
        build(ESTIMATORS[name], toys.product().system, num_particles=0, truncation_length=2)
