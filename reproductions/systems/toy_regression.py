"""Two meta-parameters that can be drawn: the learning-rate schedule of a rugged 2-D regression."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge

from meta_train.core.system import UnrolledSystem
from reproductions.systems.outer_problem import OuterProblem


class ToyRegressionState(NamedTuple):
    """x: f32[2], the inner parameters; t: i32[], steps taken."""

    x: jax.Array
    t: jax.Array


def inner_loss(x: jax.Array) -> jax.Array:
    """f32[]: a valley along x[1] with ripples across it where x[0] is small; x: f32[2]."""
    ripples = jnp.square(jnp.sin(x[1])) * jnp.exp(-5 * jnp.square(x[0]))
    return jnp.sqrt(jnp.square(x[0]) + 5) - jnp.sqrt(5.0) + ripples + 0.25 * jnp.abs(x[1] - 100)


def toy_regression(*, unroll_length: Annotated[int, Ge(1)] = 100) -> OuterProblem:
    """The schedule of gradient descent on a 2-D function with ripples (Vicol et al. 2021, section 5.2).

    `x <- x - rate_t grad f(x)`, `rate_t = exp(theta[0]) (T - t) / T + exp(theta[1]) t / T`, x_0 = (1, 1),
    loss f(x) after the step; theta = (-4, -4). Truncated windows see no use in large rates.

    Args:
      unroll_length: T. At T = 100 the losses sum to 2488 at the initial theta and 553 at the best.

    Source: Vicol, Metz & Sohl-Dickstein, ICML 2021, section 5.2 and the paper's public code.
    Differs from it in: no weight decay (1e-10 there); the mean of the losses instead of their sum.
    """

    def init(theta, key):
        return ToyRegressionState(jnp.ones(2), jnp.zeros([], jnp.int32)), jnp.int32(unroll_length)

    def step(theta, state, key, data):
        done = state.t / unroll_length
        rate = jnp.exp(theta[0]) * (1 - done) + jnp.exp(theta[1]) * done
        x = state.x - rate * jax.grad(inner_loss)(state.x)
        return ToyRegressionState(x, state.t + 1), inner_loss(x)

    return OuterProblem(
        UnrolledSystem(init, step, unroll_length, unroll_length), lambda key: jnp.full(2, -4.0)
    )
