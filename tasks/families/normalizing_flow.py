"""Normalizing flows on points of the plane."""

from typing import Literal

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families import networks
from tasks.families.networks import PositiveInt, Widths, normal


def normalizing_flow(
    *,
    target: Literal["ring", "moons", "spiral"] = "moons",
    layers: PositiveInt = 4,
    hidden: Widths = (16,),
    batch_size: PositiveInt = 64,
) -> TaskFamily:
    """Affine coupling layers (RealNVP; Dinh et al. 2017), `loss = mean -log p(x)`, nats per point.

    Args:
      target: what the points lie on, with noise of 0.1: a ring, two half moons, or a spiral, turned
        by an angle of the task's own.
      layers: coupling layers; the two coordinates take turns.
      hidden: widths of each layer's MLP (tanh).
      batch_size: fresh points of a minibatch.

    Returns:
      A family without data; cfg {"turn": f32[2]}, the cosine and sine of the angle.

    Source: Dinh, Sohl-Dickstein & Bengio 2017.
    """

    def negative_log_likelihood(x: jax.Array) -> jax.Array:
        log_det = jnp.zeros(len(x), x.dtype)
        still, moving = x[:, 0], x[:, 1]
        for i in range(layers):
            output = networks.mlp(still[:, None], hidden, 2, "tanh", name=f"layer_{i}")
            log_scale = jnp.tanh(output[:, 0])
            log_det += log_scale
            still, moving = moving * jnp.exp(log_scale) + output[:, 1], still
        return jnp.mean(0.5 * (still**2 + moving**2) + jnp.log(2 * jnp.pi) - log_det)

    init, apply = networks.pure(negative_log_likelihood, 1, 2)

    def sample(key):
        angle = jax.random.uniform(key, (), jnp.float32, 0.0, 2 * jnp.pi)
        return {"turn": jnp.stack([jnp.cos(angle), jnp.sin(angle)])}

    def task(cfg):
        def loss(params, key, data):
            key_place, key_noise = jax.random.split(key)
            place = jax.random.uniform(key_place, (batch_size,), jnp.float32)
            x = _points(target, place) + 0.1 * normal(key_noise, (batch_size, 2))
            cos, sin = cfg["turn"][0], cfg["turn"][1]
            return apply(params, x @ jnp.array([[cos, sin], [-sin, cos]]))

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)


def _points(target: str, place: jax.Array) -> jax.Array:
    """f32[B, 2]: points of a curve at places in [0, 1)."""
    if target == "ring":
        angle = 2 * jnp.pi * place
        return 1.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    if target == "spiral":
        angle = 3 * jnp.pi * jnp.sqrt(place)
        return angle[:, None] / 5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    second = place >= 0.5
    angle = 2 * jnp.pi * place
    x, y = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.where(second, x + 0.5, x - 0.5), jnp.where(second, y + 0.25, y - 0.25)], axis=-1)
