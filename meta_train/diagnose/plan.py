"""Which settings `meta-train diagnose` measures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from meta_train.config.checks import default_registries
from meta_train.config.load import RunConfig
from meta_train.config.places import last
from meta_train.config.registry import Spec, option_parameters
from meta_train.estimators.noise import Noise

USUAL_ESTIMATORS = ("truncated_es", "pes", "nres", "tbptt")
SIGMA = 0.01  # where the config's estimator has none


class Setting(NamedTuple):
    """One row to be measured: an estimator's spec in a config, its window and its sigma where it has them."""

    spec: Spec
    truncation_length: int | None
    sigma: float | None

    @property
    def label(self) -> str:
        """What a person calls it."""
        return label(last(self.spec["name"]), self.truncation_length, self.sigma)


def label(estimator: str, truncation_length: int | None, sigma: float | None) -> str:
    """`pes K=10 sigma=0.01`, without what is None."""
    k = "" if truncation_length is None else f" K={truncation_length}"
    return f"{estimator}{k}" + ("" if sigma is None else f" sigma={sigma:g}")


def plan(
    config: RunConfig,
    estimators: Sequence[str] | None = None,
    truncation_lengths: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> list[Setting]:
    """The settings to be measured: each estimator with each K and sigma, where it has these options.

    Args:
      config: its estimator gives the value of every option that another estimator has too.
      estimators: names; None for the config's own, truncated ES, PES, NRES and TBPTT.
      truncation_lengths: Ks; None for the config's, and a longer one where T is constant.
      sigmas: None for the config's, a third of it and three times of it.
    """
    # Single pairs are measured, at one sigma: of the noise's options only the scales matter.
    own: Spec = {k: _alone(v) if k == "noise" else v for k, v in config.estimator.items()}
    sigma = own.get("sigma", SIGMA)
    ks = dict.fromkeys(truncation_lengths or _default_lengths(config))
    sigmas = sorted(set(sigmas or (float(f"{sigma * factor:.2g}") for factor in (1 / 3, 1, 3))))
    settings, registry = [], default_registries().estimators
    for name in dict.fromkeys(estimators or (own["name"], *USUAL_ESTIMATORS)):
        # An unknown name is left to `build`, which says what is allowed.
        known = {p.name for p in option_parameters(registry[name])} if name in registry else set()
        spec = {k: v for k, v in (own | {"name": name, "num_particles": 1}).items() if k in known | {"name"}}
        for k in ks if "truncation_length" in known else [None]:
            for s in sigmas if "sigma" in known else [None]:
                chosen = {"truncation_length": k, "sigma": s}
                more = {option: value for option, value in chosen.items() if value is not None}
                settings.append(Setting(spec | more, k or spec.get("max_window"), s))
    return settings


def _alone(noise: Noise | dict[str, Any]) -> dict[str, Any]:
    given = noise._asdict() if isinstance(noise, Noise) else noise
    return Noise()._asdict() | {"scales": given["scales"]}


def _default_lengths(config: RunConfig) -> list[int]:
    length = config.inner.unroll_length
    if not isinstance(length, int):
        return [config.estimator.get("truncation_length", 1)]
    short = config.estimator.get("truncation_length") or _largest_divisor(length, 1, max(1, length // 10))
    return [short, _largest_divisor(length, short, 5 * short)]


def _largest_divisor(length: int, multiple: int, most: int) -> int:
    """The largest divisor of `length` that is a multiple of `multiple` and at most `most`."""
    return max(n for n in range(1, most + 1) if length % n == 0 and n % multiple == 0)
