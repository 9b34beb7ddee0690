"""Denoising diffusion on small images."""

import haiku as hk
import jax
import jax.numpy as jnp

from tasks.base import TaskFamily
from tasks.data import datasets as datasets_lib
from tasks.families import networks, supervised
from tasks.families.networks import Activation, PositiveInt, Range, Widths


def image_denoiser(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    hidden: Widths = (64,),
    activation: Activation = "silu",
    batch_size: PositiveInt = 64,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """Noise prediction (Ho et al. 2020), `loss = mean (net(cos(a) x + sin(a) e, a) - e)^2`.

    The angle `a` is uniform in (0, pi/2) (a continuous cosine schedule), e ~ N(0, 1); predicting 0
    gives a loss of 1.

    Args:
      datasets: names as in `tasks.data.datasets.load`, of one example shape; a task draws one.
      hidden: widths of the MLP's hidden layers.
      activation: after every hidden layer.
      batch_size: rows of a minibatch.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "scale": f32[]}.

    Source: Ho, Jain & Abbeel 2020.
    """

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        angle = 0.5 * jnp.pi * jax.random.uniform(hk.next_rng_key(), (len(x), 1), jnp.float32)
        noise = networks.normal(hk.next_rng_key(), x.shape)
        mixed = jnp.cos(angle) * x + jnp.sin(angle) * noise
        time = jnp.concatenate(
            [jnp.cos(angle), jnp.sin(angle), jnp.cos(4 * angle), jnp.sin(4 * angle)], axis=-1
        )
        inputs = jnp.concatenate([mixed, time], axis=-1)
        return jnp.mean((networks.mlp(inputs, hidden, x.shape[-1], activation) - noise) ** 2)

    return supervised.modelled(loss, datasets_lib.stack(datasets), batch_size, initial_scale)
