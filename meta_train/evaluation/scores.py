"""Averages over tasks and horizons with bootstrap intervals over tasks and seeds. Pure NumPy."""

from typing import NamedTuple

import numpy as np

LEVEL = 0.95
NUM_BOOTSTRAP = 1000
SPEED_UP_RANGE = 0.05, 20.0  # a failed training counts the lower end
RATIO_RANGE = 1e-3, 1e3  # a failed training counts the upper end
LOSS_FLOOR = 1e-12  # lower losses count as equal
TAUS = tuple(float(f"{x:.4g}") for x in np.geomspace(0.125, 8, 97))


class Interval(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


class Score(NamedTuple):
    """Averages of one metric over cells (a task at a horizon each), and the worst cell."""

    geometric_mean: Interval  # exp of the mean of the logarithms
    iqm: Interval  # interquartile mean: of the middle half of the cells
    median: Interval  # of the cells
    worst: float  # the smallest speed-up or the largest ratio
    cells: int  # how many there are; cells without a number (a loss below zero) are left out


class Profile(NamedTuple):
    """Performance profile: `share[i]` of the cells have a speed-up of at least `taus[i]`; 95 % intervals."""

    taus: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Draws(NamedTuple):
    """A bootstrap: for each sample, tasks drawn with replacement, and within each the seeds."""

    weights: np.ndarray  # f64[B + 1, S], weight of each seed; row 0 is the point estimate, all seeds alike
    seed: int  # of the draws of tasks

    def tasks(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """i64[B, F] each, for tasks of these indices [F]: a task, and the row of `weights` it is read at."""
        rng = np.random.default_rng([self.seed, len(which)])
        shape = NUM_BOOTSTRAP, len(which)
        return which[rng.integers(len(which), size=shape)], 1 + rng.integers(NUM_BOOTSTRAP, size=shape)


def draws(num_seeds: int, seed: int = 0) -> Draws:
    """The samples of a bootstrap over `num_seeds` seeds."""
    rng = np.random.default_rng(seed)
    even = np.full(num_seeds, 1 / num_seeds)
    sampled = rng.multinomial(num_seeds, even, size=NUM_BOOTSTRAP) / num_seeds
    return Draws(np.concatenate([even[None], sampled]), seed)


def mean_over_seeds(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """f64[..., B] from f[..., S]: weighted means; +inf wherever a seed that is +inf has a weight."""
    losses = np.asarray(losses, np.float64)
    finite = np.where(np.isfinite(losses), losses, 0) @ weights.T
    lost = np.isposinf(losses) @ weights.T > 0
    unknown = np.isnan(losses) @ weights.T > 0
    return np.where(unknown, np.nan, np.where(lost, np.inf, finite))


def loss_ratio(loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Final loss over a reference's, in `RATIO_RANGE`: the upper end for +inf. NaN if either is negative."""
    loss, reference = np.asarray(loss, np.float64), np.asarray(reference, np.float64)
    failed = np.isinf(loss)
    top = np.where(failed, 1.0, np.maximum(loss, LOSS_FLOOR))
    ratio = np.where(failed, np.inf, top / np.maximum(reference, LOSS_FLOOR))
    negative = (loss < 0) | (reference < 0)
    return np.where(negative | np.isnan(loss) | np.isnan(reference), np.nan, np.clip(ratio, *RATIO_RANGE))


def step_speed_up(target: np.ndarray, archive: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps that the archive needs to reach the target first, over the horizon; and whether it never did.

    Args:
      target: f64[B], loss at the end; +inf for a failure, which counts the lower end of `SPEED_UP_RANGE`.
      archive: f64[B, steps], that of the reference after each step.
      horizon: steps that reaching the target took.

    Returns:
      f64[B] within `SPEED_UP_RANGE`; bool[B], where it is only a lower bound.
    """
    reached = np.minimum.accumulate(archive, axis=1) <= target[:, None]
    steps = np.where(reached.any(1), reached.argmax(1) + 1, archive.shape[1])
    speed_up = np.where(np.isinf(target), 0, steps / horizon)
    return np.clip(speed_up, *SPEED_UP_RANGE), np.logical_not(reached.any(1))


def score(values: np.ndarray, which: np.ndarray, drawn: Draws, *, larger_is_better: bool) -> Score:
    """Averages of a metric over some tasks, at all horizons that are given.

    Args:
      values: f64[tasks, B + 1, M], positive; NaN for a cell without a number.
      which: i64[F], the tasks that count.
      drawn: the bootstrap.
      larger_is_better: tells which cell is the worst.
    """
    cells = values[which, 0].ravel()
    known = cells[~np.isnan(cells)]
    if not known.size:
        nothing = Interval(*[float("nan")] * 3)
        return Score(nothing, nothing, nothing, float("nan"), 0)
    sampled = values[drawn.tasks(which)].reshape(NUM_BOOTSTRAP, -1)
    return Score(
        *(_interval(average, cells, sampled) for average in (geometric_mean, interquartile_mean, median)),
        worst=float(known.min() if larger_is_better else known.max()),
        cells=int(known.size),
    )


def profile(values: np.ndarray, which: np.ndarray, drawn: Draws) -> Profile:
    """The performance profile of speed-ups f64[tasks, B + 1, M] over some tasks."""
    sampled = values[drawn.tasks(which)].reshape(NUM_BOOTSTRAP, -1)
    above = [(values[which, 0].ravel() >= tau).mean() for tau in TAUS]
    shares = np.array([(sampled >= tau).mean(1) for tau in TAUS])
    low, high = np.quantile(shares, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2), axis=1)
    return Profile(TAUS, *(tuple(float(x) for x in row) for row in (above, low, high)))


def geometric_mean(x: np.ndarray) -> np.ndarray:
    """Along the last axis, leaving out NaN."""
    return np.exp(_nan_mean(np.log(x)))


def interquartile_mean(x: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis, leaving out NaN; cells on a quartile count in part."""
    x = np.sort(x, axis=-1)  # NaN last
    n = (~np.isnan(x)).sum(-1, keepdims=True)
    rank = np.arange(x.shape[-1])
    weight = np.clip(np.minimum(rank + 1, 0.75 * n) - np.maximum(rank, 0.25 * n), 0, 1)
    with np.errstate(invalid="ignore"):
        return (np.where(weight > 0, x, 0) * weight).sum(-1) / weight.sum(-1)


def median(x: np.ndarray) -> np.ndarray:
    """Along the last axis, leaving out NaN."""
    x = np.sort(x, axis=-1)
    n = (~np.isnan(x)).sum(-1, keepdims=True)
    middle = [np.take_along_axis(x, np.maximum(i, 0), -1) for i in ((n - 1) // 2, n // 2)]
    return np.where(n > 0, (middle[0] + middle[1]) / 2, np.nan)[..., 0]


def _nan_mean(x: np.ndarray) -> np.ndarray:
    known = ~np.isnan(x)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, x, 0).sum(-1) / np.maximum(count, 1), np.nan)


def _interval(average, cells: np.ndarray, sampled: np.ndarray) -> Interval:
    found = average(sampled)
    low, high = np.quantile(found[~np.isnan(found)], (0.5 - LEVEL / 2, 0.5 + LEVEL / 2))
    return Interval(float(average(cells)), float(low), float(high))
