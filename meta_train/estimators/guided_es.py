"""Evolution strategies whose noise is concentrated on surrogate gradients."""

from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Gt, Le
from jax.flatten_util import ravel_pytree

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, from_particle
from meta_train.core.system import Rollout, UnrolledSystem, finished, start, window_loss
from meta_train.estimators.factory import Count, Positive, factory
from meta_train.estimators.window import difference


class GuidedESState(NamedTuple):
    """One antithetic pair."""

    pair: Rollout  # both rollouts, leaves [2, ...]: pos, neg
    mean: Rollout  # a rollout with theta itself, which the surrogate gradients come from
    xi: jax.Array  # f32[P], the sum over the inner problem's windows of eps / sigma^2
    surrogates: jax.Array  # f32[k, P], truncated gradients of the last k windows
    guided: jax.Array  # bool[], whether the noise of this inner problem lies in the span of the surrogates


@factory(differentiates=True)
def guided_es(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    sigma: Positive = 0.01,
    num_surrogates: Count = 4,
    isotropy: Annotated[float, Gt(0), Le(1)] = 0.5,
    stagger: bool = True,
) -> GradientEstimator:
    """PES with noise along truncated gradients or across them (after Maheswaranathan et al. 2019).

    U is an orthonormal basis of the last k truncated gradients. All noise of an inner problem lies in the
    span of U with probability 1 - a, outside of it with probability a; `xi <- (0 if restarted else xi) + eps
    / sigma^2; grad = xi * mean(L+ - L-) / (2 p)`, p the probability of what was drawn.

    Bias: none for linear and quadratic losses; otherwise both parts of the gradient are that of the objective
      smoothed by noise in their own space (theta frozen).
    Variance: `S(k, U g) / (1 - a) + S(d - k, g - U g) / a - |G|^2` for a linear loss, U g the part of g in
      the span, `S(d, g) = d w sum_j |g_j|^2 + 2 |sum_j g_j|^2` in window w (PES: `S(d, g) - |G|^2`). In the
      first window it is `(k + 2) / (1 - a) - 1` times |G|^2 where the surrogates hold the whole gradient,
      `(d - k + 2) / a - 1` where they hold nothing of it; PES has d + 1.
    Cost: about 6 K steps; memory 3 |inner state| + (k + 1) |theta|, and K |inner state| and (k + 3) |theta|
      while a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: PES with `isotropy` = 1, and where k >= |theta|.

    Args:
      num_surrogates: k.
      isotropy: a, the share of the inner problems whose noise lies outside of the span of the surrogates.

    Source: Maheswaranathan et al., "Guided evolutionary strategies: augmenting random search with surrogate
      gradients", ICML 2019.
    Differs from it in: the noise is persistent, and lies either in the span or outside of it: their single
      draw with a stretched covariance C estimates C times the gradient, and undoing that by C^-1 costs more
      variance than PES has, the more the better the surrogates are. The surrogates are truncated gradients of
      the particle's own earlier windows.
    """
    options = system, truncation_length, sigma, num_surrogates, isotropy
    first = truncation_length if stagger else None
    return from_particle(
        partial(_init_one, system, num_surrogates, isotropy, first),
        partial(_estimate_one, *options),
        num_particles,
        3 * truncation_length,
    )


def _init_one(system, num_surrogates, isotropy, first, theta, key) -> GuidedESState:
    mean = start(system, theta, key, stagger=first)
    flat, _ = ravel_pytree(theta)
    surrogates = jnp.zeros((min(num_surrogates, flat.size), flat.size), flat.dtype)
    guided = ~jax.random.bernoulli(jax.random.fold_in(key, 0), isotropy)
    return GuidedESState(perturb.stack(mean, mean), mean, jnp.zeros_like(flat), surrogates, guided)


def _estimate_one(system, num_steps, sigma, num_surrogates, isotropy, theta, state: GuidedESState, key, data):
    key_restart, key_eps, key_unroll = jax.random.split(key, 3)
    restarted = finished(state.pair).any() | finished(state.mean)
    drawn = ~jax.random.bernoulli(jax.random.fold_in(key_restart, 0), isotropy)
    guided = jnp.where(restarted, drawn, state.guided)
    flat, unravel = ravel_pytree(theta)
    noise, _ = ravel_pytree(perturb.gaussian_like(key_eps, theta))
    chance = 1.0
    if isotropy < 1 and num_surrogates < flat.size:
        noise = part_of(noise, state.surrogates, guided)
        chance = jnp.where(guided, 1 - isotropy, isotropy)
    xi = jnp.where(restarted, 0, state.xi) + noise / sigma
    window = window_loss(system, restarted, key_restart, key_unroll, data, num_steps)
    thetas = jax.vmap(unravel)(perturb.antithetic(flat, sigma * noise))
    _, (losses, pair) = jax.vmap(window)(thetas, state.pair)
    (_, (_, mean)), surrogate = jax.value_and_grad(window, has_aux=True)(theta, state.mean)
    surrogate, _ = ravel_pytree(surrogate)
    shifted = jnp.concatenate([surrogate[None], state.surrogates[:-1]])
    surrogates = jnp.where(jnp.isfinite(surrogate).all(), shifted, state.surrogates)
    delta = difference(losses)
    one = OneParticle(
        direction=unravel(xi),
        weight=delta / (2 * chance),
        loss=losses.mean(),
        delta=delta,
        restarted=restarted,
        diverged=pair.diverged.any() | mean.diverged,
        sigma=sigma,
    )
    return one, GuidedESState(pair, mean, xi, surrogates, guided)


def part_of(noise: jax.Array, surrogates: jax.Array, inside: jax.Array) -> jax.Array:
    """The part of noise f32[P] that lies in the span of surrogates f32[k, P], or the rest of it."""
    norms = jnp.linalg.norm(surrogates, axis=1, keepdims=True)
    # Surrogates of unit norm: the basis must not depend on the scale of the loss.
    basis, _ = jnp.linalg.qr((surrogates / jnp.where(norms > 0, norms, 1)).T)
    part = basis @ (basis.T @ noise)
    return jnp.where(inside, part, noise - part)
