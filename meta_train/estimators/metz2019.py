"""Backpropagated and evolution-strategy gradients, weighed by their variances."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Lt

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


class Metz2019State(NamedTuple):
    """One particle: its rollout, and running mean squares (like theta) of its gradients of both kinds."""

    rollout: Rollout
    sq_path: Any
    sq_es: Any


def metz2019(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    decay: Annotated[float, Ge(0), Lt(1)] = 0.9,
    stagger: bool = True,
) -> GradientEstimator:
    """Inverse-variance mix of reparameterisation and ES gradients (Metz et al. 2019).

    `grad = (g_path / v_path + g_es / v_es) / (1 / v_path + 1 / v_es)`, number by number of theta, both from
    the same antithetic pair.

    Bias: truncation: what theta did before the window counts as given. Can have the wrong sign.
    Variance: about the smaller one of the two: backpropagation where it is smooth, ES where it is chaotic.
    Cost: about 9 K steps; memory 2 |theta|, and 2 K |inner state| and 3 |theta| while a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: truncated ES where backpropagated gradients are not finite.

    Args:
      system: what is unrolled; its lengths must be multiples of `truncation_length`.
      num_particles: N, antithetic pairs.
      truncation_length: K, steps of one window; T for the smoothed gradient of whole inner problems.
      sigma: std of the perturbation, in units of theta.
      decay: of the running mean squares, in windows.
      stagger: draws every particle's first length short, so that particles are out of phase.

    Returns:
      A `GradientEstimator`.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths.

    Source: Metz et al., "Understanding and correcting pathologies in the training of learned
      optimizers", ICML 2019.
    Differs from it in: the weights come from the mean squares of the particle's own earlier windows, not
      from the variance over the particles of this one, which would bias the mix.
    """
    check_differentiable(system, "metz2019")
    check_truncation(system, truncation_length)
    if sigma <= 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")

    def init_one(theta, key):
        rollout = start(system, theta, key, stagger=truncation_length if stagger else None)
        zeros = perturb.zeros_like(theta)
        return Metz2019State(rollout, zeros, zeros)

    def estimate_one(theta, state, key, data):
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        restarted = finished(state.rollout)
        noise = perturb.gaussian_like(key_eps, theta)

        def mean_loss(theta):
            begin = restart_if(restarted, system, theta, state.rollout, key_restart)
            end, losses = unroll(system, theta, begin, key_unroll, data, truncation_length, remat=True)
            return losses.mean(), (losses, end.diverged, end)

        thetas = perturb.antithetic(theta, perturb.scale(sigma, noise))
        (means, (losses, diverged, _)), grads = jax.vmap(jax.value_and_grad(mean_loss, has_aux=True))(thetas)
        _, (_, _, end) = mean_loss(theta)
        delta = (losses[0] - losses[1]).mean()
        es = perturb.scale(delta / (2 * sigma), noise)
        path = jax.tree.map(lambda g: g.mean(0), grads)
        path = perturb.where(jnp.isfinite(perturb.sq_norm(path)), path, es)

        mix = jax.tree.map(_mix, path, es, state.sq_path, state.sq_es)
        one = OneParticle(
            direction=mix,
            weight=jnp.ones([]),
            loss=means.mean(),
            delta=delta,
            restarted=restarted,
            diverged=end.diverged | diverged.any(),
            sigma=jnp.full([], sigma, jnp.float32),
        )

        def running(mean_sq, grad):
            return jax.tree.map(lambda m, g: decay * m + (1 - decay) * jnp.square(g), mean_sq, grad)

        return one, Metz2019State(end, running(state.sq_path, path), running(state.sq_es, es))

    return from_particle(init_one, estimate_one, num_particles, 3 * truncation_length)


def _mix(path, es, sq_path, sq_es):
    """Weights 1 / variance, half and half before the first window."""
    total = sq_path + sq_es
    share = jnp.where(total > 0, sq_es / jnp.where(total > 0, total, 1), 0.5)
    return share * path + (1 - share) * es
