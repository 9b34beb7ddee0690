"""Truncated evolution strategies."""

from typing import Annotated, Literal, NamedTuple

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


class TruncatedESState(NamedTuple):
    """One particle.

    Attributes:
      rollout: where it is.
      sigma: f32[], std of the noise drawn from now on (of a schedule: at its begin).
      calls: i32[], windows since the run began; None where sigma has no schedule.
    """

    rollout: Rollout
    sigma: jax.Array
    calls: jax.Array | None


def truncated_es(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    carry: Literal["mean", "pos"] = "mean",
    delta_clip: Annotated[float, Gt(0)] | None = None,
    stagger: bool = True,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Evolution strategies on truncated windows (Metz et al. 2019).

    `grad = eps / sigma^2 * mean(L+ - L-) / 2`, both halves from one shared state, eps new in every window.

    Bias: truncation: what theta did before the window counts as given. Can have the wrong sign.
    Variance: that of one window, whatever T.
    Cost: 3 K steps (2 K with `carry="pos"`); memory |inner state|, and 3 |theta| while a window runs.
    Reduces to: full ES where T = K; TBPTT as sigma goes to 0.

    Args:
      system: what is unrolled; its lengths must be multiples of `truncation_length`.
      num_particles: N, antithetic pairs.
      truncation_length: K, steps of one window.
      sigma: std of the perturbation, in units of theta.
      carry: whose state goes on to the next window: a third rollout's with theta itself ("mean"), or
        the positive half's ("pos"), which is cheaper and walks with the noise.
      delta_clip: clips each pair's difference of mean losses to +- this; a bias against heavy tails.
      stagger: draws every particle's first length short, so that particles are out of phase.
      noise: orthogonal pairs, common random numbers, a schedule of sigma, sigma of single leaves.

    Returns:
      A `GradientEstimator`.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths.

    Source: Metz et al., "Understanding and correcting pathologies in the training of learned optimizers",
      ICML 2019.
    Differs from it in: no combination with backpropagated gradients.
    """
    check_truncation(system, truncation_length)
    check_noise(noise, sigma, num_particles)

    def init_one(theta, keys):
        rollout = start(system, theta, keys.system, stagger=truncation_length if stagger else None)
        return TruncatedESState(rollout, jnp.full([], sigma, jnp.float32), first_calls(noise))

    def estimate_one(theta, state, keys, data):
        key_restart, _, key_unroll = jax.random.split(keys.system, 3)
        _, key_eps, _ = jax.random.split(keys.noise, 3)
        rollout, sigma_drawn = state.rollout, sigma_now(noise, state.sigma, sigma, state.calls)
        restarted = finished(rollout)
        perturbed = perturb.in_groups(perturbations, draw_size(noise, theta))
        _, (thetas, score) = perturbed((), theta, key_eps, keys.member, sigma_drawn)

        def window(theta):
            fresh = restart_if(restarted, system, theta, rollout, key_restart)
            return unroll(system, theta, fresh, key_unroll, data, truncation_length)

        rollouts, losses = jax.vmap(window)(thetas)
        delta = (losses[0] - losses[1]).mean()
        if delta_clip is not None:
            delta = jnp.clip(delta, -delta_clip, delta_clip)
        carried = jax.tree.map(lambda x: x[2 if carry == "mean" else 0], rollouts)
        one = OneParticle(
            direction=score,
            weight=delta / (2 * sigma_drawn),
            loss=losses[:2].mean(),
            delta=delta,
            restarted=restarted,
            diverged=rollouts.diverged.any(),
            sigma=sigma_drawn,
        )
        calls = None if state.calls is None else state.calls + 1
        return one, TruncatedESState(carried, state.sigma, calls)

    def perturbations(_, theta, key, member, sigma):
        unit, score = draw(noise, key, member, theta)
        eps = perturb.scale(sigma, unit)
        signs = (1, -1, 0) if carry == "mean" else (1, -1)
        thetas = jax.tree.map(lambda x, e: jnp.stack([x + sign * e for sign in signs]), theta, eps)
        return (), (thetas, score)

    steps = (3 if carry == "mean" else 2) * truncation_length
    return from_particle(init_one, estimate_one, num_particles, steps, keys=particle_keys(noise))
