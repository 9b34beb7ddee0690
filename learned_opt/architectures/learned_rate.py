"""The rate of the `spectral` optimizer: a schedule that is learned, and signals of the gradients' noise."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
WIDTH = 64  # of a matrix, at which both inputs of the width are 0
MEAN = 0.95  # decay of the running means of signals
TIMES = len(TIMESCALES) + len(FRACTIONS) + 1
SIGNALS = 6
GROUPS = ("matrices", "kernels", "vectors")


class Signals(NamedTuple):
    """What is kept of the gradients of M tensors, each f32[M].

    Attributes:
      square: running mean of the squared norm of the gradient.
      cosine: running mean of the cosine between a gradient and the momentum before it.
      agreement: that cosine, integrated over the fraction of the training that is done.
    """

    square: jax.Array
    cosine: jax.Array
    agreement: jax.Array


def init_signals(count: int) -> Signals:
    """Zeros for `count` tensors."""
    return Signals(*(jnp.zeros([count]) for _ in Signals._fields))


def observed(signals: Signals, squares: jax.Array, cosines: jax.Array, num_steps: Any) -> Signals:
    """The signals after one more gradient of each tensor.

    Args:
      signals: those before it.
      squares: f32[M], squared norms of the gradients.
      cosines: f32[M], cosines between the gradients and the momenta before them.
      num_steps: T, or None where the horizon is not known; then nothing is integrated.
    """
    agreement = signals.agreement if num_steps is None else signals.agreement + cosines / num_steps
    return Signals(
        MEAN * signals.square + (1 - MEAN) * squares,
        MEAN * signals.cosine + (1 - MEAN) * cosines,
        agreement,
    )


def group_of(shape: Sequence[int], vector: bool) -> int:
    """The index in GROUPS of a tensor: kernels are those of rank 3 and higher."""
    return 2 if vector else int(len(shape) > 2)


def width_inputs(shape: Sequence[int], vector: bool) -> tuple[float, float]:
    """log(width / WIDTH) of a matrix narrower than WIDTH, and of a wider one; the other is 0, as for vectors.

    The width is the smaller one of its two sides.
    """
    side = WIDTH if vector else min(shape[-1], math.prod(shape[:-1]))
    log_width = math.log(side / WIDTH)
    return min(log_width, 0.0), max(log_width, 0.0)


def learned_rates(
    theta: Any, groups: Any, widths: Any, signals: jax.Array, count: jax.Array, num_steps: Any, limit: float
) -> jax.Array:
    """f32[M]: of each tensor, warm-up and cosine times the exponential of what is learned.

    Args:
      theta: its `schedule` and `signals` have weights for each of GROUPS, its `width` has two.
      groups: i32[M], the index in GROUPS of each tensor.
      widths: f32[M, 2], of `width_inputs`.
      signals: of `noise_signals`.
      count: i32[], updates before this one.
      num_steps: T.
      limit: the learned logarithm is clipped to this and its negative.
    """
    times = jnp.concatenate(
        [time_embedding(count), fraction_embedding(count, num_steps), log_steps(num_steps)[None]]
    )
    learned = jnp.stack(
        [theta["schedule"][group] @ times + signals @ theta["signals"][group] for group in GROUPS]
    )
    learned = learned[jnp.asarray(groups), jnp.arange(len(signals))] + jnp.asarray(widths) @ theta["width"]
    return warmup_cosine(count, num_steps) * jnp.exp(jnp.clip(learned, -limit, limit))


def log_steps(num_steps: Any) -> jax.Array:
    """f32[]: log(T / USUAL)."""
    return jnp.log(jnp.asarray(num_steps, jnp.float32) / USUAL)


def warmup_cosine(count: Any, num_steps: Any) -> jax.Array:
    """f32[] in [0, 1]: rises linearly over the first 5 % of the steps, then falls along a cosine to 0 at T.

    Args:
      count: i32[], updates so far, 0 at the first, whose rate is one step up.
      num_steps: T.
    """
    rise = jnp.maximum(1.0, jnp.round(WARMUP * jnp.asarray(num_steps, jnp.float32)))
    done = jnp.clip((count + 1 - rise) / jnp.maximum(num_steps + 1 - rise, 1.0), 0.0, 1.0)
    return jnp.minimum((count + 1) / rise, 1.0) * 0.5 * (1 + jnp.cos(jnp.pi * done))


def noise_signals(tensors: Sequence[Tensor], seen: Signals) -> jax.Array:
    """f32[M, 6]: three signals of each tensor's gradients, and the means of the three over all tensors.

    The first is 1 plus the logarithm of the momentum's norm over the gradients' root mean squared norm: 1
    where all gradients agree, -.8 where there is only noise. The second is the running mean of the cosine
    between a gradient and the momentum before it, which is negative where steps overshoot. The third is that
    cosine integrated over the training so far: multiplied by a positive weight, it moves the rate until
    successive gradients agree as much as the schedule wants.

    Args:
      tensors: their first momentum is used.
      seen: of the same tensors.
    """
    momenta = jnp.stack([jnp.sum(jnp.square(t.acc.momentum[..., 0])) for t in tensors])
    certainty = 1 + 0.5 * jnp.log((momenta + 1e-20) / (seen.square + 1e-20))
    own = jnp.stack([certainty, seen.cosine, seen.agreement], -1)
    return jnp.concatenate([own, jnp.broadcast_to(jnp.mean(own, 0), own.shape)], -1)
