"""Steps to target against values worked out by hand; pure NumPy."""

import numpy as np

from meta_train.evaluation.scores import draws
from meta_train.evaluation.target import to_target, trailing_mean

ONE = np.ones((1, 1))


def test_the_speed_is_the_horizon_over_the_step_at_which_the_rivals_final_loss_is_reached():
    own, rival = np.array([[9.0, 5, 3, 2, 1]]), np.array([[9.0, 8, 7, 6, 4]])
    speed, target = to_target(own, rival, ONE, 1)
    assert target.steps == 3 and speed.tolist() == [5 / 3]


def test_a_target_that_is_not_reached_counts_the_steps_that_the_rival_needs_for_as_little():
    own, rival = np.array([[9.0, 8, 7, 6, 4]]), np.array([[9.0, 5, 4, 2, 1]])
    speed, target = to_target(own, rival, ONE, 1)
    assert target == (None, None) and speed.tolist() == [3 / 5]


def test_equal_losses_are_a_speed_of_one_and_a_divergence_is_the_least():
    own = np.array([[4.0, 3, 2]])
    assert to_target(own, own, ONE, 1)[0].tolist() == [1.0]
    lost = np.array([[4.0, np.inf, np.inf]])
    assert to_target(lost, own, ONE, 1)[0].tolist() == [0.05]
    assert to_target(own, lost, ONE, 1)[0].tolist() == [20.0]


def test_the_step_is_significant_where_the_paired_gap_is_three_standard_errors():
    """Two seeds of gaps a and b: mean / std * sqrt(2) = (a + b) / abs(a - b), at least 3 from a = 2 b on."""
    rival = np.array([[5.0, 5, 5, 5], [5.0, 5, 5, 5]])
    own = np.array([[5.0, 3.0, 3.0, 3.0], [5.0, 4.9, 4.01, 3.99]])  # gaps of the second: 0, .1, .99, 1.01
    speed, target = to_target(own, rival, draws(2).weights, 1)
    assert target.steps == 1 and target.significant == 4
    assert to_target(own[:1], rival[:1], ONE, 1)[1].significant is None


def test_the_loss_after_all_steps_is_the_final_loss():
    losses = np.array([[1.0, 2, 3, 4], [1.0, np.inf, 3, 4]])
    np.testing.assert_array_equal(trailing_mean(losses, 2), [[1.5, 2.5, 3.5], [np.inf] * 3])
    np.testing.assert_allclose(trailing_mean(losses, 2)[0, -1], losses[0, -2:].mean())
