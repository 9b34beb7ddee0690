"""Searches over whole episodes, for the pages of control: ARS (Mania et al. 2018), ES with ranks (2017)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Episode = Callable[[jax.Array, jax.Array], jax.Array]


def ars(
    episode: Episode,
    theta: jax.Array,
    key: jax.Array,
    *,
    iterations: int,
    directions: int = 4,
    noise: float | jax.Array = 0.03,
    step_size: float | jax.Array = 0.02,
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

    def gradient(theta, key):
        returns, delta = _pairs(episode, theta, key, directions, noise)
        return jnp.tensordot(returns[1] - returns[0], delta, 1) / (directions * returns.std())

    return _descend(gradient, theta, key, optax.sgd(step_size), iterations)


def rank_es(
    episode: Episode,
    theta: jax.Array,
    key: jax.Array,
    *,
    iterations: int,
    directions: int = 4,
    noise: float | jax.Array = 0.02,
    step_size: float | jax.Array = 0.01,
) -> jax.Array:
    """Antithetic evolution strategies with ranks in the place of returns, and Adam (Salimans et al. 2017).

    `grad = -1 / (2 N noise) sum_i (rank(R_i+) - rank(R_i-)) delta_i`, ranks from -1/2 to 1/2.

    Arguments and result are those of `ars`; `step_size` is Adam's learning rate.

    Source: Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017.
    Differs from it in: no weight decay, no normalisation of observations, no discretised actions; a few
      pairs instead of hundreds; every episode of an update starts from a state of its own.
    """

    def gradient(theta, key):
        returns, delta = _pairs(episode, theta, key, directions, noise)
        ranks = centred_ranks(returns)
        return jnp.tensordot(ranks[1] - ranks[0], delta, 1) / (2 * directions * noise)

    return _descend(gradient, theta, key, optax.adam(step_size), iterations)


def centred_ranks(returns: jax.Array) -> jax.Array:
    """f32[...]: the least return becomes -1/2, the largest 1/2, the others lie evenly between."""
    places = jnp.argsort(jnp.argsort(returns.ravel()))
    return (places / (returns.size - 1) - 0.5).reshape(returns.shape)


def _pairs(episode: Episode, theta, key, directions, noise):
    """Returns f32[2, N] of theta + noise delta and theta - noise delta, and delta f32[N, ...]."""
    key_delta, key_episodes = jax.random.split(key)
    delta = jax.random.normal(key_delta, (directions, theta.size)).reshape(directions, *theta.shape)
    pair = jnp.stack([theta + noise * delta, theta - noise * delta])
    return jax.vmap(jax.vmap(episode))(pair, jax.random.split(key_episodes, (2, directions))), delta


def _descend(gradient, theta, key, optimizer, iterations):
    def update(carry, key):
        theta, state = carry
        updates, state = optimizer.update(gradient(theta, key), state, theta)
        return (optax.apply_updates(theta, updates), state), theta

    begin = (theta, optimizer.init(theta))
    (last, _), before = jax.lax.scan(update, begin, jax.random.split(key, iterations))
    return jnp.concatenate([before, last[None]])
