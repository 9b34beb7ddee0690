"""Architectures without a recorded trajectory of their own, as what they reduce to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import elo
from learned_opt.architectures import adafac_mlp, celo2, mulo


def params():
    return {
        "in": {"w": jnp.cos(jnp.arange(12.0)).reshape(3, 4), "b": jnp.linspace(-1.0, 1.0, 4)},
        "mid": {"w": jnp.sin(jnp.arange(16.0)).reshape(4, 4)},
    }


def first_update(tx, scale=1.0):
    grads = jax.tree.map(lambda p: scale * (p - 0.3), params())
    return jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(grads, params())


def assert_close(got, expected, rtol=1e-5):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-8, err_msg=str(path))


@pytest.fixture(scope="module")
def adafac():
    """Hidden 32: theta with decays off their start, and the first update."""
    lopt = adafac_mlp(hidden=32, step_mult=0.01)
    theta = jax.jit(lopt.init)(jax.random.key(0))
    theta["momentum_decays"] = jnp.array([0.15, 0.14, 0.07])
    return theta, first_update(lopt.build(theta, None))


def test_mulo_without_hidden_weights_is_adafac_mlp(adafac):
    theta, expected = adafac
    assert_close(first_update(mulo().build(theta, None)), expected)


def test_mulo_divides_the_step_of_hidden_weights_by_their_fan_in(adafac):
    theta, expected = adafac
    got = first_update(mulo(hidden_weights=r"^mid\.", hidden_lr_mult=2.0).build(theta, None))
    assert_close(got["in"], expected["in"])
    assert_close(got["mid"], jax.tree.map(lambda u: u * 2.0 / 4, expected["mid"]))


def test_mulo_clips_by_the_global_norm(adafac):
    theta, _ = adafac
    norm = optax.tree.norm(jax.tree.map(lambda p: p - 0.3, params()))
    clipped = first_update(mulo(clip_norm=1.0).build(theta, None))
    assert_close(clipped, first_update(mulo().build(theta, None), scale=1 / norm), rtol=1e-4)


def test_elo_is_adafac_mlp_at_its_first_decays_with_decoupled_weight_decay():
    lopt = elo(learning_rate=0.05, weight_decay=0.1)
    theta = jax.jit(lopt.init)(jax.random.key(0))
    reference = adafac_mlp(hidden=32, step_mult=0.05)
    zeros = {f"{k}_decays": jnp.zeros(n) for k, n in (("momentum", 3), ("rms", 1), ("adafactor", 3))}
    expected = first_update(reference.build({**theta, **zeros}, None))
    expected = jax.tree.map(lambda u, p: u - 0.05 * 0.1 * p, expected, params())
    assert_close(first_update(lopt.build(theta, None)), expected)


def test_celo2_can_leave_vectors_to_adamw():
    lopt = celo2(learning_rate=0.01, weight_decay=0.1, vectors="adamw", vector_lr_mult=20.0)
    theta = jax.jit(lopt.init)(jax.random.key(0))
    tx, adamw = lopt.build(theta, None), optax.adamw(0.2, b1=0.9, b2=0.95, weight_decay=0.1)

    def run(tx, p):
        def body(carry, t):
            p, state = carry
            updates, state = tx.update(jax.tree.map(lambda p: jnp.sin(3 * p + t), p), state, p)
            return (optax.apply_updates(p, updates), state), None

        return jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), jnp.arange(4.0))[0][0])(p)

    assert_close(run(tx, params())["in"]["b"], run(adamw, params()["in"]["b"]))


def test_celo2s_steps_have_unit_root_mean_square():
    lopt = celo2(learning_rate=0.01)
    updates = first_update(lopt.build(jax.jit(lopt.init)(jax.random.key(0)), None))
    for u in jax.tree.leaves(updates):
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(jnp.square(u))), 0.01, rtol=1e-4)
