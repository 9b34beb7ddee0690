"""From a network and named data sets to a task family: minibatches by key, labels, losses."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from tasks.base import Task, TaskFamily
from tasks.data import datasets as datasets_lib
from tasks.data.batches import minibatch
from tasks.families.networks import check_range, cross_entropy, sample_range, scaled

ABSENT = -1e9  # logit of a class that the task's data set does not have

ClassificationLoss = Literal["cross_entropy", "squared"]


def modelled(
    model_loss: Callable[[jax.Array, jax.Array], jax.Array],
    stack: datasets_lib.Stack,
    batch_size: int,
    initial_scale: Any = 1.0,
) -> TaskFamily:
    """A family from a loss of a minibatch.

    Args:
      model_loss: `(x [B, *shape], y [B]) -> f32[]`, run under `hk.transform` (so `hk.next_rng_key()`
        gives it noise that the loss's key determines).
      stack: the data sets, of which a task draws one.
      batch_size: B.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family whose cfg is {"dataset": i32[], "scale": f32[]}.
    """
    check_range("initial_scale", initial_scale)
    net = hk.transform(model_loss)
    train = stack.data["train"]
    x = jnp.zeros((batch_size, *stack.shape), jnp.float32)
    y = jnp.zeros((batch_size,), train["y"].dtype)
    num_sets = len(train["rows"])

    def sample(key):
        key_set, key_scale = jax.random.split(key)
        return {
            "dataset": jax.random.randint(key_set, (), 0, num_sets),
            "scale": sample_range(key_scale, initial_scale),
        }

    def task(cfg):
        def loss(params, key, data):
            key_rows, key_noise = jax.random.split(key)
            return net.apply(params, key_noise, *minibatch(data, cfg["dataset"], key_rows, batch_size))

        return Task(lambda key: scaled(net.init(key, x, y), cfg["scale"]), loss)

    return TaskFamily(sample, task, stack.data)


def classification(
    network: Callable[[jax.Array, int], jax.Array],
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
    example = np.zeros((1, *stack.shape), np.float32)

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


def with_l2(family: TaskFamily, weight: float) -> TaskFamily:
    """The family with `weight / 2` times the sum of squared matrix entries added to every loss."""

    def task(cfg):
        init, plain = family.task(cfg)

        def loss(params, key, data):
            matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
            penalty = sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in matrices)
            return plain(params, key, data) + 0.5 * weight * penalty

        return Task(init, loss)

    return family._replace(task=task)


def image_stack(datasets: Sequence[str]) -> datasets_lib.Stack:
    """`datasets.stack`, which also refuses (ValueError) examples that are not images [H, W, C]."""
    stack = datasets_lib.stack(datasets)
    if len(stack.shape) != 3:
        raise ValueError(
            f"datasets: images [height, width, channels] are needed, {datasets[0]!r} has {stack.shape}"
        )
    return stack
