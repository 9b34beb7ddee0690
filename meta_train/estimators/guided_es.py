"""Evolution strategies whose noise leans towards surrogate gradients."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le
from jax.flatten_util import ravel_pytree

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


class GuidedESState(NamedTuple):
    """One particle.

    Attributes:
      pair: both rollouts, leaves [2, ...]: pos, neg.
      mean: a rollout with theta itself, which the surrogate gradients come from.
      xi: f32[P], the sum over the inner problem's windows of C^-1 eps / sigma^2.
      surrogates: f32[k, P], truncated gradients of the last k windows.
    """

    pair: Rollout
    mean: Rollout
    xi: jax.Array
    surrogates: jax.Array


def guided_es(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    num_surrogates: Annotated[int, Ge(1)] = 4,
    isotropy: Annotated[float, Gt(0), Le(1)] = 0.5,
    stagger: bool = True,
) -> GradientEstimator:
    """PES with noise stretched along truncated gradients (Maheswaranathan et al. 2019).

    `eps ~ N(0, sigma^2 C)`, `C = a I + (1 - a) P / k U U^T`, U an orthonormal basis of the last k truncated
    gradients; `xi <- (0 if restarted else xi) + C^-1 eps / sigma^2; grad = xi * mean(L+ - L-) / 2`.

    Bias: none for the objective smoothed by this noise, theta frozen.
    Variance: below that of PES where the surrogates hold much of the gradient, up to 1 / a above it where
      they do not.
    Cost: about 6 K steps; memory 3 |inner state| + (k + 1) |theta|, and K |inner state| and (k + 3) |theta|
      while a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: PES with `isotropy` = 1.

    Args:
      system: what is unrolled; its lengths must be multiples of `truncation_length`.
      num_particles: N, antithetic pairs.
      truncation_length: K, steps of one window.
      sigma: std of the perturbation, in units of theta, root of the mean over theta's P numbers.
      num_surrogates: k, at most |theta| of them are used.
      isotropy: a, the share of the noise that leans nowhere.
      stagger: draws every particle's first length short, so that particles are out of phase.

    Returns:
      A `GradientEstimator`.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths.

    Source: Maheswaranathan et al., "Guided evolutionary strategies: augmenting random search with surrogate
      gradients", ICML 2019.
    Differs from it in: the noise is persistent; C^-1 makes the estimate that of the gradient, not of C
      times it; the surrogates are truncated gradients of the particle's own earlier windows.
    """
    check_differentiable(system, "guided_es")
    check_truncation(system, truncation_length)
    if sigma <= 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")
    if num_surrogates < 1:
        raise ValueError(f"num_surrogates must be >= 1, got {num_surrogates}")
    if not 0 < isotropy <= 1:
        raise ValueError(f"isotropy must be in (0, 1], got {isotropy}")

    def init_one(theta, key):
        mean = start(system, theta, key, stagger=truncation_length if stagger else None)
        flat, _ = ravel_pytree(theta)
        surrogates = jnp.zeros((min(num_surrogates, flat.size), flat.size), flat.dtype)
        return GuidedESState(perturb.stack(mean, mean), mean, jnp.zeros_like(flat), surrogates)

    def estimate_one(theta, state, key, data):
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        restarted = finished(state.pair).any() | finished(state.mean)
        fresh = restarted | (state.mean.t == 0)  # the first start too is one with perturbed thetas
        flat, unravel = ravel_pytree(theta)
        noise, score = guided_noise(key_eps, state.surrogates, isotropy)
        xi = jnp.where(restarted, 0, state.xi) + score / sigma

        def window(theta, rollout):
            begin = restart_if(fresh, system, theta, rollout, key_restart)
            begin = begin._replace(length=jnp.where(restarted, begin.length, rollout.length))
            end, losses = unroll(system, theta, begin, key_unroll, data, truncation_length, remat=True)
            return losses.mean(), (losses, end)

        thetas = jax.vmap(unravel)(perturb.antithetic(flat, sigma * noise))
        _, (losses, pair) = jax.vmap(window)(thetas, state.pair)
        (_, (_, mean)), surrogate = jax.value_and_grad(window, has_aux=True)(theta, state.mean)
        surrogate, _ = ravel_pytree(surrogate)
        shifted = jnp.concatenate([surrogate[None], state.surrogates[:-1]])
        delta = (losses[0] - losses[1]).mean()
        one = OneParticle(
            direction=unravel(xi),
            weight=delta / 2,
            loss=losses.mean(),
            delta=delta,
            restarted=restarted,
            diverged=pair.diverged.any() | mean.diverged,
            sigma=jnp.full([], sigma, jnp.float32),
        )
        surrogates = jnp.where(jnp.isfinite(surrogate).all(), shifted, state.surrogates)
        return one, GuidedESState(pair, mean, xi, surrogates)

    return from_particle(init_one, estimate_one, num_particles, 3 * truncation_length)


def guided_noise(key: jax.Array, surrogates: jax.Array, isotropy: float) -> tuple[jax.Array, jax.Array]:
    """A draw from N(0, C), f32[P], and C^-1 times it. The key is consumed."""
    k, size = surrogates.shape
    key_all, key_guided = jax.random.split(key)
    norms = jnp.linalg.norm(surrogates, axis=1, keepdims=True)
    # Surrogates of unit norm: the basis must not hang on the scale of the loss.
    basis, _ = jnp.linalg.qr((surrogates / jnp.where(norms > 0, norms, 1)).T)
    noise = jnp.sqrt(isotropy) * jax.random.normal(key_all, (size,), surrogates.dtype)
    noise += jnp.sqrt((1 - isotropy) * size / k) * basis @ jax.random.normal(key_guided, (k,), basis.dtype)
    guided = isotropy + (1 - isotropy) * size / k  # variance inside the subspace
    return noise, noise / isotropy + basis @ (basis.T @ noise) * (1 / guided - 1 / isotropy)
