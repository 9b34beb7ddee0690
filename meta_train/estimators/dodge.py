"""Forward gradients through time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, from_particle
from meta_train.core.system import Rollout, UnrolledSystem, finished, start, window_loss
from meta_train.estimators.factory import PATHWISE, Count, factory
from meta_train.estimators.window import floats_of, of_floats


class DodgeState(NamedTuple):
    """One particle."""

    rollout: Rollout  # where it is
    tangent: list[jax.Array]  # float leaves of the state, moved by theta in the direction `v`
    episode_key: jax.Array  # key[]; block b of the inner problem has its v from `fold_in(episode_key, b)`
    xi: Any  # like theta, the sum of the inner problem's v; None where there is only one


@factory(differentiates=True, returns=PATHWISE)
def dodge(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    noise_period: Count | None = None,
    stagger: bool = True,
) -> GradientEstimator:
    """Directional derivatives, carried forward (Silver et al. 2021).

    `tangent <- ds'/ds tangent + ds'/dtheta v; grad = xi * mean(dL)`, v ~ N(0, 1), xi the sum of the v so
    far: NRES (PES with a `noise_period`) in the limit of a small sigma, at half its price.

    Bias: none, theta frozen during an inner problem.
    Variance: `(d + 1) |G|^2`, d = |theta|, G the gradient of the window's loss (without a `noise_period`).
    Cost: about 3 K steps; memory 2 |inner state|, and |theta| while a window runs (2 with a `noise_period`).
    Needs: a system that is differentiable in theta and state, forward mode.
    Reduces to: NRES as sigma goes to 0; PES with `noise_period` = K.

    Args:
      num_particles: N rollouts, each with a direction.
      noise_period: steps that one direction lasts, a multiple of K; None for the whole inner problem.

    Source: Silver et al., "Learning by Directional Gradient Descent", ICLR 2022; in this form the
      comparison of Li et al., "Noise-Reuse in Online Evolution Strategies", NeurIPS 2023.
    Differs from it in: random directions only, none learned.
    """

    def init_one(theta, key):
        key_start, episode_key = jax.random.split(key)
        rollout = start(system, theta, key_start, stagger=truncation_length if stagger else None)
        tangent = [jnp.zeros_like(x) for x in floats_of(rollout.state)]
        xi = None if noise_period is None else perturb.zeros_like(theta)
        return DodgeState(rollout, tangent, episode_key, xi)

    def estimate_one(theta, state, key, data):
        key_restart, key_episode, key_unroll = jax.random.split(key, 3)
        rollout = state.rollout
        restarted = finished(rollout)
        t = jnp.where(restarted, 0, rollout.t)
        episode_key = jnp.where(restarted, key_episode, state.episode_key)
        v = perturb.gaussian_like(
            jax.random.fold_in(episode_key, 0 if noise_period is None else t // noise_period), theta
        )
        xi, direction = None, v
        if noise_period is not None:
            xi = perturb.where(restarted, perturb.zeros_like(theta), state.xi)
            xi = direction = perturb.add_scaled(xi, t % noise_period == 0, v)

        window = window_loss(system, restarted, key_restart, key_unroll, data, truncation_length)
        (_, loss), (tangent, slope), end = jax.jvp(
            of_floats(window, rollout), (theta, floats_of(rollout.state)), (v, state.tangent), has_aux=True
        )
        finite = jnp.isfinite(slope)
        end = end._replace(diverged=end.diverged | ~finite)
        one = OneParticle(
            direction=direction,
            weight=jnp.where(finite, slope, 0.0),
            loss=loss,
            restarted=restarted,
            diverged=end.diverged,
        )
        return one, DodgeState(end, tangent, episode_key, xi)

    return from_particle(init_one, estimate_one, num_particles, truncation_length)
