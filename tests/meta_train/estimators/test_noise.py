"""Options of the noise: orthogonal pairs, common random numbers, schedules and scales of sigma.

Statistical tests: fixed keys, |z| < 4 (false alarm 6e-5 a number) unless a test says otherwise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.config.load import ConfigError
from meta_train.config.registry import build, fill
from meta_train.core import combine
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS
from meta_train.estimators.noise import Noise, draw, set_sigma
from meta_train.testing import loop, toys
from meta_train.testing.conformance import check_unbiased, compare, sample_gradients
from meta_train.testing.subject import Subject

EVERYTHING = Noise(
    cohort=4, orthogonal=True, common="cohort", final_sigma=0.05, decay_steps=10, scales={"b/*": 2.0}
)


pytestmark = pytest.mark.usefixtures("quick_compilation")


def linear(gradient):
    """T = 1, loss `gradient . theta`: the variance of an estimate is that of its noise alone."""

    def step(theta, state, key, data):
        return state, gradient @ theta

    return UnrolledSystem(lambda theta, key: (jnp.zeros(()), jnp.int32(1)), step, 1, 1, 1e30)


@pytest.mark.parametrize("pairs, iid, orthogonal", [(16, 4.06, 3.0), (32, 2.03, 1.0), (64, 1.02, 0.0)])
def test_orthogonal_pairs_halve_the_variance_and_as_many_as_theta_has_numbers_end_it(pairs, iid, orthogonal):
    # tr Cov / |g|^2 of 100 samples: (d + 1) / N and d / N - 1 at d = 64. A trace over 64 numbers is known
    # to sqrt(2 / (100 * 64)) = 1.8 %; 10 % is more than five standard deviations.
    g = jnp.asarray(np.random.default_rng(0).normal(size=64), jnp.float32)
    found = {}
    for name, noise in {"iid": Noise(), "orthogonal": Noise(cohort=2 * pairs, orthogonal=True)}.items():
        estimator = ESTIMATORS["nres"](
            linear(g), num_particles=pairs, truncation_length=1, sigma=0.1, noise=noise
        )
        samples = sample_gradients(
            estimator, jnp.zeros(64), jax.random.key(0), num_samples=100, num_windows=1
        )
        found[name] = samples.var(0, ddof=1).sum() / float(g @ g)
    np.testing.assert_allclose(found["iid"], iid, rtol=0.1)
    np.testing.assert_allclose(found["orthogonal"], orthogonal, rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("name", ["pes", "nres"])
def test_orthogonal_pairs_with_shared_problems_and_scaled_leaves_stay_unbiased(name):
    noise = EVERYTHING._replace(final_sigma=0.05, decay_steps=4, scales={"w": 0.5})
    subject = Subject(functools.partial(ESTIMATORS[name], noise=noise), "window", 4, 10_000)
    found = check_unbiased(
        subject, toys.vector_linear_quadratic(unroll_length=4), truncation_length=2, sigma=0.1, stagger=True
    )
    assert found.passed, found.detail


@pytest.mark.parametrize(
    "name",
    ["gpes", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full_es", "truncated_es"))],
)
def test_the_outer_loop_can_rely_on_every_option_together(name):
    """Resumes bit by bit, compiles once, same answer on 4 devices (a cohort on two of them), and so on."""
    found = loop.check_loop(Subject(functools.partial(ESTIMATORS[name], noise=EVERYTHING)))
    assert {n: check.detail for n, check in found.items() if not check.passed} == {}


def test_a_schedule_of_sigma_stays_unbiased_where_smoothing_does_not_matter():
    toy = toys.linear_quadratic(unroll_length=20)
    noise = Noise(final_sigma=0.4, decay_steps=6)
    pes = ESTIMATORS["pes"](
        toy.system, num_particles=1, truncation_length=5, sigma=0.05, stagger=False, noise=noise
    )
    samples = sample_gradients(pes, toy.theta, jax.random.key(0), num_samples=50_000, num_windows=8)
    found = compare(samples, toy.gradient(0, 1))
    assert found.passed, found.detail


def perturbation(estimator, windows, change=lambda state, i: state):
    """Size of theta's perturbation in each window: |slope| of a pair's loss difference, loss = theta."""
    step, sizes = jax.jit(estimator.estimate), []
    state = estimator.init(jnp.zeros(1), jax.random.key(0))
    for i in range(windows):
        estimate, state = step(jnp.zeros(1), change(state, i), jax.random.key(i), ())
        sizes.append(np.abs(estimate.particles["delta"]).mean() / 2)
    return np.asarray(sizes)


@pytest.mark.parametrize("name", ["nres", "truncated_es"])
def test_sigma_follows_its_schedule(name):
    make = functools.partial(ESTIMATORS[name], linear(jnp.ones(1)), num_particles=8, truncation_length=1)
    plain = perturbation(make(sigma=1.0), 4)
    falling = perturbation(make(sigma=1.0, noise=Noise(final_sigma=0.01, decay_steps=2)), 4)
    np.testing.assert_allclose(falling / plain, [1, 0.1, 0.01, 0.01], rtol=1e-5)


@pytest.mark.parametrize("name", ["nres", "truncated_es"])
def test_sigma_can_be_set_from_outside_without_another_compilation(name):
    estimator = ESTIMATORS[name](
        linear(jnp.ones(1)), num_particles=8, truncation_length=1, sigma=1.0, stagger=False
    )
    found = perturbation(estimator, 3, lambda state, i: set_sigma(state, 10.0**-i))
    np.testing.assert_allclose(found / perturbation(estimator, 3), [1, 0.1, 0.01], rtol=1e-5)
    averaged = combine.average({"a": estimator, "b": estimator})
    state = set_sigma(averaged.init(jnp.zeros(1), jax.random.key(0)), 0.5)
    assert np.asarray(state.states["b"].state.sigma).tolist() == [0.5] * 8
    tbptt = ESTIMATORS["tbptt"](linear(jnp.ones(1)), truncation_length=1)
    with pytest.raises(ValueError, match="^estimator must have its sigma in its state .* got one with"):
        set_sigma(tbptt.init(jnp.zeros(1), jax.random.key(0)), 0.1)


def test_scales_are_those_of_the_first_pattern_that_fits():
    theta = {"mlp/linear_0": {"w": jnp.zeros(1000), "b": jnp.zeros(1000)}, "c": jnp.zeros(1000)}
    noise = Noise(scales={"mlp/linear_0/w": 3.0, "mlp/*": 0.1})
    eps, score = draw(noise, jax.random.key(0), jnp.int32(0), theta)
    plain, _ = draw(Noise(), jax.random.key(0), jnp.int32(0), theta)
    for tree, power in ((eps, 1), (score, -1)):
        np.testing.assert_allclose(
            tree["mlp/linear_0"]["w"], 3.0**power * plain["mlp/linear_0"]["w"], rtol=1e-6
        )
        np.testing.assert_allclose(
            tree["mlp/linear_0"]["b"], 0.1**power * plain["mlp/linear_0"]["b"], rtol=1e-6
        )
        np.testing.assert_array_equal(tree["c"], plain["c"])


@pytest.mark.parametrize("common, distinct", [("pair", 8), ("cohort", 4), ("all", 1)])
def test_common_random_numbers_are_common_to_those_that_were_asked_for(common, distinct):
    def init(theta, key):
        return jax.random.normal(key), jnp.int32(2)

    def step(theta, state, key, data):
        return state + jax.random.normal(key), state * theta

    system = UnrolledSystem(init, step, 2, 2)
    estimator = ESTIMATORS["pes"](
        system,
        num_particles=8,
        truncation_length=2,
        sigma=0.1,
        stagger=False,
        noise=Noise(common=common, cohort=4),
    )
    state = estimator.init(jnp.float32(1), jax.random.key(0))
    for i in range(2):
        _, state = estimator.estimate(jnp.float32(1), state, jax.random.key(i), ())
    seen = np.asarray(state.state.pair.state)
    np.testing.assert_array_equal(seen[:, 0], seen[:, 1])
    assert len(np.unique(seen[:, 0])) == distinct
    assert len(np.unique(np.asarray(state.state.xi))) == 8  # everybody's noise is his own


@pytest.mark.parametrize(
    "noise, line",
    [
        ({"cohort": 3}, "noise.cohort: must be an even number that divides 2 num_particles .* got 3"),
        ({"cohort": 6}, r"noise.cohort: must be an even number that divides 2 num_particles \(8\): .* got 6"),
        ({"orthogonal": True}, "noise.cohort: must be at least 4, two pairs, to be orthogonal, got 2"),
        ({"cohort": 1}, r"noise.cohort: must be >= 2 \(value 1\)"),
        ({"cohrt": 4}, "noise.cohrt: unknown option .*did you mean cohort"),
        ({"final_sigma": 0.0}, "noise.final_sigma: must be > 0"),
        ({"scales": {"*": 0.0}}, r"noise.scales.\*: must be > 0"),
        ({"common": "some"}, "noise.common: must be one of pair, cohort, all"),
    ],
)
def test_options_out_of_range_are_refused_by_name(noise, line):
    with pytest.raises(ConfigError, match=line):
        build(
            ESTIMATORS,
            {"name": "nres", "num_particles": 4, "truncation_length": 2, "noise": noise},
            toys.product().system,
        )


def test_what_theta_cannot_hold_is_refused_when_the_shapes_are_known():
    system = toys.product(unroll_length=10).system
    with pytest.raises(ValueError, match=r"^noise.cohort must be at most 2 \|theta\| = 2 .* got 8"):
        estimator = ESTIMATORS["pes"](system, noise=Noise(cohort=8, orthogonal=True))
        jax.eval_shape(estimator.init, jnp.float32(1), jax.random.key(0))
    with pytest.raises(ValueError, match="^noise.scales must name leaves of theta .* got w"):
        estimator = ESTIMATORS["pes"](system, noise=Noise(scales={"w": 2.0}))
        jax.eval_shape(estimator.init, {"v": jnp.float32(1)}, jax.random.key(0))


def test_a_filled_in_spec_shows_the_options_of_the_noise_by_name():
    spec, problems = fill(ESTIMATORS, {"name": "pes", "noise": {"cohort": 4}})
    assert not problems and spec["noise"] == Noise(cohort=4)._asdict()
