"""Autoencoders of small images."""

import jax
import jax.numpy as jnp

from tasks.base import TaskFamily
from tasks.data import datasets as datasets_lib
from tasks.families import networks, supervised
from tasks.families.networks import Activation, PositiveInt, Range, Widths


def image_autoencoder(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    hidden: Widths = (32,),
    latent: PositiveInt = 16,
    activation: Activation = "relu",
    batch_size: PositiveInt = 64,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """An MLP autoencoder, `loss = mean over pixels of (decode(encode(x)) - x)^2`.

    Args:
      datasets: names as in `tasks.data.datasets.load`, of one example shape; a task draws one.
      hidden: widths of the encoder's hidden layers; the decoder mirrors them.
      latent: width of the code.
      activation: after every hidden layer; the code and the output are linear.
      batch_size: rows of a minibatch.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "scale": f32[]}.

    Source: Hinton & Salakhutdinov 2006; the MLP autoencoders of TaskSet (Metz et al. 2020).
    """

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        code = networks.mlp(x, hidden, latent, activation, name="encoder")
        output = networks.mlp(code, hidden[::-1], x.shape[-1], activation, name="decoder")
        return jnp.mean((output - x) ** 2)

    return supervised.modelled(loss, datasets_lib.stack(datasets), batch_size, initial_scale)
