"""Persistent evolution strategies."""

from typing import Annotated

from annotated_types import Ge, Gt

from meta_train.core.estimator import GradientEstimator
from meta_train.core.system import UnrolledSystem
from meta_train.estimators.gpes import gpes
from meta_train.estimators.noise import PLAIN, Noise


def pes(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    delta_clip: Annotated[float, Gt(0)] | None = None,
    stagger: bool = True,
    noise: Noise = PLAIN,
) -> GradientEstimator:
    """Persistent evolution strategies (Vicol, Metz & Sohl-Dickstein 2021).

    `xi <- (0 if restarted else xi) + eps / sigma^2; grad = xi * mean(L+ - L-) / 2`, eps new in every window.

    Bias: none for the objective smoothed by independent noise per window, theta frozen.
    Variance: grows with the number of windows since the restart; at most that factor above NRES.
    Cost: 2 K steps of a pair; memory 2 |inner state| + |theta|, and 2 |theta| while a window runs.
    Reduces to: `gpes(noise_period=K)`; truncated ES where T = K.

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

    Source: Vicol, Metz & Sohl-Dickstein, "Unbiased Gradient Estimation in Unrolled Computation Graphs with
      Persistent Evolution Strategies", ICML 2021, Algorithm 2.
    Differs from it in: the mean loss per step instead of the window's sum; staggered particles with
      data of their own; exact under a changing sigma.
    """
    return gpes(
        system,
        num_particles=num_particles,
        truncation_length=truncation_length,
        noise_period=truncation_length,
        sigma=sigma,
        delta_clip=delta_clip,
        stagger=stagger,
        noise=noise,
    )
