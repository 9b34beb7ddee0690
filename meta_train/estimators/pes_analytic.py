"""Persistent evolution strategies with an analytic gradient of the running window."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, check_differentiable, from_particle
from meta_train.core.system import (
    Rollout,
    UnrolledSystem,
    check_truncation,
    finished,
    restart_if,
    start,
    unroll,
)


class PESAnalyticState(NamedTuple):
    """One particle: the pair (leaves [2, ...]), a rollout with theta itself, and xi, like theta."""

    pair: Rollout
    mean: Rollout
    xi: Any


def pes_analytic(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    stagger: bool = True,
) -> GradientEstimator:
    """PES whose newest noise is replaced by backpropagation (Vicol, Metz & Sohl-Dickstein 2021).

    `grad = g + (mean(L+ - L-) / 2 - eps . g) xi`, then `xi <- xi + eps / sigma^2`; g is the gradient of
    the window at theta itself.

    Bias: none for quadratic losses; otherwise of order sigma^2 (the running window is not smoothed, the
      older ones are).
    Variance: that of PES without the part of the newest noise; the part of the older noise stays.
    Cost: about 6 K steps; memory 3 |inner state| + |theta|, and K |inner state| and 3 |theta| while
      a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: TBPTT in the first window of an inner problem; PES where the gradient is not finite.

    Args:
      system: what is unrolled; its lengths must be multiples of `truncation_length`.
      num_particles: N, antithetic pairs.
      truncation_length: K, steps of one window.
      sigma: std of the perturbation, in units of theta.
      stagger: draws every particle's first length short, so that particles are out of phase.

    Returns:
      A `GradientEstimator`.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths.

    Source: Vicol, Metz & Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with
      Persistent Evolution Strategies", ICML 2021, the PES+Analytic variant of the public code.
    Differs from it in: each pair has a rollout with theta itself, with its own data.
    """
    check_differentiable(system, "pes_analytic")
    check_truncation(system, truncation_length)
    if sigma <= 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")

    def init_one(theta, key):
        first = truncation_length if stagger else None
        mean = start(system, theta, key, stagger=first)
        return PESAnalyticState(perturb.stack(mean, mean), mean, perturb.zeros_like(theta))

    def estimate_one(theta, state, key, data):
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        restarted = finished(state.pair).any() | finished(state.mean)
        fresh = restarted | (state.mean.t == 0)  # the first start too is one with perturbed thetas
        xi = perturb.where(restarted, perturb.zeros_like(theta), state.xi)
        noise = perturb.gaussian_like(key_eps, theta)

        def window(theta, rollout):
            begin = restart_if(fresh, system, theta, rollout, key_restart)
            begin = begin._replace(length=jnp.where(restarted, begin.length, rollout.length))
            end, losses = unroll(system, theta, begin, key_unroll, data, truncation_length, remat=True)
            return losses.mean(), (losses, end)

        eps = perturb.scale(sigma, noise)
        _, (losses, pair) = jax.vmap(window)(perturb.antithetic(theta, eps), state.pair)
        (_, (_, mean)), grad = jax.value_and_grad(window, has_aux=True)(theta, state.mean)
        delta = (losses[0] - losses[1]).mean()
        exact = perturb.add_scaled(grad, delta / 2 - perturb.dot(eps, grad), xi)
        xi = perturb.add_scaled(xi, 1 / sigma, noise)
        finite = jnp.isfinite(perturb.sq_norm(grad))
        one = OneParticle(
            direction=perturb.where(finite, exact, perturb.scale(delta / 2, xi)),
            weight=jnp.ones([]),
            loss=losses.mean(),
            delta=delta,
            restarted=restarted,
            diverged=pair.diverged.any() | mean.diverged,
            sigma=jnp.full([], sigma, jnp.float32),
        )
        return one, PESAnalyticState(pair, mean, xi)

    return from_particle(init_one, estimate_one, num_particles, 3 * truncation_length)
