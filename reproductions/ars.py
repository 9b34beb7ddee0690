"""Augmented random search (Mania, Guy & Recht 2018), the reference of the Swimmer's page."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def ars(
    episode: Callable[[jax.Array, jax.Array], jax.Array],
    theta: jax.Array,
    key: jax.Array,
    *,
    iterations: int,
    directions: int = 4,
    noise: float = 0.03,
    step_size: float = 0.02,
) -> jax.Array:
    """Basic random search with the step divided by the spread of the returns: ARS V1 with all directions.

    `theta <- theta + step_size / (N std(R)) sum_i (R_i+ - R_i-) delta_i`, R of theta +- noise delta_i.

    Args:
      episode: `(theta, key) -> return f32[]` of one whole episode; the key is consumed.
      theta: f32[...], where to begin (0 in the paper).
      key: consumed.
      iterations: updates; each takes 2 `directions` episodes.
      directions: N, pairs of episodes of one update.
      noise: std of the directions' numbers as they are applied.
      step_size: as above.

    Returns:
      theta after 0, 1, ..., `iterations` updates, f32[iterations + 1, ...].

    Source: Mania, Guy & Recht, "Simple random search of static linear policies is competitive for
      reinforcement learning", NeurIPS 2018, Algorithm 1, V1.
    Differs from it in: every episode of an update starts from a state of its own.
    """

    def update(theta, key):
        key_delta, key_episodes = jax.random.split(key)
        delta = jax.random.normal(key_delta, (directions, theta.size)).reshape(directions, *theta.shape)
        pair = jnp.stack([theta + noise * delta, theta - noise * delta])
        returns = jax.vmap(jax.vmap(episode))(pair, jax.random.split(key_episodes, (2, directions)))
        gain = jnp.tensordot(returns[0] - returns[1], delta, 1)
        return theta + step_size / (directions * returns.std()) * gain, theta

    last, before = jax.lax.scan(update, theta, jax.random.split(key, iterations))
    return jnp.concatenate([before, last[None]])
