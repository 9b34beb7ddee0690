"""Persistent evolution strategies whose newest noise is replaced by backpropagation: two hybrids."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, from_particle
from meta_train.core.system import Rollout, UnrolledSystem, finished, start, window_loss
from meta_train.estimators.factory import Count, Positive, factory
from meta_train.estimators.window import difference


class PESAnalyticState(NamedTuple):
    """One particle: the pair (leaves [2, ...]), a rollout with theta itself, and xi, like theta."""

    pair: Rollout
    mean: Rollout
    xi: Any


class _Options(NamedTuple):
    system: UnrolledSystem
    window: int
    sigma: float
    stagger: bool
    pathwise: bool  # the newest part from the pair's own gradients, instead of that at theta itself


@factory(differentiates=True)
def pes_analytic(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    sigma: Positive = 0.01,
    stagger: bool = True,
) -> GradientEstimator:
    """PES whose newest noise is replaced by backpropagation (Vicol, Metz & Sohl-Dickstein 2021).

    `grad = g + (mean(L+ - L-) / 2 - eps . g) xi`, then `xi <- xi + eps / sigma^2`; g is the gradient of
    the window at theta itself.

    Bias: none for quadratic losses; otherwise of order sigma^2 (the running window is not smoothed, the
      older ones are).
    Variance: PES's with both sums over the older windows alone, and w - 1 for w: the newest noise adds none.
    Cost: about 6 K steps; memory 3 |inner state| + |theta|, and K |inner state| and 3 |theta| while
      a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: TBPTT in the first window of an inner problem; PES where the gradient or a loss is not
      finite.

    Source: Vicol, Metz & Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with
      Persistent Evolution Strategies", ICML 2021, the PES+Analytic variant of the public code.
    Differs from it in: each pair has a rollout with theta itself, with its own data.
    """
    return _hybrid(_Options(system, truncation_length, sigma, stagger, pathwise=False), num_particles)


@factory(differentiates=True)
def pes_reparam(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    sigma: Positive = 0.01,
    stagger: bool = True,
) -> GradientEstimator:
    """PES whose newest noise is pathwise: an exact hybrid with backpropagation.

    `grad = g + (mean(L+ - L-) / 2 - eps . c) xi`, then `xi <- xi + eps / sigma^2`; g is the mean of the
    pair's own gradients of the window, c that at theta itself (a control variate, which knows no eps).

    Bias: none for the objective smoothed by independent noise per window, theta frozen.
    Variance: PES's with both sums over the older windows alone, and w - 1 for w: the newest noise adds none.
    Cost: about 12 K steps; memory 3 |inner state| + |theta|, and 3 K |inner state| and 4 |theta| while
      a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: reparam in the first window of an inner problem; PES where a gradient or a loss is not
      finite.

    Source: Vicol, Metz & Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with
      Persistent Evolution Strategies", ICML 2021 (PES+Analytic).
    Differs from it in: gradients at the perturbed thetas instead of at theta, which makes it exact.
    """
    return _hybrid(_Options(system, truncation_length, sigma, stagger, pathwise=True), num_particles)


def _hybrid(o: _Options, num_particles: int) -> GradientEstimator:
    rollouts = 3 * o.window
    return from_particle(partial(_init_one, o), partial(_estimate_one, o), num_particles, rollouts)


def _init_one(o: _Options, theta, key) -> PESAnalyticState:
    mean = start(o.system, theta, key, stagger=o.window if o.stagger else None)
    return PESAnalyticState(perturb.stack(mean, mean), mean, perturb.zeros_like(theta))


def _estimate_one(o: _Options, theta, state: PESAnalyticState, key, data):
    key_restart, key_eps, key_unroll = jax.random.split(key, 3)
    restarted = finished(state.pair).any() | finished(state.mean)
    xi = perturb.where(restarted, perturb.zeros_like(theta), state.xi)
    noise = perturb.gaussian_like(key_eps, theta)
    eps = perturb.scale(o.sigma, noise)
    window = window_loss(o.system, restarted, key_restart, key_unroll, data, o.window)
    with_gradient = jax.value_and_grad(window, has_aux=True)
    thetas = perturb.antithetic(theta, eps)
    (_, (_, mean)), control = with_gradient(theta, state.mean)
    if o.pathwise:
        (_, (losses, pair)), grads = jax.vmap(with_gradient)(thetas, state.pair)
        grad = jax.tree.map(lambda g: g.mean(0), grads)
    else:
        (_, (losses, pair)), grad = jax.vmap(window)(thetas, state.pair), control

    delta = difference(losses)
    hybrid = perturb.add_scaled(grad, delta / 2 - perturb.dot(eps, control), xi)
    xi = perturb.add_scaled(xi, 1 / o.sigma, noise)
    diverged = pair.diverged.any() | mean.diverged
    # Backpropagation does not see the jump to the worst loss: a pair that diverged is left to PES.
    smooth = jnp.isfinite(perturb.sq_norm(grad) + perturb.sq_norm(control)) & ~diverged
    one = OneParticle(
        direction=perturb.where(smooth, hybrid, perturb.scale(delta / 2, xi)),
        loss=losses.mean(),
        delta=delta,
        restarted=restarted,
        diverged=diverged,
        sigma=o.sigma,
    )
    return one, PESAnalyticState(pair, mean, xi)
