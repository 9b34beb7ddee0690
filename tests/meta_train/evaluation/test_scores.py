"""Averages, intervals and ratios against values worked out by hand; pure NumPy."""

import numpy as np
import pytest
from scipy import stats

from meta_train.evaluation.scores import (
    Draws,
    draws,
    geometric_mean,
    interquartile_mean,
    loss_ratio,
    mean_over_seeds,
    median,
    profile,
    score,
    step_speed_up,
)


def test_averages_are_scipys_and_leave_out_nan():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 5, 8, 13):
        x = rng.lognormal(size=(3, n))
        with_nan = np.concatenate([x, np.full((3, 2), np.nan)], 1)
        np.testing.assert_allclose(geometric_mean(with_nan), stats.gmean(x, axis=1))
        np.testing.assert_allclose(median(with_nan), np.median(x, axis=1))
        if n % 4 == 0:  # elsewhere scipy rounds the number of cells it cuts off
            np.testing.assert_allclose(interquartile_mean(with_nan), stats.trim_mean(x, 0.25, axis=1))
    np.testing.assert_allclose(interquartile_mean(np.array([3.0, 1.0, 2.0])), (0.25 * 1 + 2 + 0.25 * 3) / 1.5)
    assert np.isnan(median(np.full((1, 2), np.nan))).all() and np.isnan(geometric_mean(np.array([np.nan])))


def test_ratios_of_zero_negative_and_infinite_losses_are_defined():
    np.testing.assert_allclose(
        loss_ratio([1, 0, 5, np.inf, np.inf], [2, 0, np.inf, 1, np.inf]), [0.5, 1, 1e-3, 1e3, 1e3]
    )
    assert np.isnan(loss_ratio([-1.0, 1.0, np.nan], [1.0, -1.0, 1.0])).all()


def test_a_seed_that_diverged_spoils_only_the_means_that_it_has_a_weight_in():
    weights = np.array([[0.5, 0.5], [1, 0], [0, 1]])
    np.testing.assert_array_equal(mean_over_seeds(np.array([1.0, np.inf]), weights), [np.inf, 1, np.inf])
    np.testing.assert_array_equal(mean_over_seeds(np.array([1.0, np.nan]), weights), [np.nan, 1, np.nan])


def test_a_speed_up_is_where_the_archive_first_gets_to_the_target():
    archive = np.array([[5.0, 3.0, 4.0, 1.0]] * 4)
    speed_up, censored = step_speed_up(np.array([3.5, 1.0, 0.5, np.inf]), archive, 2)
    np.testing.assert_allclose(speed_up, [1, 2, 2, 0.05])
    assert censored.tolist() == [False, False, True, False]
    assert step_speed_up(np.array([5.0]), archive[:1], 100)[0] == 0.05
    assert step_speed_up(np.array([0.0]), np.ones((1, 100)), 1)[0] == 20


def test_without_any_spread_the_interval_is_the_point():
    values = np.full((4, 1001, 2), 3.0)
    found = score(values, np.arange(4), draws(3), larger_is_better=True)
    np.testing.assert_allclose([*found.geometric_mean, *found.iqm, *found.median, found.worst], 3)
    assert found.cells == 8


def test_the_interval_of_a_mean_over_many_tasks_is_the_textbooks():
    """400 log-normal tasks, fixed: the half width is 1.96 s / sqrt(400) within 15 %.

    The 2.5 % quantile of 1000 bootstrap means has a relative standard error of 4 %.
    """
    logs = np.random.default_rng(0).normal(size=400)
    values = np.exp(logs)[:, None, None] * np.ones((1, 1001, 1))
    found = score(values, np.arange(400), draws(2), larger_is_better=True).geometric_mean
    half = 1.96 * logs.std() / 20
    np.testing.assert_allclose(
        np.log([found.low, found.high]) - np.log(found.value), [-half, half], rtol=0.15
    )
    np.testing.assert_allclose(np.log(found.value), logs.mean())


def test_the_spread_over_seeds_is_in_the_interval():
    drawn = draws(2)
    losses = np.array([1.0, 3.0])
    values = mean_over_seeds(losses, drawn.weights)[None, :, None]
    found = score(values, np.array([0]), drawn, larger_is_better=False).geometric_mean
    assert found == pytest.approx((2, 1, 3))


def test_only_the_tasks_of_the_group_count_and_cells_without_a_number_do_not():
    values = np.array([2.0, 8.0, np.nan, 100.0])[:, None, None] * np.ones((1, 1001, 1))
    found = score(values, np.array([0, 1, 2]), draws(2), larger_is_better=True)
    assert found.cells == 2 and found.worst == 2
    np.testing.assert_allclose([found.geometric_mean.value, found.median.value], [4, 5])
    assert 2 <= found.geometric_mean.low < found.geometric_mean.high <= 8
    nothing = score(values, np.array([2]), draws(2), larger_is_better=True)
    assert nothing.cells == 0 and np.isnan(nothing.geometric_mean.value) and np.isnan(nothing.worst)


def test_the_profile_is_the_share_of_cells_above_each_speed_up():
    values = np.array([0.5, 1.0, 2.0, 4.0])[:, None, None] * np.ones((1, 1001, 1))
    found = profile(values, np.arange(4), draws(2))
    at = {tau: found.share[i] for i, tau in enumerate(found.taus)}
    assert at[0.125] == 1 and at[1.0] == 0.75 and at[8.0] == 0
    assert found.share == tuple(sorted(found.share, reverse=True))
    assert all(lo <= s <= hi for lo, s, hi in zip(found.low, found.share, found.high, strict=True))


def test_draws_repeat_themselves_and_point_only_at_resampled_rows():
    drawn = draws(3, seed=5)
    assert isinstance(drawn, Draws) and drawn.weights.shape == (1001, 3)
    np.testing.assert_allclose(drawn.weights.sum(1), 1)
    tasks, rows = drawn.tasks(np.array([4, 7]))
    assert set(tasks.ravel()) == {4, 7} and rows.min() >= 1 and rows.max() <= 1000
    np.testing.assert_array_equal(draws(3, seed=5).tasks(np.array([4, 7]))[0], tasks)
