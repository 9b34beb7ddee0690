"""What is checked, and what a check finds."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from meta_train.core.estimator import GradientEstimator
from meta_train.core.system import UnrolledSystem

Factory = Callable[..., GradientEstimator]


class Check(NamedTuple):
    """What one check found: whether it passed, and the figures in words."""

    passed: bool  # whether it did
    detail: str  # the figures
    # of a comparison of means, the mean along the truth over the truth, and its standard error
    ratio: tuple[float, float] | None = None


class Subject(NamedTuple):
    """An estimator under test."""

    factory: Factory  # `(system, *, options) -> GradientEstimator`
    # what its gradient is smoothed by: noise new in every "window", one for the whole "episode", or "none";
    # None claims nothing of its mean
    smoothing: Literal["window", "episode", "none"] | None = "episode"
    num_particles: int = 1  # N of one sample; more than 1 for estimators that couple particles
    num_samples: int = 50_000  # independent samples of a statistical check
    seed: int = 0  # of every key


def build(factory: Factory, system: UnrolledSystem, **wanted: Any) -> GradientEstimator:
    """The estimator with those of the wanted options that the factory's signature names."""
    names = inspect.signature(factory).parameters
    return factory(system, **{name: value for name, value in wanted.items() if name in names})


def truncates(factory: Factory) -> bool:
    """Whether the estimator works window by window, rather than on whole inner problems."""
    return "truncation_length" in inspect.signature(factory).parameters
