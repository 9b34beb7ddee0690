"""Augmentations: family -> family, composable. They change what an optimizer meets, not what is learnt.

A spec {"name": a key of AUGMENTATIONS, option: value, ...} is applied by `augment`. The names are
those of Metz et al. 2022 (VeLO) where it has them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import annotated_types as at
import jax
import jax.numpy as jnp
import numpy as np

from tasks.base import Task, TaskFamily
from tasks.data.batches import BATCH_FRACTION, LABEL_NOISE
from tasks.families.networks import Positive, PositiveInt, Range, check_range, sample_range
from tasks.gradients import delayed_gradient, gradient_noise, gradient_subsampling, normalised_gradient
from tasks.mu import mu_parameterised


def reparameterise(
    family: TaskFamily,
    *,
    level: Literal["global", "tensor", "parameter"] = "global",
    low: Positive = 0.1,
    high: Positive = 10.0,
) -> TaskFamily:
    """Parameters in other units: `params = scale * inner`, the loss unchanged as a function of params.

    The optimizer sees `inner`, whose initial values are divided and gradients multiplied by `scale`.

    Args:
      level: one scale for all parameters, one for each tensor, or one for each number.
      low: least scale; scales are drawn log-uniformly per task.
      high: largest scale.

    Returns:
      A family whose cfg is {"cfg": the family's, "scale": a key or f32[]}.

    Raises:
      ValueError: high below low.
    """
    if high < low:
        raise ValueError(f"high: {high} must be at least low ({low})")

    def sample(key):
        key_cfg, key_scale = jax.random.split(key)
        return {"cfg": family.sample(key_cfg), "scale": jax.random.key_data(key_scale)}

    def task(cfg):
        inner = family.task(cfg["cfg"])
        key = jax.random.wrap_key_data(cfg["scale"])

        def scales(params):
            leaves, tree = jax.tree.flatten(params)
            keys = jax.random.split(key, len(leaves))
            draws = []
            for leaf, leaf_key in zip(leaves, keys, strict=True):
                size = leaf.size if level == "parameter" else 1
                bounds = jnp.log(low), jnp.log(high)
                use = key if level == "global" else leaf_key
                draw = jnp.exp(jax.random.uniform(use, (size,), jnp.float32, *bounds))
                draws.append(draw.reshape(leaf.shape if level == "parameter" else ()).astype(leaf.dtype))
            return jax.tree.unflatten(tree, draws)

        def init(key):
            params = inner.init(key)
            return jax.tree.map(lambda p, s: p / s, params, scales(params))

        def loss(params, key, data):
            return inner.loss(jax.tree.map(lambda p, s: p * s, params, scales(params)), key, data)

        return Task(init, loss)

    return family._replace(sample=sample, task=task)


def bfloat16(family: TaskFamily) -> TaskFamily:
    """Parameters, and so the network's matrices, in bfloat16; the loss is f32.

    Returns:
      A family with the same cfg, whose params have dtype bfloat16.
    """

    def cast(tree: Any, dtype: Any) -> Any:
        return jax.tree.map(lambda p: p.astype(dtype), tree)

    def task(cfg):
        inner = family.task(cfg)

        def loss(params, key, data):
            return inner.loss(cast(params, jnp.float32), key, data).astype(jnp.float32)

        return Task(lambda key: cast(inner.init(key), jnp.bfloat16), loss)

    return family._replace(task=task)


def average_batches(family: TaskFamily, *, count: PositiveInt = 4) -> TaskFamily:
    """The mean loss of several minibatches: a larger batch for families without such an option.

    Args:
      count: minibatches, each with a key of its own.

    Returns:
      A family with the same cfg and `count` times the cost.
    """

    def task(cfg):
        inner = family.task(cfg)

        def loss(params, key, data):
            losses = jax.vmap(inner.loss, (None, 0, None))(params, jax.random.split(key, count), data)
            return jnp.mean(losses)

        return Task(inner.init, loss)

    return family._replace(task=task)


def reduced_batch(family: TaskFamily, *, fraction: Range = (0.05, 1.0)) -> TaskFamily:
    """Smaller minibatches, of a size drawn per task: shapes stay, the first rows of a batch repeat.

    Args:
      family: what is augmented; its minibatches must come from data (`batches.minibatch` or
        `batches.windows`).
      fraction: of the batch size that is left, rounded down to at least one row; a number or a
        log-uniform range, at most 1.

    Returns:
      A family whose cfg is {"cfg": the family's, "fraction": f32[]}.

    Raises:
      ValueError: a fraction above 1, or a family that draws its own data.
    """
    check_range("fraction", fraction)
    if (fraction[1] if isinstance(fraction, (tuple, list)) else fraction) > 1:
        raise ValueError(f"fraction: {fraction} must be at most 1")
    return _with_data(family, "fraction", BATCH_FRACTION, fraction)


def label_noise(
    family: TaskFamily, *, probability: Annotated[float, at.Interval(gt=0, le=1)] = 0.1
) -> TaskFamily:
    """A label is replaced by a uniformly drawn class, with this probability, drawn again in every minibatch.

    Args:
      family: what is augmented, a classification family on data sets.
      probability: of being replaced (by the same class, with luck). Both splits are noisy.

    Returns:
      A family whose cfg is {"cfg": the family's, "probability": f32[]}.

    Raises:
      ValueError: a family that has no classes.
    """
    classes = family.data["train"]["classes"] if "classes" in family.data["train"] else np.zeros(1)
    if not np.asarray(classes).all():
        raise ValueError("label_noise: the family has no class labels")
    return _with_data(family, "probability", LABEL_NOISE, probability)


def _with_data(family: TaskFamily, name: str, entry: str, value: Any) -> TaskFamily:
    """Hands a number of the cfg to the family's minibatches, as one more entry of the data."""
    if not isinstance(family.data["train"], dict):
        raise ValueError(f"{name}: the family draws its own data, minibatches of a data set are needed")
    return _with_number(
        family, name, value, lambda loss, number: lambda p, key, data: loss(p, key, {**data, entry: number})
    )


def _with_number(family: TaskFamily, name: str, value: Any, change: Callable[..., Any]) -> TaskFamily:
    """Adds a number to the cfg; the loss becomes `change(loss, number)`."""

    def sample(key):
        key_cfg, key_value = jax.random.split(key)
        return {"cfg": family.sample(key_cfg), name: sample_range(key_value, value)}

    def task(cfg):
        inner = family.task(cfg["cfg"])
        return Task(inner.init, change(inner.loss, cfg[name]))

    return family._replace(sample=sample, task=task)


def scale_loss(family: TaskFamily, *, factor: Range = (0.01, 100.0)) -> TaskFamily:
    """The loss times a constant, which optimizers should not notice, and raw ones do.

    The meta-objective sees the scaled loss too.

    Args:
      factor: a number, or a range drawn from log-uniformly per task.

    Returns:
      A family whose cfg is {"cfg": the family's, "factor": f32[]}.
    """
    check_range("factor", factor)
    return _with_number(
        family, "factor", factor, lambda loss, number: lambda p, key, data: number * loss(p, key, data)
    )


AUGMENTATIONS: dict[str, Callable[..., TaskFamily]] = {
    "average_batches": average_batches,
    "bfloat16": bfloat16,
    "delayed_gradient": delayed_gradient,
    "gradient_noise": gradient_noise,
    "gradient_subsampling": gradient_subsampling,
    "label_noise": label_noise,
    "mu_parameterised": mu_parameterised,
    "normalised_gradient": normalised_gradient,
    "reduced_batch": reduced_batch,
    "reparameterise": reparameterise,
    "scale_loss": scale_loss,
}


def augment(family: TaskFamily, specs: Sequence[Mapping[str, Any]]) -> TaskFamily:
    """Applies augmentations in order; the last one is what the optimizer sees first."""
    for spec in specs:
        options = dict(spec)
        family = AUGMENTATIONS[options.pop("name")](family, **options)
    return family
