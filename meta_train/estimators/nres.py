"""Noise-reuse evolution strategies, also known as ES-Single."""

from typing import Annotated

from annotated_types import Ge, Gt

from meta_train.core.estimator import GradientEstimator
from meta_train.core.system import UnrolledSystem
from meta_train.estimators.gpes import gpes
from meta_train.estimators.noise import PLAIN, Noise


def nres(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    delta_clip: Annotated[float, Gt(0)] | None = None,
    stagger: bool = True,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Noise-reuse evolution strategies (Li et al. 2023; ES-Single, Vicol et al. 2023).

    `grad = eps / sigma^2 * mean(L+ - L-) / 2`, eps drawn at the restart and kept for the whole inner problem.

    Bias: none for the objective smoothed by one perturbation per inner problem, theta frozen.
    Variance: does not grow with the number of windows; the least among `gpes` periods for one window.
    Cost: 2 K steps of a pair; memory 2 |inner state| and a key, and 2 |theta| while a window runs.
    Reduces to: `gpes(noise_period=None)`; truncated ES where T = K.

    Args:
      system: what is unrolled; its lengths must be multiples of `truncation_length`.
      num_particles: N, antithetic pairs.
      truncation_length: K, steps of one window.
      sigma: std of the perturbation, in units of theta.
      delta_clip: clips each pair's difference of mean losses to +- this; a bias against heavy tails.
      stagger: draws every particle's first length short, so that particles (cohorts, where they are
        orthogonal) are out of phase.
      noise: orthogonal pairs, common random numbers, a schedule of sigma, sigma of single leaves.

    Returns:
      A `GradientEstimator`.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths.

    Source: Li et al., "Noise-Reuse in Online Evolution Strategies", NeurIPS 2023; Vicol, Kolter & Swersky,
      "Low-Variance Gradient Estimation in Unrolled Computation Graphs with ES-Single", ICML 2023.
    Differs from it in: the noise is regenerated from its key, never stored.
    """
    return gpes(
        system,
        num_particles=num_particles,
        truncation_length=truncation_length,
        noise_period=None,
        sigma=sigma,
        delta_clip=delta_clip,
        stagger=stagger,
        noise=noise,
    )
