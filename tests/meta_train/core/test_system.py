"""The theory of truncation: start, restart, unroll."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.core.system import (
    ENDLESS,
    UnrolledSystem,
    check_truncation,
    finished,
    restart_if,
    start,
    unroll,
)
from meta_train.testing import toys
from reproductions.systems.influence_balancing import influence_balancing


def walk(length=6, *, worst_loss=1e6):
    """`s <- theta s + normal(key)`, loss s; a loss of `data` at step 2 of the window's state counter."""

    def init(theta, key):
        return (theta + jax.random.normal(key), jnp.int32(0)), jnp.int32(length)

    def step(theta, state, key, data):
        s = theta * state[0] + jax.random.normal(key)
        loss = jnp.where(state[1] == 2, s + data, s)
        return (s, state[1] + 1), loss

    return UnrolledSystem(init, step, length, length, worst_loss)


@pytest.fixture(scope="module")
def run():
    """One jitted window of four steps of `walk`."""
    system = walk()
    return system, jax.jit(lambda theta, rollout, key, data: unroll(system, theta, rollout, key, data, 4))


def test_unroll_is_the_plain_loop_over_split_keys(run):
    system, window = run
    theta, key = jnp.float32(0.7), jax.random.key(1)
    rollout = start(system, theta, jax.random.key(0))
    end, losses = window(theta, rollout, key, 0.0)
    s, expected = rollout.state[0], []
    for k in jax.random.split(key, 4):
        s = theta * s + jax.random.normal(k)
        expected.append(float(s))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(end.state[0], s, rtol=1e-6)
    assert (int(end.t), int(end.state[1]), bool(end.diverged)) == (4, 4, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_counts_as_the_worst_and_marks_the_rollout(run, bad):
    system, window = run
    theta = jnp.float32(0.7)
    end, losses = window(theta, start(system, theta, jax.random.key(0)), jax.random.key(1), bad)
    assert float(losses[2]) == system.worst_loss and np.isfinite(losses).all()
    assert bool(end.diverged) and bool(finished(end))
    fresh = restart_if(finished(end), system, theta, end, jax.random.key(3))
    assert (int(fresh.t), bool(fresh.diverged), int(fresh.state[1])) == (0, False, 0)


def test_a_finite_loss_above_the_worst_is_capped_and_goes_on(run):
    system, window = run
    theta = jnp.float32(0.7)
    end, losses = window(theta, start(system, theta, jax.random.key(0)), jax.random.key(1), 1e9)
    assert float(losses[2]) == system.worst_loss and not bool(end.diverged)


def test_restart_if_keeps_a_rollout_that_is_not_done_bit_by_bit(run):
    system, window = run
    theta = jnp.float32(0.7)
    end, _ = window(theta, start(system, theta, jax.random.key(0)), jax.random.key(1), 0.0)
    kept = restart_if(jnp.array(False), system, theta, end, jax.random.key(3))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(a == b), kept, end))


def test_a_restart_depends_on_theta():
    system = walk()
    slope = jax.grad(lambda theta: start(system, theta, jax.random.key(0)).state[0])(0.5)
    assert float(slope) == 1.0


def test_staggered_first_lengths_are_uniform_among_the_multiples_of_k():
    # N = 3000 over 3 values: each count is 1000 +- 26 (std); a bound of 130 is 5 std, false alarm 2e-6.
    system = walk(6)
    lengths = jax.vmap(lambda k: start(system, 0.5, k, stagger=2).length)(
        jax.random.split(jax.random.key(0), 3000)
    )
    values, counts = np.unique(np.asarray(lengths), return_counts=True)
    assert values.tolist() == [2, 4, 6]
    assert abs(counts - 1000).max() < 130


def test_staggering_does_not_change_the_fresh_state():
    system = walk()
    plain, staggered = (start(system, 0.5, jax.random.key(7), stagger=k) for k in (None, 2))
    assert float(plain.state[0]) == float(staggered.state[0])


@pytest.mark.parametrize("stagger", [None, 1, 10])
def test_an_endless_problem_never_finishes(stagger):
    toy = influence_balancing()
    rollout = start(toy.system, toy.theta, jax.random.key(0), stagger=stagger)
    assert int(rollout.length) == ENDLESS and not bool(finished(rollout))


def test_rematerialising_changes_neither_losses_nor_gradient():
    toy = toys.vector_linear_quadratic()
    rollout = start(toy.system, toy.theta, jax.random.key(0))

    def loss(theta, remat):
        return unroll(toy.system, theta, rollout, jax.random.key(1), (), 5, remat=remat)[1].mean()

    stored, remat = (jax.value_and_grad(loss)(toy.theta, flag) for flag in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stored, remat)


@pytest.mark.parametrize("length, window", [(20, 1), (20, 5), (20, 20), (0, 7)])
def test_a_window_that_divides_every_length_is_accepted(length, window):
    check_truncation(walk(20)._replace(length_multiple=length), window)


@pytest.mark.parametrize("window, said", [(3, "3"), (40, "40"), (0, "0"), (-1, "-1")])
def test_any_other_window_is_refused_by_name_and_value(window, said):
    with pytest.raises(ValueError, match=rf"^truncation_length must .*, got {said}$"):
        check_truncation(walk(20), window)
