"""Truncated evolution strategies."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, from_particle
from meta_train.core.system import Rollout, UnrolledSystem, finished, start, window_loss
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


class TruncatedESState(NamedTuple):
    """One particle."""

    rollout: Rollout  # where it is
    sigma: jax.Array  # f32[], std of the noise drawn from now on (of a schedule: at its start)
    calls: jax.Array | None  # i32[], windows since the run began; None where sigma has no schedule


@factory()
def truncated_es(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    sigma: Positive = 0.01,
    carry: Literal["mean", "pos"] = "mean",
    delta_clip: Positive | None = None,
    stagger: bool = True,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Evolution strategies on truncated windows (Metz et al. 2019).

    `grad = eps / sigma^2 * mean(L+ - L-) / 2`, both halves from one shared state, eps new in every window.

    Bias: truncation: what theta did before the window counts as given. Can have the wrong sign.
    Variance: `(d + 1) |g|^2` for a linear loss, d = |theta|, g its gradient by the theta of its own window.
    Cost: 3 K steps (2 K with `carry="pos"`); memory |inner state|, and 3 |theta| while a window runs.
    Reduces to: full ES where T = K; TBPTT as sigma goes to 0.

    Args:
      carry: whose state goes on to the next window: a third rollout's with theta itself ("mean"), or
        the positive half's ("pos"), which is cheaper and walks with the noise.

    Source: Metz et al., "Understanding and correcting pathologies in the training of learned optimizers",
      ICML 2019.
    Differs from it in: no combination with backpropagated gradients.
    """
    check_noise(noise, num_particles)
    signs = (1, -1, 0) if carry == "mean" else (1, -1)

    def init_one(theta, keys):
        together = stagger_key(noise, jax.random.fold_in(keys.noise, 0))
        first = truncation_length if stagger else None
        rollout = start(system, theta, keys.system, stagger=first, key_stagger=together)
        return TruncatedESState(rollout, jnp.full([], sigma, jnp.float32), first_calls(noise))

    return from_particle(
        init_one,
        partial(_estimate_one, system, truncation_length, sigma, signs, delta_clip, noise),
        num_particles,
        len(signs) * truncation_length,
        keys=particle_keys(noise),
    )


def _estimate_one(system, window, sigma, signs, clip, noise, theta, state, keys, data):
    key_restart, _, key_unroll = jax.random.split(keys.system, 3)
    _, key_eps, _ = jax.random.split(keys.noise, 3)
    drawn_sigma, restarted = sigma_now(noise, state.sigma, sigma, state.calls), finished(state.rollout)

    def perturbations(_, theta, key, member, sigma):
        unit, score = draw(noise, key, member, theta)
        eps = perturb.scale(sigma, unit)
        return (), (jax.tree.map(lambda x, e: jnp.stack([x + s * e for s in signs]), theta, eps), score)

    perturbed = perturb.in_groups(perturbations, draw_size(noise, theta))
    _, (thetas, score) = perturbed((), theta, key_eps, keys.member, drawn_sigma)
    loss_of = window_loss(system, restarted, key_restart, key_unroll, data, window, remat=False)
    _, (losses, rollouts) = jax.vmap(loss_of, (0, None))(thetas, state.rollout)
    delta = difference(losses, clip)
    one = OneParticle(
        direction=score,
        weight=delta / (2 * drawn_sigma),
        loss=losses[:2].mean(),
        delta=delta,
        restarted=restarted,
        diverged=rollouts.diverged.any(),
        sigma=drawn_sigma,
    )
    carried = jax.tree.map(lambda x: x[2 if len(signs) == 3 else 0], rollouts)
    calls = None if state.calls is None else state.calls + 1
    return one, TruncatedESState(carried, state.sigma, calls)
