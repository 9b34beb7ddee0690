"""The reparameterisation gradient of truncated windows."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, check_differentiable, from_particle, pathwise
from meta_train.core.system import UnrolledSystem, check_truncation, finished, restart_if, start, unroll


def reparam(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    stagger: bool = True,
) -> GradientEstimator:
    """Backpropagation at perturbed meta-parameters (Metz et al. 2019).

    `grad = d/dtheta (mean(L+) + mean(L-)) / 2`, both halves from one shared state, eps new in every window.

    Bias: truncation: what theta did before the window counts as given. Can have the wrong sign.
    Variance: low where the loss is smooth at the scale of sigma; explodes where the dynamics are chaotic.
    Cost: about 9 K steps; memory 2 K |inner state| and 2 |theta| while a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: TBPTT as sigma goes to 0.

    Args:
      system: what is unrolled; its lengths must be multiples of `truncation_length`.
      num_particles: N, antithetic pairs.
      truncation_length: K, steps of one window; T for the smoothed gradient of whole inner problems.
      sigma: std of the perturbation, in units of theta.
      stagger: draws every particle's first length short, so that particles are out of phase.

    Returns:
      A `GradientEstimator`. A particle whose gradient is not finite counts 0 in the mean, is told in
      the metrics as diverged, and restarts.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths.

    Source: Metz et al., "Understanding and correcting pathologies in the training of learned
      optimizers", ICML 2019.
    Differs from it in: antithetic pairs; the state goes on with theta itself.
    """
    check_differentiable(system, "reparam")
    check_truncation(system, truncation_length)
    if sigma <= 0:
        raise ValueError(f"sigma must be > 0, got {sigma}")

    def init_one(theta, key):
        return start(system, theta, key, stagger=truncation_length if stagger else None)

    def estimate_one(theta, rollout, key, data):
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        restarted = finished(rollout)
        eps = perturb.scale(sigma, perturb.gaussian_like(key_eps, theta))

        def mean_loss(theta):
            begin = restart_if(restarted, system, theta, rollout, key_restart)
            end, losses = unroll(system, theta, begin, key_unroll, data, truncation_length, remat=True)
            return losses.mean(), end

        (losses, ends), grads = jax.vmap(jax.value_and_grad(mean_loss, has_aux=True))(
            perturb.antithetic(theta, eps)
        )
        _, end = mean_loss(theta)
        end = end._replace(diverged=end.diverged | ends.diverged.any())
        grad = jax.tree.map(lambda g: g.mean(0), grads)
        one, end = pathwise(grad, losses.mean(), restarted, end)
        return one._replace(delta=losses[0] - losses[1], sigma=jnp.full([], sigma, jnp.float32)), end

    return from_particle(init_one, estimate_one, num_particles, 3 * truncation_length)
