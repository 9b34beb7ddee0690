"""From a network and named data sets to a task family: minibatches by key, labels, losses."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import haiku as hk
import jax
import jax.numpy as jnp

from tasks import datasets as datasets_lib
from tasks.base import Task, TaskFamily
from tasks.networks import check_range, cross_entropy, sample_range, scaled

ABSENT = -1e9  # logit of a class that the task's data set does not have

ClassificationLoss = Literal["cross_entropy", "squared"]


def minibatch(data: Any, dataset: jax.Array, key: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """`batch_size` rows of one stacked data set, drawn with replacement. The key is consumed.

    Args:
      data: one split of `datasets.Stack.data`.
      dataset: i32[], which data set of the stack.
      key: picks the rows; padding is never drawn.
      batch_size: B.

    Returns:
      x f32[B, *shape] and y [B].
    """
    rows = jax.random.randint(key, (batch_size,), 0, data["rows"][dataset])
    return data["x"][dataset, rows], data["y"][dataset, rows]


def classification(
    network: Callable[[jax.Array, int], jax.Array],
    *,
    datasets: Sequence[str],
    batch_size: int,
    permute_labels: bool = False,
    initial_scale: Any = 1.0,
    loss: ClassificationLoss = "cross_entropy",
) -> TaskFamily:
    """A classification family over any of `datasets`.

    Args:
      network: `(x [B, *shape], num_classes) -> logits [B, num_classes]`, run under `hk.transform`.
      datasets: names; a task draws one. They share example shape; logits of classes that a data
        set lacks are masked out.
      batch_size: B.
      permute_labels: each task renames the classes by a permutation of its own.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.
      loss: mean cross-entropy, or mean squared error between probabilities and one-hot labels.

    Returns:
      A family whose cfg is {"dataset": i32[], "labels": i32[classes], "scale": f32[]}.
    """
    check_range("initial_scale", initial_scale)
    stack = datasets_lib.stack(datasets)
    classes = stack.num_classes
    if not classes:
        raise ValueError(f"datasets: {list(datasets)} are regression data, classes are needed")
    net = hk.without_apply_rng(hk.transform(lambda x: network(x, classes)))
    example = jnp.zeros((1, *stack.shape), jnp.float32)

    def sample(key):
        key_set, key_labels, key_scale = jax.random.split(key, 3)
        labels = jnp.arange(classes)
        return {
            "dataset": jax.random.randint(key_set, (), 0, len(datasets)),
            "labels": jax.random.permutation(key_labels, labels) if permute_labels else labels,
            "scale": sample_range(key_scale, initial_scale),
        }

    def task(cfg):
        def init(key):
            return scaled(net.init(key, example), cfg["scale"])

        def task_loss(params, key, data):
            x, y = minibatch(data, cfg["dataset"], key, batch_size)
            logits = net.apply(params, x)
            if not stack.equal_classes:
                present = jnp.arange(classes) < data["classes"][cfg["dataset"]]
                present = jnp.zeros_like(present).at[cfg["labels"]].set(present)
                logits = jnp.where(present, logits, ABSENT)
            labels = cfg["labels"][y]
            if loss == "cross_entropy":
                return cross_entropy(logits, labels)
            return jnp.mean((jax.nn.softmax(logits) - jax.nn.one_hot(labels, classes)) ** 2)

        return Task(init, task_loss)

    return TaskFamily(sample, task, stack.data)
