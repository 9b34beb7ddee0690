"""What a run shows: a bar on a terminal, one in a notebook, lines anywhere else."""

import re
import sys
import types

import pytest

from meta_train.cli.evaluate_source import progress_lines
from meta_train.run import display as display_lib
from meta_train.run.display import progress_display

ROW = {"loss": 0.5, "inner_steps_per_second": 1234.0}


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
    found = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(display_lib.time, "monotonic", lambda: found.now)
    return found


def test_without_a_terminal_there_is_a_line_at_the_start_now_and_then_and_at_the_end(clock, capsys):
    with progress_display(100, line_every=30) as display:
        display.begin(0)
        for step in range(10, 101, 10):
            clock.now += 10
            display.step(step)
            display.row(ROW)
    out, err = capsys.readouterr()
    assert out == ""
    first, *lines, last = err.splitlines()
    assert first == "outer step 0/100: compiling"
    assert [re.findall(r"\d+", line)[0] for line in lines] == ["30", "60", "90"]
    assert lines[0].endswith("meta-loss 0.5000  1,234 inner steps/s  30 s, about 1 min 10 s to go")
    assert last == "outer step 100/100 (100%)  meta-loss 0.5000  1,234 inner steps/s  1 min 40 s"


def test_a_run_that_was_finished_already_or_fails_prints_no_progress(clock, capsys):
    with progress_display(100):
        pass
    with pytest.raises(RuntimeError), progress_display(100) as display:
        display.begin(40)
        display.step(50)
        raise RuntimeError
    assert capsys.readouterr().err.splitlines() == ["outer step 40/100: compiling"]


def test_a_population_counts_rounds(clock, capsys):
    with progress_display(2, unit="round", words=lambda row: {"fitness": f"best {row['best']}"}) as display:
        display.begin(0)
        display.row({"best": 1})
        display.warn("no fitness")
        display.step(2)
    assert capsys.readouterr().err.splitlines() == [
        "round 0/2: compiling",
        "warning: no fitness",
        "round 2/2 (100%)  best 1  0 s",
    ]


class Handle:
    """What IPython's `display(..., display_id=True)` returns."""

    def __init__(self, shown):
        self.shown = shown

    def update(self, bar):
        self.shown.append(bar._repr_mimebundle_(None, None)["text/plain"])


@pytest.fixture
def notebook(monkeypatch):
    """What is shown in a notebook, picture by picture."""
    shown = []

    def display(bar, display_id):
        assert display_id
        handle = Handle(shown)
        handle.update(bar)
        return handle

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    return shown


def test_in_a_notebook_one_bar_is_drawn_again_in_its_place(clock, notebook, capsys):
    with progress_display(100) as display:
        display.begin(0)
        for step in range(1, 101):
            clock.now += 0.05
            display.step(step)
            display.row(ROW)
        display.say("looks good")
    assert "compiling" in notebook[0] and "0/100" in notebook[0]
    assert 20 < len(notebook) < 40  # five a second, not one a step
    assert "100/100" in notebook[-1] and "meta-loss" in notebook[-1]
    assert "looks good" in capsys.readouterr().out


def test_an_evaluation_says_its_share_now_and_then_and_counts_what_was_cached_as_no_time(clock, capsys):
    progress = progress_lines(every=30)
    for second, done in ((0, 400), (10, 500), (40, 600), (50, 700), (80, 1000)):
        clock.now = 100.0 + second
        progress(done, 1000, f"task {done}")
    assert capsys.readouterr().err.splitlines() == [
        "60%  40 s, about 1 min 20 s to go  task 600",
        "100%  1 min 20 s, about 0 s to go  task 1000",
    ]
