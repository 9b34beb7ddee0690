"""Evolution strategies over whole inner problems."""

from typing import Annotated

from annotated_types import Ge, Gt

from meta_train.core.estimator import GradientEstimator, whole_length
from meta_train.core.system import UnrolledSystem
from meta_train.estimators.gpes import gpes
from meta_train.estimators.noise import PLAIN, Noise


def full_es(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    sigma: Annotated[float, Gt(0)] = 0.01,
    delta_clip: Annotated[float, Gt(0)] | None = None,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Evolution strategies without truncation.

    `grad = eps / sigma^2 * mean(L+ - L-) / 2`, one whole inner problem per outer step (K = T).

    Bias: none for the objective smoothed by one perturbation per inner problem; theta need not be frozen.
    Variance: (|theta| + 1) |G|^2 for a linear loss, as of a single NRES window.
    Cost: 2 T steps of a pair for one outer step; memory 2 |inner state|, and 2 |theta| while it runs.
    Reduces to: `gpes(truncation_length=T)`.

    Args:
      system: what is unrolled; its length must be constant.
      num_particles: N, antithetic pairs.
      sigma: std of the perturbation, in units of theta.
      delta_clip: clips each pair's difference of mean losses to +- this; a bias against heavy tails.
      noise: orthogonal pairs, common random numbers, a schedule of sigma, sigma of single leaves.

    Returns:
      A `GradientEstimator`.

    Raises:
      ValueError: an option out of range, or a system whose length is random or endless.

    Source: Salimans et al., "Evolution Strategies as a Scalable Alternative to Reinforcement Learning", 2017.
    Differs from it in: no rank shaping (it would bias the gradient).
    """
    return gpes(
        system,
        num_particles=num_particles,
        truncation_length=whole_length(system, "full_es"),
        noise_period=None,
        sigma=sigma,
        delta_clip=delta_clip,
        stagger=False,
        noise=noise,
    )
