"""The config with FIRE PBT's own numbers, and the work that the comparison counts."""

import numpy as np
import pytest

from meta_train.population.config import assemble, load
from meta_train.population.rounds import population
from reproductions.fire_numbers import CONFIG, FAST, FIRE, _goyal, _one


def test_the_config_has_the_numbers_of_the_paper():
    config = load(CONFIG)
    parts = assemble(config)
    assert parts.rhythm.round_steps == 2400 and parts.rhythm.eval_every == 200
    assert config.controller["max_eval_steps"] == 7200
    assert config.hypers["learning_rate"]["explore"]["factors"] == [0.5, 0.8, 1.25, 2.0]
    assert parts.controller.num_members == 22 and len(parts.controller.ranked) == 16


@pytest.mark.parametrize("label", FIRE)
def test_the_other_worker_counts_are_overrides_of_the_config(label):
    overrides = [f"controller.{name}={list(sizes)}" for name, sizes in FIRE[label].items()]
    members = assemble(load(CONFIG, overrides)).controller.num_members
    assert members == int(label.split()[-1])


def test_the_schedule_by_hand_warms_up_and_falls_three_times():
    found = _goyal(90)
    np.testing.assert_allclose(found[[0, 4, 29, 30, 60, 80]], [0.1, 0.9, 1, 0.1, 0.01, 0.001])


def test_work_counts_the_members_and_the_busy_evaluators():
    parts = assemble(load(CONFIG, FAST))
    compiled = population(parts.trainer, parts.controller, parts.space, parts.rhythm)
    found = _one(compiled, 2)
    assert found["work"][0] == 22 * 84  # all evaluators begin with a parent
    assert 16 * 84 <= np.diff(found["work"])[0] <= 22 * 84
    assert len(found["schedule"]) == len(found["best"]) == 2
    assert found["fitness"] == found["best"][-1] and np.isfinite(found["test"]["test_loss"])
