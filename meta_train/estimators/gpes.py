"""Generalised persistent evolution strategies, and their presets PES, NRES and full ES."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, from_particle, whole_length
from meta_train.core.system import Rollout, UnrolledSystem, finished, restart_if, start, unroll
from meta_train.estimators.factory import Count, Positive, factory
from meta_train.estimators.noise import (
    PLAIN,
    Noise,
    check_noise,
    draw,
    draw_size,
    first_calls,
    particle_keys,
    sigma_now,
    stagger_key,
)
from meta_train.estimators.window import difference


class GPESState(NamedTuple):
    """One antithetic pair."""

    pair: Rollout  # both rollouts, leaves [2, ...]: pos, neg
    # key[]; names the noise of the current inner problem: block b of it is drawn from `fold_in(episode_key,
    # b)`, so that no noise needs to be stored
    episode_key: jax.Array
    # f32[], std of the noise drawn from now on (of a schedule: at its start). It is a leaf, so that changing
    # it never recompiles
    sigma: jax.Array
    drawn_sigma: jax.Array  # f32[], std of the noise in use
    # like theta, the sum over the inner problem's blocks of eps / sigma^2; None where there is only one block
    xi: Any
    calls: jax.Array | None  # i32[], windows since the run began; None where sigma has no schedule


class _Options(NamedTuple):
    """The options of `gpes`, for the functions that its work is divided among."""

    system: UnrolledSystem
    window: int
    period: int | None
    sigma: float
    clip: float | None
    stagger: bool
    noise: Noise


@factory()
def gpes(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    noise_period: Count | None = None,
    sigma: Positive = 0.01,
    delta_clip: Positive | None = None,
    stagger: bool = True,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Persistent ES with any noise period (Li et al. 2023).

    A new perturbation eps every `noise_period` steps of an inner problem, kept in between:
    `xi <- (0 if restarted else xi) + eps / sigma^2` (once per eps); `grad = xi * mean(L+ - L-) / 2`.

    Bias: none for the smoothed objective (theta + independent noise per block of `noise_period`
      steps), theta frozen during an inner problem.
    Variance: `d b sum_i |g_i|^2 + |sum_i g_i|^2` for a linear loss in block b, d = |theta|, g_i its gradient
      by the theta of block i.
    Cost: 2 K steps of a pair; memory 2 |inner state|, |theta| for xi (none if `noise_period` is
      None), 2 |theta| while a window runs.
    Reduces to: PES (`noise_period` = K); NRES (`noise_period` = None or >= T); full ES (K = T).

    Source: Li et al., "Noise-Reuse in Online Evolution Strategies", NeurIPS 2023, Algorithm 2.
    Differs from it in: restarts only between windows, an accumulator in units of eps / sigma^2 (unbiased
      when sigma changes), noise regenerated from keys, staggered particles.
    """
    options = _Options(system, truncation_length, noise_period, sigma, delta_clip, stagger, noise)
    return _pairs(options, num_particles)


def _pairs(o: _Options, num_particles: int) -> GradientEstimator:
    check_noise(o.noise, num_particles)
    rules = partial(_init_one, o), partial(_estimate_one, o)
    return from_particle(*rules, num_particles, 2 * o.window, keys=particle_keys(o.noise))


def _init_one(o: _Options, theta, keys) -> GPESState:
    key_start, _ = jax.random.split(keys.system)
    key_stagger, episode_key = jax.random.split(keys.noise)
    eps, _ = draw(o.noise, jax.random.fold_in(episode_key, 0), keys.member, theta)
    begin = partial(
        start,
        o.system,
        key=key_start,
        stagger=o.window if o.stagger else None,
        key_stagger=stagger_key(o.noise, key_stagger),
    )
    pair = jax.vmap(lambda theta: begin(theta))(perturb.antithetic(theta, perturb.scale(o.sigma, eps)))
    xi = None if o.period is None else perturb.zeros_like(theta)
    sigma = jnp.full([], o.sigma, jnp.float32)
    return GPESState(pair, episode_key, sigma, sigma, xi, first_calls(o.noise))


