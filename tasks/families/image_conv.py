"""Small convolutional classifiers."""

from typing import Annotated

import annotated_types as at
import jax

from tasks.base import TaskFamily
from tasks.families import networks, supervised
from tasks.families.networks import ACTIVATIONS, Activation, PositiveInt, Range, Widths


def image_conv(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    channels: Widths = (8, 16),
    kernel: Annotated[int, at.Interval(ge=1, le=7)] = 3,
    activation: Activation = "relu",
    batch_size: PositiveInt = 32,
    permute_labels: bool = False,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """Convolutions of stride 2 (the first of stride 1), a mean over positions, and a linear layer.

    Args:
      datasets: names of image data as in `tasks.data.datasets.load`, of one example shape.
      channels: of each convolution.
      kernel: side of the kernels.
      activation: after every convolution.
      batch_size: rows of a minibatch.
      permute_labels: whether each task renames the classes by its own permutation.
      initial_scale: factor on the initial kernels, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "labels": i32[classes], "scale": f32[]}.

    Source: the convolutional networks of TaskSet (Metz et al. 2020).
    """
    supervised.image_stack(datasets)

    def network(x: jax.Array, num_classes: int) -> jax.Array:
        for i, width in enumerate(channels):
            x = ACTIVATIONS[activation](networks.conv(x, width, kernel, stride=2 if i else 1))
        return networks.linear(x.mean((1, 2)), num_classes)

    return supervised.classification(network, datasets, batch_size, permute_labels, initial_scale)
