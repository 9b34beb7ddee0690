"""Deep linear networks: linear maps, nonlinear dynamics."""

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families import networks
from tasks.families.networks import PositiveInt, Range, check_range, normal, sample_range, scaled


def deep_linear(
    *,
    width: PositiveInt = 8,
    depth: PositiveInt = 4,
    condition_number: Range = (1.0, 30.0),
    initial_scale: Range = 1.0,
    batch_size: PositiveInt = 16,
) -> TaskFamily:
    """A product of matrices learns a linear map (Saxe et al. 2014), `loss = mean (W_d ... W_1 x - A x)^2`.

    Args:
      width: of every layer, of the inputs x ~ N(0, 1) and of the outputs.
      depth: number of matrices d.
      condition_number: of A, whose singular values are log-spaced down from 1; number or range.
      initial_scale: factor on each initial matrix, a number or a log-uniform range.
      batch_size: fresh inputs of a minibatch.

    Returns:
      A family without data; cfg {"singular": f32[width], "scale": f32[]}. A is diagonal: a rotation
      of it could be undone by the outer matrices.

    Source: Saxe, McClelland & Ganguli 2014.
    """
    check_range("condition_number", condition_number)
    check_range("initial_scale", initial_scale)

    def network(x: jax.Array) -> jax.Array:
        for i in range(depth):
            x = networks.linear(x, width, f"linear_{i}", with_bias=False)
        return x

    init, apply = networks.pure(network, 1, width)

    def sample(key):
        key_condition, key_scale = jax.random.split(key)
        condition = sample_range(key_condition, condition_number)
        return {
            "singular": condition ** -jnp.linspace(0.0, 1.0, width, dtype=jnp.float32),
            "scale": sample_range(key_scale, initial_scale),
        }

    def task(cfg):
        def loss(params, key, data):
            x = normal(key, (batch_size, width))
            return jnp.mean((apply(params, x) - cfg["singular"] * x) ** 2)

        return Task(lambda key: scaled(init(key), cfg["scale"]), loss)

    return TaskFamily(sample, task, NO_DATA)