def _estimate_one(o: _Options, theta, state: GPESState, keys, data) -> tuple[OneParticle, GPESState]:
    key_restart, _, key_unroll = jax.random.split(keys.system, 3)
    _, key_episode, _ = jax.random.split(keys.noise, 3)
    restarted = finished(state.pair).any()
    t = jnp.where(restarted, 0, state.pair.t[0])
    episode_key = jnp.where(restarted, key_episode, state.episode_key)
    block, begins = (0, t == 0) if o.period is None else (t // o.period, t % o.period == 0)
    sigma = jnp.where(begins, sigma_now(o.noise, state.sigma, o.sigma, state.calls), state.drawn_sigma)
    perturbed = perturb.in_groups(partial(_perturb, o.noise), draw_size(o.noise, theta))
    key_eps = jax.random.fold_in(episode_key, block)
    xi, (thetas, score) = perturbed(state.xi, theta, key_eps, keys.member, sigma, begins, restarted)

    def window(theta, rollout, restarted, data):
        rollout = restart_if(restarted, o.system, theta, rollout, key_restart)
        return unroll(o.system, theta, rollout, key_unroll, data, o.window)

    # One stacked call: both halves see the same keys.
    pair, losses = jax.vmap(window, (0, 0, None, None))(thetas, state.pair, restarted, data)
    delta = difference(losses, o.clip)
    one = OneParticle(
        direction=score if xi is None else xi,
        weight=delta / (2 * sigma) if xi is None else delta / 2,
        loss=losses.mean(),
        delta=delta,
        restarted=restarted,
        diverged=pair.diverged.any(),
        sigma=sigma,
    )
    calls = None if state.calls is None else state.calls + 1
    return one, GPESState(pair, episode_key, state.sigma, sigma, xi, calls)


def _perturb(noise: Noise, xi, theta, key, member, sigma, begins, restarted):
    """xi with this block's eps / sigma^2 (None where it does not accumulate), both thetas, and the score."""
    eps, score = draw(noise, key, member, theta)
    if xi is not None:
        xi = perturb.where(restarted, perturb.zeros_like(theta), xi)
        xi, score = perturb.add_scaled(xi, begins / sigma, score), None
    return xi, (perturb.antithetic(theta, perturb.scale(sigma, eps)), score)


@factory()
def pes(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    sigma: Positive = 0.01,
    delta_clip: Positive | None = None,
    stagger: bool = True,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Persistent evolution strategies (Vicol, Metz & Sohl-Dickstein 2021).

    `xi <- (0 if restarted else xi) + eps / sigma^2; grad = xi * mean(L+ - L-) / 2`, eps new in every window.

    Bias: none for the objective smoothed by independent noise per window, theta frozen.
    Variance: `d w sum_j |g_j|^2 + |sum_j g_j|^2` for a linear loss in window w, d = |theta|, g_j its gradient
      by the theta of window j. NRES's is `(d + 1) |sum_j g_j|^2`: never more, the same where all g_j are
      equal, and less without bound where they cancel.
    Cost: 2 K steps of a pair; memory 2 |inner state| + |theta|, and 2 |theta| while a window runs.
    Reduces to: `gpes(noise_period=K)`; truncated ES where T = K.

    Source: Vicol, Metz & Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with
      Persistent Evolution Strategies", ICML 2021, Algorithm 2.
    Differs from it in: the mean loss per step instead of the window's sum; staggered particles with
      data of their own; exact under a changing sigma.
    """
    window = period = truncation_length
    return _pairs(_Options(system, window, period, sigma, delta_clip, stagger, noise), num_particles)


@factory()
def nres(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    sigma: Positive = 0.01,
    delta_clip: Positive | None = None,
    stagger: bool = True,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Noise-reuse evolution strategies (Li et al. 2023; ES-Single, Vicol et al. 2023).

    `grad = eps / sigma^2 * mean(L+ - L-) / 2`, eps drawn at the restart and kept for the whole inner problem.

    Bias: none for the objective smoothed by one perturbation per inner problem, theta frozen.
    Variance: `(d + 1) |G|^2` for a linear loss, d = |theta|, G the gradient of the window's loss: the least
      among `gpes` periods for one window.
    Cost: 2 K steps of a pair; memory 2 |inner state| and a key, and 2 |theta| while a window runs.
    Reduces to: `gpes(noise_period=None)`; truncated ES where T = K.

    Source: Li et al., "Noise-Reuse in Online Evolution Strategies", NeurIPS 2023; Vicol, Kolter & Swersky,
      "Low-Variance Gradient Estimation in Unrolled Computation Graphs with ES-Single", ICML 2023.
    Differs from it in: the noise is regenerated from its key, never stored.
    """
    options = _Options(system, truncation_length, None, sigma, delta_clip, stagger, noise)
    return _pairs(options, num_particles)


@factory()
def full_es(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    sigma: Positive = 0.01,
    delta_clip: Positive | None = None,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Evolution strategies without truncation.

    `grad = eps / sigma^2 * mean(L+ - L-) / 2`, one whole inner problem per outer step (K = T).

    Bias: none for the objective smoothed by one perturbation per inner problem; theta need not be frozen.
    Variance: `(d + 1) |G|^2` for a linear loss, d = |theta|, G the gradient of the mean loss.
    Cost: 2 T steps of a pair for one outer step; memory 2 |inner state|, and 2 |theta| while it runs.
    Reduces to: `gpes(truncation_length=T)`.

    Source: Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017.
    Differs from it in: no rank shaping (it would bias the gradient).
    """
    options = _Options(system, whole_length(system, "full_es"), None, sigma, delta_clip, False, noise)
    return _pairs(options, num_particles)
