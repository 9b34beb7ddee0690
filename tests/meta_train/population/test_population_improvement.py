"""The algebra of curves behind FIRE PBT; nothing is trained."""

import math

import numpy as np
import pytest

from meta_train.population import improvement
from meta_train.population.improvement import (
    Overlap,
    curve,
    gap,
    overlap,
    p_value,
    sign_test,
    smooth_ema,
    smooth_gp,
)


def plain(*values):
    return curve(values, "none")


def rising(start, slope, n):
    return curve(start + slope * np.arange(n), "none")


def test_identical_curves_overlap_from_the_start():
    assert overlap(rising(0, 1, 9), rising(0, 1, 9)) == Overlap(0, 0, 9)


def test_a_curve_that_never_reaches_the_other_does_not_overlap():
    assert overlap(rising(0, 0.1, 5), rising(9, 1, 5)) is None


def test_the_overlap_begins_where_the_lower_curve_arrives_and_is_cut_to_the_shorter():
    low, high = rising(0, 1, 10), rising(4, 1, 3)
    assert overlap(low, high) == Overlap(4, 0, 3)
    assert overlap(high, low) == Overlap(0, 4, 3)
    assert overlap(rising(0, 1, 10), rising(4, 1, 20)) == Overlap(4, 0, 6)


def test_matching_is_antisymmetric():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (curve(rng.normal(size=rng.integers(1, 12)).cumsum(), "none") for _ in range(2))
        one, other = overlap(a, b), overlap(b, a)
        assert (one is None) == (other is None)
        if one is None or other is None:
            continue
        assert (one.a, one.b, one.length) == (other.b, other.a, other.length)


def test_the_matching_uses_the_smoothed_curves_and_the_gap_the_raw_ones():
    a = improvement.Curve(np.array([0.0, 9.0, 1.0]), np.array([0.0, 1.0, 2.0]))
    b = improvement.Curve(np.array([1.0, 2.0]), np.array([1.0, 1.5]))
    assert overlap(a, b) == Overlap(1, 0, 2)
    assert gap(a, b) == 9 - 2
    assert gap(a, b, "last") == 1 - 2
    assert gap(a, b, "smoothed_last") == 2 - 1.5


def test_the_gap_of_parallel_curves_is_zero_and_of_a_faster_one_what_it_gains():
    assert gap(rising(0, 1, 10), rising(3, 1, 7)) == 0
    assert gap(rising(0, 2, 10), rising(0, 1, 10)) == 9
    assert gap(rising(0, 1, 10), rising(0, 2, 10)) == -9


def test_a_curve_wholly_above_is_shifted_down_to_be_compared():
    above, below = rising(100, 2, 10), rising(0, 1, 10)
    assert gap(above, below) == pytest.approx(9)  # bottom to bottom, as if both began at 0
    assert gap(rising(100, 0, 10), below) == 0  # it does not rise: nothing is credited
    assert gap(below, above) == 0


def test_a_curve_that_is_not_finite_cannot_be_smoothed():
    with pytest.raises(ValueError, match="^a curve must be finite"):
        smooth_gp(np.array([0.0, np.nan, 1.0]))


def test_the_sign_test_is_exact():
    assert sign_test(7, 7) == pytest.approx(2**-7)
    assert sign_test(5, 10) == pytest.approx(0.623046875)
    assert sign_test(0, 5) == 1
    for n in (1, 8, 37):
        for k in range(1, n + 1):
            exact = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
            assert sign_test(k, n) == pytest.approx(exact, rel=1e-12)
    assert sign_test(2200, 4096) == pytest.approx(1.1e-6, rel=0.1)  # normal approximation: z = 4.73
    assert 0 < sign_test(4096, 4096) < 1e-300 or sign_test(4096, 4096) == 0


def test_seven_points_are_the_fewest_that_can_be_significant():
    faster, slower = 1 + np.arange(7.0), np.arange(7.0)
    assert p_value(plain(0, *faster[:6] + 1), plain(0, *slower[:6])) > 0.01
    a, b = plain(0.0, *(faster + 1)), plain(0.0, *slower)
    assert p_value(a, b) == pytest.approx(sign_test(7, 8))
    assert sign_test(7, 7) < 0.01 < sign_test(6, 6)


def test_the_p_value_without_an_overlap():
    assert p_value(rising(100, 0, 5), rising(0, 1, 5)) == 0
    assert p_value(rising(0, 1, 5), rising(100, 0, 5)) == improvement.NEVER
    a, b = plain(0, 3, -9, 3), plain(5, -8, -8)  # crossing, but a never reaches 5: the common prefix counts
    assert overlap(a, b) is None
    assert p_value(a, b) == pytest.approx(sign_test(1, 3))


def test_the_gaussian_process_recovers_a_sine_from_noise():
    x, rng = np.linspace(0, 1, 60), np.random.default_rng(0)
    clean = np.sin(2 * np.pi * x)
    for _ in range(5):
        noisy = clean + 0.3 * rng.normal(size=60)
        assert np.mean((smooth_gp(noisy) - clean) ** 2) < 0.5 * np.mean((noisy - clean) ** 2)


def test_smoothing_follows_shift_and_scale():
    y = np.random.default_rng(0).normal(size=40).cumsum()
    np.testing.assert_allclose(smooth_gp(3 * y + 7), 3 * smooth_gp(y) + 7, rtol=1e-9)


@pytest.mark.parametrize("values", [[2.0], [1.0, 2.0], [3.0] * 9], ids=["one", "two", "constant"])
def test_what_cannot_be_smoothed_comes_back(values):
    np.testing.assert_array_equal(smooth_gp(np.array(values)), values)


def test_a_long_curve_is_thinned_out_and_keeps_its_length():
    x = np.linspace(0, 1, 1000)
    y = np.sin(6 * x) + 0.1 * np.random.default_rng(0).normal(size=1000)
    smooth = smooth_gp(y)
    assert len(smooth) == 1000
    assert np.abs(smooth - np.sin(6 * x)).max() < 0.15


def test_the_moving_average_keeps_a_constant_and_follows_a_step():
    np.testing.assert_allclose(smooth_ema(np.full(5, 2.0)), 2.0)
    after = smooth_ema(np.array([0.0, 0.0, 1.0, 1.0]), decay=0.5)
    np.testing.assert_allclose(after, [0, 0, 1 / 1.75, 1.5 / 1.875])


@pytest.mark.slow
def test_the_smoothing_is_scikit_learns_with_the_most_likely_kernel():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, WhiteKernel

    y = np.random.default_rng(0).normal(size=40).cumsum()
    x, standard = np.linspace(0, 1, 40)[:, None], (y - y.mean()) / y.std()
    fits = [
        GaussianProcessRegressor(RBF(scale) + WhiteKernel(noise**2), alpha=0, optimizer=None).fit(x, standard)
        for scale in improvement.LENGTH_SCALES
        for noise in improvement.NOISES
    ]
    best = max(fits, key=lambda fit: fit.log_marginal_likelihood_value_)
    np.testing.assert_allclose(smooth_gp(y), y.mean() + y.std() * best.predict(x), atol=1e-8)
