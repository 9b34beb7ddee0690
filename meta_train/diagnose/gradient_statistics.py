"""Bias, variance and signal-to-noise of a gradient estimator at a fixed theta, from independent chains."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.core import perturb
from meta_train.core.chain import chain, flatten
from meta_train.core.estimator import GradientEstimator

GROUPS = 64  # chains of one call, and groups of chains whose means carry all statistics
ROUNDING = 1e-5  # differences below this, relative to the gradient, are float32's


class Sample(NamedTuple):
    """Gradients of an estimator at a fixed theta."""

    groups: np.ndarray  # f64[64, P], means over the chains of a group, each chain a mean over its windows
    chains: int  # chains in a group
    square: float  # mean squared norm of one window's gradient of one particle
    chain_square: float  # mean squared norm of a chain's mean gradient
    loss: float  # mean loss per step
    diverged: float  # share of the particles' windows with a loss that is not finite
    inner_steps: int  # steps of the system that the measured windows of one chain take
    seconds: float  # that they took in the fastest call of 64 chains, compilation left out


def measure(
    estimator: GradientEstimator,
    theta: Any,
    data: Any,
    key: jax.Array,
    *,
    num_samples: int,
    num_windows: int,
    burn_in: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Sample:
    """Runs chains of an estimator with theta frozen.

    Args:
      estimator: with one particle (one of each family, where it is an average).
      theta: meta-parameters.
      data: passed on to the estimator.
      key: consumed; same key, same numbers but `seconds`.
      num_samples: chains, rounded up to a multiple of 64.
      num_windows: that a chain averages; T / K for every phase of the inner problem alike.
      burn_in: windows before those.
      tick: called after every 64 chains.
    """

    def numbers(estimate):
        shares = [v.mean() for k, v in estimate.particles.items() if k.rpartition("/")[2] == "diverged"]
        square = perturb.sq_norm(estimate.grad)
        return flatten(estimate.grad), square, estimate.loss, jnp.stack(shares).mean()

    def one(theta, key, data):
        options: Any = {"num_windows": num_windows, "burn_in": burn_in, "average": numbers}
        (flat, square, loss, diverged), _ = chain(estimator, theta, key, data, **options)
        return flat, square, jnp.square(flat).sum(), loss, diverged

    chains = -(-num_samples // GROUPS)
    call_keys = jax.random.split(key, (chains, GROUPS))
    run = jax.jit(jax.vmap(one, (None, 0, None))).lower(theta, call_keys[0], data).compile()
    totals, seconds = None, math.inf
    for keys in call_keys:
        began = time.perf_counter()
        found = [np.asarray(x, np.float64) for x in run(theta, keys, data)]
        seconds = min(seconds, (time.perf_counter() - began) / GROUPS)
        totals = found if totals is None else [a + b for a, b in zip(totals, found, strict=True)]
        tick()
    groups, *rest = [x / chains for x in totals or ()]
    square, chain_square, loss, diverged = (float(x.mean()) for x in rest)
    return Sample(
        groups,
        chains,
        square,
        chain_square,
        loss,
        diverged,
        estimator.inner_steps * num_windows,
        seconds * num_windows / (burn_in + num_windows),
    )


class Row(NamedTuple):
    """What one setting of an estimator is worth at this theta. NaN: not distinguishable from noise."""

    estimator: str  # its name
    truncation_length: int | None  # K; None for whole inner problems
    sigma: float | None  # std of its noise; None for an estimator without
    bias: float  # |its mean - the reference| / |reference|, sampling noise taken off
    cosine: float  # between its mean and the reference, sampling noise taken off
    cosine_error: float  # standard error of it
    z: float  # of the bias, along a direction that the other half of the samples gave: above 4 it is there
    variance: float  # tr Cov of one window's gradient of one particle, phases of the inner problem included
    n_crit: float  # particles at which signal and noise of one outer step are equal: variance / |mean|^2
    snr_per_step: float  # |mean|^2 / tr Cov of the mean over a whole inner problem, per inner step
    snr_per_second: float  # the same, per second on this machine
    state_bytes: int  # of one particle's state
    loss: float  # mean loss per step
    diverged: float  # share of the particles' windows with a loss that is not finite


def compare(
    sample: Sample,
    reference: Sample,
    *,
    estimator: str,
    truncation_length: int | None = None,
    sigma: float | None = None,
    state_bytes: int = 0,
) -> Row:
    """Bias against a reference of independent samples, variance, and what follows; the rest names the row."""
    own, truth, cross = _inner_products(*_grams(sample, reference))
    cosine, error = cosine_of(sample, reference)
    variance = max(sample.square - own, 0.0)
    signal = own if own > 0 else math.nan
    snr = _over(signal, max(sample.chain_square - own, 0.0))
    return Row(
        estimator,
        truncation_length,
        sigma,
        bias=_over(math.sqrt(max(own + truth - 2 * cross, 0.0)), math.sqrt(max(truth, 0.0))),
        cosine=cosine,
        cosine_error=error,
        z=z_score(sample.groups - reference.groups, math.sqrt(max(truth, 0.0))),
        variance=variance,
        n_crit=_over(variance, signal),
        snr_per_step=snr / sample.inner_steps,
        snr_per_second=snr / sample.seconds,
        state_bytes=state_bytes,
        loss=sample.loss,
        diverged=sample.diverged,
    )


def z_score(groups: np.ndarray, scale: float) -> float:
    """z of the mean of f64[G, P] against 0, whatever the correlations between its P numbers.

    The even groups give a direction, the odd ones are tested along it: N(0, 1) where the mean is 0, at
    half the samples' power. Differences below `ROUNDING` of `scale` count as rounding.
    """
    direction, tested = groups[::2].mean(0), groups[1::2]
    size = np.linalg.norm(direction)
    if size == 0:
        return 0.0
    along = tested @ (direction / size)
    error = along.std(ddof=1) / math.sqrt(len(along))
    return float(along.mean() / max(error, ROUNDING * scale, 1e-300))


def cosine_of(a: Sample, b: Sample) -> tuple[float, float]:
    """The cosine between the means of two independent samples, and its jackknife error over the groups.

    Sampling noise is taken off; NaN where a mean is not distinguishable from noise.
    """
    grams = _grams(a, b)

    def of(*grams):
        own, other, cross = _inner_products(*grams)
        return min(1.0, max(-1.0, cross / math.sqrt(own * other))) if min(own, other) > 0 else math.nan

    n = len(grams[0])
    left = np.array([of(*(m[np.ix_(k, k)] for m in grams)) for k in ~np.eye(n, dtype=bool)])
    return of(*grams), math.sqrt((n - 1) / n * float(np.sum((left - left.mean()) ** 2)))


def norm_of(sample: Sample) -> float:
    """The norm of the mean, sampling noise taken off; NaN where noise explains it."""
    square, _, _ = _inner_products(*_grams(sample, sample))
    return math.sqrt(square) if square > 0 else math.nan


def _grams(a: Sample, b: Sample):
    return a.groups @ a.groups.T, b.groups @ b.groups.T, a.groups @ b.groups.T


def _inner_products(aa, bb, ab):
    """Unbiased |E a|^2, |E b|^2 and E a . E b from Gram matrices of independent groups."""
    n = len(aa)
    own, other = ((m.sum() - np.trace(m)) / (n * (n - 1)) for m in (aa, bb))
    return float(own), float(other), float(ab.mean())


def _over(a: float, b: float) -> float:
    return a / b if b else math.inf if a > 0 else math.nan
