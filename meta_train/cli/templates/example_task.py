"""A task family: `name: my_task.py:my_task` under `tasks` in a config."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge

from tasks.base import Task, TaskFamily


def my_task(*, batch_size: Annotated[int, Ge(1)] = 16, noise: Annotated[float, Ge(0)] = 0.1) -> TaskFamily:
    """Fit a line whose slope is drawn with the task, from noisy points that are drawn at every step.

    Args:
      batch_size: points of a minibatch.
      noise: standard deviation of what is added to y.
    """

    def task(slope):
        def init(key):
            return {"w": jax.random.normal(key), "b": jnp.zeros([])}

        def loss(params, key, data):
            del data  # of a split; this family draws its points from the key alone
            key_x, key_noise = jax.random.split(key)
            x = jax.random.normal(key_x, (batch_size,))
            y = slope * x + noise * jax.random.normal(key_noise, (batch_size,))
            return jnp.mean((params["w"] * x + params["b"] - y) ** 2)

        return Task(init, loss)

    return TaskFamily(sample=jax.random.normal, task=task, data={"train": (), "valid": ()})
