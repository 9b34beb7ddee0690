"""`meta-train diagnose`: which estimator, K, sigma and how many particles, measured at a fixed theta."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from meta_train.config.checks import default_registries
from meta_train.config.places import last
from meta_train.config.registry import build
from meta_train.core import combine, perturb
from meta_train.core.system import UnrolledSystem
from meta_train.diagnose.gradient_statistics import (
    GROUPS,
    Row,
    Sample,
    compare,
    cosine_of,
    measure,
    norm_of,
    z_score,
)
from meta_train.diagnose.plan import SIGMA, Setting
from meta_train.errors import ConfigError, Problem
from meta_train.estimators import GradientEstimator, nres
from meta_train.run.experiment import Experiment, inner_system
from meta_train.run.forecast import tree_bytes

REFERENCE = 4  # times as many chains for the reference
DISTINCT = 4.0  # |z| from which a difference is no accident
Progress = Callable[[int, int, str], None]


class Reference(NamedTuple):
    """The gradient that estimators with this sigma are held against."""

    sigma: float  # std of the noise, one draw for a whole inner problem
    norm: float  # of the gradient, sampling noise taken off. NaN: not distinguishable from noise
    z: float  # of the gradient against 0; below 4 it is not distinguishable from noise
    cosine: float  # with the reference of the smallest sigma: how far smoothing turns the gradient


class Diagnosis(NamedTuple):
    """Everything that `diagnose` found."""

    rows: list[Row]  # one for each setting
    references: list[Reference]  # one for each sigma, the smallest first
    num_samples: int  # chains of a row; a reference has four times as many
    num_meta_parameters: int  # |theta|
    unroll_length: int  # the longest T
    seconds: float  # that all of it took, compilation included


class Bench(NamedTuple):
    """What all rows have in common."""

    systems: Mapping[str, UnrolledSystem]  # label of a family -> its unrolled system; the same for every K
    weights: dict[str, float]  # of the families in the outer gradient
    data: Any  # label -> data
    theta: Any  # meta-parameters, held fixed
    longest: int  # the longest T
    multiple: int  # the longest window that divides every T
    num_samples: int  # chains of a row
    key: jax.Array  # row i uses `fold_in(key, i)`

    def reference(self, sigma: float) -> dict[str, GradientEstimator]:
        """NRES with windows as long as the problem allows: full ES, where T is constant."""
        options = {"num_particles": 1, "truncation_length": self.multiple, "sigma": sigma}
        return {label: nres(system, **options) for label, system in self.systems.items()}

    def sample(
        self,
        index: int,
        estimators: dict[str, GradientEstimator],
        window: int | None,
        *,
        weighted: bool = True,
        times: int = 1,
        tick: Callable[[], None] = lambda: None,
    ) -> Sample:
        """Chains of the families' mean gradient; `window` is None for whole inner problems."""
        windows = -(-self.longest // window) if window else 1
        return measure(
            combine.average(estimators, weights=self.weights if weighted else None),
            self.theta,
            self.data,
            jax.random.fold_in(self.key, index),
            num_samples=times * self.num_samples,
            num_windows=windows,
            burn_in=windows if window else 0,
            tick=tick,
        )


def diagnose(
    experiment: Experiment,
    theta: Any,
    settings: Sequence[Setting],
    *,
    num_samples: int = 256,
    progress: Progress = lambda done, total, text: None,
) -> Diagnosis:
    """Measures every setting on the experiment's families at a fixed theta; nothing is updated.

    A particle runs for two longest inner problems: one to reach its stationary place among the phases of
    the inner problem, one to be measured. Bias is held against NRES without clipping and with as long
    windows as the problem allows (full ES, where T is constant), at the same sigma; that of an estimator
    without sigma against the smallest. An estimator that smooths otherwise, as PES does with new noise
    in every window, has the difference of the smoothings in its bias.

    Args:
      experiment: from `assemble`, on one device.
      theta: meta-parameters, held fixed.
      settings: from `plan`.
      num_samples: chains for a row, rounded up to a multiple of 64; four times as many for a reference.
      progress: called with calls done, all calls, and what is measured now.

    Returns:
      The same for the same config seed, but for what depends on time.

    Raises:
      ConfigError: options that an estimator refuses, K that does not divide the inner lengths.
    """
    began = time.perf_counter()
    bench = _bench(experiment, theta, settings, num_samples)
    known = default_registries()
    built = [
        {f: build(known.estimators, s.spec, system, where="estimator") for f, system in bench.systems.items()}
        for s in settings
    ]
    sigmas = sorted({s.sigma for s in settings if s.sigma}) or [
        experiment.config.estimator.get("sigma", SIGMA)
    ]
    if experiment.config.loss_scaling == "ema":
        bench = _scaled(bench, sigmas[0])
    counted = _counter(bench.num_samples // GROUPS * (REFERENCE * len(sigmas) + len(settings)), progress)
    references = {
        sigma: bench.sample(
            i, bench.reference(sigma), bench.multiple, times=REFERENCE, tick=counted(f"reference, {sigma:g}")
        )
        for i, sigma in enumerate(sigmas)
    }
    rows = []
    for i, (setting, estimators) in enumerate(zip(settings, built, strict=True), len(sigmas)):
        found = bench.sample(i, estimators, setting.truncation_length, tick=counted(setting.label))
        states = [jax.eval_shape(e.init, theta, bench.key) for e in estimators.values()]
        rows.append(
            compare(
                found,
                references[setting.sigma or sigmas[0]],
                estimator=last(setting.spec["name"]),
                truncation_length=setting.truncation_length,
                sigma=setting.sigma,
                state_bytes=tree_bytes(states),
            )
        )
    about = [_about(sigma, found, references[sigmas[0]]) for sigma, found in references.items()]
    size, seconds = perturb.size(theta), time.perf_counter() - began
    return Diagnosis(rows, about, bench.num_samples, size, bench.longest, seconds)


def _bench(experiment, theta, settings, num_samples) -> Bench:
    """Systems whose lengths every K divides, so that all rows see the same inner problems."""
    if num_samples < 1:
        raise ConfigError([Problem("--samples", "must be >= 1", num_samples)])
    config, families = experiment.config, experiment.families
    # Where T is constant, each estimator says itself whether its K divides it.
    random = not isinstance(config.inner.unroll_length, int)
    common = math.lcm(*(s.truncation_length or 1 for s in settings)) if random else 1
    config = config.model_copy(update={"estimator": {"truncation_length": common}})
    try:
        systems = {name: inner_system(config, family, experiment.lopt) for name, family in families.items()}
    except ValueError as error:
        raise ConfigError([Problem("inner", str(error))]) from error
    some = next(iter(systems.values()))
    assert some.max_length is not None, "inner trainings end"
    return Bench(
        systems,
        {task.label: task.weight for task in config.tasks},
        experiment.data,
        theta,
        some.max_length,
        some.length_multiple,
        -(-num_samples // GROUPS) * GROUPS,
        jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1),
    )


def _scaled(bench: Bench, sigma: float) -> Bench:
    """Weights over the families' scales: what the running means come to while theta rests."""
    weights, quick = {}, bench._replace(num_samples=GROUPS)
    for i, (name, estimator) in enumerate(bench.reference(sigma).items()):
        alone = quick.sample(2**30 + i, {name: estimator}, bench.multiple, weighted=False)
        weights[name] = bench.weights[name] / max(math.sqrt(alone.square), 1e-15)
    return bench._replace(weights=weights)


def _counter(total: int, progress: Progress) -> Callable[[str], Callable[[], None]]:
    """`counted(text)()` reports one more call of `total`."""
    done = 0

    def counted(text):
        progress(done, total, text)

        def tick():
            nonlocal done
            done += 1
            progress(done, total, text)

        return tick

    return counted


def _about(sigma: float, found: Sample, smallest: Sample) -> Reference:
    groups = found.groups
    cosine = 1.0 if found is smallest else cosine_of(found, smallest)[0]
    norm = norm_of(found)
    return Reference(sigma, norm, z_score(groups, norm if norm > 0 else 0.0), cosine)
