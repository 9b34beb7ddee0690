"""Hyperparameters that a population searches: how each is drawn, bounded and explored. Host side, float64."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Gt, Interval, MinLen

from meta_train.config.registry import Registry, Spec, build

Draw = Callable[[np.random.Generator, int], np.ndarray]
Explore = Callable[[np.random.Generator, np.ndarray, "Hyperparameter"], np.ndarray]
Hypers = dict[str, np.ndarray]  # name -> f64[members]
Positive = Annotated[float, Gt(0)]
MULTIPLY = ("factors", "log_normal")  # explore rules that cannot change the sign of a value


class Hyperparameter(NamedTuple):
    """One dimension of the search."""

    draw: Draw  # `(rng, n) -> f64[n]`, the initial values
    explore: Explore  # `(rng, values f64[n], self) -> f64[n]`, what a copied member goes on with
    # `(values) -> values`: clipped to the hard bounds, whole where it must be
    legal: Callable[[np.ndarray], np.ndarray]
    values: tuple[float, ...] = ()  # the choices, ascending; () for a range
    whole: bool = False  # whether values are whole numbers, which trainers receive as i32


Space = dict[str, Hyperparameter]


def sample(space: Space, rng: np.random.Generator, n: int) -> Hypers:
    """Initial values of n members, inside the bounds."""
    return {name: h.legal(h.draw(rng, n)) for name, h in space.items()}


def explore(space: Space, rng: np.random.Generator, hypers: Hypers, who: np.ndarray) -> Hypers:
    """`hypers` with the members `who` (i64[k]) changed by the rule of each hyperparameter, independently."""
    changed = {}
    for name, h in space.items():
        values = hypers[name].copy()
        if len(who):
            values[who] = h.legal(h.explore(rng, values[who], h))
        changed[name] = values
    return changed


def take(hypers: Hypers, source: np.ndarray) -> Hypers:
    """Every member's values replaced by those of its source."""
    return {name: values[source] for name, values in hypers.items()}


# Scales: registry of `(*, options) -> Hyperparameter`.


def log(
    *,
    bounds: tuple[Positive, Positive],
    initial: tuple[Positive, Positive] | None = None,
    given: tuple[Positive, ...] = (),
    explore: Spec = {"name": "factors"},  # noqa: B006 (read only)
) -> Hyperparameter:
    """A positive number, drawn log-uniformly: a learning rate, a noise scale.

    Args:
      bounds: hard limits, ascending; exploring never leaves them.
      initial: range of the first draw, inside the bounds; null for the bounds.
      given: first values instead of a draw, which the members get in turn.
      explore: `{name: RULE, and options}`: `factors`, `gaussian`, `log_normal`, `resample` or `keep`.

    Raises:
      ValueError: ranges that do not ascend, or lie outside the bounds.
    """
    low, high = _range(bounds, initial, given)

    def draw(rng, n):
        return np.exp(rng.uniform(np.log(low), np.log(high), n))

    return _ranged(draw, bounds, given, explore)


def linear(
    *,
    bounds: tuple[float, float],
    initial: tuple[float, float] | None = None,
    given: tuple[float, ...] = (),
    explore: Spec = {"name": "factors"},  # noqa: B006 (read only)
) -> Hyperparameter:
    """A number, drawn uniformly. Options as those of `log`."""
    low, high = _range(bounds, initial, given)
    return _ranged(lambda rng, n: rng.uniform(low, high, n), bounds, given, explore)


def integer(
    *,
    bounds: tuple[int, int],
    initial: tuple[int, int] | None = None,
    given: tuple[int, ...] = (),
    explore: Spec = {"name": "neighbour"},  # noqa: B006 (read only)
) -> Hyperparameter:
    """A whole number, drawn uniformly, both ends included; `neighbour` is one more or less.

    The other options are those of `log`. The result of an explore rule is rounded away from the old value,
    so that a factor of 1.25 changes 2 into 3. Where exploring multiplies, 0 counts as 1/2: a factor above
    1 changes it into 1.
    """
    low, high = _range(bounds, initial, given)
    rule = _rule(explore, bounds)

    def away(rng, values, h):
        old = np.where(values == 0, 0.5, values) if explore["name"] in MULTIPLY else values
        new = rule(rng, old, h)
        return np.where(new > old, np.ceil(new - 1e-9), np.floor(new + 1e-9))

    def draw(rng, n):
        return rng.integers(low, high, n, endpoint=True).astype(float)

    hyperparameter = _ranged(draw, bounds, given, {"name": "keep"})
    legal = lambda values: np.clip(np.rint(values), *bounds)  # noqa: E731
    return hyperparameter._replace(explore=away, legal=legal, whole=True)


