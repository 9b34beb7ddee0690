"""Choices and comparisons on trainings that are made up; pure NumPy."""

import numpy as np
import pytest

from meta_train.evaluation import compare as compare_lib
from meta_train.evaluation.compare import Chosen, Table, archive, compare, single, table, tuned
from meta_train.evaluation.measure import Grid
from meta_train.evaluation.optimizers import Contestant, hand_designed, rivals
from meta_train.evaluation.protocol import Settings
from meta_train.evaluation.scores import draws

# One tuning seed, two evaluation seeds.
SETTINGS = Settings(
    horizons=(2, 4),
    num_seeds=2,
    num_tuning_seeds=1,
    rivals=("adam",),
    archive_steps=8,
    smoothing=0.0,
    final_steps=1,
)


def always(setting, horizons):
    return Chosen(*[np.full(horizons, setting)] * 2)


def grid_of(final, steps=(2, 4)):
    """A grid whose training losses are constant over the steps, and the validation losses their squares."""
    final = np.asarray(final, np.float32)  # [L, S]
    runs = tuple(np.repeat(final[:, :, None], n, axis=2) for n in steps)
    valid = np.repeat(final[:, :, None] ** 2, 2, axis=2)
    return Grid(runs, valid, valid / 2, np.full(valid.shape, np.nan))


def test_settings_are_chosen_on_the_tuning_seeds_and_measured_on_the_others():
    rival = grid_of([[3, 1, 1], [1, 5, 7], [2, 0, 0]])  # the second is best on the tuning seed alone
    subject = Contestant("learned", "x", lambda s, n: None, None, (0.5, 1.0), default=1)
    own = grid_of([[1, 8, 8], [2, 2, 4]])
    n = SETTINGS.num_tuning_seeds
    choice = tuned(table(rival, SETTINGS, 3), n)
    assert choice.loss.tolist() == [1, 1] and choice.valid.tolist() == [1, 1]
    found = compare(
        (subject, own),
        {"adam": rival},
        (always(1, 2), {"adam": choice}),
        np.full((2, 8), 5.0),
        SETTINGS,
        draws(2),
        {"adam": 0.5},
    )
    np.testing.assert_allclose(found.metrics["loss_ratio/adam"][0], [3 / 6, 3 / 6])
    np.testing.assert_allclose(found.metrics["valid_ratio/adam"][0], [10 / 37, 10 / 37])
    np.testing.assert_allclose(found.metrics["best_valid_ratio/adam"][0], [10 / 37, 10 / 37])
    assert np.isnan(found.metrics["test_ratio/adam"]).all()
    np.testing.assert_allclose(found.metrics["to_target/adam"][0], [2, 4])  # after the first step of each
    np.testing.assert_allclose(found.metrics["wall_clock_to_target/best"][0], [1, 2])
    np.testing.assert_allclose(found.metrics["speed_up"][0], [4, 2])  # the archive of 8 steps never gets to 3
    np.testing.assert_allclose(found.metrics["wall_clock_speed_up"][0], [2, 1])
    assert found.censored.all() and found.best == ("adam", "adam")


def test_the_best_rival_is_the_best_on_the_tuning_seeds():
    others = {"adam": grid_of([[3, 1, 1]]), "sgdm": grid_of([[2, 9, 9]])}
    subject = Contestant("learned", "x", lambda s, n: None, None, (1.0,), default=0)
    chosen = {name: always(0, 2) for name in others}
    found = compare(
        (subject, grid_of([[1, 3, 3]])),
        others,
        (always(0, 2), chosen),
        np.ones((2, 8)),
        SETTINGS,
        draws(2),
        {"adam": 1.0},
    )
    assert found.best == ("sgdm", "sgdm")
    np.testing.assert_allclose(found.metrics["loss_ratio/best"][0], [3 / 9, 3 / 9])
    np.testing.assert_allclose(found.metrics["loss_ratio/adam"][0], [3, 3])


def test_the_best_untuned_rival_is_among_those_of_one_setting():
    others = {
        "adam": grid_of([[3, 3, 3], [1, 1, 1]]),
        "a@1": grid_of([[8, 8, 8]]),
        "b@1": grid_of([[6, 6, 6]]),
    }
    subject = Contestant("learned", "x", lambda s, n: None, None, (1.0,), default=0)
    chosen = {name: tuned(table(grid, SETTINGS, len(grid.valid)), 1) for name, grid in others.items()}
    choices = always(0, 2), chosen
    own = grid_of([[2, 2, 2]])
    found = compare((subject, own), others, choices, np.ones((2, 8)), SETTINGS, draws(2), {"adam": 1.0})
    np.testing.assert_allclose(found.metrics["loss_ratio/best_untuned"][0], [2 / 6, 2 / 6])
    np.testing.assert_allclose(found.metrics["loss_ratio/best"][0], [2, 2])
    assert found.best == found.best_valid == ("adam", "adam")


