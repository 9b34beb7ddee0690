"""The residual optimizer is Adam at initialisation, and its parts do what its docstring says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.architectures import residual
from learned_opt.architectures.blocks import tensor_statistics
from learned_opt.architectures.features import Decays, init_state, observe
from learned_opt.architectures.transformation import under_vmap

T = 30


def params():
    return {
        "w": jnp.cos(jnp.arange(12.0)).reshape(3, 4),
        "b": jnp.linspace(-1.0, 1.0, 4),
        "s": jnp.float32(0.4),
    }


def run(tx, steps=T):
    def body(carry, t):
        params, state = carry
        grads = jax.tree.map(lambda p: p * (1 + jnp.sin(3 * p)) + 0.1 * jnp.sin(t), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), jnp.arange(steps))[1])(params())


@pytest.fixture(scope="module")
def zeroed():
    """Options, theta: no correction at initialisation."""
    lopt = residual(output_scale=0.0)
    return lopt, jax.jit(lopt.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def adam():
    return run(optax.adam(3e-3))


def assert_close(got, expected, rtol=1e-5, atol=1e-6):
    for k in expected:
        np.testing.assert_allclose(got[k], expected[k], rtol=rtol, atol=atol)


def test_with_a_zeroed_last_layer_it_is_adam(zeroed, adam):
    lopt, theta = zeroed
    assert_close(run(lopt.build(theta, T)), adam)


def test_at_initialisation_it_is_adam_with_small_corrections(adam):
    lopt = residual()
    got = run(lopt.build(lopt.init(jax.random.key(0)), T))
    moved = max(float(jnp.abs(adam[k][-1] - params()[k]).max()) for k in adam)
    away = max(float(jnp.abs(adam[k][-1] - got[k][-1]).max()) for k in adam)
    assert 0 < away < 0.5 * moved


def test_the_schedule_is_exp_of_a_clipped_linear_function_of_time_and_fraction(zeroed):
    lopt, theta = zeroed
    schedule = jnp.zeros(20).at[3].set(0.5).at[11 + 4].set(-1.0).at[0].set(0.3)

    def lr(t):  # features 0 and 3: timescales 1 and 30; feature 11 + 4: fraction 0.6
        s = 0.3 * jnp.tanh(t - 1.0) + 0.5 * jnp.tanh(t / 30 - 1) - jnp.tanh(10 * (t / T - 0.6))
        return 3e-3 * jnp.exp(s)

    assert_close(run(lopt.build({**theta, "schedule": schedule}, T)), run(optax.adam(lr)))
    huge = {**theta, "schedule": jnp.zeros(20).at[19].set(100.0)}  # t / T - 1.1 < 0: the least possible
    limited = residual(output_scale=0.0, schedule_limit=1.0)
    assert_close(run(limited.build(huge, 10 * T)), run(optax.adam(3e-3 * np.exp(-1.0))))


def test_the_horizon_moves_the_schedule_and_nothing_else(zeroed):
    lopt, theta = zeroed
    assert_close(run(lopt.build(theta, T)), run(lopt.build(theta, 10 * T)), rtol=0)
    learned = {**theta, "schedule": theta["schedule"].at[13].set(1.0)}
    a, b = run(lopt.build(learned, T)), run(lopt.build(learned, 10 * T))
    assert float(jnp.abs(a["w"] - b["w"]).max()) > 1e-3


def test_the_outputs_correct_adams_size_and_add_a_direction(zeroed):
    lopt, theta = zeroed
    bias = theta["nn"]["~"]["b2"]

    def with_bias(value):
        return {**theta, "nn": {"~": {**theta["nn"]["~"], "b2": bias + jnp.asarray(value)}}}

    assert_close(run(lopt.build(with_bias([0.0, 0.0, 0.7]), T)), run(optax.adam(3e-3 * np.exp(0.7))))
    limited = run(lopt.build(with_bias([0.0, 0.0, 9.0]), T), steps=5)
    assert_close(limited, run(optax.adam(3e-3 * np.exp(3.0)), steps=5), atol=1e-5)
    first = run(lopt.build(with_bias([2.0, 0.5, 0.0]), T), steps=1)
    expected = run(
        optax.chain(
            optax.adam(3e-3),
            optax.stateless(lambda u, p: jax.tree.map(lambda u: u - 3e-3 * 2.0 * np.exp(0.1 * 0.5), u)),
        ),
        steps=1,
    )
    assert_close(first, expected)


def test_rates_of_tensors_change_nothing_at_initialisation():
    key = jax.random.key(0)
    plain, rated = residual(), residual(tensor_hidden=4)
    with under_vmap():  # without a branch, which XLA compiles by itself, both are the same in all bits
        got, expected = (run(lopt.build(lopt.init(key), T)) for lopt in (rated, plain))
    assert_close(got, expected, rtol=0, atol=0)


def test_a_tensors_rate_scales_its_steps_and_is_clipped():
    lopt = residual(output_scale=0.0, tensor_hidden=4, schedule_limit=1.0)
    theta = lopt.init(jax.random.key(0))
    for bias, factor in ((jnp.log(0.5), 0.5), (5.0, jnp.e)):
        theta["tensor"]["~"]["b1"] = jnp.full(1, bias)
        assert_close(run(lopt.build(theta, T)), run(optax.adam(3e-3 * factor)))


def test_a_tensors_rate_depends_on_that_tensor():
    lopt = residual(output_scale=0.0, tensor_hidden=4)
    theta = lopt.init(jax.random.key(0))
    theta["tensor"]["~"]["w1"] = jnp.ones((4, 1))
    first = jax.tree.map(lambda x, p: x[0] - p, run(lopt.build(theta, T), 1), params())
    sizes = {k: float(jnp.abs(v).mean()) for k, v in first.items()}  # Adam's first step is the rate
    assert len({round(size, 6) for size in sizes.values()}) == 3, sizes


def test_statistics_of_a_tensor_tell_signal_from_noise_and_not_the_losss_scale():
    decays = Decays((0.9, 0.99, 0.999), (0.999,), (0.9, 0.99, 0.999))
    noise = jax.random.normal(jax.random.key(1), (2000, 64))

    def statistics(grads, scale):
        state = init_state(jnp.ones(64), decays)

        def body(state, g):
            tensors, state = observe(scale * g, state, jnp.ones(64), decays)
            return state, tensor_statistics(tensors[0], state.count, decays)

        return jax.lax.scan(body, state, grads)[1][-1]

    constant, random = statistics(jnp.ones((2000, 64)), 1.0), statistics(noise, 1.0)
    np.testing.assert_allclose(constant[:5], 1.0, atol=1e-3)  # log 1 + 1, and cosines of 1
    # Noise alone: m^2 / v = (1 - decay) / (1 + decay) on average, of 64 numbers: within 40 %.
    expected = [0.5 * np.log((1 - d) / (1 + d)) + 1 for d in (0.9, 0.99)]
    np.testing.assert_allclose(random[:2], expected, atol=0.25)
    np.testing.assert_allclose(statistics(noise, 100.0), random, atol=1e-3)


def test_weight_decay_is_adamws():
    lopt = residual(output_scale=0.0, weight_decay=0.1)
    got = run(lopt.build(lopt.init(jax.random.key(0)), T))
    assert_close(got, run(optax.adamw(3e-3, weight_decay=0.1)))
