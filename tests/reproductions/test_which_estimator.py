"""Which estimator should meta-train: the pieces of the comparison, and a short meta-training."""

from typing import Any

import jax
import numpy as np
import pytest

from meta_train.diagnose.diagnose import Diagnosis, Reference
from meta_train.diagnose.gradient_statistics import Row
from reproductions import against_adam, learning, meta_trainings, which_estimator
from tasks import make


def test_the_speed_up_is_where_the_loss_lies_on_adams_ladder():
    ladder = ([25, 100, 400], [2.0, 1.0, 0.5])
    found = against_adam.speed_up(np.array([1.0, 1.5, 3.0, 0.1]), 100, ladder)
    np.testing.assert_allclose(found, [1.0, 0.5, 0.25, 4.0])  # no further than the ladder goes


def test_more_steps_of_tuned_adam_lower_the_loss():
    horizons, losses = against_adam.ladder(
        make(which_estimator.TASK), jax.random.key(0), horizons=(12, 50), episodes=8
    )
    assert horizons == [12, 50]
    assert losses[1] < losses[0] - 0.1 and losses[0] < np.log(4) + 0.3  # 4 classes


def test_a_short_meta_training_by_full_es_lowers_the_meta_loss():
    case = which_estimator.CASES["spectral"]
    program, outer_steps = meta_trainings.training(case, meta_trainings.Setting("full ES", None, 12_800), 1)
    assert outer_steps == 16  # of 2 x 4 x 100 inner steps
    problem = which_estimator.problem_of(case)
    thetas = program(np.asarray([0], np.int32), np.asarray([0.03], np.float32), problem.data)
    ends = jax.tree.map(lambda x: x[0, [0, -1]], thetas)
    first, last = learning.objective(problem, ends, jax.random.key(0), episodes=16)
    assert last < first - 0.05


def test_the_advice_is_a_setting_that_was_trained():
    def row(name, window, snr, z):
        numbers: dict[str, Any] = dict.fromkeys(Row._fields, 1.0)
        own = {"cosine": 0.99, "cosine_error": 0.01, "snr_per_second": snr, "z": z}
        return Row(**numbers | own | {"estimator": name, "truncation_length": window, "sigma": None})

    rows = [row("tbptt", 10, 9.0, 20.0), row("nres", 20, 5.0, 0.1), row("full_es", None, 1.0, 0.1)]
    found = Diagnosis(rows, [Reference(0.1, 1.0, 50.0, 1.0)], 64, 87, which_estimator.T, 1.0)
    results = {
        "TBPTT": {"label": "TBPTT", "K": 10, "long": False},
        "NRES, K = 20": {"label": "NRES", "K": 20, "long": False},
        "NRES, long": {"label": "NRES", "K": 20, "long": True},
        "full ES": {"label": "full ES", "K": which_estimator.T, "long": False},
    }
    advice = which_estimator.advice(found, results)
    assert advice["picked"] == "TBPTT" and advice["picked without a bias"] == "NRES, K = 20"
    assert advice["rows"]["full ES"]["snr_per_second"] == pytest.approx(1.0)
