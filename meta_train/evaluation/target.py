"""Steps to target: how early an optimizer reaches the final loss of a rival. Pure NumPy."""

from typing import NamedTuple

import numpy as np

from meta_train.evaluation.scores import SPEED_UP_RANGE, mean_over_seeds

SIGMAS = 3.0


class Target(NamedTuple):
    """Steps after which the optimizer under test has a rival's final loss."""

    steps: int | None  # the first step at which the mean over the seeds is not above the target; None: never
    # the first step at which it is below it by the rule `(target - mean) sqrt(n) >= 3 sigma` over n seeds;
    # None: never, or a single seed
    significant: int | None


def to_target(
    own: np.ndarray, rival: np.ndarray, weights: np.ndarray, window: int
) -> tuple[np.ndarray, Target]:
    """How many times faster than a rival an optimizer reaches the rival's final loss.

    A loss after t steps is the mean of the last `window` training losses, so that the one after all steps is
    the final loss. The speed is horizon / steps where the target is reached within the horizon; where it is
    not, it is the steps that the rival needs to reach the least loss of the optimizer, over the horizon:
    below 1.

    Args:
      own: f32[S, horizon], training losses of the optimizer under test; +inf from a divergence on.
      rival: f32[S, horizon], the same of the rival, on the same seeds.
      weights: f64[B + 1, S], of the bootstrap.
      window: steps that a loss averages.

    Returns:
      f64[B + 1], the speed, within `SPEED_UP_RANGE`; the steps. The seeds are paired: sigma is the standard
      deviation over the seeds of target minus loss.
    """
    horizon = own.shape[1]
    mine, theirs = trailing_mean(own, window), trailing_mean(rival, window)
    target = theirs[:, -1]
    curve = np.minimum.accumulate(_means(mine, weights), 1)
    aim = mean_over_seeds(target, weights)
    steps, reached = _first(curve, aim, window)
    other = np.minimum.accumulate(_means(theirs, weights[~reached]), 1)
    slower = _first(other, curve[~reached, -1], window)[0]
    speed = np.where(reached, horizon / steps, 0.0)
    speed[~reached] = np.minimum(slower / horizon, 1.0)
    lost = np.isposinf(mean_over_seeds(mine[:, -1], weights))
    speed = np.where(lost, 0.0, np.where(np.isposinf(aim), np.inf, speed))
    found = Target(int(steps[0]) if reached[0] else None, _significant(target, mine, window))
    return np.clip(speed, *SPEED_UP_RANGE), found


def trailing_mean(losses: np.ndarray, window: int) -> np.ndarray:
    """f64[S, horizon - window + 1]: the mean of each `window` losses that follow one another."""
    finite = np.where(np.isfinite(losses), losses, 0).astype(np.float64)
    total = np.concatenate([np.zeros((len(finite), 1)), np.cumsum(finite, 1)], 1)
    lost = np.logical_or.accumulate(~np.isfinite(losses), 1)[:, window - 1 :]
    return np.where(lost, np.inf, (total[:, window:] - total[:, :-window]) / window)


def _means(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return mean_over_seeds(losses.T, weights).T


def _first(curve: np.ndarray, aim: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The step after which each curve, which only falls, is at its aim; and whether it ever is."""
    below = curve <= aim[:, None]
    return below.argmax(1) + window, np.asarray(below.any(1))


def _significant(target: np.ndarray, losses: np.ndarray, window: int) -> int | None:
    n = len(target)
    if n < 2 or not np.isfinite(target).all():
        return None
    gap = np.where(np.isfinite(losses), target[:, None] - losses, -np.inf)
    known = np.isfinite(gap).all(0)
    gap = np.where(known, gap, 0.0)
    sure = known & (gap.mean(0) > 0) & (gap.mean(0) * n**0.5 >= SIGMAS * gap.std(0, ddof=1))
    return int(sure.argmax()) + window if sure.any() else None
