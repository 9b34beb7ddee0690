"""Parts of theta that meta-training leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.architectures import celo
from meta_train.core.estimator import Estimate, GradientEstimator
from meta_train.core.outer import make_outer_step


def ones(theta, state, key, data):
    return Estimate(jax.tree.map(jnp.ones_like, theta), jnp.float32(0), {}, {}), state


def test_frozen_parts_of_theta_stay_even_under_weight_decay():
    init = lambda key: {"a": jnp.ones(2), "b": {"c": jnp.ones(3)}}  # noqa: E731
    estimator = GradientEstimator(lambda theta, key: (), ones, 1, 1)
    outer = make_outer_step(init, estimator, optax.adamw(0.1, weight_decay=0.5), trained=("a",))
    state, metrics = outer.step(outer.init(jax.random.key(0)), ())
    assert (np.asarray(state.theta["a"]) < 0.95).all()
    np.testing.assert_array_equal(state.theta["b"]["c"], jnp.ones(3))
    np.testing.assert_allclose(metrics["grad_norm"], 2**0.5, rtol=1e-6)  # of what is moved


def test_celos_phases_train_its_two_halves():
    keys = set(jax.eval_shape(celo().init, jax.random.key(0)))
    first, second = (set(celo(phase=phase).trained) for phase in (1, 2))
    assert first | second == keys and not first & second
    assert first == {"ff_mod_stack"}
