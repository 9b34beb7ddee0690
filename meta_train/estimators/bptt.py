"""Backpropagation through time."""

from typing import Annotated, Literal

from annotated_types import Ge

from meta_train.core.estimator import GradientEstimator, check_differentiable, whole_length
from meta_train.core.system import UnrolledSystem
from meta_train.estimators.tbptt import tbptt


def bptt(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    remat: bool | Literal["sqrt"] = True,
) -> GradientEstimator:
    """Backpropagation through whole inner problems (Werbos 1990).

    `grad = d/dtheta mean(L over the T steps)`, one whole inner problem per outer step.

    Bias: none.
    Variance: only that of the tasks and minibatches; explodes where the inner dynamics are chaotic.
    Cost: about 4 T steps for one outer step; memory T |inner state|, 2 sqrt(T) with `remat="sqrt"`.
    Needs: a system that is differentiable in theta and state.
    Reduces to: `tbptt(truncation_length=T)`.

    Args:
      system: what is unrolled; its length must be constant.
      num_particles: N rollouts.
      remat: recompute each step in the backward pass instead of storing its residuals; "sqrt" keeps
        about 2 sqrt(T) states instead of T, for T more steps.

    Returns:
      A `GradientEstimator`. A particle whose gradient is not finite counts 0 in the mean and is told
      in the metrics as diverged.

    Raises:
      ValueError: an option out of range, or a system whose length is random or endless.

    Source: Werbos, "Backpropagation through time: what it does and how to do it", 1990.
    Differs from it in: nothing.
    """
    check_differentiable(system, "bptt")
    length = whole_length(system, "bptt")
    return tbptt(system, num_particles=num_particles, truncation_length=length, remat=remat, stagger=False)
