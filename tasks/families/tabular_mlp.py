"""MLPs on tables: regression where the data set has targets, classification where it has classes."""

from typing import Literal

import jax
import jax.numpy as jnp

from tasks.base import TaskFamily
from tasks.data import datasets as datasets_lib
from tasks.families import networks, supervised
from tasks.families.networks import Activation, NonNegative, PositiveInt, Range, Widths


def tabular_mlp(
    *,
    datasets: tuple[str, ...] = ("diabetes",),
    hidden: Widths = (16,),
    activation: Activation = "relu",
    error: Literal["squared", "absolute", "huber"] = "squared",
    l2: NonNegative = 0.0,
    batch_size: PositiveInt = 32,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """An MLP on standardised columns: regression of the target, or cross-entropy of the class.

    Args:
      datasets: names as in `tasks.data.datasets.load` (diabetes; breast_cancer, wine, iris; npz:PATH), of
        one number of columns, all of them regression or all with equally many classes.
      hidden: widths of the hidden layers.
      activation: after every hidden layer.
      error: of the target, in its standard deviations: squared (halved), absolute, or huber (turning
        linear at 1). Classification ignores it.
      l2: weight of half the sum of squared matrices, added to the loss.
      batch_size: rows of a minibatch.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "scale": f32[]}.

    Raises:
      ValueError: data sets with different numbers of classes.

    Source: scikit-learn's bundled sets; Gorishniy et al. 2021 for MLPs on tables.
    """
    stack = datasets_lib.stack(datasets)
    if not stack.equal_classes:
        raise ValueError(
            f"datasets: {list(datasets)} have different numbers of classes; use image_mlp for those"
        )

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        output = networks.mlp(x.reshape(len(x), -1), hidden, stack.num_classes or 1, activation)
        if stack.num_classes:
            return networks.cross_entropy(output, y)
        gap = output[:, 0] - y
        size = jnp.abs(gap)
        errors = {
            "squared": 0.5 * gap**2,
            "absolute": size,
            "huber": jnp.where(size < 1, 0.5 * gap**2, size - 0.5),
        }
        return jnp.mean(errors[error])

    family = supervised.modelled(loss, stack, batch_size, initial_scale)
    return supervised.with_l2(family, l2) if l2 else family
