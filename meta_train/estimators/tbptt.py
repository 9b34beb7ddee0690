"""Truncated backpropagation through time."""

from typing import Annotated, Literal

import jax
from annotated_types import Ge

from meta_train.core.estimator import GradientEstimator, check_differentiable, from_particle, pathwise
from meta_train.core.system import UnrolledSystem, check_truncation, finished, restart_if, start, unroll


def tbptt(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    remat: bool | Literal["sqrt"] = True,
    stagger: bool = True,
) -> GradientEstimator:
    """Truncated backpropagation through time (Werbos 1990).

    `grad = d/dtheta mean(L over the window)`, the state at the window's start held fixed.

    Bias: truncation: what theta did before the window counts as given. Can have the wrong sign.
    Variance: only that of the tasks and minibatches; explodes where the inner dynamics are chaotic.
    Cost: about 3 K steps (4 K with `remat`); memory K |inner state|, with `remat` the states alone.
    Reduces to: BPTT where T = K.

    Args:
      system: what is unrolled; differentiable in theta and state.
      num_particles: N rollouts.
      truncation_length: K, steps of one window.
      remat: recompute each step in the backward pass instead of storing its residuals; on a CPU this
        is faster too. "sqrt" keeps about 2 sqrt(K) states instead of K, for K more steps.
      stagger: draws every particle's first length short, so that particles are out of phase.

    Returns:
      A `GradientEstimator`. A particle whose gradient is not finite counts 0 in the mean, is
      told in the metrics as diverged, and restarts.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths.

    Source: Werbos, "Backpropagation through time: what it does and how to do it", 1990.
    Differs from it in: nothing.
    """
    check_differentiable(system, "tbptt")
    check_truncation(system, truncation_length)

    def init_one(theta, key):
        return start(system, theta, key, stagger=truncation_length if stagger else None)

    def estimate_one(theta, rollout, key, data):
        key_restart, key_unroll = jax.random.split(key)
        restarted = finished(rollout)

        def mean_loss(theta):
            # The restart is inside: theta's part in a fresh state is no truncation.
            begin = restart_if(restarted, system, theta, rollout, key_restart)
            end, losses = unroll(system, theta, begin, key_unroll, data, truncation_length, remat=remat)
            return losses.mean(), end

        (loss, end), grad = jax.value_and_grad(mean_loss, has_aux=True)(theta)
        return pathwise(grad, loss, restarted, end)

    return from_particle(init_one, estimate_one, num_particles, truncation_length)
