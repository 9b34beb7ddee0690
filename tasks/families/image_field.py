"""Coordinate networks that memorise one image."""

from typing import Annotated

import annotated_types as at
import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily
from tasks.families import networks, supervised
from tasks.families.networks import Positive, PositiveInt, Widths


def image_field(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    hidden: Widths = (32, 32),
    frequency: Positive = 3.0,
    batch_size: PositiveInt = 32,
    images: Annotated[int, at.Ge(1)] = 256,
) -> TaskFamily:
    """A network of sines from a pixel's place to its value (SIREN; Sitzmann et al. 2020), one image a task.

    `loss = mean over random pixels of (net(place) - pixel)^2`, places in [-1, 1]^2.

    Args:
      datasets: names of image data as in `tasks.data.datasets.load`; a task draws one, and an image of it.
      hidden: widths of the hidden layers, all with sine activations.
      frequency: factor on the places before the first layer.
      batch_size: pixels of a minibatch.
      images: a task draws its image among the first so many of the split.

    Returns:
      A family with cfg {"dataset": i32[], "image": i32[]}. In split "valid" the index names another image.

    Source: Sitzmann et al. 2020.
    """
    stack = supervised.image_stack(datasets)
    height, width, channels = stack.shape
    init, apply = networks.pure(lambda x: networks.mlp(frequency * x, hidden, channels, "sin"), 1, 2)

    def sample(key):
        key_set, key_image = jax.random.split(key)
        return {
            "dataset": jax.random.randint(key_set, (), 0, len(datasets)),
            "image": jax.random.randint(key_image, (), 0, images),
        }

    def task(cfg):
        def loss(params, key, data):
            image = data["x"][cfg["dataset"], cfg["image"] % data["rows"][cfg["dataset"]]]
            pixel = jax.random.randint(key, (batch_size,), 0, height * width)
            place = (
                jnp.stack([pixel // width / (height - 1), pixel % width / (width - 1)], axis=-1) * 2.0 - 1.0
            )
            values = apply(params, place.astype(jnp.float32))
            return jnp.mean((values - image.reshape(-1, channels)[pixel]) ** 2)

        return Task(init, loss)

    return TaskFamily(sample, task, stack.data)