def test_a_single_setting_is_the_least_bad_for_all_tasks_together():
    tables = [
        table(grid_of([[1, 9, 9], [1.5, 9, 9], [1000, 9, 9]]), SETTINGS, 3),
        table(grid_of([[np.inf, 9, 9], [0.2, 9, 9], [0.1, 9, 9]]), SETTINGS, 3),
    ]
    found = single(tables, 1)
    assert found.loss.tolist() == [1, 1]  # 1.5 and 2 times the best; the others fail once
    assert [t.loss.argmin(1)[0, 0] for t in tables] == [0, 2]


def test_the_archive_takes_the_rate_that_is_best_at_each_step_on_the_tuning_seed():
    fast, low = np.array([1.0, 1, 1, 1]), np.array([4.0, 2, 0.5, 0.1])
    run = np.stack([np.stack([fast, fast * 10, fast * 20]), np.stack([low, low * 10, low * 20])])
    grid = Grid((run.astype(np.float32),), *[np.zeros((2, 3, 2))] * 3)
    np.testing.assert_allclose(archive(grid, SETTINGS, None)[0], [10, 10, 5, 1], rtol=1e-6)
    np.testing.assert_allclose(archive(grid, SETTINGS, 0)[1], [20, 20, 20, 20])


def test_without_validation_losses_the_ratio_has_no_number_and_the_choice_still_stands():
    losses = np.ones((2, 3, 3))
    found = Table(losses, *[np.full((2, 3, 3), np.nan)] * 3)
    assert isinstance(tuned(found, 1), Chosen) and single([found], 1).valid.shape == (2,)
    rival = grid_of([[1, 1, 1]])._replace(valid=np.full((1, 3, 2), np.nan))
    subject = Contestant("learned", "x", lambda s, n: None, None, (1.0,), default=0)
    result = compare(
        (subject, rival),
        {"adam": rival},
        (always(0, 2), {"adam": always(0, 2)}),
        np.ones((2, 8)),
        SETTINGS,
        draws(2),
        {"adam": 1.0},
    )
    assert np.isnan(result.metrics["valid_ratio/adam"]).all()
    np.testing.assert_allclose(result.metrics["loss_ratio/adam"], 1)


def test_wrong_horizons_are_compared_with_the_right_one():
    subject = Contestant("learned", "x", lambda s, n: None, None, (0.5, 1.0), default=1, told=(0.5, 2.0))
    grid = grid_of([[9, 9, 9], [9, 2, 2], [9, 3, 3], [9, 1, 1]])
    found = compare_lib.wrong_horizons(subject, grid, SETTINGS)
    np.testing.assert_allclose(found[0.5], [1.5, 1.5])
    np.testing.assert_allclose(found[2.0], [0.5, 0.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizons": (100, 50)}, r"horizons must be positive, ascending and distinct, got \(100, 50\)"),
        ({"horizons": (10,)}, r"horizons must be >= final_steps \(20\), got 10"),
        ({"archive_steps": 300}, r"archive_steps must be >= every horizon \(500\), got 300"),
        ({"num_seeds": 0}, "num_seeds must be >= 1, got 0"),
        ({"rates": 0}, "rates must be >= 1, got 0"),
        ({"rivals": ("adam@fast",)}, "the learning rate must be a number, got 'fast'"),
        ({"trials": 0}, "trials must be >= 1, got 0"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
        ({"rivals": ("adamm",)}, "unknown optimizer 'adamm' of optax; did you mean adam"),
        (
            {"rivals": ("schedule_free_cosine",)},
            "schedule_free takes no cosine schedule, only constant, warmup",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Settings(**options)


def test_adam_is_always_a_rival_and_the_archive_four_times_the_longest_horizon():
    assert Settings(rivals=("sgdm",)).rivals == ("adam", "sgdm")
    assert Settings().archive_steps == 2000 and Settings(horizons=(1000,)).archive_steps == 4000


def test_groups_of_rivals_stand_for_their_members_and_untuned_ones_have_a_single_setting():
    untuned = Settings(rivals=("untuned", "sgdm"))
    assert untuned.rivals == (
        "adam",
        "adam@0.001",
        "adamw_cosine@0.001",
        "muon_cosine@0.01",
        "prodigy@1",
        "sgdm",
    )
    rows = {c.name: (len(c.values), c.values[0]) for c in rivals(untuned)}
    assert (
        rows["adam@0.001"] == (1, 0.001) and rows["muon_cosine@0.01"] == (1, 0.01) and rows["sgdm"][0] == 12
    )
    every = Settings(rivals=("all",)).rivals
    assert {"soap_warmup_cosine", "ademamix_warmup_cosine", "dowg", "schedule_free_sgd_warmup"} <= set(every)


def test_rates_and_decays_may_be_fewer():
    sizes = [
        len(hand_designed("adamw_cosine", settings=Settings(**options)).values)
        for options in ({}, {"tune_decay": False}, {"rates": 4}, {"rates": 1, "tune_decay": False})
    ]
    assert sizes == [36, 12, 12, 1]
    few = hand_designed("adam", settings=Settings(rates=4)).values
    assert few[0] == 1e-4 and few[-1] == 1 and list(few) == sorted(set(few))
