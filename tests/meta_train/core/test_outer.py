"""The outer step: one program, its state the whole run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.core.outer import make_outer_step
from meta_train.core.perturb import SKETCH, sketch
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import nres, pes
from meta_train.testing import toys
from meta_train.testing.loop import to_host


@pytest.fixture(scope="module")
def loops():
    """One and five outer steps a call, of the same run."""
    toy = toys.vector_linear_quadratic(unroll_length=4)
    estimator = pes(toy.system, num_particles=4, truncation_length=2, sigma=0.1)
    return [
        make_outer_step(lambda key: toy.theta, estimator, optax.adam(0.01), steps_per_call=n, ema=0.9)
        for n in (1, 5)
    ]


def test_five_steps_in_one_call_are_five_calls(loops):
    one, five = (loop.init(jax.random.key(0)) for loop in loops)
    losses = []
    for _ in range(5):
        one, metrics = loops[0].step(one, ())
        losses.append(float(metrics["loss"]))
    five, metrics = loops[1].step(five, ())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), to_host(one), to_host(five)
    )
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    assert int(one.outer_step) == int(five.outer_step) == 5


def test_the_moving_average_is_of_theta_after_every_step(loops):
    state = loops[0].init(jax.random.key(0))
    expected = to_host(state.theta_ema)
    for _ in range(3):
        state, _ = loops[0].step(state, ())
        expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, expected, to_host(state.theta))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), expected, to_host(state.theta_ema))


def test_a_step_takes_its_state_and_compiles_once(loops):
    state = loops[0].init(jax.random.key(1))
    before = state.theta["w"]
    for _ in range(3):
        state, _ = loops[0].step(state, ())
    assert before.is_deleted()
    assert loops[0].step._cache_size() == 1


def test_the_key_of_a_run_is_never_consumed(loops):
    state = loops[0].init(jax.random.key(2))
    key = np.array(jax.random.key_data(state.key))
    state, _ = loops[0].step(state, ())
    np.testing.assert_array_equal(key, jax.random.key_data(state.key))


def test_a_step_moves_nothing_between_host_and_device(loops):
    state = loops[0].init(jax.random.key(0))
    with jax.transfer_guard("disallow"):
        state, metrics = loops[0].step(state, ())
    assert np.isfinite(float(metrics["update_norm"]))


def test_weakly_typed_thetas_do_not_compile_twice():
    system = UnrolledSystem(
        lambda theta, key: (0.0 * theta, jnp.int32(2)), lambda theta, s, key, data: (s + theta, s), 2, 2
    )
    weak = lambda key: jnp.log(jnp.asarray(0.01))  # noqa: E731
    loop = make_outer_step(weak, nres(system, num_particles=2, truncation_length=1), optax.sgd(0.1))
    state = loop.init(jax.random.key(0))
    for _ in range(3):
        state, _ = loop.step(state, ())
    assert loop.step._cache_size() == 1
    assert state.theta_ema == state.theta  # no averaging asked for


def test_theta_drift_is_the_distance_since_the_restart_in_units_of_sigma():
    """theta of 3 numbers: the sketch is exact. Restarts every second window, sgd with a known step."""
    system = UnrolledSystem(
        lambda theta, key: (jnp.zeros(3), jnp.int32(2)), lambda theta, s, key, data: (s, theta.sum()), 2, 2
    )
    estimator = nres(system, num_particles=2, truncation_length=1, sigma=0.1, stagger=False)
    moving = optax.stateless(lambda updates, params: jax.tree.map(lambda x: jnp.full_like(x, 0.2), updates))
    loop = make_outer_step(lambda key: jnp.zeros(3), estimator, moving)
    state, drifts = loop.init(jax.random.key(0)), []
    for _ in range(4):
        state, metrics = loop.step(state, ())
        drifts.append(float(metrics["theta_drift"]))
    np.testing.assert_allclose(drifts, [0, 0.2 * np.sqrt(3) / 0.1, 0, 0.2 * np.sqrt(3) / 0.1], rtol=1e-5)


def test_the_sketch_keeps_distances_also_of_a_single_column():
    # Relative std of one is sqrt(2 / 31) = 0.25: 40 of them within 1, their mean within 0.16 (4 std).
    rng = np.random.default_rng(0)
    ratios = []
    for i in range(40):
        tree = np.zeros((64, 32), np.float32)
        tree[:, i % 32] = rng.normal(size=64)
        ratios.append(float(jnp.square(sketch({"w": jnp.asarray(tree)})).sum()) / np.square(tree).sum())
    assert max(ratios) < 2 and abs(np.mean(ratios) - 1) < 0.16
    assert sketch(jnp.ones(7)).shape == (SKETCH,)
