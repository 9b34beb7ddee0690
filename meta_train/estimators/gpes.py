"""Generalised persistent evolution strategies: the one core of PES, NRES and full ES."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, from_particle
from meta_train.core.system import (
    Rollout,
    UnrolledSystem,
    check_truncation,
    finished,
    restart_if,
    start,
    unroll,
)
from meta_train.estimators.noise import (
    PLAIN,
    Noise,
    check_noise,
    draw,
    draw_size,
    first_calls,
    particle_keys,
    sigma_now,
)


class GPESState(NamedTuple):
    """One antithetic pair.

    Attributes:
      pair: both rollouts, leaves [2, ...]: pos, neg.
      episode_key: key[]; names the noise of the current inner problem: block b of it is drawn from
        `fold_in(episode_key, b)`, so that no noise needs to be stored.
      sigma: f32[], std of the noise drawn from now on (of a schedule: at its begin). A leaf: changing it
        never recompiles.
      drawn_sigma: f32[], std of the noise in use.
      xi: like theta, the sum over the inner problem's blocks of eps / sigma^2; None where there is
        only one block.
      calls: i32[], windows since the run began; None where sigma has no schedule.
    """

    pair: Rollout
    episode_key: jax.Array
    sigma: jax.Array
    drawn_sigma: jax.Array
    xi: Any
    calls: jax.Array | None


def gpes(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    noise_period: Annotated[int, Ge(1)] | None = None,
    sigma: Annotated[float, Gt(0)] = 0.01,
    delta_clip: Annotated[float, Gt(0)] | None = None,
    stagger: bool = True,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Persistent ES with any noise period (Li et al. 2023).

    A new perturbation eps every `noise_period` steps of an inner problem, kept in between:
    `xi <- (0 if restarted else xi) + eps / sigma^2` (once per eps); `grad = xi * mean(L+ - L-) / 2`.

    Bias: none for the smoothed objective (theta + independent noise per block of `noise_period`
      steps), theta frozen during an inner problem.
    Variance: least for None where windows influence each other alike; shorter periods add noise
      that grows with the number of blocks, but average better over one long inner problem.
    Cost: 2 K steps of a pair; memory 2 |inner state|, |theta| for xi (none if `noise_period` is
      None), 2 |theta| while a window runs.
    Reduces to: PES (`noise_period` = K); NRES (`noise_period` = None or >= T); full ES (K = T).

    Args:
      system: what is unrolled; its lengths must be multiples of `truncation_length`.
      num_particles: N, antithetic pairs.
      truncation_length: K, steps of one window.
      noise_period: steps that one perturbation lasts, a multiple of K; None for the whole inner problem.
      sigma: std of the perturbation, in units of theta.
      delta_clip: clips each pair's difference of mean losses to +- this; a bias against heavy tails.
      stagger: draws every particle's first length short, so that particles (cohorts, where they are
        orthogonal) are out of phase.
      noise: orthogonal pairs, common random numbers, a schedule of sigma, sigma of single leaves.

    Returns:
      A `GradientEstimator` whose state holds `GPESState`s with leaves [N, ...].

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths,
        `noise_period` that is not a multiple of it.

    Source: Li et al., "Noise-Reuse in Online Evolution Strategies", NeurIPS 2023, Algorithm 2.
    Differs from it in: restarts only between windows, an accumulator in units of eps / sigma^2 (unbiased
      when sigma changes), noise regenerated from keys, staggered particles.
    """
    check_truncation(system, truncation_length)
    check_noise(noise, sigma, num_particles)
    if noise_period is not None and (noise_period < 1 or noise_period % truncation_length):
        raise ValueError(
            f"noise_period must be a multiple of truncation_length ({truncation_length}) or None, "
            f"got {noise_period}"
        )
    accumulates = noise_period is not None

    def init_one(theta, keys):
        key_start, _ = jax.random.split(keys.system)
        key_stagger, episode_key = jax.random.split(keys.noise)
        eps, _ = draw(noise, jax.random.fold_in(episode_key, 0), keys.member, theta)
        together = key_stagger if noise.orthogonal else None
        first = truncation_length if stagger else None
        pair = jax.vmap(lambda theta: start(system, theta, key_start, stagger=first, key_stagger=together))(
            perturb.antithetic(theta, perturb.scale(sigma, eps))
        )
        xi = perturb.zeros_like(theta) if accumulates else None
        s = jnp.full([], sigma, jnp.float32)
        return GPESState(pair, episode_key, s, s, xi, first_calls(noise))

    def estimate_one(theta, state, keys, data):
        key_restart, _, key_unroll = jax.random.split(keys.system, 3)
        _, key_episode, _ = jax.random.split(keys.noise, 3)
        restarted = finished(state.pair).any()
        t = jnp.where(restarted, 0, state.pair.t[0])
        episode_key = jnp.where(restarted, key_episode, state.episode_key)
        block, begins = (0, t == 0) if noise_period is None else (t // noise_period, t % noise_period == 0)
        drawn_sigma = jnp.where(begins, sigma_now(noise, state.sigma, sigma, state.calls), state.drawn_sigma)
        perturbed = perturb.in_groups(accumulate if accumulates else reuse, draw_size(noise, theta))
        xi, (thetas, direction) = perturbed(
            state.xi,
            theta,
            jax.random.fold_in(episode_key, block),
            keys.member,
            drawn_sigma,
            begins,
            restarted,
        )
        # One stacked call: both halves see the same keys.
        pair, losses = jax.vmap(window, (None, 0, 0, None, None, None))(
            restarted, thetas, state.pair, key_restart, key_unroll, data
        )
        delta = (losses[0] - losses[1]).mean()  # difference first: equal losses cancel exactly
        if delta_clip is not None:
            delta = jnp.clip(delta, -delta_clip, delta_clip)
        direction, weight = (xi, delta / 2) if accumulates else (direction, delta / (2 * drawn_sigma))
        one = OneParticle(
            direction, weight, losses.mean(), delta, restarted, pair.diverged.any(), drawn_sigma
        )
        calls = None if state.calls is None else state.calls + 1
        return one, GPESState(pair, episode_key, state.sigma, drawn_sigma, xi, calls)

    def accumulate(xi, theta, key, member, sigma, begins, restarted):
        eps, score = draw(noise, key, member, theta)
        xi = perturb.where(restarted, perturb.zeros_like(theta), xi)
        xi = perturb.add_scaled(xi, begins / sigma, score)  # eps / sigma^2
        return xi, (perturb.antithetic(theta, perturb.scale(sigma, eps)), None)

    def reuse(xi, theta, key, member, sigma, begins, restarted):
        eps, score = draw(noise, key, member, theta)
        return xi, (perturb.antithetic(theta, perturb.scale(sigma, eps)), score)

    def window(restarted, theta, rollout, key_restart, key_unroll, data):
        rollout = restart_if(restarted, system, theta, rollout, key_restart)
        return unroll(system, theta, rollout, key_unroll, data, truncation_length)

    return from_particle(
        init_one, estimate_one, num_particles, 2 * truncation_length, keys=particle_keys(noise)
    )
