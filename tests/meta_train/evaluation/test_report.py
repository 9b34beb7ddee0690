"""Tables, JSON, CSV, pictures, page and leaderboard of evaluations that are made by hand."""

import csv
import html
import html.parser
import io
import json
import os
import pty
import struct
import subprocess
import sys
from random import Random

import numpy as np
import pytest

from meta_train.cli.evaluate_source import write
from meta_train.errors import RunError
from meta_train.evaluation import document as document_lib
from meta_train.evaluation.document import document, read, to_csv
from meta_train.evaluation.files import replace
from meta_train.evaluation.leaderboard import check_alike, leaderboard, print_board, side_by_side
from meta_train.evaluation.page import evaluation_page
from meta_train.evaluation.protocol import Settings
from meta_train.evaluation.report import print_report
from meta_train.evaluation.results import Cell, Evaluation, Outcome
from meta_train.evaluation.scores import TAUS, Interval, Profile, Score
from meta_train.evaluation.tables import losses, notes, others, rates, scores, speeds, summary
from meta_train.evaluation.target import Target

NAMES = ("learned", "adam", "adam_cosine")
NAN = float("nan")


def cell(task, horizon, diverged=0, ring="A", **changes):
    steps = np.arange(1, horizon + 1)
    train = {n: 2 * np.exp(-steps / (20 * (k + 1))) * np.ones((3, 1)) for k, n in enumerate(NAMES)}
    train["learned"][:diverged, horizon // 2 :] = np.inf
    ratios = {"adam": 1000.0 if diverged else 0.25, "adam_cosine": 0.5, "best": 0.5}
    unknown = {name: NAN for name in ratios}
    up = 0.05 if diverged else 2.0
    outcome = Outcome(
        speed_up=up,
        censored=False,
        wall_clock_speed_up=up / 4,
        loss_ratio=ratios,
        valid_ratio=unknown,
        best_valid_ratio=unknown,
        test_ratio=unknown,
        to_target={name: 1.25 for name in ratios},
        wall_clock_to_target={"adam": 0.5, "best": 0.75},
        target_steps={name: Target(horizon // 2, None if diverged else horizon // 2 + 5) for name in ratios},
        setting=1.0,
        rival_setting={"adam": 0.03 if task == "digits" else 0.003, "adam_cosine": 0.1},
        rival_hyper={"adam_cosine": {"weight_decay": 0.01}},
    )
    losses = {n: np.full(3, np.nan) for n in NAMES}
    result = Cell(
        task=task,
        ring=ring,
        horizon=horizon,
        diverged=diverged,
        best="adam_cosine",
        best_valid="adam",
        loss={n: x[:, -20:].mean(1) for n, x in train.items()},
        valid=losses,
        least_valid=losses,
        test=losses,
        train=train,
        at_grid_edge={"adam": False, "adam_cosine": False},
        wrong_horizon={0.5: 1.5, 2.0: 1.25},
        outcomes={"per_task_tuned": outcome, "single_setting": outcome._replace(speed_up=3.0)},
    )
    return result._replace(**changes)


def evaluation(*cells, mean=2.0):
    horizons = tuple(sorted({c.horizon for c in cells}))
    interval = Interval(mean, 1.5, 2.5)
    score = Score(interval, interval, interval, 1.0, len(cells))
    nothing = Score(*[Interval(NAN, NAN, NAN)] * 3, NAN, 0)
    metrics = {"speed_up": score, "wall_clock_speed_up": score}
    for name in ("adam", "adam_cosine", "best"):
        metrics |= {f"loss_ratio/{name}": score, f"valid_ratio/{name}": nothing, f"to_target/{name}": score}
        metrics |= {f"test_ratio/{name}": nothing, f"best_valid_ratio/{name}": nothing}
    comparisons = {"per_task_tuned": metrics, "single_setting": metrics}
    shares = tuple(np.linspace(1, 0, len(TAUS)))
    profile = Profile(TAUS, shares, shares, shares)
    return Evaluation(
        settings=Settings(horizons=horizons, num_seeds=3, rivals=("adam", "adam_cosine")),
        cells=cells,
        scores={"all": comparisons, f"{horizons[0]} steps": comparisons},
        profiles={name: profile for name in comparisons},
        wrong_horizon={0.5: 1.5, 2.0: 1.25},
        divergence_rate=0.5,
        ms_per_step={c.task: {"learned": 0.4, "adam": 0.1} for c in cells},
        state_bytes_per_parameter={"learned": 17.0, "adam": 8.0, "adam_cosine": 8.0},
        single_setting={"learned": 1.0, "adam": 0.03, "adam_cosine": 0.1},
        seconds=12.5,
        cpu_seconds=20.0,
        environment={"jax": "1.2.3"},
    )


def make_doc(*cells, name="mine", **changes):
    return document(evaluation(*cells, **changes), name=name)


@pytest.fixture
def plain():
    long = cell("digits", 100)
    outcomes = {
        "per_task_tuned": long.outcomes["per_task_tuned"]._replace(censored=True),
        "single_setting": long.outcomes["single_setting"],
    }
    return evaluation(
        cell("digits", 50), long._replace(outcomes=outcomes), cell("wide", 50, 2), cell("wide", 100)
    )


def test_away_from_a_terminal_the_tables_are_markdown(plain, capsys):
    doc = document(plain)
    print_report(doc)
    lines = capsys.readouterr().out.splitlines()
    print_report(doc, text := io.StringIO())
    assert lines == text.getvalue().splitlines()
    first = lines[: lines.index("")]
    assert len({line.count("|") for line in first}) == 1 and len(first) == 2 + 4
    rows = [[text.strip() for text in line.strip("|").split("|")] for line in first]
    assert rows[0][:4] == ["held-out task", "steps", "loss", "best rival"] and set(first[1]) <= set("|-:")
    assert rows[2][:2] == ["digits", "50"] and rows[2][3] == "adam_cosine" and rows[2][-1] == "-"
    assert rows[4][2] == "inf"
    second = [[text.strip() for text in line.strip("|").split("|")] for line in lines[len(first) + 1 :]]
    assert second[0][2:5] == ["over Adam", "to best's loss", "sure at"]
    assert second[2][2:5] == ["2.00x", "1.25x", "30"] and second[2][5:] == ["0.500x", "0.750x"]
    assert second[3][2] == ">= 2.00x" and second[4][2] == "2/3 diverged"
    assert any(line.split("|")[1:3] == [" per_task_tuned ", "      all (4) "] for line in lines), lines
    assert "\x1b" not in "".join(lines)


def test_no_table_has_more_than_seven_columns_and_the_ladder_shows_which_rate_was_best(plain, capsys):
    doc = document(plain)
    found = [losses(doc), speeds(doc), scores(doc), rates(doc), *others(doc)]
    assert all(len(grid.head) <= 7 and len(grid.rows) == len(grid.marks) for grid in found)
    rows = {row[:2]: row[2:] for row in rates(doc).rows}
    assert rows["adam", "50"] == ("0.003", "0.03", "10", "digits 0.03, wide 0.003")
    assert rows["adam_cosine", "100"][2] == "1"
    print_report(doc)
    assert "best rate on each task" not in capsys.readouterr().out
    print_report(make_doc(cell("lm_1e4", 50, ring="L")))
    assert "best rate on each task" in capsys.readouterr().out


def test_a_number_is_green_only_where_it_is_good_itself():
    """A speed-up of 2 does not make a validation loss of 8.32 against 1.23, or a slower clock, green."""
    valid = {"learned": np.full(3, 8.32), "adam": np.full(3, 1.23), "adam_cosine": np.full(3, 2.0)}
    doc = make_doc(cell("digits", 50, valid=valid))
    row, marks = losses(doc).rows[0], losses(doc).marks[0]
    assert row[-2:] == ("8.32", "1.23") and marks[-2:] == ("bad", "")
    assert speeds(doc).rows[0][2:] == ("2.00x", "1.25x", "30", "0.500x", "0.750x")
    assert speeds(doc).marks[0][2:] == ("good", "good", "", "bad", "bad")
    page = evaluation_page(doc, {})
    assert "<td class='bad'>8.32</td>" in page and "<td class='bad'>0.500x</td>" in page
    assert "<td class='good'>2.00x</td>" in page and "<tr class" not in page


def test_the_card_the_table_and_the_csv_say_the_same_of_the_cost():
    slow = evaluation(cell("digits", 50), cell("wide", 50))
    slow = slow._replace(
        ms_per_step={"digits": {"learned": 0.17, "adam": 0.1}, "wide": {"learned": 1.4, "adam": 0.1}}
    )
    doc = document(slow, name="mine")
    rows = list(csv.DictReader(io.StringIO(to_csv(doc))))
    costs = [float(row["ms_per_step"]) / float(row["adam_ms_per_step"]) for row in rows]
    words = f"a step takes {min(costs):.2f} to {max(costs):.2f} times Adam's"
    assert words == "a step takes 1.70 to 14.00 times Adam's"
    assert any(words in line for line in summary(doc)["notes"]) and words in html.unescape(
        evaluation_page(doc, {})
    )


def test_a_narrow_terminal_gets_fewer_columns_and_colours():
    """In a pseudo-terminal of 80 columns."""
    code = (
        "import test_report as t; "
        "t.print_report(t.make_doc(t.cell('a_task_with_a_name', 50), t.cell('wide', 50, 1)))"
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
    table = text.decode().split("comparison")[0]
    assert "\x1b[" in table and "a_task_with_a_name" in table and "1/3 diverged" in table
    assert "its loss" in table and "its validation" not in table and "…" not in table


def test_the_notes_say_what_to_be_wary_of(plain):
    text = "\n".join(notes(document(plain, trained_for="100 to 500 steps")))
    assert text.startswith(
        "best tuned rival: adam_cosine (4 of 4); against it: speed to its final loss 2.00 ["
    )
    assert "2.00x, 95% interval 1.50 to 2.50, worst 1.00x" in text
    assert "diverged: 50%" in text and "within 2000 steps" in text and "first or last" not in text
    assert "1.50 when given 0.5 times, 1.25 when given 2.0 times" in text
    assert "4.00 to 4.00 times Adam's" in text and "17.0 bytes per parameter, Adam 8.00" in text
    assert "best single learning rates: adam 0.03, adam_cosine 0.1" in text
    assert "inner trainings of 100 to 500 steps" in text
    edge = cell("digits", 50, at_grid_edge={"adam": True, "adam_cosine": False})
    (line,) = [line for line in notes(make_doc(edge)) if "first or last" in line]
    assert "digits at 50 (adam)" in line and "cosine" not in line


def test_an_artefact_keeps_a_summary_without_losses_or_paths(plain):
    doc = document(plain, name="mine", run="/somewhere/of/mine", tasks="A+B")
    kept = json.loads(json.dumps(summary(doc)))
    assert kept["speed_up"] == doc["speed_up"] and kept["tasks"] == "A+B" and kept["notes"] == notes(doc)
    assert len(kept["table"]["rows"]) == 4 and kept["comparisons"]["rows"][0][0] == "per_task_tuned"
    assert "cells" not in kept and "somewhere" not in json.dumps(kept)


class Page(html.parser.HTMLParser):
    """What a page refers to, and its tables' texts."""

    def __init__(self, text):
        super().__init__()
        self.references, self.cells, self.open, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.references += [value for key, value in attrs if key in ("src", "href", "srcset", "data")]
        self.inside = tag in ("td", "th")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.cells.append(data)


def test_the_files_are_json_csv_pictures_and_one_page_that_needs_nothing_else(plain, tmp_path):
    doc = document(plain, name="<script>", run="runs/a")
    paths = list(write(plain, doc, tmp_path / "new"))
    names = [
        "evaluation.json",
        "evaluation.csv",
        "evaluation.png",
        "evaluation_scores.png",
        "evaluation.html",
    ]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(paths[0].read_text(), parse_constant=refuse)
    assert found == doc == read(tmp_path / "new") == read(paths[0])
    assert found["speed_up"] == {"mean": 2.0, "low": 1.5, "high": 2.5, "worst": 1.0}
    assert found["run"] == "runs/a" and found["settings"]["horizons"] == [50, 100]
    assert found["cells"][2]["loss"]["learned"][:2] == [None, None] and "train" not in found["cells"][2]
    rows = list(csv.DictReader(io.StringIO(paths[1].read_text())))
    assert len(rows) == 4 * 2 * 3 and rows[0]["task"] == "digits" and rows[0]["rival"] == "adam"
    assert rows[0]["to_target"] == "1.25" and rows[0]["significant_steps_to_target"] == "30"
    assert rows[1]["weight_decay"] == "0.01" and rows[2]["rival"] == "best"
    assert float(rows[0]["loss_ratio"]) == 0.25 and rows[0]["valid_ratio"] == ""
    for path in paths[2:4]:
        assert png_size(path)[0] >= 800
    text = paths[4].read_text()
    page = Page(text)
    assert not page.open and all(ref.startswith("data:image/png;base64,") for ref in page.references)
    assert len(page.references) == 2 and "2/3 diverged" in page.cells and "2.00 [1.50, 2.50]" in page.cells
    assert "<script>" not in text and "http" not in text.replace("http-equiv", "")


def test_a_csv_name_with_a_comma_is_quoted(plain):
    rows = list(csv.reader(io.StringIO(to_csv(document(plain, name="a,b")))))
    assert rows[1][0] == "a,b" and len({len(row) for row in rows}) == 1


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def test_the_curves_show_a_panel_for_each_task_and_horizon(plain, tmp_path):
    from meta_train.evaluation.picture import curves_png

    five = [cell(f"family {i}", horizon) for i in range(5) for horizon in (50, 100)]
    (tmp_path / "five.png").write_bytes(curves_png(evaluation(*five), "five"))
    (tmp_path / "two.png").write_bytes(curves_png(plain))
    width, height = png_size(tmp_path / "five.png")
    assert width == 1600 and height > 2 * png_size(tmp_path / "two.png")[1] - 300
    vermilion = np.array([0xD5, 0x5E, 0x00]) / 255
    where = np.abs(pixels(tmp_path / "five.png") - vermilion).max(-1) < 0.02
    # Rows of panels: two horizons of four families, then two of the fifth, then nothing beside it.
    tops, bottoms = np.array_split(where, 2)
    assert all(part.any() for part in np.array_split(tops, 4, axis=1))
    assert bottoms[:, :400].any() and not bottoms[: height // 2 - 100, 700:].any()
    assert curves_png(plain) == (tmp_path / "two.png").read_bytes()


def test_a_picture_of_runs_that_all_diverged_at_once_is_still_drawn():
    from meta_train.evaluation.picture import curves_png

    lost = cell("lost", 50, 3)
    for curve in lost.train.values():
        curve[:] = np.inf
    assert struct.unpack(">I", curves_png(evaluation(lost))[16:20]) == (800,)


def test_importing_the_report_loads_no_matplotlib():
    code = (
        "import sys, meta_train.evaluation.evaluate, meta_train.evaluation.leaderboard; "
        "print({'matplotlib', 'wandb', 'sklearn'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.fixture
def boards(tmp_path):
    """Directories of two evaluations that are alike; the second is the better one."""
    cells = [cell("digits", 50), cell("wide", 50, ring="B")]
    for name, mean in (("slow", 1.25), ("fast", 4.0)):
        doc = make_doc(*cells, name=name, mean=mean)
        replace(tmp_path / name / "evaluation.json", document_lib.to_json(doc))
    return tmp_path


def test_a_leaderboard_has_the_best_first_in_every_format(boards, capsys):
    board = leaderboard([boards / "slow", boards / "fast"], boards / "out")
    assert [entry["name"] for entry in board["entries"]] == ["fast", "slow"]
    assert [entry["won"] for entry in board["entries"]] == [1, 1]  # equal losses: both win
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| fast") or line.startswith("| slow")]
    assert [row.split()[1] for row in rows] == 3 * ["fast", "slow"] and "4.00 [1.50, 2.50]" in rows[0]
    assert "fast: best tuned rival: adam_cosine (2 of 2)" in printed
    assert json.loads((boards / "out" / "leaderboard.json").read_text()) == board
    rows = list(csv.DictReader(io.StringIO((boards / "out" / "leaderboard.csv").read_text())))
    assert rows[0]["name"] == "fast" and float(rows[0]["value"]) == 4
    page = Page((boards / "out" / "leaderboard.html").read_text())
    assert not page.open and len(page.references) == 1 and page.references[0].startswith("data:image/png")
    assert png_size(boards / "out" / "leaderboard.png")[0] == 1600


def test_evaluations_that_do_not_compare_are_refused_in_one_line(boards):
    other = make_doc(cell("digits", 50), cell("narrow", 50))
    replace(boards / "other" / "evaluation.json", document_lib.to_json(other))
    with pytest.raises(
        RunError, match="not evaluated on the same tasks: only .*other has narrow at 50 steps"
    ):
        leaderboard([boards / "slow", boards / "other"], boards / "out")
    doc = read(boards / "fast")
    doc["settings"]["num_seeds"] = 9
    replace(boards / "other" / "evaluation.json", document_lib.to_json(doc))
    with pytest.raises(RunError, match="not evaluated alike: num_seeds is 3 there, 9 here"):
        leaderboard([boards / "slow", boards / "other"], boards / "out")
    assert not (boards / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no evaluation"),
        ("{", "not JSON"),
        ("[1]", "not an evaluation"),
        (json.dumps({"format": "meta-train/evaluation", "version": 1}), "version 1 .* this reads 3"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(RunError, match=message):
        read(tmp_path)


def damage(doc, random):
    """A copy of a document with one value removed, or replaced by one of another kind."""
    doc = json.loads(json.dumps(doc))
    where, key = doc, random.choice(list(doc))
    while isinstance(where[key], (dict, list)) and where[key] and random.random() < 0.9:
        where = where[key]
        key = random.choice(list(where)) if isinstance(where, dict) else random.randrange(len(where))
    if random.random() < 0.4:
        del where[key]
    else:
        where[key] = random.choice([None, "x", -1, 1e308, [], {}, [[]], {"": None}, True])
    return doc


def test_a_leaderboard_of_damaged_evaluations_is_one_line_or_a_board(boards, capsys):
    """300 documents with one value missing or of another kind (fixed seed): no other exception."""
    whole, random, refused_ = read(boards / "fast"), Random(0), 0
    for _ in range(300):
        (boards / "slow" / "evaluation.json").write_text(json.dumps(damage(whole, random)))
        try:
            board = side_by_side({str(boards / name): read(boards / name) for name in ("fast", "slow")})
            check_alike([boards / "fast", boards / "slow"])
            print_board(board)
        except RunError as error:
            refused_ += 1
            assert "\n" not in str(error) and "slow" in str(error)
    capsys.readouterr()
    assert 100 < refused_ < 300


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("scores", "scores: Field required"),
        ("cells", "cells: Field required"),
        ("ms_per_step", "ms_per_step: "),
    ],
)
def test_what_a_damaged_evaluation_lacks_is_named(boards, key, message):
    doc = read(boards / "fast")
    del doc[key]
    (boards / "fast" / "evaluation.json").write_text(json.dumps(doc))
    with pytest.raises(RunError, match=f"fast/evaluation.json is damaged: {message}"):
        leaderboard([boards / "fast", boards / "slow"], boards / "out")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="^cannot write .*file/evaluation.json: "):
        replace(tmp_path / "file" / "evaluation.json", "x")
