"""Independent chains of an estimator: what bias and variance are measured with.

A *chain* runs an estimator on with theta frozen. Chains are independent of each other, so means over chains
have honest standard errors, however the windows of one depend on each other.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from meta_train.core.estimator import Estimate, GradientEstimator


def chain(
    estimator: GradientEstimator,
    theta: Any,
    key: jax.Array,
    data: Any = (),
    *,
    num_windows: int,
    burn_in: int = 0,
    average: Callable[[Estimate], Any] = lambda estimate: (),
    each: Callable[[Estimate], Any] = lambda estimate: (),
) -> tuple[Any, Any]:
    """One chain; vmap it over keys for many.

    Args:
      estimator: with N particles.
      theta: held fixed.
      key: consumed.
      data: passed on to the estimator.
      num_windows: consecutive windows; T / K of them, or a multiple, weigh every phase of an inner problem
        alike.
      burn_in: windows before those, T / K for a staggered start.
      average: what of an estimate is averaged over the windows, a tree of arrays.
      each: what of every estimate is returned, those of the burn-in included.

    Returns:
      The averages, and the others with a leading axis [burn_in + num_windows].
    """
    key_init, key_run = jax.random.split(key)

    def window(carry, key):
        state, total, i = carry
        estimate, state = estimator.estimate(theta, state, key, data)
        share = jnp.where(i < burn_in, 0.0, 1 / num_windows)
        total = jax.tree.map(lambda a, b: a + share * b, total, average(estimate))
        return (state, total, i + 1), each(estimate)

    state = estimator.init(theta, key_init)
    shapes = jax.eval_shape(lambda s, k: average(estimator.estimate(theta, s, k, data)[0]), state, key_run)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    keys = jax.random.split(key_run, burn_in + num_windows)
    (_, total, _), found = jax.lax.scan(window, (state, zeros, 0), keys)
    return total, found


def flatten(tree: Any) -> jax.Array:
    """f32[P]: all numbers of a tree like theta."""
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)])
