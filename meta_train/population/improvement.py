"""Which of two training curves improves faster: smoothing, matching, gap and sign test of FIRE PBT.

Curves are fitness (higher is better) at evenly spaced steps. All of this is our reading of the public
record: docs/population.md says what could not be verified.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

LENGTH_SCALES = (0.05, 0.1, 0.2, 0.5, 1.0)  # of curves on [0, 1]
NOISES = (0.03, 0.1, 0.3, 0.6)  # of standardised curves
MOST_POINTS = 64  # that one smoothing solves for; a longer curve is thinned out first
SHIFTS = 10
NEVER = 2.0  # a p-value that no threshold of a running evaluation reaches

GapStat = Literal["max", "last", "smoothed_last"]


class Curve(NamedTuple):
    """A curve as evaluated and as smoothed, f64[n] each."""

    raw: np.ndarray
    smooth: np.ndarray


class Overlap(NamedTuple):
    """Where two curves cover the same range: the first index of each, and the common length."""

    a: int
    b: int
    length: int


@functools.lru_cache(maxsize=64)
def _modes(n: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """(length scale, eigenvalues, eigenvectors) of the kernel matrices of n even points on [0, 1]."""
    from scipy.linalg import eigh

    x = np.linspace(0, 1, n)
    return [(scale, *eigh(_kernel(x, x, scale), check_finite=False)) for scale in LENGTH_SCALES]


def _kernel(x, y, scale):
    return np.exp(-0.5 * np.square((x[:, None] - y) / scale))


def smooth_gp(values: np.ndarray) -> np.ndarray:
    """Posterior mean of Gaussian-process regression at the curve's own points.

    Squared-exponential kernel plus noise on the standardised curve, steps scaled to [0, 1]; length
    scale and noise are those of a small grid with the largest marginal likelihood. Fewer than
    three points, or a constant, come back as they are.

    The kernel matrix of evenly spaced points depends on their number alone, so its eigenvectors are kept,
    and the whole grid costs two matrix-vector products. (scikit-learn's regressor, which a test compares
    this with, takes much longer.)
    """
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        raise ValueError("a curve must be finite to be smoothed")
    mean, std = values.mean(), values.std()
    if len(values) < 3 or std <= 1e-12 * max(1.0, abs(mean)):
        return values.copy()
    thinned = np.arange(0, len(values), -(-len(values) // MOST_POINTS))
    y, best = (values[thinned] - mean) / std, (-np.inf, None)
    for scale, eigenvalues, vectors in _modes(len(y)):
        projected = vectors.T @ y
        for noise in NOISES:
            spectrum = np.maximum(eigenvalues, 0) + noise**2
            evidence = -0.5 * np.sum(np.square(projected) / spectrum + np.log(spectrum))
            if evidence > best[0]:
                best = evidence, (scale, vectors @ (projected / spectrum))
    assert best[1] is not None
    scale, weights = best[1]
    x = np.arange(len(values)) / thinned[-1]
    return mean + std * (_kernel(x, x[thinned], scale) @ weights)


def smooth_ema(values: np.ndarray, decay: float = 0.7) -> np.ndarray:
    """Exponential moving average, its start corrected."""
    values = np.asarray(values, float)
    weights = decay ** np.arange(len(values))
    return np.convolve(values, weights)[: len(values)] / np.cumsum(weights)


SMOOTHERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gp": smooth_gp,
    "ema": smooth_ema,
    "none": lambda values: np.asarray(values, float),
}


def curve(values, smoother: str = "gp") -> Curve:
    """A curve and its smoothed self."""
    return Curve(np.asarray(values, float), SMOOTHERS[smoother](np.asarray(values, float)))


def overlap(a: Curve, b: Curve) -> Overlap | None:
    """Where the lower-starting curve has reached the other's first value, from there on; None if never."""
    if a.smooth[0] > b.smooth[0]:
        swapped = overlap(b, a)
        return swapped and Overlap(swapped.b, swapped.a, swapped.length)
    reached = np.flatnonzero(a.smooth >= b.smooth[0])
    if not len(reached):
        return None
    return Overlap(int(reached[0]), 0, min(len(a.smooth) - int(reached[0]), len(b.smooth)))


def gap(a: Curve, b: Curve, stat: GapStat = "max") -> float:
    """How much further a has come than b over the same number of steps from the same value.

    Where a lies wholly above b, a is shifted down by several offsets, and the best gap, at least
    0, counts; where they do not meet otherwise, 0.

    Args:
      a: the curve in question.
      b: what it is compared with.
      stat: of the common part: the highest raw value, the last raw or the last smoothed one.
    """
    where = overlap(a, b)
    if where is not None:
        return _value(a, where.a, where.length, stat) - _value(b, where.b, where.length, stat)
    if a.smooth.min() <= b.smooth.max():
        return 0.0
    touching, bottoms = a.smooth.min() - b.smooth.max(), a.smooth.min() - b.smooth.min()
    shifted = (Curve(a.raw - d, a.smooth - d) for d in np.linspace(touching, bottoms, SHIFTS))
    found = [(s, overlap(s, b)) for s in shifted]
    gaps = [
        _value(s, w.a, w.length, stat) - _value(b, w.b, w.length, stat) for s, w in found if w is not None
    ]
    return max([0.0, *gaps])


def _value(one: Curve, start: int, length: int, stat: GapStat) -> float:
    if stat == "max":
        return float(one.raw[start : start + length].max())
    return float((one.raw if stat == "last" else one.smooth)[start + length - 1])


def p_value(a: Curve, b: Curve) -> float:
    """P[Bin(l, 1/2) >= K], K of the l common points having a above b: small where a is ahead.

    Without an overlap: 0 where a lies wholly above b, `NEVER` where it lies wholly below.
    Neighbouring points are correlated, so this is a rule to decide by, not a calibrated p-value.
    """
    where = overlap(a, b)
    if where is None:
        if a.smooth.min() > b.smooth.max():
            return 0.0
        if a.smooth.max() < b.smooth.min():
            return NEVER
        where = Overlap(0, 0, min(len(a.raw), len(b.raw)))
    ahead = a.raw[where.a : where.a + where.length] > b.raw[where.b : where.b + where.length]
    return sign_test(int(ahead.sum()), where.length)


def sign_test(successes: int, n: int) -> float:
    """P[Bin(n, 1/2) >= successes]."""
    from scipy.special import bdtrc

    return 1.0 if successes <= 0 else float(bdtrc(successes - 1, n, 0.5))