def choice(
    *,
    values: Annotated[tuple[float, ...], MinLen(2)],
    given: tuple[float, ...] = (),
    explore: Spec = {"name": "neighbour"},  # noqa: B006 (read only)
) -> Hyperparameter:
    """One of several numbers. What is not a number changes the program and cannot be searched here.

    Args:
      values: what there is to choose from, ascending.
      given: first values instead of a uniform draw, which the members get in turn.
      explore: `neighbour` (the next larger or smaller one), `resample` or `keep`.

    Raises:
      ValueError: values that do not ascend, a rule that leaves them.
    """
    if list(values) != sorted(set(values)):
        raise ValueError(f"values must ascend, got {list(values)}")
    if any(value not in values for value in given):
        raise ValueError(f"given must be among the values {list(values)}, got {list(given)}")
    if explore.get("name") not in ("neighbour", "resample", "keep"):
        raise ValueError(f"explore must be neighbour, resample or keep for a choice, got {explore}")
    several = np.asarray(values, float)
    draw = _deal(given) if given else lambda rng, n: rng.choice(several, n)
    return Hyperparameter(draw, build(EXPLORES, explore, where="explore"), lambda v: v, tuple(values))


SCALES: Registry = {"log": log, "linear": linear, "integer": integer, "choice": choice}


def _range(bounds: Any, initial: Any, given: Any) -> tuple[Any, Any]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must ascend, got {list(bounds)}")
    low, high = bounds if initial is None else initial
    if not bounds[0] <= low <= high <= bounds[1]:
        raise ValueError(f"initial must ascend and lie inside the bounds {list(bounds)}, got {[low, high]}")
    if any(not bounds[0] <= value <= bounds[1] for value in given):
        raise ValueError(f"given must lie inside the bounds {list(bounds)}, got {list(given)}")
    return low, high


def _rule(explore: Spec, bounds: Any) -> Explore:
    """The explore rule of a range (ValueError for one that its bounds do not allow)."""
    rule = build(EXPLORES, explore, where="explore")
    if explore["name"] in MULTIPLY and bounds[0] < 0:
        raise ValueError(f"bounds must not be negative where exploring multiplies, got {list(bounds)}")
    return rule


def _ranged(draw: Draw, bounds: Any, given: Any, explore: Spec) -> Hyperparameter:
    rule = _rule(explore, bounds)
    if explore["name"] == "neighbour":
        raise ValueError("explore must not be neighbour for a range: it has no next value")
    return Hyperparameter(_deal(given) if given else draw, rule, lambda values: np.clip(values, *bounds))


def _deal(given: tuple[float, ...]) -> Draw:
    return lambda rng, n: np.resize(np.asarray(given, float), n)


# Explore rules: registry of `(*, options) -> Explore`.


def factors(*, factors: Annotated[tuple[Positive, ...], MinLen(1)] = (0.5, 0.8, 1.25, 2.0)) -> Explore:
    """Multiplies by one of several factors, each equally likely."""
    return lambda rng, values, h: values * rng.choice(np.asarray(factors), len(values))


def gaussian(*, std: Positive) -> Explore:
    """Adds N(0, std^2), in the hyperparameter's own unit."""
    return lambda rng, values, h: values + std * rng.standard_normal(len(values))


def log_normal(*, std: Positive) -> Explore:
    """Multiplies by exp(N(0, std^2))."""
    return lambda rng, values, h: values * np.exp(std * rng.standard_normal(len(values)))


def resample(*, probability: Annotated[float, Interval(gt=0, le=1)] = 1.0) -> Explore:
    """With a probability, draws again as in the beginning; otherwise the value stays."""

    def rule(rng, values, h):
        return np.where(rng.random(len(values)) < probability, h.draw(rng, len(values)), values)

    return rule


def neighbour() -> Explore:
    """The next larger or smaller value; at an end, the only one there is."""

    def rule(rng, values, h):
        step = rng.choice([-1, 1], len(values))
        if not h.values:
            return np.where(h.legal(values + step) == values, values - step, values + step)
        several = np.asarray(h.values)
        place = np.abs(values[:, None] - several).argmin(1)
        moved = np.where((place + step < 0) | (place + step >= len(several)), place - step, place + step)
        return several[moved]

    return rule


def keep() -> Explore:
    """Leaves the value as it was copied."""
    return lambda rng, values, h: values


EXPLORES: Registry = {
    "factors": factors,
    "gaussian": gaussian,
    "log_normal": log_normal,
    "resample": resample,
    "neighbour": neighbour,
    "keep": keep,
}
