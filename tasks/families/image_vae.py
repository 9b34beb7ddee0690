"""Variational autoencoders of small images."""

import haiku as hk
import jax
import jax.numpy as jnp

from tasks.base import TaskFamily
from tasks.data import datasets as datasets_lib
from tasks.families import networks, supervised
from tasks.families.networks import Activation, NonNegative, PositiveInt, Range, Widths


def image_vae(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    hidden: Widths = (32,),
    latent: PositiveInt = 8,
    activation: Activation = "relu",
    beta: NonNegative = 1.0,
    batch_size: PositiveInt = 64,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """A variational autoencoder (Kingma & Welling 2014) with a Bernoulli likelihood of pixels in [0, 1].

    `loss = (reconstruction + beta KL(q(z|x) || N(0, 1))) / pixels`, nats per pixel, one sample of z.

    Args:
      datasets: names as in `tasks.data.datasets.load`, x in [0, 1] (digits), of one example shape.
      hidden: widths of the encoder's hidden layers; the decoder mirrors them.
      latent: width of z.
      activation: after every hidden layer.
      beta: weight of the KL term.
      batch_size: rows of a minibatch.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "scale": f32[]}.

    Raises:
      ValueError: data outside [0, 1], for which a Bernoulli likelihood has no meaning.

    Source: Kingma & Welling 2014.
    """
    stack = datasets_lib.stack(datasets)
    for name in datasets:
        x = datasets_lib.load(name).x
        if x.min() < 0 or x.max() > 1:
            raise ValueError(f"datasets: {name!r} must have x in [0, 1], got {x.min():.3g} to {x.max():.3g}")

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        posterior = networks.mlp(x, hidden, 2 * latent, activation, name="encoder")
        mean, log_std = posterior[:, :latent], posterior[:, latent:]
        z = mean + jnp.exp(log_std) * networks.normal(hk.next_rng_key(), mean.shape)
        logits = networks.mlp(z, hidden[::-1], x.shape[-1], activation, name="decoder")
        reconstruction = jnp.sum(jax.nn.softplus(logits) - x * logits, axis=-1)
        kl = jnp.sum(0.5 * (mean**2 + jnp.exp(2 * log_std) - 1) - log_std, axis=-1)
        return jnp.mean(reconstruction + beta * kl) / x.shape[-1]

    return supervised.modelled(loss, stack, batch_size, initial_scale)
