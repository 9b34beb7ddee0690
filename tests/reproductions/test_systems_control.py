"""Control: energies, rewards and small oscillations in closed form, the searches and the policy gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from meta_train.core.system import UnrolledSystem
from reproductions import control, fragility
from reproductions.ars import ars, centred_ranks, rank_es
from reproductions.systems import acrobot, environments
from reproductions.systems import policy_gradient as pg
from reproductions.systems.outer_problem import OuterProblem

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
    squares, modes = map(np.real, np.linalg.eig(np.linalg.solve(mass, stiffness)))
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


def test_a_pendulum_at_rest_upright_costs_nothing_and_one_that_hangs_costs_pi_squared():
    pendulum = environments.pendulum()
    for angle, reward in ((0.0, 0.0), (np.pi, -(np.pi**2)), (7 * np.pi, -(np.pi**2))):
        state = environments.PendulumState(jnp.float32(angle), jnp.float32(0))
        state, found = pendulum.step(state, jnp.float32(0))
        np.testing.assert_allclose(found, reward, rtol=1e-5)
        np.testing.assert_allclose(state, (angle, 0), atol=1e-5)
    moving = environments.PendulumState(jnp.float32(0.5), jnp.float32(2))
    np.testing.assert_allclose(pendulum.step(moving, 5.0)[1], -(0.25 + 0.4 + 0.004), rtol=1e-6)
    fast = environments.PendulumState(jnp.float32(0.5), jnp.float32(7.9))
    assert pendulum.step(fast, 1.0)[0].speed == 8


def test_a_pendulum_without_torque_keeps_its_energy_up_to_the_error_of_symplectic_euler():
    # The method conserves E - dt / 2 V'(angle) speed to the second order, V' = -5 sin(angle); E only swings.
    pendulum = environments.pendulum()

    def step(state, _):
        state, _ = pendulum.step(state, 0.0)
        slope = -environments.GRAVITY / 2 * jnp.sin(state.angle)
        return state, (environments.pendulum_energy(state), environments.DT / 2 * slope * state.speed)

    with jax.enable_x64(True):
        start = environments.PendulumState(jnp.asarray(2.0), jnp.asarray(0.0))
        energies, error = map(np.asarray, jax.lax.scan(step, start, length=2000)[1])
    assert np.ptp(energies) > 0.2
    assert np.ptp(energies - error) < 0.02


def test_advantages_are_returns_minus_values_at_one_end_and_one_steps_errors_at_the_other():
    rewards, values = jax.random.normal(jax.random.key(0), (6,)), jax.random.normal(jax.random.key(1), (7,))
    whole = pg.generalised_advantages(rewards, values, 0.9, 1.0)
    for t in range(6):
        ahead = sum(0.9**i * rewards[t + i] for i in range(6 - t)) + 0.9 ** (6 - t) * values[6]
        np.testing.assert_allclose(whole[t], ahead - values[t], rtol=1e-4, atol=1e-6)
    one = pg.generalised_advantages(rewards, values, 0.9, 0.0)
    np.testing.assert_allclose(one, rewards + 0.9 * values[1:] - values[:-1], rtol=1e-6)


def test_the_policys_density_and_entropy_are_those_of_scipy():
    normal = norm(0.3, np.exp(-0.7))
    np.testing.assert_allclose(pg.log_prob(0.3, -0.7, 1.1), normal.logpdf(1.1), rtol=1e-5)
    np.testing.assert_allclose(pg.entropy(jnp.float32(-0.7)), normal.entropy(), rtol=1e-5)


def test_ppo_reduces_to_reinforce_where_the_policy_is_the_one_that_acted():
    keys = jax.random.split(jax.random.key(0), 5)
    weights = pg._init(keys[0], 3, 4)
    seen, actions = jax.random.normal(keys[1], (5, 2, 3)), jax.random.normal(keys[2], (5, 2))
    advantages, targets = jax.random.normal(keys[3], (2, 5, 2))

    def log_probs(weights):
        return pg.log_prob(pg._mean(weights, seen), weights["log_std"], actions)

    batch = pg.Batch(seen, actions, log_probs(weights), advantages, targets)
    found = jax.grad(pg.ppo_loss)(weights, batch, 0.0)
    expected = jax.grad(lambda w: -(log_probs(w) * advantages).mean())(weights)
    for name in ("policy", "log_std"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found[name], expected[name])
    # The entropy of a normal distribution grows by one with log_std.
    costly = jax.grad(pg.ppo_loss)(weights, batch, 0.25)
    np.testing.assert_allclose(costly["log_std"] - found["log_std"], -0.25, atol=1e-6)


def test_episodes_of_the_trainer_restart_after_their_length_and_its_policy_improves():
    trainer = pg.policy_gradient(environments.pendulum(length=50), num_actors=8, window=25, episodes=4)
    hypers = {"learning_rate": jnp.float32(0.01), "entropy_cost": jnp.float32(1e-3)}

    def step(member, key):
        member = trainer.step(member, hypers, key, ())
        return member, (member.inner.t, member.inner.states.angle)

    member = trainer.init(jax.random.key(0), hypers)
    before = trainer.score(member, ())
    member, (t, angles) = jax.lax.scan(step, member, jax.random.split(jax.random.key(1), 200))
    np.testing.assert_array_equal(t[:4], [25, 50, 25, 50])
    assert float(jnp.abs(angles[1] - angles[3]).min()) > 1e-3
    assert float(trainer.score(member, ())) > float(before) + 20


def test_windows_that_do_not_divide_the_episode_are_refused():
    with pytest.raises(ValueError, match="window must divide an episode of 100 steps, got 30"):
        pg.policy_gradient(environments.pendulum(), window=30)


def test_centred_ranks_lie_evenly_between_minus_and_plus_a_half():
    ranks = centred_ranks(jnp.asarray([[3.0, -1.0, 500.0], [0.0, 2.0, -7.0]]))
    np.testing.assert_allclose(ranks, [[0.3, -0.3, 0.5], [-0.1, 0.1, -0.5]], atol=1e-6)


def test_searches_climb_a_noisy_parabola_and_ranks_do_not_see_its_scale():
    def episode(theta, key, scale=1.0):
        return scale * (-jnp.square(theta - 1).sum() + 0.01 * jax.random.normal(key))

    for search, step in ((ars, 0.1), (rank_es, 0.05)):
        found = search(episode, jnp.zeros(3), jax.random.key(0), iterations=100, noise=0.1, step_size=step)
        assert found.shape == (101, 3)
        np.testing.assert_allclose(found[-1], 1, atol=0.2)
        large = search(
            partial(episode, scale=64.0),
            jnp.zeros(3),
            jax.random.key(0),
            iterations=100,
            noise=0.1,
            step_size=step,
        )
        np.testing.assert_allclose(large[-1], found[-1], atol=1e-3)


def test_the_steps_until_a_threshold_are_linear_between_measurements():
    curve = {"steps": [0, 10, 20], "returns": [[0.0, 4.0, 8.0], [0.0, 1.0, 2.0], [9.0, 1.0, 1.0]]}
    np.testing.assert_allclose(control.until(curve, 6.0), [15, np.inf, 0])


def test_control_on_the_acrobot_learns_to_swing_up():
    problem = acrobot.acrobot(unroll_length=60)
    budget = control.Budget(total=24_000, tuning=0, points=2, episodes=4, threshold=-30)
    method = control.Method("pes", {"num_particles": 4, "truncation_length": 20}, ((0.3, 0.3),))
    curve = control.compare(problem, {"PES": method}, budget, [0, 1])["PES"]
    found = np.asarray(curve["returns"])
    assert curve["steps"] == [0, 12_000, 24_000] and found.shape == (2, 3)
    np.testing.assert_allclose(found[:, 0], -60, atol=0.5)  # a policy that does nothing hangs
    assert found[:, -1].min() > -52


def test_returns_around_a_policy_come_in_pairs_of_every_size_of_noise():
    """Returns of -|theta|^2 around theta = (1, 0)."""

    def step(theta, state, key, data):
        return state, jnp.square(theta).sum()

    system = UnrolledSystem(lambda theta, key: (jnp.zeros([]), jnp.int32(2)), step, 2, 2, 100.0)
    problem = OuterProblem(system, lambda key: jnp.zeros(2))
    found = fragility.around(problem, np.array([1.0, 0.0]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert found["return"] == -2.0  # two steps
    for sigma, (plus, minus) in zip(fragility.SIGMAS, found["pairs"], strict=True):
        np.testing.assert_allclose(plus, [-2 * (1 + sigma) ** 2, -2 * (1 + sigma**2)], rtol=1e-5)
        np.testing.assert_allclose(minus, [-2 * (1 - sigma) ** 2, -2 * (1 + sigma**2)], rtol=1e-5)


def test_the_gradient_and_the_curvature_along_it_are_found_from_pairs():
    """R = g . x + c (u . x)^2 / 2 at x = sigma draws, u along g: without noise, so exact."""
    draws, gradient = np.random.default_rng(0).normal(size=(64, 16)), np.zeros(16)
    gradient[[0, 2]] = 3.0, 4.0

    def returns(x):
        return x @ gradient - 7 * np.square(x @ gradient / 5) / 2

    pairs = np.stack([returns(0.1 * draws), returns(-0.1 * draws)])
    np.testing.assert_allclose(fragility.fit(pairs, draws, 0.0, 0.1), [5, 9 / 25, -7], rtol=1e-6)
