"""Recovery of sparse signals from few linear measurements."""

from typing import Annotated

import annotated_types as at
import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families.networks import NonNegative, PositiveInt, normal


def sparse_regression(
    *,
    features: PositiveInt = 32,
    rows: PositiveInt = 24,
    density: Annotated[float, at.Interval(gt=0, le=1)] = 0.2,
    l1: NonNegative = 0.05,
    noise: NonNegative = 0.01,
) -> TaskFamily:
    """The lasso (Tibshirani 1996), `loss = 1/2 |A w - b|^2 + l1 |w|_1`, deterministic and not smooth.

    A has independent N(0, 1 / rows) entries, b = A w* + noise.

    Args:
      features: weights.
      rows: measurements.
      density: probability that a true weight, else N(0, 1), is not 0.
      l1: weight of the penalty.
      noise: standard deviation of the measurement noise.

    Returns:
      A family without data; cfg {"a": f32[rows, features], "b": f32[rows]}; params f32[features],
      initially 0.1 N(0, 1).

    Source: Tibshirani 1996.
    """

    def sample(key):
        key_a, key_w, key_mask, key_noise = jax.random.split(key, 4)
        a = normal(key_a, (rows, features)) * rows**-0.5
        mask = jax.random.uniform(key_mask, (features,), jnp.float32) < density
        b = a @ (normal(key_w, (features,)) * mask) + noise * normal(key_noise, (rows,))
        return {"a": a, "b": b}

    def task(cfg):
        def loss(params, key, data):
            residual = cfg["a"] @ params - cfg["b"]
            return 0.5 * jnp.sum(residual**2) + l1 * jnp.sum(jnp.abs(params))

        return Task(lambda key: 0.1 * normal(key, (features,)), loss)

    return TaskFamily(sample, task, NO_DATA)
