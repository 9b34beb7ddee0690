"""Classical test functions of optimization, each task shifted and scaled."""

from collections.abc import Callable
from typing import Annotated, Literal

import annotated_types as at
import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families.networks import NonNegative, Range, check_range, normal, sample_range

Function = Literal["rosenbrock", "rastrigin", "ackley", "griewank", "styblinski_tang", "levy", "zakharov"]


def _rosenbrock(z):
    w = z + 1  # the minimum of all functions here is at 0
    return jnp.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2)


def _rastrigin(z):
    return jnp.sum(z**2 + 10 * (1 - jnp.cos(2 * jnp.pi * z)))


def _ackley(z):
    # The 1e-12 keeps the square root differentiable at the minimum.
    radius = jnp.sqrt(jnp.mean(z**2) + 1e-12)
    return 20 * (1 - jnp.exp(-0.2 * radius)) + jnp.e - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * z)))


def _griewank(z):
    return 1 + jnp.sum(z**2) / 4000 - jnp.prod(jnp.cos(z / jnp.sqrt(jnp.arange(1.0, len(z) + 1))))


STYBLINSKI_TANG_MINIMUM = -2.903534  # of 1/2 (w^4 - 16 w^2 + 5 w), whose value there is -39.166166


def _styblinski_tang(z):
    w = z + STYBLINSKI_TANG_MINIMUM
    return jnp.sum(0.5 * (w**4 - 16 * w**2 + 5 * w) + 39.166166)


def _levy(z):
    w = 1 + z / 4
    middle = (w[:-1] - 1) ** 2 * (1 + 10 * jnp.sin(jnp.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + jnp.sin(2 * jnp.pi * w[-1]) ** 2)
    return jnp.sin(jnp.pi * w[0]) ** 2 + jnp.sum(middle) + last


def _zakharov(z):
    slope = jnp.sum(0.5 * jnp.arange(1.0, len(z) + 1) * z)
    return jnp.sum(z**2) + slope**2 + slope**4


FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "rosenbrock": _rosenbrock,
    "rastrigin": _rastrigin,
    "ackley": _ackley,
    "griewank": _griewank,
    "styblinski_tang": _styblinski_tang,
    "levy": _levy,
    "zakharov": _zakharov,
}


def classic_function(
    *,
    function: Function = "rosenbrock",
    dim: Annotated[int, at.Ge(2)] = 2,
    start: Range = 1.0,
    scale: Range = 1.0,
    noise: NonNegative = 0.0,
) -> TaskFamily:
    """A classical test function, `loss = scale * f(params - center) + noise * z^T params`, minimum 0.

    Args:
      function: rosenbrock (curved valley), rastrigin, ackley, griewank, levy (many local minima),
        styblinski_tang (2^dim minima), zakharov (plate of large condition number).
      dim: number of parameters, at least 2.
      start: parameters start at the center plus this times N(0, 1); a pair (low, high) is drawn
        log-uniformly per task.
      scale: factor on the loss, a number or a log-uniform range.
      noise: standard deviation of the gradient noise, per coordinate.

    Returns:
      A family without data; cfg {"center": f32[dim], "start": f32[], "scale": f32[]}.

    Source: Surjanovic & Bingham, Virtual Library of Simulation Experiments, 2013.
    """
    check_range("start", start)
    check_range("scale", scale)
    f = FUNCTIONS[function]

    def sample(key):
        key_center, key_start, key_scale = jax.random.split(key, 3)
        return {
            "center": normal(key_center, (dim,)),
            "start": sample_range(key_start, start),
            "scale": sample_range(key_scale, scale),
        }

    def task(cfg):
        def init(key):
            return cfg["center"] + cfg["start"] * normal(key, (dim,))

        def loss(params, key, data):
            value = cfg["scale"] * f(params - cfg["center"])
            if noise:
                value += noise * jnp.dot(normal(key, (dim,)), params - cfg["center"])
            return value

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)
