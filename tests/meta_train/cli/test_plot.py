"""`meta-train plot` on runs: from their metrics alone, one run or several."""

import math

import numpy as np
import pytest

from meta_train.cli import main as cli
from meta_train.errors import RunError
from meta_train.run.metrics import columns, jsonl_writer
from meta_train.run.plots import draw_runs


def rows(count=60, families=("a", "b"), scored=True):
    """(step, row) of a run of `count` rows; family a has a loss of 1 / n, family b of 3 / n."""
    for n in range(1, count + 1):
        row = {"loss": 2 / n, "inner_steps": 100.0 * n}
        row |= {f"{family}/loss": (1 + 2 * i) / n for i, family in enumerate(families)}
        row |= {f"{family}/snr": 0.5 + i for i, family in enumerate(families)}
        yield 10 * n - 1, row
        if scored and n % 20 == 0:
            yield 10 * n - 1, {"held_out/score": -0.1 * n, "held_out/initial_score": 0.3}


def metrics(**options):
    return columns([{"step": step, **row} for step, row in rows(**options)])


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two directories of runs, one/run and other/run."""
    monkeypatch.chdir(tmp_path)
    found = []
    for name in ("one", "other"):
        directory = tmp_path / name / "run"
        directory.mkdir(parents=True)
        (directory / "config.yaml").write_text("seed: 0\n")
        writer = jsonl_writer(directory / "metrics.jsonl")
        for step, row in rows():
            writer.write(step, row)
        writer.close()
        found.append(directory)
    return found


def test_one_run_is_drawn_by_family_and_several_by_run(runs, capsys):
    one, other = runs
    assert cli.command(["plot", str(one)]) == 0
    assert capsys.readouterr().out == f"drawn to {one / 'metrics.png'}\n"
    assert (one / "metrics.png").read_bytes().startswith(b"\x89PNG")
    assert cli.command(["plot", str(one), str(other)]) == 0
    assert capsys.readouterr().out == "drawn to runs/comparison.png\n"
    assert cli.command(["plot", str(one), str(other), "--inner-steps", "--out", "both.svg"]) == 0
    text = (one.parents[1] / "both.svg").read_text()
    assert text.startswith("<?xml")


def test_the_lines_are_the_numbers_of_the_metrics():
    figure = draw_runs({"mine": metrics()})
    losses, ratios, scores = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["mean", "a", "b"] and losses.get_yscale() == "log"
    raw = [line for line in losses.lines if line.get_alpha()]
    np.testing.assert_allclose(raw[0].get_ydata(), 2 / np.arange(1, 61))
    np.testing.assert_allclose(raw[1].get_ydata(), 1 / np.arange(1, 61))
    np.testing.assert_array_equal(raw[0].get_xdata(), 10 * np.arange(1, 61))
    np.testing.assert_allclose(ratios.lines[0].get_ydata(), 1.0)  # the mean of 0.5 and 1.5
    np.testing.assert_allclose(scores.lines[0].get_ydata(), [-2, -4, -6])
    assert list(scores.lines[1].get_ydata()) == [0.3, 0.3]


def test_several_runs_have_a_colour_each_and_those_without_scores_a_gap():
    figure = draw_runs({"x": metrics(), "y": metrics(scored=False, count=30)}, inner_steps=True)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["x", "y"] and len(figure.axes[2].lines) == 1
    assert figure.axes[0].lines[2].get_xdata()[-1] == 3000
    assert len(draw_runs({"y": metrics(scored=False)}).axes) == 2


def test_many_families_are_drawn_as_their_mean():
    figure = draw_runs({"x": metrics(families="abcdefgh")})
    assert not figure.legends and len({line.get_color() for line in figure.axes[0].lines}) == 1


def test_a_ratio_that_is_nan_in_a_row_leaves_the_others():
    found = metrics()
    found["a/snr"][::2] = math.nan
    figure = draw_runs({"x": found, "y": found})
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata()[:2], [1.5, 1.0])


def test_what_cannot_be_drawn_is_refused_in_one_line(runs, tmp_path, capsys):
    def error(*words):
        assert cli.command(["plot", *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "is not the directory of a run" in error(str(tmp_path))
    assert "must end in one of png, svg, pdf, got xyz" in error(str(runs[0]), "--out", "x.xyz")
    assert "got no ending" in error(str(runs[0]), "--out", "picture")
    (runs[1] / "config.yaml").write_text("controller: {name: pbt}\n")
    assert "is a population, which is drawn alone" in error(*map(str, runs))
    (runs[0] / "metrics.jsonl").write_text("")
    assert "has no metrics yet" in error(str(runs[0]))
    with pytest.raises(RunError, match="^x has no metrics yet"):
        draw_runs({"x": {"step": np.arange(3)}})
