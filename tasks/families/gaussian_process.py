"""Hyperparameters of a Gaussian process by marginal likelihood."""

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families.networks import Positive, PositiveInt, Range, check_range, normal, sample_range

JITTER = 1e-4  # added to the diagonal, so that the Cholesky factor exists in f32


def gaussian_process(
    *,
    points: PositiveInt = 16,
    dim: PositiveInt = 2,
    lengthscale: Range = (0.3, 3.0),
    noise: Positive = 0.1,
) -> TaskFamily:
    """Squared-exponential kernel with a length scale per input; few parameters, strongly coupled.

    `loss = (1/2 y^T K^-1 y + 1/2 log det K) / points`, deterministic. Targets are drawn from the
    process itself.

    Args:
      points: inputs, N(0, 1) per coordinate, fixed for a task.
      dim: of the inputs.
      lengthscale: true one, a number or a log-uniform range.
      noise: true standard deviation of the observation noise; the amplitude is 1.

    Returns:
      A family without data; cfg {"x": f32[points, dim], "y": f32[points]}; params are logarithms,
      {"lengthscale": f32[dim], "amplitude": f32[], "noise": f32[]}, starting near 0 (0.5 N(0, 1)).

    Source: Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, 5.4.
    """
    check_range("lengthscale", lengthscale)

    def factor(x, lengths, amplitude, noise_std):
        z = x / lengths
        distance = jnp.sum((z[:, None] - z[None]) ** 2, axis=-1)
        kernel = amplitude**2 * jnp.exp(-0.5 * distance)
        return jnp.linalg.cholesky(kernel + (noise_std**2 + JITTER) * jnp.eye(points, dtype=jnp.float32))

    def sample(key):
        key_x, key_y, key_length = jax.random.split(key, 3)
        x = normal(key_x, (points, dim))
        length = sample_range(key_length, lengthscale)
        return {"x": x, "y": factor(x, length, 1.0, noise) @ normal(key_y, (points,))}

    def task(cfg):
        def init(key):
            draws = 0.5 * normal(key, (dim + 2,))
            return {"lengthscale": draws[:dim], "amplitude": draws[dim], "noise": draws[dim + 1]}

        def loss(params, key, data):
            lower = factor(cfg["x"], *(jnp.exp(params[k]) for k in ("lengthscale", "amplitude", "noise")))
            white = jax.scipy.linalg.solve_triangular(lower, cfg["y"], lower=True)
            return (0.5 * jnp.sum(white**2) + jnp.sum(jnp.log(jnp.diagonal(lower)))) / points

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)
