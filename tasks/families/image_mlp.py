"""MLP classifiers of small images (or of any flat features)."""

from typing import Literal

import jax

from tasks.base import TaskFamily
from tasks.families import networks, supervised
from tasks.families.networks import Activation, PositiveInt, Range, Widths


def image_mlp(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    hidden: Widths = (32,),
    activation: Activation = "relu",
    norm: Literal["none", "layer"] = "none",
    batch_size: PositiveInt = 64,
    permute_labels: bool = False,
    initial_scale: Range = 1.0,
    loss: supervised.ClassificationLoss = "cross_entropy",
) -> TaskFamily:
    """An MLP classifier; the data set, the class names and the initial scale are sampled per task.

    Several data sets of one example shape share one compiled program. Minibatches are drawn with
    replacement. Parameters: features*h1 + h1 + ... + classes (2,410 for digits and one layer of 32).

    Args:
      datasets: names as in `tasks.data.datasets.load`, each with an optional slice of rows:
        "digits", "teacher:7", "digits[597:]". A task uses one of them, each equally often.
      hidden: widths of the hidden layers; () is softmax regression.
      activation: after every hidden layer.
      norm: "layer" puts a layer norm in front of every activation.
      batch_size: rows of a minibatch.
      permute_labels: whether each task renames the classes by its own permutation.
      initial_scale: factor on Haiku's initial matrices (truncated normal, variance 1 / fan-in);
        a pair (low, high) is drawn log-uniformly per task.
      loss: mean cross-entropy in nats, or mean squared error of the probabilities.

    Returns:
      A family with cfg {"dataset": i32[], "labels": i32[classes], "scale": f32[]}.

    Raises:
      ValueError: data sets that cannot be loaded or do not stack.

    Source: the image MLPs of TaskSet (Metz et al. 2020) and of google/learned_optimization.
    """

    def network(x: jax.Array, num_classes: int) -> jax.Array:
        return networks.mlp(x.reshape(len(x), -1), hidden, num_classes, activation, norm)

    return supervised.classification(network, datasets, batch_size, permute_labels, initial_scale, loss)
