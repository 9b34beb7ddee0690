"""Unrolled systems beside the toys: what they compute, held against independent truths."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reproductions.systems.linear_influence import influences, linear_influence, variance
from reproductions.systems.swimmer import SwimmerState, control_step, swimmer
from reproductions.systems.toy_regression import toy_regression

GOLDEN = json.loads((Path(__file__).parent / "golden" / "swimmer_mujoco.json").read_text(encoding="utf-8"))


def rollout(problem, theta, num_steps, key=0):
    """All states and the losses of one inner problem."""
    key_init, key_steps = jax.random.split(jax.random.key(key))

    def step(state, key):
        state, loss = problem.system.step(theta, state, key, problem.data)
        return state, (state, loss)

    state, _ = problem.system.init(theta, key_init)
    return jax.lax.scan(step, state, jax.random.split(key_steps, num_steps))[1]


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_the_swimmer_follows_mujoco(integrator):
    # 200 steps of 0.01 s from MuJoCo 4.0.0, 34 (37) of them beyond a joint limit, torques clipped to +-1.
    with jax.enable_x64(True):
        state = SwimmerState(
            jnp.asarray([0.02, -0.03, 0.05, -0.07, 0.09]), jnp.asarray([-0.01, 0.04, -0.06, 0.08, 0.1])
        )

        def step(state, t):
            control = 1.5 * jnp.stack([jnp.sin(0.2 * t), jnp.cos(0.13 * t)])
            state = control_step(state, control, integrator)
            return state, jnp.concatenate(state)

        found = np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(50.0))[1])(state))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[4::5], GOLDEN[integrator], rtol=0, atol=1e-10)


def test_a_swimmer_that_does_nothing_earns_what_it_drifts():
    problem = swimmer(unroll_length=20)
    theta = problem.init_theta(jax.random.key(0))
    states, losses = rollout(problem, theta, 20)
    start = problem.system.init(theta, jax.random.split(jax.random.key(0))[0])[0].q[0]
    np.testing.assert_allclose(-losses.sum() * 0.04, states.q[-1, 0] - start, atol=1e-5)


def test_the_toy_regression_has_the_papers_landscape():
    problem = toy_regression()
    at = {(-4.0, -4.0): 2487.8, (2.78, -2.65): 552.9, (0.14, -0.78): 2423.2}
    for theta, total in at.items():
        losses = rollout(problem, jnp.asarray(theta), 100)[1]
        np.testing.assert_allclose(losses.sum(), total, rtol=2e-2 if total < 600 else 1e-4)  # rugged there


def test_linear_influences_are_the_gradients():
    problem = linear_influence(kind="random", unroll_length=5, dim=3)
    g = influences("random", 5, 3)
    # Each loss adds up its row: the jacobian of the losses is the sum over the steps' own gradients.
    jacobian = jax.jacobian(lambda theta: rollout(problem, theta, 5)[1])(jnp.ones(3))
    np.testing.assert_allclose(jacobian, g.sum(1), rtol=1e-5)
    assert not np.triu(g.any(-1), 1).any()


def test_nres_never_has_more_variance_than_pes_and_as_much_where_influences_are_equal():
    for kind in ("equal", "random", "last"):
        g = influences(kind, 20, 50)
        ratio = variance("pes", g) / variance("nres", g)
        assert (ratio > 1 - 1e-12).all()
        if kind == "equal":
            np.testing.assert_allclose(ratio, 1)
        if kind == "last":  # d w + 1 over d + 1
            np.testing.assert_allclose(ratio, (50 * np.arange(1, 21) + 1) / 51)


def test_an_unknown_kind_of_influence_is_refused():
    with pytest.raises(ValueError, match="kind must be equal, random or last, got 'none'"):
        influences("none", 3, 2)
