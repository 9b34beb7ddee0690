"""The papers' figures at the fast settings, each in a process of its own (they set the precision)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reproductions.common import main

ROOT = Path(__file__).parents[2]


def curves(name, folder, *options):
    """What `python -m reproductions.NAME --fast --json FILE` finds; `options` in place of --fast."""
    file = folder / "found.json"
    command = [sys.executable, "-m", f"reproductions.{name}", *(options or ["--fast"]), "--json", str(file)]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True, stdout=subprocess.DEVNULL)
    return json.loads(file.read_text())["curves"]


def test_influence_balancing_divides_the_estimators_as_in_figure_5(tmp_path):
    found = curves("influence_balancing", tmp_path, "--fast", "--seeds", "3")
    for label in ("TBPTT 100", "RTRL", "PES", "NRES"):
        assert found[label]["theta"][0][-1] < -0.16, label
        assert found[label]["loss"][0][-1] < 1e-6, label
    for label in ("TBPTT 1", "truncated ES 1"):  # the wrong way, from step 100 on
        assert (np.diff(found[label]["theta"][0][10:]) > 0).all(), label
    assert found["TBPTT 10"]["loss"][0][-1] > 1e10


@pytest.mark.slow
def test_in_the_toy_regression_only_unbiased_estimators_leave_the_plain(tmp_path):
    found = {label: np.asarray(c["objective"]) for label, c in curves("toy_regression", tmp_path).items()}
    np.testing.assert_allclose([c[:, 0] for c in found.values()], 2487.8, atol=0.5)
    for label in ("PES", "NRES", "full ES"):  # after 1000 outer steps, every seed; 553 is the best there is
        assert found[label][:, -1].max() < 600, label
    assert found["TBPTT"][:, -1].min() > 2400
    # Rugged where it ends, hence the median of three seeds and 100 outer steps: 1397 to 1901 on six seeds.
    assert 1000 < np.median(found["truncated ES"][:, -5:]) < 1700


@pytest.mark.slow
def test_pes_finds_the_best_penalty_from_every_start_and_truncated_es_another(tmp_path):
    found = curves("l2_tuning", tmp_path)
    best = 2.8446  # of the exact ridge solutions
    for start, pes, truncated in zip(
        (-5, -3, -1, 1, 3, 5), found["PES"]["end"][0], found["truncated ES"]["end"][0], strict=True
    ):
        assert abs(pes - best) < 0.1, start
        assert truncated < best - 0.4, start


@pytest.mark.slow
def test_nres_fits_the_lorenz_equations_and_derivatives_do_not(tmp_path):
    found = curves("lorenz", tmp_path)
    loss = {label: curve["loss"][0] for label, curve in found.items()}
    theta = {label: np.asarray(curve["theta"])[0, -1] for label, curve in found.items()}
    assert 300 < loss["NRES"][0] < 350  # 56 at the truth
    assert loss["NRES"][-1] < 100
    np.testing.assert_allclose(theta["NRES"], np.log([10, 28]), atol=0.25)
    assert theta["TBPTT"][0] > 3.5  # away from log 10, from 3.1
    assert loss["DODGE"][-1] > 200


@pytest.mark.slow
def test_pes_teaches_the_swimmer_to_swim(tmp_path):
    found = np.asarray(curves("swimmer", tmp_path)["PES"]["returns"])
    # A quarter of the environment steps, from -19. Rounding decides when a seed takes off.
    assert found[:, 0].max() < 0
    assert np.median(found[:, -1]) > 100  # truncated ES: 28
    assert found[:, -1].max() > 200


@pytest.mark.slow
def test_pes_full_es_and_ars_solve_the_swimmer_and_truncated_es_does_not(tmp_path):
    found = curves("swimmer", tmp_path, "--seeds", "3", "5", "7", "11", "13", "23")
    final = {label: np.asarray(curve["returns"])[:, -1] for label, curve in found.items()}
    # Rounding, so the compiler, decides how a seed begins: 1 of 12 ended below 325 with ARS, none with PES.
    for label in ("PES", "ARS", "full ES"):
        assert np.median(final[label]) >= 350, label
        assert np.sort(final[label])[1] >= 325, label
    assert final["truncated ES"].max() <= 60


@pytest.mark.slow
def test_pes_swings_the_acrobot_up(tmp_path):
    found = np.asarray(curves("acrobot", tmp_path)["PES"]["returns"])  # -200 to begin with, ten seeds
    assert np.median(found[:, -1]) > -70 and found[:, 0].max() < -195


@pytest.mark.slow
def test_truncated_es_decays_the_learning_rate_too_much_and_pes_does_not(tmp_path):
    found = curves("lr_schedule", tmp_path)
    pes, truncated = found["train, PES 10"], found["train, truncated ES 10"]
    for seed in range(3):
        assert pes["objective"][seed][-1] < 0.3 * pes["objective"][seed][0]
    end = {name: np.median(np.asarray(c["objective"])[:, -1]) for name, c in found.items()}
    assert end["train, PES 10"] < end["train, truncated ES 10"]
    decay = {name: np.median(np.asarray(c["theta"])[:, -1, 1]) for name, c in found.items()}
    assert decay["train, PES 10"] < decay["train, truncated ES 10"] < truncated["theta"][0][0][1]


@pytest.mark.slow
def test_nres_tunes_many_hyperparameters_faster_than_full_es_and_random_search(tmp_path):
    found = {
        label: np.median(np.asarray(c), 0) for label, c in curves("many_hyperparameters", tmp_path).items()
    }
    assert all(values[-1] < values[0] for values in found.values())
    assert found["NRES"][-1] < min(found["full ES"][-1], found["random search"][-1])


@pytest.mark.slow
def test_the_error_of_an_lstms_gradient_is_that_of_the_formula_within_a_tenth(tmp_path):
    # 4000 pairs: the relative standard error is about sqrt(2 / 4000) = 2.2 %; the key is fixed.
    for scenario, estimators in curves("lstm_variance", tmp_path).items():
        bias = estimators.pop("tbptt")["exact"]
        assert min(bias) > 0
        for name, curve in estimators.items():
            np.testing.assert_allclose(
                curve["measured"], curve["exact"], rtol=0.1, err_msg=f"{scenario} {name}"
            )


@pytest.mark.slow
def test_the_variance_is_that_of_the_formula_within_a_tenth(tmp_path):
    # 4000 pairs of 10 numbers: the relative standard error of a trace is 2 to 3 %; the key is fixed.
    for kind, estimators in curves("variance", tmp_path).items():
        for name, curve in estimators.items():
            exact, measured = np.asarray(curve["exact"]), np.asarray(curve["measured"])
            assert (np.abs(measured - exact) <= 0.1 * exact + 1e-5).all(), (kind, name)


@pytest.mark.slow
def test_in_the_toy_of_pbt_what_is_copied_decides(tmp_path):
    ends = {label: [curve[-1] for curve in found] for label, found in curves("pbt_toy", tmp_path).items()}
    for label in ("grid", "exploit only, weights and hypers"):
        np.testing.assert_allclose(ends[label], 0.39, atol=1e-3)
    for label in ("exploit only, weights", "PBT, weights and hypers", "PBT, weights"):
        assert min(ends[label]) > 1.18, label


@pytest.mark.slow
def test_only_fire_pbt_and_the_hand_leave_the_short_horizon_trap(tmp_path):
    loss = {
        label: np.median(found["loss"]) for label, found in curves("short_horizon_trap", tmp_path).items()
    }
    assert loss["PBT"] > 0.9 and 0.3 < loss["random search"] < 0.7
    assert loss["FIRE PBT"] < 0.3 and loss["by hand"] < 0.02


@pytest.mark.slow
def test_in_the_noisy_valley_greed_is_punished_and_fire_pbt_wins(tmp_path):
    loss = {label: np.median(found["loss"]) for label, found in curves("noisy_valley", tmp_path).items()}
    assert loss["FIRE PBT"] < 0.5 * loss["random search"] and loss["random search"] < loss["PBT"]
    assert loss["PBT"] > 0.9


@pytest.mark.slow
def test_lasting_damage_makes_pbt_and_fire_pbt_worse_than_random_search(tmp_path):
    found = curves("lasting_damage", tmp_path)
    skill = {label: np.median(curve["fitness"]) for label, curve in found.items()}
    assert max(skill["PBT"], skill["FIRE PBT"]) < skill["random search"] - 0.05
    assert skill["MF-PBT"] > max(skill["PBT"], skill["FIRE PBT"]) + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["schedule_population", "meta_population", "control_population"])
def test_a_short_population_improves_what_it_trains(name, tmp_path):
    for label, found in curves(name, tmp_path, "--fast", "--seeds", "0").items():
        best = np.asarray(found["best"][0])
        assert best[-1] > best[0], label


PAGES = sorted(p for p in (ROOT / "docs" / "reproductions").glob("*.md") if p.stem != "index")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_page_shows_its_picture_and_its_command(page):
    text = page.read_text(encoding="utf-8")
    assert f"]({page.stem}.png)" in text and page.with_suffix(".png").is_file()
    assert (
        f"python -m reproductions.{page.stem}" in text
        and (ROOT / "reproductions" / f"{page.stem}.py").is_file()
    )


def test_numbers_are_drawn_again_and_what_are_none_are_refused(tmp_path, capsys):
    def draw(result, figure):
        figure.subplots().plot(result["curve"])

    def run(fast, seeds):
        return {"summary": {"end": 2.0}, "curve": [1.0, 2.0]}

    numbers, picture = tmp_path / "numbers.json", tmp_path / "a.png"
    main("doc", run, draw, seeds=[0], argv=["--json", str(numbers)])
    found = main("doc", lambda *_: {}, draw, seeds=[0], argv=["--read", str(numbers), "--out", str(picture)])
    assert found["curve"] == [1.0, 2.0] and found["seeds"] == [0] and picture.stat().st_size > 1000
    (tmp_path / "list.json").write_text("[1]")
    for name, reason in (("nothing.json", "No such file"), ("list.json", "is not what --json writes")):
        with pytest.raises(SystemExit):
            main("doc", run, draw, seeds=[0], argv=["--read", str(tmp_path / name)])
        assert reason in capsys.readouterr().err
