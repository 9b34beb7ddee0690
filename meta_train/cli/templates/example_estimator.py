"""An estimator of the outer gradient: `name: my_estimator.py:my_estimator` under `estimator` in a config."""

from typing import Annotated

import jax
from annotated_types import Ge, Gt

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, from_particle
from meta_train.core.system import begin_window, check_truncation, finished, start, unroll


def my_estimator(
    system,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    stagger: bool = True,
) -> GradientEstimator:
    """Truncated ES of one perturbed window and one without: grad = (L(theta + eps) - L(theta)) eps / sigma^2.

    Args:
      system: what is unrolled.
      num_particles: N, inner problems at a time.
      truncation_length: K, steps of a window; divides every length of `system`.
      sigma: std of the noise.
      stagger: particles begin at different places of their inner problems.
    """
    check_truncation(system, truncation_length)

    def init_one(theta, key):
        return start(system, theta, key, stagger=truncation_length if stagger else None)

    def estimate_one(theta, rollout, key, data):
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        restarted = finished(rollout)
        rollout = begin_window(system, theta, rollout, restarted, key_restart)
        noise = perturb.gaussian_like(key_eps, theta)
        moved = perturb.add_scaled(theta, sigma, noise)
        # Both windows begin in the same state and see the same keys.
        _, perturbed = unroll(system, moved, rollout, key_unroll, data, truncation_length)
        rollout, losses = unroll(system, theta, rollout, key_unroll, data, truncation_length)
        delta = (perturbed - losses).mean()
        one = OneParticle(
            direction=noise,
            weight=delta / sigma,
            loss=losses.mean(),
            delta=delta,
            restarted=restarted,
            diverged=rollout.diverged,
            sigma=sigma,
        )
        return one, rollout

    return from_particle(init_one, estimate_one, num_particles, 2 * truncation_length)
