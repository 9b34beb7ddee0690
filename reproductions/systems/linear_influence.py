"""A linear system whose steps' influences on every later loss are given: the variance's ground truth."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from meta_train.core.system import UnrolledSystem
from reproductions.systems.outer_problem import OuterProblem


class LinearInfluenceState(NamedTuple):
    """s: f32[T], what the steps so far add to each of the T losses; t: i32[], steps taken."""

    s: jax.Array
    t: jax.Array


def influences(kind: str, unroll_length: int, dim: int, seed: int = 0) -> np.ndarray:
    """f64[T, T, dim]: gradient of loss w by theta as step j used it, 0 for j > w. `kind`: as below."""
    rng = np.random.default_rng(seed)
    shape = (unroll_length, unroll_length, dim)
    if kind == "equal":
        g = np.broadcast_to(rng.normal(size=(unroll_length, 1, dim)), shape)
    elif kind == "random":
        g = rng.normal(size=shape)
    elif kind == "last":
        g = rng.normal(size=shape) * np.eye(unroll_length)[:, :, None]
    else:
        raise ValueError(f"kind must be equal, random or last, got {kind!r}")
    return g * np.tril(np.ones(shape[:2]))[:, :, None]


def linear_influence(
    *,
    kind: Literal["equal", "random", "last"] = "random",
    unroll_length: Annotated[int, Ge(1)] = 20,
    dim: Annotated[int, Ge(1)] = 50,
) -> OuterProblem:
    """Losses that are linear in theta as each step used it: `L_w = sum over j <= w of g[w, j] . theta_j`.

    Args:
      kind: how the steps' influences g[w, j] on a loss compare: all "equal", independent and "random",
        or none but the "last" step's own (a state without memory).
      unroll_length: T.
      dim: numbers in theta.
    """
    g = jnp.asarray(influences(kind, unroll_length, dim), jnp.float32)

    def init(theta, key):
        return LinearInfluenceState(jnp.zeros(unroll_length), jnp.zeros([], jnp.int32)), jnp.int32(
            unroll_length
        )

    def step(theta, state, key, data):
        s = state.s + data[:, state.t] @ theta
        return LinearInfluenceState(s, state.t + 1), s[state.t]

    system = UnrolledSystem(init, step, unroll_length, unroll_length, worst_loss=1e30)
    return OuterProblem(system, lambda key: jnp.zeros(dim), g)


def variance(estimator: Literal["pes", "nres", "pes_analytic"], g: np.ndarray) -> np.ndarray:
    """f64[T]: trace of the covariance of one pair's gradient of each loss, windows of one step.

    With d numbers in theta and g[w, j] the influences of `linear_influence`:
    PES `d w sum_j |g[w, j]|^2 + |sum_j g[w, j]|^2`; NRES `(d + 1) |sum_j g[w, j]|^2`; PES+Analytic is
    PES without the newest step: both sums over j < w, and w - 1 for w.

    Args:
      estimator: which.
      g: f64[T, T, d] from `influences`.
    """
    dim = g.shape[-1]
    if estimator == "pes_analytic":
        g = g * np.tril(np.ones(g.shape[:2]), -1)[:, :, None]
    total = np.square(g.sum(1)).sum(-1)
    if estimator == "nres":
        return (dim + 1) * total
    draws = np.arange(len(g)) + (estimator == "pes")
    return dim * draws * np.square(g).sum((1, 2)) + total
