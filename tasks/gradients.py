"""Augmentations that change the gradients of a family and leave its losses as they are."""

from collections.abc import Callable
from typing import Annotated, Any

import annotated_types as at
import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily
from tasks.families.networks import Positive, normal


def _change_gradient(family: TaskFamily, change: Callable[[Any, jax.Array], Any]) -> TaskFamily:
    """A family whose losses keep their values and whose gradients become `change(gradient, key)`."""

    def task(cfg):
        inner = family.task(cfg)

        def loss(params, key, data):
            key_loss, key_change = jax.random.split(key)

            @jax.custom_vjp
            def through(params):
                return params

            through.defvjp(lambda params: (params, None), lambda _, grads: (change(grads, key_change),))
            return inner.loss(through(params), key_loss, data)

        return Task(inner.init, loss)

    return family._replace(task=task)


def _change_leaves(family: TaskFamily, change: Callable[[jax.Array, jax.Array], Any]) -> TaskFamily:
    """The same with `change(leaf, key)`, in the dtype of the leaf."""

    def all_leaves(grads, key):
        leaves, tree = jax.tree.flatten(grads)
        keys = jax.random.split(key, len(leaves))
        return tree.unflatten([change(g, k).astype(g.dtype) for g, k in zip(leaves, keys, strict=True)])

    return _change_gradient(family, all_leaves)


def gradient_noise(family: TaskFamily, *, relative: Positive = 1.0) -> TaskFamily:
    """Gaussian noise on the gradient, in proportion to each tensor's own root mean square.

    The loss value is untouched.

    Args:
      relative: standard deviation of the noise over the RMS of the tensor's gradient.

    Returns:
      A family with the same cfg. Its gradients can be taken in reverse mode only.
    """

    def change(leaf, key):
        rms = jnp.sqrt(jnp.mean(leaf.astype(jnp.float32) ** 2))
        return leaf + (relative * rms * normal(key, leaf.shape)).astype(leaf.dtype)

    return _change_leaves(family, change)


def gradient_subsampling(
    family: TaskFamily, *, keep: Annotated[float, at.Interval(gt=0, le=1)] = 0.5
) -> TaskFamily:
    """Each gradient entry is dropped at random, and what is kept is divided by `keep`: unbiased.

    Args:
      keep: probability that an entry is kept.

    Returns:
      A family with the same cfg. Its gradients can be taken in reverse mode only.
    """

    def change(leaf, key):
        kept = jax.random.bernoulli(key, keep, (leaf.size,)).reshape(leaf.shape)
        return jnp.where(kept, leaf / keep, 0)

    return _change_leaves(family, change)


def normalised_gradient(family: TaskFamily) -> TaskFamily:
    """Gradients divided by their global norm, so that only their direction is left.

    Returns:
      A family with the same cfg. Its gradients can be taken in reverse mode only.
    """

    def change(grads, key):
        squares = [jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(grads)]
        norm = jnp.sqrt(sum(squares, jnp.float32(0)) + 1e-20)
        return jax.tree.map(lambda g: (g / norm).astype(g.dtype), grads)

    return _change_gradient(family, change)


def delayed_gradient(
    family: TaskFamily, *, least: Annotated[int, at.Ge(0)] = 1, most: Annotated[int, at.Ge(1)] = 8
) -> TaskFamily:
    """Delayed gradients, as in asynchronous training: the optimizer gets the gradient of d steps before.

    d is drawn for each inner problem; in its first d steps the gradient at the initial parameters comes again
    and again. Costs `most` copies of the gradient in the state of every inner problem. Part of
    meta-training (`meta_train.inner`) only: an evaluation trains without delay.

    Args:
      least: fewest steps.
      most: most steps.

    Returns:
      A family with the same cfg and a `delay`.

    Raises:
      ValueError: `most` below `least`.
    """
    if most < least:
        raise ValueError(f"most must be at least least ({least}), got {most}")
    return family._replace(delay=(least, most))
