"""Two parameters of the Lorenz equations, fitted to a trajectory: chaotic in the long run."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt

from meta_train.core.system import UnrolledSystem
from reproductions.systems.outer_problem import OuterProblem

TRUTH = (10.0, 28.0, 8 / 3)  # a, r, b
START = (1.2, 1.3, 1.6)
INIT_THETA = (3.116, 3.7)


class LorenzState(NamedTuple):
    """x, target: f32[3], with theta and with the truth."""

    x: jax.Array
    target: jax.Array


def lorenz_step(x: jax.Array, a: jax.Array, r: jax.Array, dt: float) -> jax.Array:
    """One Euler step of f[3]: x' = a (y - x), y' = x (r - z) - y, z' = x y - 8 z / 3."""
    slope = jnp.stack([a * (x[1] - x[0]), x[0] * (r - x[2]) - x[1], x[0] * x[1] - TRUTH[2] * x[2]])
    return x + dt * slope


def lorenz(
    *, unroll_length: Annotated[int, Ge(1)] = 2000, dt: Annotated[float, Gt(0)] = 0.005
) -> OuterProblem:
    """Fits the logs of a and r of the Lorenz equations to the z of a trajectory (Li et al. 2023).

    Loss (z - z*)^2, z* of the true parameters (10, 28); both start at (1.2, 1.3, 1.6); theta = (3.116, 3.7).

    Args:
      unroll_length: T.
      dt: step of Euler's method.

    Source: Li et al., "Noise-Reuse in Online Evolution Strategies", NeurIPS 2023, and their public code.
    Differs from it in: nothing.
    """

    def init(theta, key):
        x = jnp.asarray(START, jnp.float32)
        return LorenzState(x, x), jnp.int32(unroll_length)

    def step(theta, state, key, data):
        x = lorenz_step(state.x, jnp.exp(theta[0]), jnp.exp(theta[1]), dt)
        target = lorenz_step(state.target, jnp.float32(TRUTH[0]), jnp.float32(TRUTH[1]), dt)
        return LorenzState(x, target), jnp.square(x[2] - target[2])

    system = UnrolledSystem(init, step, unroll_length, unroll_length)
    return OuterProblem(system, lambda key: jnp.asarray(np.asarray(INIT_THETA, np.float32)))
