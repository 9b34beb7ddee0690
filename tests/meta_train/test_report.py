"""Table, JSON and picture of evaluations that are made by hand."""

import json
import os
import pty
import struct
import subprocess
import sys

import numpy as np
import pytest

from meta_train.baselines import Settings
from meta_train.evaluate import Cell, Evaluation, Score
from meta_train.report import draw, print_table, summary_lines, to_json, to_markdown, write_json

NAMES = ("learned", "adam", "adam_cosine")


def cell(family, horizon, diverged=0, **changes):
    steps = np.arange(1, horizon + 1)
    train = {n: 2 * np.exp(-steps / (20 * (k + 1))) * np.ones((3, 1)) for k, n in enumerate(NAMES)}
    train["learned"][:diverged, horizon // 2 :] = np.inf
    result = Cell(
        family=family,
        horizon=horizon,
        speed_up=0.05 if diverged else 2.0,
        censored=False,
        ratio=1000.0 if diverged else 0.25,
        ratio_cosine=float("nan"),
        diverged=diverged,
        final={n: x[:, -20:].mean(1) for n, x in train.items()},
        valid={n: np.full(3, np.nan) for n in NAMES},
        train=train,
        learning_rate={"adam": 0.03, "adam_cosine": 0.1},
        at_grid_edge={"adam": False, "adam_cosine": False},
    )
    return result._replace(**changes)


def evaluation(*cells):
    horizons = tuple(sorted({c.horizon for c in cells}))
    score = Score(2.0, 1.5, 2.5, 1.0)
    nothing = Score(*[float("nan")] * 4)
    settings = Settings(horizons=horizons, num_seeds=3)
    return Evaluation(settings, cells, score, score, nothing, 0.5, 12.5, {"jax": "1.2.3"})


@pytest.fixture
def plain():
    return evaluation(
        cell("digits", 50), cell("digits", 100, censored=True), cell("wide", 50, 2), cell("wide", 100)
    )


def test_away_from_a_terminal_the_table_is_markdown(plain, capsys):
    print_table(plain)
    lines = capsys.readouterr().out.splitlines()
    assert lines == to_markdown(plain).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and len(table) == 2 + 4
    rows = [[text.strip() for text in line.strip("|").split("|")] for line in table]
    assert rows[0][0] == "held-out task" and set(table[1]) <= set("|-:")
    assert rows[2][:2] == ["digits", "50"] and rows[2][-3] == "2.00x"
    assert rows[3][-3] == ">= 2.00x" and rows[4][-3] == "2/3 diverged"
    assert rows[4][2] == "inf" and rows[2][-2] == "-"
    assert "\x1b" not in "".join(lines)


def test_a_narrow_terminal_gets_fewer_columns_and_colours():
    """In a pseudo-terminal of 80 columns."""
    code = (
        "import test_report as t; "
        "t.print_table(t.evaluation(t.cell('a_task_with_a_name', 50), t.cell('wide', 50, 1)))"
    )
    main, other = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "80", "PYTHONPATH": os.path.dirname(__file__)}
    env.pop("NO_COLOR", None)
    subprocess.run([sys.executable, "-c", code], stdout=other, env=env, check=True)
    os.close(other)
    text = b""
    try:
        while part := os.read(main, 4096):
            text += part
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(main)
    table = text.decode().split("step speed-up")[0]
    assert "\x1b[" in table and "a_task_with_a_name" in table and "1/3 diverged" in table
    assert "cosine" in table and "(rate)" not in table and "…" not in table


def test_the_summary_says_what_to_be_wary_of(plain):
    text = "\n".join(summary_lines(plain))
    assert "2.00x, 95% interval 1.50 to 2.50, worst 1.00x" in text
    assert "diverged: 50%" in text and "within 2000 steps" in text and "first or last" not in text
    edge = cell("digits", 50, at_grid_edge={"adam": True, "adam_cosine": False})
    (line,) = [line for line in summary_lines(evaluation(edge)) if "first or last" in line]
    assert "digits at 50 (Adam, tuned constant rate)" in line and "cosine" not in line


def test_the_json_is_strict_and_holds_settings_seeds_and_provenance(plain, tmp_path):
    write_json(plain, tmp_path / "new" / "evaluation.json", run="runs/a")

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads((tmp_path / "new" / "evaluation.json").read_text(), parse_constant=refuse)
    assert found == to_json(plain) | {"run": "runs/a"}
    assert found["format"] == "meta-train/evaluation" and found["version"] == 1
    assert found["settings"]["horizons"] == [50, 100] and found["environment"] == {"jax": "1.2.3"}
    assert found["speed_up"] == {"mean": 2.0, "low": 1.5, "high": 2.5, "worst": 1.0}
    assert found["ratio_cosine"]["mean"] is None
    diverged = found["cells"][2]
    assert diverged["diverged"] == 2 and diverged["final"]["learned"][:2] == [None, None]
    assert diverged["final"]["learned"][2] == pytest.approx(plain.cells[2].final["learned"][2])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["evaluation.json"]


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def test_the_picture_shows_a_panel_for_each_family_and_horizon(plain, tmp_path):
    five = [cell(f"family {i}", horizon) for i in range(5) for horizon in (50, 100)]
    draw(evaluation(*five), tmp_path / "five.png", "five")
    draw(plain, tmp_path / "two.png")
    width, height = png_size(tmp_path / "five.png")
    assert width == 1600 and height > 2 * png_size(tmp_path / "two.png")[1] - 300
    vermilion = np.array([0xD5, 0x5E, 0x00]) / 255
    where = np.abs(pixels(tmp_path / "five.png") - vermilion).max(-1) < 0.02
    # Rows of panels: two horizons of four families, then two of the fifth, then nothing beside it.
    tops, bottoms = np.array_split(where, 2)
    assert all(part.any() for part in np.array_split(tops, 4, axis=1))
    assert bottoms[:, :400].any() and not bottoms[: height // 2 - 100, 700:].any()


def test_a_picture_of_runs_that_all_diverged_at_once_is_still_drawn(tmp_path):
    lost = cell("lost", 50, 3)
    for losses in lost.train.values():
        losses[:] = np.inf
    draw(evaluation(lost), tmp_path / "lost.png")
    assert png_size(tmp_path / "lost.png")[0] == 800


def test_the_same_evaluation_gives_the_same_picture(plain, tmp_path):
    draw(plain, tmp_path / "a.png")
    draw(plain, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_importing_the_report_loads_neither_matplotlib_nor_rich():
    code = "import sys, meta_train.report; print({'matplotlib', 'rich'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
