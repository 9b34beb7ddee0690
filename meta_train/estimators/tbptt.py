"""Backpropagation through time, truncated and through whole inner problems."""

import jax

from meta_train.core.estimator import GradientEstimator, from_particle, pathwise, whole_length
from meta_train.core.system import Remat, UnrolledSystem, finished, start, window_loss
from meta_train.estimators.factory import PATHWISE, Count, factory


@factory(differentiates=True, returns=PATHWISE)
def tbptt(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    remat: Remat = True,
    stagger: bool = True,
) -> GradientEstimator:
    """Truncated backpropagation through time (Werbos 1990).

    `grad = d/dtheta mean(L over the window)`, the state at the window's start held fixed.

    Bias: truncation: what theta did before the window counts as given. Can have the wrong sign.
    Variance: only that of the tasks and minibatches: 0 where nothing is random.
    Cost: about 4 K steps (3 K without `remat`); memory K |inner state|, with `remat` the states alone.
    Needs: a system that is differentiable in theta and state.
    Reduces to: BPTT where T = K.

    Args:
      num_particles: N rollouts.

    Source: Werbos, "Backpropagation through time: what it does and how to do it", 1990.
    Differs from it in: nothing.
    """

    def init_one(theta, key):
        return start(system, theta, key, stagger=truncation_length if stagger else None)

    def estimate_one(theta, rollout, key, data):
        key_restart, key_unroll = jax.random.split(key)
        restarted = finished(rollout)
        window = window_loss(system, restarted, key_restart, key_unroll, data, truncation_length, remat=remat)
        (loss, (_, end)), grad = jax.value_and_grad(window, has_aux=True)(theta, rollout)
        return pathwise(grad, loss, restarted, end)

    return from_particle(init_one, estimate_one, num_particles, truncation_length)


@factory(differentiates=True, returns=PATHWISE)
def bptt(system: UnrolledSystem, *, num_particles: Count = 16, remat: Remat = True) -> GradientEstimator:
    """Backpropagation through whole inner problems (Werbos 1990).

    `grad = d/dtheta mean(L over the T steps)`, one whole inner problem per outer step.

    Bias: none.
    Variance: only that of the tasks and minibatches: 0 where nothing is random.
    Cost: about 4 T steps for one outer step; memory T |inner state|, 2 sqrt(T) with `remat="sqrt"`.
    Needs: a system that is differentiable in theta and state.
    Reduces to: `tbptt(truncation_length=T)`.

    Args:
      num_particles: N rollouts.

    Source: Werbos, "Backpropagation through time: what it does and how to do it", 1990.
    Differs from it in: nothing.
    """
    length = whole_length(system, "bptt")
    return tbptt(system, num_particles=num_particles, truncation_length=length, remat=remat, stagger=False)
