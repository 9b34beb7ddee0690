"""Truncated evolution strategies."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from meta_train import perturb
from meta_train.estimators.base import GradientEstimator, OneParticle, from_particle
from meta_train.system import UnrolledSystem, check_truncation, finished, restart_if, start, unroll


def truncated_es(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    carry: Literal["mean", "pos"] = "mean",
    delta_clip: Annotated[float, Gt(0)] | None = None,
    stagger: bool = True,
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

    Returns:
      A `GradientEstimator`.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths.

    Source: Metz et al., "Understanding and correcting pathologies in the training of learned optimizers",
      ICML 2019.
    Differs from it in: no combination with backpropagated gradients.
    """
    check_truncation(system, truncation_length)
    if sigma <= 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")

    def init_one(theta, key):
        return start(system, theta, key, stagger=truncation_length if stagger else None)

    def estimate_one(theta, rollout, key, data):
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        restarted = finished(rollout)
        draw = perturb.in_groups(perturbed, perturb.size(theta))
        _, (thetas, noise) = draw((), theta, key_eps)

        def window(theta):
            fresh = restart_if(restarted, system, theta, rollout, key_restart)
            return unroll(system, theta, fresh, key_unroll, data, truncation_length)

        rollouts, losses = jax.vmap(window)(thetas)
        delta = (losses[0] - losses[1]).mean()
        if delta_clip is not None:
            delta = jnp.clip(delta, -delta_clip, delta_clip)
        carried = jax.tree.map(lambda x: x[2 if carry == "mean" else 0], rollouts)
        one = OneParticle(
            direction=noise,
            weight=delta / (2 * sigma),
            loss=losses[:2].mean(),
            delta=delta,
            restarted=restarted,
            diverged=rollouts.diverged.any(),
            sigma=jnp.full([], sigma, jnp.float32),
        )
        return one, carried

    def perturbed(_, theta, key):
        noise = perturb.gaussian_like(key, theta)
        eps = perturb.scale(sigma, noise)
        signs = (1, -1, 0) if carry == "mean" else (1, -1)
        thetas = jax.tree.map(lambda x, e: jnp.stack([x + sign * e for sign in signs]), theta, eps)
        return (), (thetas, noise)

    return from_particle(
        init_one, estimate_one, num_particles, (3 if carry == "mean" else 2) * truncation_length
    )
