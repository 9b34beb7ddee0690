"""Logistic regression on streams of synthetic examples."""

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families.networks import NonNegative, PositiveInt, Range, check_range, normal, sample_range


def logistic_regression(
    *,
    features: PositiveInt = 20,
    condition_number: Range = (1.0, 100.0),
    separation: Range = 3.0,
    l1: NonNegative = 0.0,
    l2: NonNegative = 0.001,
    batch_size: PositiveInt = 32,
) -> TaskFamily:
    """Binary classification, `loss = mean log(1 + exp(-y w^T x)) + l1 |w| + l2 / 2 w^2`; convex.

    Labels are drawn from the logistic model of true weights, so the loss stays above their entropy.

    Args:
      features: columns of x, and weights; there is also a bias.
      condition_number: largest over smallest variance of the columns, log-spaced; number or range.
      separation: standard deviation of the true logit; number or log-uniform range.
      l1: weight of the sum of absolute weights.
      l2: weight of half the sum of squared weights.
      batch_size: fresh examples of a minibatch.

    Returns:
      A family without data; params {"w": f32[features], "b": f32[]}, initially 0.

    Source: Tibshirani 1996 (the l1 term); Schmidt, Le Roux & Bach 2017 use it to compare optimizers.
    """
    check_range("condition_number", condition_number)
    check_range("separation", separation)

    def sample(key):
        key_condition, key_separation, key_weights = jax.random.split(key, 3)
        condition = sample_range(key_condition, condition_number)
        std = condition ** (-0.5 * jnp.linspace(0.0, 1.0, features, dtype=jnp.float32))
        weights = normal(key_weights, (features,))
        logit_std = jnp.sqrt(jnp.sum((weights * std) ** 2))
        return {"std": std, "weights": weights * sample_range(key_separation, separation) / logit_std}

    def task(cfg):
        def init(key):
            return {"w": jnp.zeros(features, jnp.float32), "b": jnp.zeros((), jnp.float32)}

        def loss(params, key, data):
            key_x, key_y = jax.random.split(key)
            x = cfg["std"] * normal(key_x, (batch_size, features))
            y = jax.random.uniform(key_y, (batch_size,), jnp.float32) < jax.nn.sigmoid(x @ cfg["weights"])
            logits = x @ params["w"] + params["b"]
            w = params["w"]
            nll = jnp.mean(jax.nn.softplus(jnp.where(y, -logits, logits)))
            return nll + l1 * jnp.sum(jnp.abs(w)) + 0.5 * l2 * jnp.sum(w**2)

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)
