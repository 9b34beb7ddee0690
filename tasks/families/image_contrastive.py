"""Contrastive representation learning on small images."""

from typing import Annotated

import annotated_types as at
import haiku as hk
import jax
import jax.numpy as jnp

from tasks.base import TaskFamily
from tasks.data import datasets as datasets_lib
from tasks.families import networks, supervised
from tasks.families.networks import Activation, Positive, Range, Widths


def image_contrastive(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    hidden: Widths = (32,),
    embedding: Annotated[int, at.Ge(1)] = 16,
    activation: Activation = "relu",
    noise: Positive = 0.3,
    temperature: Positive = 0.2,
    batch_size: Annotated[int, at.Ge(2)] = 32,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """Two noisy views of each image must find one another (InfoNCE; Chen et al. 2020).

    A view is the image with Gaussian noise on a random half of its features, the others set to 0.
    Loss in nats; log(batch_size) is chance. Repeated rows of a minibatch count as negatives.

    Args:
      datasets: names as in `tasks.data.datasets.load`, of one example shape; a task draws one.
      hidden: widths of the encoder's hidden layers.
      embedding: width of the (normalised) embedding.
      activation: after every hidden layer.
      noise: standard deviation of the noise on a view.
      temperature: that divides the cosine similarities.
      batch_size: images of a minibatch, at least 2.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "scale": f32[]}.

    Source: Chen et al. 2020 (SimCLR).
    """

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        views = jnp.concatenate([x, x])
        views = views + noise * networks.normal(hk.next_rng_key(), views.shape)
        views = views * jax.random.bernoulli(hk.next_rng_key(), 0.5, views.shape)
        z = networks.mlp(views, hidden, embedding, activation)
        z = z * jax.lax.rsqrt(jnp.sum(z**2, axis=-1, keepdims=True) + 1e-6)
        similarity = z[: len(x)] @ z[len(x) :].T / temperature
        labels = jnp.arange(len(x))
        forth, back = networks.cross_entropy(similarity, labels), networks.cross_entropy(similarity.T, labels)
        return 0.5 * (forth + back)

    return supervised.modelled(loss, datasets_lib.stack(datasets), batch_size, initial_scale)
