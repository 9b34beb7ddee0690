"""The conformance suite of outer-gradient estimators: certify one's own with `check_estimator`.

An estimator is given as its factory, `(system, *, options) -> GradientEstimator`, as in `ESTIMATORS`. Of the
options that a check wants to set (`num_particles`, `truncation_length`, `sigma`, `stagger`) a
factory gets those that its signature names. One without `truncation_length` takes whole inner problems.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from meta_train.core.chain import chain, flatten
from meta_train.core.estimator import GradientEstimator
from meta_train.testing import toys
from meta_train.testing.episodes import check_episodes
from meta_train.testing.loop import check_loop
from meta_train.testing.subject import Check, Factory, Subject, build, truncates

__all__ = ["check_estimator", "check_unbiased", "checks", "compare", "sample_gradients"]


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
    """Estimates of independent chains at a fixed theta: f64[num_samples, |theta|], means over windows."""

    def one(key):
        options: Any = {"num_windows": num_windows, "burn_in": burn_in}
        return chain(estimator, theta, key, data, average=lambda one: flatten(one.grad), **options)[0]

    return quick(jax.vmap(one), jax.random.split(key, num_samples))


def quick(function: Callable[..., Any], keys: jax.Array) -> Any:
    """`function(keys)` in float64, compiled without the optimiser's passes: they cost more than they save."""
    run = jax.jit(function).lower(keys).compile({"xla_backend_optimization_level": "0"})
    return jax.tree.map(lambda x: np.asarray(x, np.float64), run(keys))


def compare(samples: np.ndarray, truth: Any, *, z_limit: float = 4.0, precision: float = 0.01) -> Check:
    """Whether the mean of samples f64[M, P] is `truth` (like theta): every |z| < `z_limit`.

    False alarm 6e-5 per number of theta at z = 4. A standard error along the truth of more than
    `precision` of it fails as well: the test would see no bias. Samples that do not vary are compared
    with the truth to 1e-5.
    """
    flat = np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in jax.tree.leaves(truth)])
    mean, error = samples.mean(0), samples.std(0, ddof=1) / math.sqrt(len(samples))
    size = float(np.linalg.norm(flat))
    along = samples @ flat / size**2
    ratio, ratio_error = float(along.mean()), float(along.std(ddof=1)) / math.sqrt(len(samples))
    z = np.abs(mean - flat) / np.maximum(error, 1e-5 * size / 4)
    detail = f"mean {mean.round(4)}, truth {flat.round(4)}, max |z| = {z.max():.2f}, s.e. {ratio_error:.2%}"
    return Check(bool(z.max() < z_limit and ratio_error < precision), detail, (ratio, ratio_error))


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
    assert subject.smoothing is not None, "what claims nothing of its mean has nothing to be compared with"
    noise = {"window": (sigma, window), "episode": (sigma, length), "none": (0.0, length)}
    # Some dozens of comparisons a suite, of heavy-tailed samples: 4.5 keeps right estimators clear of chance.
    return compare(samples, toy.gradient(*noise[subject.smoothing]), z_limit=4.5)


class Case(NamedTuple):
    """A toy, and the options with which an estimator's mean on it is compared with the truth.

    `stream` sets its keys apart from those of the others: pooled means must be independent.
    """

    stream: int
    toy: Callable[[], toys.Toy]
    truncation_length: int
    sigma: float
    stagger: bool = False

    def check(self, subject: Subject) -> Check:
        """`check_unbiased` of this case."""
        options = {"truncation_length": self.truncation_length, "sigma": self.sigma, "stagger": self.stagger}
        subject = subject._replace(seed=10 * subject.seed + self.stream)
        return check_unbiased(subject, self.toy(), **options)


UNBIASED: dict[str, Case] = {
    "unbiased: accumulator": Case(1, toys.accumulator, 5, 0.1, stagger=True),
    # A small sigma: what is perturbed in a narrow type, or differenced too late, shows.
    "unbiased: terminal": Case(2, lambda: toys.accumulator(unroll_length=10, terminal=True), 5, 3e-4),
    "unbiased: quadratic": Case(3, toys.linear_quadratic, 10, 0.1),
    "unbiased: vector": Case(4, toys.vector_linear_quadratic, 5, 0.1),
    "unbiased: product": Case(5, toys.product, 2, 0.3),
}
LIMITS: dict[str, Case] = {"limit: one window": Case(6, toys.product, 4, 0.3)}


def check_pooled(found: dict[str, Check]) -> Check:
    """Whether the means of all toys together are the truths, at a standard error of 0.4 % or less.

    One number, the inverse-variance mean of the estimates' lengths along the truths: a factor of 1.02 that
    every check lets pass is five standard errors here.
    """
    ratios, errors = np.array([check.ratio for check in found.values() if check.ratio]).T
    weights = 1 / np.square(np.maximum(errors, 1e-5 / 4))
    ratio, error = float(ratios @ weights / weights.sum()), float(1 / math.sqrt(weights.sum()))
    detail = f"{ratio:.4f} +- {error:.4f} of the truth over {len(ratios)} toys"
    return Check(abs(ratio - 1) < 4 * error and error < 0.004, detail)


def checks(subject: Subject) -> Iterator[tuple[str, Check]]:
    """The suite of `check_estimator`, one check after the other, the cheapest first."""
    yield from check_episodes(subject).items()
    if subject.smoothing is not None:
        found = {}
        for name, case in (LIMITS | UNBIASED).items():
            found[name] = case.check(subject)
            yield name, found[name]
        yield "unbiased: pooled", check_pooled(found)
    yield from check_loop(subject).items()


def check_estimator(
    factory: Factory,
    *,
    smoothing: Literal["window", "episode", "none"] | None = "episode",
    num_particles: int = 1,
    num_samples: int = 50_000,
    seed: int = 0,
) -> dict[str, Check]:
    """Certifies an estimator: the whole suite, name -> `Check`.

    The names that begin with "unbiased" compare its mean with closed-form truths (z < 4.5 at a standard
    error under 1 %): "accumulator" across restarts of staggered particles, "terminal" (only the last loss
    of an inner problem counts, theta is its first state, sigma is small), "quadratic", "vector" (a tree of
    theta, random data), "product", where the smoothings differ, and "pooled", all of them together.
    "limit: one window" is the product in a single window of T steps, where an estimator is full ES or BPTT,
    whatever it does at the ends of windows. This one and those of `check_loop` and `check_episodes` hold for
    truncated estimators too. docs/check_estimator.md says what the suite cannot see.

    Args:
      factory: `(system, *, options) -> GradientEstimator`; use `functools.partial` to set options.
      smoothing: what the estimator claims to smooth by: noise new in every "window", one for the
        whole "episode", or "none", the true gradient. None claims nothing, as of an estimator that truncation
        biases: its mean is not looked at.
      num_particles: N of one sample; more than 1 for estimators that couple particles.
      num_samples: of each comparison with a truth; more if their standard error is too large.
      seed: of every key.

    Example:
      `{name: c.detail for name, c in check_estimator(my_estimator).items() if not c.passed}`
    """
    return dict(checks(Subject(factory, smoothing, num_particles, num_samples, seed)))
