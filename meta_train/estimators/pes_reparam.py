"""Persistent evolution strategies with pathwise gradients of the running window."""

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


class PESReparamState(NamedTuple):
    """One particle.

    Attributes:
      pair: both rollouts, leaves [2, ...]: pos, neg.
      xi: like theta, the sum over the inner problem's windows of eps / sigma^2.
      slope: like theta, the pathwise gradient of the window before: it predicts the next one's.
    """

    pair: Rollout
    xi: Any
    slope: Any


def pes_reparam(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    stagger: bool = True,
) -> GradientEstimator:
    """PES whose newest noise is pathwise: an exact hybrid with backpropagation.

    `grad = g + (mean(L+ - L-) / 2 - eps . c) xi`, then `xi <- xi + eps / sigma^2`; g is the mean of the
    pair's own gradients of the window, c that of the window before (a control variate).

    Bias: none for the objective smoothed by independent noise per window, theta frozen.
    Variance: that of PES without the part of the newest noise; the part of the older noise stays.
    Cost: about 8 K steps; memory 2 |inner state| + 2 |theta|, and 2 K |inner state| and 3 |theta| while
      a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: reparam in the first window of an inner problem; PES where a gradient is not finite.

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
      Persistent Evolution Strategies", ICML 2021 (PES+Analytic).
    Differs from it in: gradients at the perturbed thetas instead of at theta, which makes it exact; a control
      variate that does not know this window's eps.
    """
    check_differentiable(system, "pes_reparam")
    check_truncation(system, truncation_length)
    if sigma <= 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")

    def init_one(theta, key):
        rollout = start(system, theta, key, stagger=truncation_length if stagger else None)
        zeros = perturb.zeros_like(theta)
        return PESReparamState(perturb.stack(rollout, rollout), zeros, zeros)

    def estimate_one(theta, state, key, data):
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        restarted = finished(state.pair).any()
        fresh = restarted | (state.pair.t[0] == 0)  # the first start too is one with perturbed thetas
        xi = perturb.where(restarted, perturb.zeros_like(theta), state.xi)
        noise = perturb.gaussian_like(key_eps, theta)
        eps = perturb.scale(sigma, noise)

        def window(theta, rollout):
            begin = restart_if(fresh, system, theta, rollout, key_restart)
            begin = begin._replace(length=jnp.where(restarted, begin.length, rollout.length))
            end, losses = unroll(system, theta, begin, key_unroll, data, truncation_length, remat=True)
            return losses.mean(), (losses, end)

        (_, (losses, pair)), grads = jax.vmap(jax.value_and_grad(window, has_aux=True))(
            perturb.antithetic(theta, eps), state.pair
        )
        delta = (losses[0] - losses[1]).mean()
        slope = jax.tree.map(lambda g: g.mean(0), grads)
        exact = perturb.add_scaled(slope, delta / 2 - perturb.dot(eps, state.slope), xi)
        xi = perturb.add_scaled(xi, 1 / sigma, noise)
        finite = jnp.isfinite(perturb.sq_norm(slope))
        one = OneParticle(
            direction=perturb.where(finite, exact, perturb.scale(delta / 2, xi)),
            weight=jnp.ones([]),
            loss=losses.mean(),
            delta=delta,
            restarted=restarted,
            diverged=pair.diverged.any(),
            sigma=jnp.full([], sigma, jnp.float32),
        )
        return one, PESReparamState(pair, xi, perturb.where(finite, slope, perturb.zeros_like(slope)))

    return from_particle(init_one, estimate_one, num_particles, 2 * truncation_length)
