"""Implicit hypergradients against closed forms, what they reduce to, and where they must be wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.core.chain import flatten
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS
from meta_train.testing import toys
from reproductions.implicit import exact_gradient
from reproductions.systems.ridge import ridge

pytestmark = pytest.mark.usefixtures("quick_compilation")
LOG_L2 = np.linspace(1, 3, 10).astype(np.float32)


def gradients(estimator, theta, windows, data=()):
    state, step, grads = estimator.init(theta, jax.random.key(0)), jax.jit(estimator.estimate), []
    for i in range(windows):
        estimate, state = step(theta, state, jax.random.key(i), data)
        grads.append(np.asarray(flatten(estimate.grad)))
    return grads


@pytest.mark.parametrize("solver, terms", [("neumann", 1000), ("cg", 30), ("gmres", 11)])
def test_at_a_trained_ridge_model_it_is_the_gradient_of_the_exact_solution(solver, terms):
    """A penalty for each of ten features; after 2000 steps w is exact in float32."""
    problem = ridge(learning_rate=0.003)
    estimator = ESTIMATORS["implicit"](problem.system, truncation_length=2000, solver=solver, terms=terms)
    (found,) = gradients(estimator, jnp.asarray(LOG_L2), 1, problem.data)
    truth = exact_gradient(problem.data, LOG_L2)
    assert np.linalg.norm(found - truth) < 1e-4 * np.linalg.norm(truth)


def test_few_terms_of_the_series_are_biased_where_the_model_settles_slowly():
    problem = ridge(learning_rate=0.003)
    estimator = ESTIMATORS["implicit"](problem.system, truncation_length=2000, terms=10)
    (found,) = gradients(estimator, jnp.asarray(LOG_L2), 1, problem.data)
    truth = exact_gradient(problem.data, LOG_L2)
    assert 0.3 < np.linalg.norm(found - truth) / np.linalg.norm(truth) < 0.9


def test_one_term_is_backpropagation_through_one_step():
    problem, theta = ridge(learning_rate=0.003), jnp.asarray(LOG_L2)
    options = {"num_particles": 1, "truncation_length": 1}
    one_step = ESTIMATORS["implicit"](problem.system, terms=1, **options)
    expected = gradients(ESTIMATORS["tbptt"](problem.system, **options), theta, 4, problem.data)
    np.testing.assert_allclose(gradients(one_step, theta, 4, problem.data), expected, rtol=1e-5)


@pytest.mark.parametrize("terms", [1, 2, 7])
def test_terms_are_the_last_steps_differentiated_at_the_last_state(terms):
    """s <- 0.9 s + theta, loss (s - 1)^2 / 2: (s - 1) (1 - 0.9^terms) / 0.1."""
    toy = toys.linear_quadratic(unroll_length=10)
    estimator = ESTIMATORS["implicit"](toy.system, truncation_length=10, terms=terms)
    (found,) = gradients(estimator, toy.theta, 1)
    s = 0.2 * (1 - 0.9**10) / 0.1
    np.testing.assert_allclose(found, (s - 1) * (1 - 0.9**terms) / 0.1, rtol=1e-5)


@pytest.mark.parametrize("solver, terms", [("neumann", 400), ("cg", 30), ("gmres", 6)])
def test_the_derivative_of_a_step_need_not_be_symmetric(solver, terms):
    toy = toys.vector_linear_quadratic(unroll_length=20, noise=0.0)
    estimator = ESTIMATORS["implicit"](toy.system, truncation_length=20, solver=solver, terms=terms)
    (found,) = gradients(estimator, toy.theta, 1)
    state, _ = toy.system.init(toy.theta, jax.random.key(0))
    for _ in range(19):
        state, _ = toy.system.step(toy.theta, state, jax.random.key(0), ())

    def step(theta, s):
        after, loss = toy.system.step(theta, state._replace(s=s), jax.random.key(0), ())
        return after.s, loss

    (by_theta, direct), (by_state, slope) = (jax.jacobian(step, i)(toy.theta, state.s) for i in (0, 1))
    v = np.linalg.solve(np.eye(5) - np.asarray(by_state).T, slope)
    expected = jax.tree.map(lambda d, b: d + np.tensordot(v, b, 1), direct, by_theta)
    np.testing.assert_allclose(found, flatten(expected), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("solver", ["neumann", "cg", "gmres"])
def test_what_moves_only_the_way_to_the_fixed_point_has_no_gradient(solver):
    """The rate of gradient descent on (s - 1)^2 / 2: the mean loss depends on it, s* does not."""

    def step(theta, s, key, data):
        s = s - jnp.exp(theta) * (s - 1)
        return s, 0.5 * jnp.square(s - 1)

    init = lambda theta, key: (jnp.float32(0.0), jnp.int32(200))  # noqa: E731
    system, theta = UnrolledSystem(init, step, 200, 200), jnp.float32(-2.0)
    estimator = ESTIMATORS["implicit"](system, truncation_length=200, solver=solver)
    assert abs(gradients(estimator, theta, 1)[0]) < 1e-6
    assert gradients(ESTIMATORS["bptt"](system, num_particles=1), theta, 1)[0] < -5e-3
