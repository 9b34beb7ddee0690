"""Variances against their formulas, and the fingerprints of the smoothing on the exponential toy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators import ESTIMATORS
from meta_train.testing import toys
from meta_train.testing.conformance import compare, sample_gradients
from reproductions.systems.linear_influence import influences, linear_influence, variance


def window_gradients(name, kind, unroll_length, dim, num_samples):
    """f64[M, T, dim]: one pair's gradient of each window's loss, K = 1, of M independent episodes."""
    problem = linear_influence(kind=kind, unroll_length=unroll_length, dim=dim)
    theta = problem.init_theta(jax.random.key(0))
    estimator = ESTIMATORS[name](
        problem.system, num_particles=1, truncation_length=1, sigma=0.1, stagger=False
    )

    @jax.jit
    @jax.vmap
    def run(key):
        key_init, key = jax.random.split(key)

        def window(state, key):
            estimate, state = estimator.estimate(theta, state, key, problem.data)
            return state, estimate.grad

        return jax.lax.scan(window, estimator.init(theta, key_init), jax.random.split(key, unroll_length))[1]

    return np.asarray(run(jax.random.split(jax.random.key(1), num_samples)), np.float64)


@pytest.mark.parametrize("kind, ratio", [("equal", 1.0), ("random", 21.0), ("last", 19.6)])
def test_the_variance_of_pes_and_nres_is_that_of_the_formula(kind, ratio):
    # T = 20, |theta| = 50, the last window, 4000 samples of a trace of 50 numbers: its relative standard
    # deviation is about sqrt(3 / (4000 * 50)) to sqrt(3 / 4000) = 0.4 to 2.7 %; 10 % is asked for. The ratios
    # are those that were published for other random influences: "random" within 15 %.
    g, found = influences(kind, 20, 50), {}
    for name in ("pes", "nres"):
        grads = window_gradients(name, kind, 20, 50, 4000)
        found[name] = grads.var(0, ddof=1).sum(-1)
        np.testing.assert_allclose(found[name][-1], variance(name, g)[-1], rtol=0.1)
        np.testing.assert_allclose(found[name][9], variance(name, g)[9], rtol=0.1)
    np.testing.assert_allclose(found["pes"][-1] / found["nres"][-1], ratio, rtol=0.15)


def test_pathwise_gradients_lower_the_variance_of_a_vector_problem_too_and_add_no_bias():
    # 20 000 samples; |z| < 4, false alarm 6e-5 for each of 8 numbers; a std is known to 0.5 %.
    toy, spread = toys.vector_linear_quadratic(), {}
    for name in ("pes", "pes_reparam"):
        estimator = ESTIMATORS[name](
            toy.system, num_particles=1, truncation_length=5, sigma=0.1, stagger=False
        )
        samples = sample_gradients(estimator, toy.theta, jax.random.key(0), num_samples=20_000, num_windows=4)
        found = compare(samples, toy.gradient(0.1, 5), precision=0.02)
        assert found.passed, found.detail
        spread[name] = samples.var(0, ddof=1).sum()
    assert spread["pes_reparam"] < 0.95 * spread["pes"]


def exponential(unroll_length=6) -> toys.Toy:
    """`s <- s + theta`, theta = 0.1; exp(s_T / 2) is the loss: the other fingerprint of the smoothing.

    At T = 6 and sigma = 0.4 the gradient is 4.566 / 5.148 / 5.804 / 8.320 for noise periods 1 / 2 / 3 / 6.
    """
    length, theta, c = unroll_length, 0.1, 0.5
    system = toys.recurrence(
        lambda theta, s, key: s + theta, lambda s: jnp.exp(c * s), 0.0, length, loss_period=length
    )

    def gradient(sigma, period):
        variance = (sigma * period) ** 2 * (length // period)  # of s_T
        return c * length * math.exp(c * length * theta + c**2 * variance / 2)

    return toys.Toy(system, jnp.float32(theta), gradient, lambda k: c * k * math.exp(c * length * theta))


@pytest.mark.slow
@pytest.mark.parametrize("name, period, expected", [
    ("pes", 1, 4.566), ("pes", 2, 5.148), ("pes", 3, 5.804), ("nres", 6, 8.320),
])  # fmt: skip
def test_the_exponential_toy_tells_one_smoothing_from_another(name, period, expected):
    toy = exponential()
    assert abs(toy.gradient(0.4, period) - expected) < 5e-4
    window = min(period, 3)
    estimator = ESTIMATORS[name](
        toy.system, num_particles=1, truncation_length=window, sigma=0.4, stagger=False
    )
    samples = sample_gradients(
        estimator, toy.theta, jax.random.key(1), num_samples=200_000, num_windows=6 // window
    )
    found = compare(samples, expected)
    assert found.passed, found.detail
