"""The acrobot and the pendulum: energy, rewards and small oscillations in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from reproductions.systems import acrobot

G = 9.8


def moved(state, torque, dt, num_steps):
    """States of the acrobot after every one of many small steps."""

    def step(state, _):
        state = acrobot.runge_kutta(state, torque, dt)
        return state, state

    return jax.lax.scan(step, state, length=num_steps)[1]


def test_an_acrobot_without_torque_keeps_its_energy_to_the_fourth_order():
    with jax.enable_x64(True):
        start = acrobot.AcrobotState(jnp.asarray([2.0, -1.0]), jnp.asarray([1.5, -2.5]))
        drift = []
        for dt in (0.05, 0.025, 0.0125):
            states = moved(start, 0.0, dt, round(10 / dt))
            energies = jax.vmap(acrobot.energy)(states)
            drift.append(float(jnp.abs(energies - acrobot.energy(start)).max()))
            assert float(jnp.ptp(states.q[:, 0])) > 2  # it swings far
    assert drift[0] < 0.05 and drift[2] < 5e-5
    assert drift[0] / drift[1] > 14 and drift[1] / drift[2] > 14


def test_the_torque_does_the_work_that_the_energy_gains():
    # dE/dt = torque times the elbow's speed, so a constant torque adds torque times the elbow's turn.
    with jax.enable_x64(True):
        start = acrobot.AcrobotState(jnp.asarray([0.1, -0.2]), jnp.asarray([0.3, 0.1]))
        states = moved(start, 0.7, 0.01, 500)
        gained = jax.vmap(acrobot.energy)(states) - acrobot.energy(start)
        np.testing.assert_allclose(gained, 0.7 * (states.q[:, 1] - start.q[1]), atol=1e-7)
        assert float(jnp.abs(gained).max()) > 0.3


def test_small_oscillations_have_the_frequencies_of_the_linear_equations():
    # M = [[4.5, 1.75], [1.75, 1.25]], K = g [[2, .5], [.5, .5]]: det(K - w^2 M) = 0.
    mass, stiffness = np.array([[4.5, 1.75], [1.75, 1.25]]), G * np.array([[2.0, 0.5], [0.5, 0.5]])
    squares, modes = np.linalg.eig(np.linalg.solve(mass, stiffness))
    with jax.enable_x64(True):
        for square, mode in zip(squares, modes.T, strict=True):
            period = 2 * np.pi / square**0.5
            start = acrobot.AcrobotState(1e-4 * jnp.asarray(mode), jnp.zeros(2))
            states = moved(start, 0.0, period / 400, 400)
            np.testing.assert_allclose(states.q[199], -start.q, atol=1e-9)
            np.testing.assert_allclose(states.q[-1], start.q, atol=1e-9)


def test_the_acrobots_energies_and_rewards_at_rest_are_those_of_the_formulas():
    still = jnp.zeros(2)
    for q, height, joules in (([0.0, 0.0], -1, -2 * G), ([np.pi, 0.0], 1, 2 * G), ([np.pi, np.pi], 0, G)):
        state = acrobot.AcrobotState(jnp.asarray(q), still)
        np.testing.assert_allclose(acrobot.reward(state), height, atol=1e-6)
        np.testing.assert_allclose(acrobot.energy(state), joules, rtol=1e-6)


def test_the_return_of_an_acrobot_that_hangs_still_is_minus_t():
    problem = acrobot.acrobot(unroll_length=30)
    theta = problem.init_theta(jax.random.key(0))
    state = acrobot.AcrobotState(jnp.zeros(2), jnp.zeros(2))
    losses = jax.lax.scan(lambda s, k: problem.system.step(theta, s, k, ()), state, jnp.arange(30))[1]
    np.testing.assert_array_equal(losses, 1)
