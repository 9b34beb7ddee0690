"""The rate of the `spectral` optimizer: a schedule that is learned, and signals of the gradients' noise."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.architectures.features import (
    FRACTIONS,
    TIMESCALES,
    Tensor,
    fraction_embedding,
    time_embedding,
)

WARMUP = 0.05  # of the training
USUAL = 500  # steps of a training, at which the input log T is 0
TIMES = len(TIMESCALES) + len(FRACTIONS) + 1
SIGNALS = 4
GROUPS = ("matrices", "vectors")


def learned_rates(
    theta: Any, vectors: jax.Array, signals: jax.Array, count: jax.Array, num_steps: Any, limit: float
) -> jax.Array:
    """f32[M]: of each tensor, warm-up and cosine times the exponential of what is learned.

    Args:
      theta: its `schedule` and `signals` have weights for each of GROUPS.
      vectors: bool[M], which tensors are vectors; all others are matrices.
      signals: of `noise_signals`.
      count: i32[], updates before this one.
      num_steps: T.
      limit: the learned logarithm is clipped to this and its negative.
    """
    log_t = jnp.log(jnp.asarray(num_steps, jnp.float32) / USUAL)[None]
    times = jnp.concatenate([time_embedding(count), fraction_embedding(count, num_steps), log_t])
    learned = {
        group: theta["schedule"][group] @ times + signals @ theta["signals"][group] for group in GROUPS
    }
    learned = jnp.where(vectors, learned["vectors"], learned["matrices"])
    return warmup_cosine(count, num_steps) * jnp.exp(jnp.clip(learned, -limit, limit))


def warmup_cosine(count: Any, num_steps: Any) -> jax.Array:
    """f32[] in [0, 1]: rises linearly over the first 5 % of the steps, then falls along a cosine to 0 at T.

    Args:
      count: i32[], updates so far, 0 at the first, whose rate is one step up.
      num_steps: T.
    """
    rise = jnp.maximum(1.0, jnp.round(WARMUP * jnp.asarray(num_steps, jnp.float32)))
    done = jnp.clip((count + 1 - rise) / jnp.maximum(num_steps + 1 - rise, 1.0), 0.0, 1.0)
    return jnp.minimum((count + 1) / rise, 1.0) * 0.5 * (1 + jnp.cos(jnp.pi * done))


def noise_signals(tensors: Sequence[Tensor], means: jax.Array) -> jax.Array:
    """f32[M, 4]: two signals of each tensor's noise, and the means of both over all tensors.

    The first is 1 plus the logarithm of the momentum's norm over the gradients' root mean squared norm: 1
    where all gradients agree, -.8 where there is only noise. The second is the running mean of the cosine
    between a gradient and the momentum before it, which is negative where steps overshoot.

    Args:
      tensors: their first momentum is used.
      means: f32[M, 2], running means of the gradients' squared norms and of the cosines, with its decay.
    """
    momenta = jnp.stack([jnp.sum(jnp.square(t.acc.momentum[..., 0])) for t in tensors])
    own = jnp.stack([1 + 0.5 * jnp.log((momenta + 1e-20) / (means[:, 0] + 1e-20)), means[:, 1]], -1)
    return jnp.concatenate([own, jnp.broadcast_to(jnp.mean(own, 0), own.shape)], -1)
