"""A small classifier and its data, for systems whose theta is how it is trained."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

Objective = Literal["train", "valid", "accuracy"]
WORST_CROSS_ENTROPY = 10.0  # 2.3 is chance of ten classes


class Classifier(NamedTuple):
    """An MLP with ReLUs on a named data set.

    Attributes:
      init: `(key) -> params`; the key is consumed.
      loss: `(params, keep, key, data) -> f32[]`, cross-entropy of a minibatch of the "train" split.
      score: `(params, keep, key, data) -> f32[]`, of a minibatch of the "valid" split: its cross-entropy,
        or 1 - accuracy where that is the objective.
      data: split -> arrays, what `loss` and `score` read.

    `keep`: f32[hidden layers], the units of each that are in use; None for all.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[..., jax.Array]
    score: Callable[..., jax.Array]
    data: dict[str, Any]


def classifier(
    dataset: str,
    hidden: tuple[int, ...],
    batch_size: int,
    objective: Objective,
    *,
    initial_scale: float = 1.0,
) -> Classifier:
    """The classifier of a data set (a name as in `tasks.data.datasets.load`).

    `initial_scale`: factor on Haiku's initial matrices.

    Raises:
      ValueError: a data set that cannot be loaded, or a regression.
    """
    import haiku as hk

    from tasks.data import datasets
    from tasks.data.batches import minibatch
    from tasks.families import networks

    stack = datasets.stack([dataset])
    if not stack.num_classes:
        raise ValueError(f"dataset {dataset!r} is a regression, classes are needed")

    def network(x, keep):
        x = x.reshape(len(x), -1)
        for i, width in enumerate(hidden):
            x = jax.nn.relu(networks.linear(x, width, f"linear_{i}"))
            if keep is not None:
                x = x * (jnp.arange(width) < keep[i])
        return networks.linear(x, stack.num_classes, f"linear_{len(hidden)}")

    net = hk.without_apply_rng(hk.transform(network))

    def logits_and_labels(params, keep, key, data):
        x, y = minibatch(data, jnp.zeros([], jnp.int32), key, batch_size)
        return net.apply(params, x, keep), y

    def loss(params, keep, key, data):
        return networks.cross_entropy(*logits_and_labels(params, keep, key, data["train"]))

    def score(params, keep, key, data):
        logits, labels = logits_and_labels(params, keep, key, data["valid"])
        if objective == "accuracy":
            return jnp.mean((logits.argmax(-1) != labels).astype(jnp.float32))
        return networks.cross_entropy(logits, labels)

    example = jnp.zeros((1, *stack.shape))

    def init(key):
        return networks.scaled(net.init(key, example, None), jnp.float32(initial_scale))

    return Classifier(init, loss, score, stack.data)


def worst_loss(objective: Objective) -> float:
    """The most that a step of this objective can count."""
    return 1.0 if objective == "accuracy" else WORST_CROSS_ENTROPY


def no_gradient(objective: Objective) -> str:
    """`UnrolledSystem.no_gradient` of this objective."""
    return "objective accuracy" if objective == "accuracy" else ""
