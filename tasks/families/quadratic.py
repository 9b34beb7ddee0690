"""Random quadratics: the family whose every truth is known in closed form."""

from typing import Annotated

import annotated_types as at
import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families.networks import PositiveInt, Range, check_range, sample_range


def quadratic(
    *,
    dim: PositiveInt = 10,
    condition_number: Range = (1.0, 100.0),
    rotated: bool = False,
    noise: Annotated[float, at.Ge(0)] = 0.0,
) -> TaskFamily:
    """Quadratic bowl, `loss = 1/2 d^T Q diag(l) Q d + noise z^T d` with `d = params - center`.

    The eigenvalues `l` are log-spaced from 1 / condition_number to 1, so gradient descent converges
    for learning rates below 2. `z ~ N(0, 1)` is drawn by the key: noise is the standard deviation
    of the gradient in each coordinate, and leaves the mean loss as it is. The minimum is 0 on average.

    Args:
      dim: number of parameters.
      condition_number: largest over smallest eigenvalue, at least 1; a pair (low, high) is drawn
        log-uniformly per task.
      rotated: Q is a random Householder reflection, which couples all coordinates; otherwise the identity.
      noise: standard deviation of the gradient noise, per coordinate.

    Returns:
      A family without data; cfg holds center, eigenvalues and reflection, f32[dim] each; params
      are f32[dim], initially N(0, 1) like the center.

    Raises:
      ValueError: condition_number below 1.

    Source: Schaul, Antonoglou & Silver 2014 (unit tests for stochastic optimization).
    """
    check_range("condition_number", condition_number)
    lowest = condition_number[0] if isinstance(condition_number, (tuple, list)) else condition_number
    if lowest < 1:
        raise ValueError(f"condition_number: {condition_number} must be at least 1")

    def sample(key):
        key_center, key_condition, key_reflection = jax.random.split(key, 3)
        condition = sample_range(key_condition, condition_number)
        exponents = jnp.linspace(0.0, 1.0, dim, dtype=jnp.float32)
        reflection = jax.random.normal(key_reflection, (dim,), jnp.float32)
        return {
            "center": jax.random.normal(key_center, (dim,), jnp.float32),
            "eigenvalues": condition**-exponents,
            "reflection": reflection / jnp.linalg.norm(reflection),
        }

    def task(cfg):
        def init(key):
            return jax.random.normal(key, (dim,), jnp.float32)

        def loss(params, key, data):
            offset = params - cfg["center"]
            axes = offset
            if rotated:
                axes = offset - 2 * cfg["reflection"] * jnp.dot(cfg["reflection"], offset)
            value = 0.5 * jnp.sum(cfg["eigenvalues"] * axes**2)
            if noise:
                value += noise * jnp.dot(jax.random.normal(key, (dim,), jnp.float32), offset)
            return value

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)
