"""Building blocks of learned optimizers, apart from features and networks."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt.architectures.features import Decays, Tensor, fraction_embedding, rsqrt_rms, time_embedding
from learned_opt.architectures.rows import tensor_means


def _channel_mean(x: jax.Array) -> jax.Array:
    """The mean over the last axis, channel by channel: XLA's library for sums is slower at it than a loop."""
    first, *rest = (x[..., c] for c in range(x.shape[-1]))
    return sum(rest, first) / x.shape[-1]


# Directions of hand-designed optimizers, for nominal terms: f32[*P] of one tensor.
NOMINAL = {
    "SGD": lambda t: t.grad,
    "SGDM": lambda t: t.acc.momentum[..., -1],
    "AggMo": lambda t: _channel_mean(t.acc.momentum),
    "Adam": lambda t: (t.acc.momentum * rsqrt_rms(t))[..., -1],
    "AdamAggMo": lambda t: _channel_mean(t.acc.momentum * rsqrt_rms(t)),
}


def adam_direction(
    tensor: Tensor, count: jax.Array, beta1: float, beta2: float, eps: float = 1e-8
) -> jax.Array:
    """Adam's bias-corrected direction from the first momentum and the last RMS, f32[*P].

    Args:
      tensor: its accumulators must have the decays beta1 and beta2 there.
      count: i32[], updates including this one.
      beta1: decay of the first momentum.
      beta2: decay of the last RMS.
      eps: added to the root.
    """
    m = tensor.acc.momentum[..., 0] / (1 - beta1**count)
    v = tensor.acc.rms[..., -1] / (1 - beta2**count)
    # The floor keeps the meta-gradient finite where g is 0, the derivative of the root at 0 being infinite.
    return m / (jnp.sqrt(jnp.maximum(v, 1e-30)) + eps)


def learned_schedule(weights: jax.Array, count: jax.Array, num_steps: Any, limit: float) -> jax.Array:
    """f32[], exp of a linear function (f32[20]) of the time on 11 scales and 9 fractions of T, clipped."""
    inputs = jnp.concatenate([time_embedding(count), fraction_embedding(count, num_steps)])
    return jnp.exp(jnp.clip(weights @ inputs, -limit, limit))


STATISTICS = 7  # of `tensor_statistics`


def tensor_statistics(tensor: Tensor, count: jax.Array, decays: Decays) -> jax.Array:
    """What one tensor's training looks like, f32[7], each of order 1 and unchanged if the loss is scaled.

    Three logarithms of signal to noise, the root mean square of `m / sqrt(v)` for three bias-corrected
    momenta (1 where all gradients agree, sqrt((1 - decay) / (1 + decay)) where there is only noise); the
    cosines between neighbouring momenta, which turn negative where steps overshoot; and the logarithms of
    the parameters' root mean square and of their number.

    Args:
      tensor: its accumulators must have three momenta.
      count: i32[], updates including this one.
      decays: of its accumulators; the last RMS is used.
    """

    def arrays(t):
        m = t.acc.momentum / (1 - jnp.asarray(decays.momentum) ** count)
        v = t.acc.rms[..., -1:] / (1 - decays.rms[-1] ** count)
        return [m**2, m**2 / (v + 1e-16), m[..., 1:] * m[..., :-1], t.param[..., None] ** 2]

    size, signal, products, scale = jnp.split(tensor_means(arrays, tensor), (3, 6, 8))
    cosines = products * jax.lax.rsqrt(size[1:] * size[:-1] + 1e-30)
    scale = jnp.log(scale + 1e-6) / 8 + 0.5
    number = math.log(tensor.param.size) / 4 - 1
    return jnp.concatenate([0.5 * jnp.log(signal + 1e-6) + 1, cosines, scale, jnp.full(1, number)])


def clip_gradients(grads: Any, max_norm: float | None) -> Any:
    """Replaces what is not finite (NaN by 0) and, unless `max_norm` is None, clips by the global norm."""
    grads = jax.tree.map(jnp.nan_to_num, grads)
    if max_norm is None:
        return grads
    return optax.clip_by_global_norm(max_norm).update(grads, optax.EmptyState())[0]


def newton_schulz(x: jax.Array, steps: int = 5) -> jax.Array:
    """Nearly the closest semi-orthogonal matrix to each [..., rows, cols], as in Muon (Jordan 2024)."""
    tall = x.shape[-2] > x.shape[-1]
    x = jnp.swapaxes(x, -1, -2) if tall else x
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-8)

    def iterate(x, _):
        a = x @ jnp.swapaxes(x, -1, -2)
        return 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x, None

    x, _ = jax.lax.scan(iterate, x, length=steps)  # a loop, which compiles once
    return jnp.swapaxes(x, -1, -2) if tall else x
