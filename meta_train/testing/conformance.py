"""The conformance suite of outer-gradient estimators: certify one's own with `check_estimator`.

An estimator is given as its factory, `(system, *, options) -> GradientEstimator`, as in `ESTIMATORS`. Of the
options that a check wants to set (`num_particles`, `truncation_length`, `sigma`, `stagger`) a
factory gets those that its signature names. One without `truncation_length` takes whole inner problems.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.core.estimator import GradientEstimator
from meta_train.testing import toys
from meta_train.testing.loop import (
    Check,
    Factory,
    Subject,
    build,
    check_loop,
    from_host,
    probe,
    probe_data,
    to_host,
    truncates,
)

__all__ = [
    "LIMITS",
    "UNBIASED",
    "Check",
    "Factory",
    "Subject",
    "build",
    "check_estimator",
    "check_loop",
    "check_unbiased",
    "compare",
    "from_host",
    "probe",
    "probe_data",
    "sample_gradients",
    "to_host",
    "truncates",
]


def sample_gradients(
    estimator: GradientEstimator,
    theta: Any,
    key: jax.Array,
    data: Any = (),
    *,
    num_samples: int,
    num_windows: int,
    burn_in: int = 0,
) -> np.ndarray:
    """Independent estimates at a fixed theta: f64[num_samples, |theta|], each a mean over windows.

    Args:
      estimator: with N particles; a sample is the mean over them.
      theta: held fixed.
      key: consumed.
      data: passed on to the system.
      num_samples: independent runs.
      num_windows: consecutive windows that a sample averages; T / K of them, or a multiple, for
        the gradient of the mean loss per step.
      burn_in: windows before those, T / K for a staggered start.
    """

    def one_sample(key):
        key_init, key_run = jax.random.split(key)

        def window(carry, key):
            state, total, i = carry
            estimate, state = estimator.estimate(theta, state, key, data)
            total = jax.tree.map(lambda a, b: a + jnp.where(i < burn_in, 0, b), total, estimate.grad)
            return (state, total, i + 1), None

        begin = (estimator.init(theta, key_init), jax.tree.map(jnp.zeros_like, theta), 0)
        keys = jax.random.split(key_run, burn_in + num_windows)
        (_, total, _), _ = jax.lax.scan(window, begin, keys)
        return jnp.concatenate([x.reshape(-1) / num_windows for x in jax.tree.leaves(total)])

    keys = jax.random.split(key, num_samples)
    # Nearly all of the time is compilation: the optimiser's passes cost more than they save.
    run = jax.jit(jax.vmap(one_sample)).lower(keys).compile({"xla_backend_optimization_level": "0"})
    return np.asarray(run(keys), np.float64)


def compare(samples: np.ndarray, truth: Any, *, z_limit: float = 4.0, precision: float = 0.01) -> Check:
    """Whether the mean of samples f64[M, P] is `truth` (like theta): every |z| < `z_limit`.

    False alarm 6e-5 per number of theta at z = 4. A standard error along the truth of more than
    `precision` of it fails as well: the test would see no bias. Samples that do not vary are held
    against the truth to 1e-5.
    """
    flat = np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in jax.tree.leaves(truth)])
    size = float(np.linalg.norm(flat))
    mean, error = samples.mean(0), samples.std(0, ddof=1) / math.sqrt(len(samples))
    along = float(np.std(samples @ flat / size, ddof=1)) / math.sqrt(len(samples)) / size
    z = np.abs(mean - flat) / np.maximum(error, 1e-5 * size / 4)
    detail = f"mean {mean.round(4)}, truth {flat.round(4)}, max |z| = {z.max():.2f}, s.e. {along:.2%}"
    return Check(bool(z.max() < z_limit and along < precision), detail)


def check_unbiased(
    subject: Subject, toy: toys.Toy, *, truncation_length: int, sigma: float, stagger: bool = False
) -> Check:
    """Whether the mean estimate is the toy's smoothed gradient, at the toy's theta."""
    length = toy.system.length_multiple  # T, as it is constant
    window = truncation_length if truncates(subject.factory) else length
    estimator = build(
        subject.factory,
        toy.system,
        num_particles=subject.num_particles,
        truncation_length=window,
        sigma=sigma,
        stagger=stagger,
    )
    samples = sample_gradients(
        estimator,
        toy.theta,
        jax.random.key(subject.seed),
        num_samples=subject.num_samples,
        num_windows=length // window,
        burn_in=length // window if stagger else 0,
    )
    noise = {"window": (sigma, window), "episode": (sigma, length), "none": (0.0, length)}
    return compare(samples, toy.gradient(*noise[subject.smoothing]))


def check_estimator(
    factory: Factory,
    *,
    smoothing: Literal["window", "episode", "none"] = "episode",
    num_particles: int = 1,
    num_samples: int = 50_000,
    seed: int = 0,
) -> dict[str, Check]:
    """Certifies an estimator: the whole suite, name -> `Check`.

    The names that begin with "unbiased" compare its mean with closed-form truths (z < 4 at a standard
    error under 1 %): "accumulator" across restarts of staggered particles, "terminal" (only the last loss
    of an inner problem counts), "quadratic", "vector" (a tree of theta, random data), and "product",
    where the smoothings part. "limit: one window" is the product in a single window of T steps, where an
    estimator is full ES or BPTT, whatever it does at window ends. This one and those of `check_loop` hold for
    truncated estimators too.

    Args:
      factory: `(system, *, options) -> GradientEstimator`; use `functools.partial` to set options.
      smoothing: what the estimator claims to smooth by: noise new in every "window", one for the
        whole "episode", or "none", the true gradient.
      num_particles: N of one sample; more than 1 for estimators that couple particles.
      num_samples: of each statistical check; more if their standard error is above 1 %.
      seed: of every key.

    Example:
      `{name: c.detail for name, c in check_estimator(my_estimator).items() if not c.passed}`
    """
    subject = Subject(factory, smoothing, num_particles, num_samples, seed)
    found = {name: check(subject) for name, check in (UNBIASED | LIMITS).items()}
    return found | check_loop(subject)


UNBIASED: dict[str, Callable[[Subject], Check]] = {
    "unbiased: accumulator": lambda s: check_unbiased(
        s, toys.accumulator(), truncation_length=5, sigma=0.1, stagger=True
    ),
    "unbiased: terminal": lambda s: check_unbiased(
        s, toys.accumulator(terminal=True), truncation_length=5, sigma=0.1
    ),
    "unbiased: quadratic": lambda s: check_unbiased(
        s, toys.linear_quadratic(), truncation_length=10, sigma=0.1
    ),
    "unbiased: vector": lambda s: check_unbiased(
        s, toys.vector_linear_quadratic(), truncation_length=5, sigma=0.1
    ),
    "unbiased: product": lambda s: check_unbiased(s, toys.product(), truncation_length=2, sigma=0.3),
}

LIMITS: dict[str, Callable[[Subject], Check]] = {
    "limit: one window": lambda s: check_unbiased(s, toys.product(), truncation_length=4, sigma=0.3),
}
