"""benchmarks/compare.py on a repository whose measurements are constants."""

import json
import subprocess
import sys

import pytest

from benchmarks import compare

OVERHEAD = """
from types import SimpleNamespace

WORKLOADS = {{"W1": SimpleNamespace(group=2), "W2": SimpleNamespace(group=1)}}


def family_of(w):
    return None


def framework(w, family):
    return lambda: {w1} if w.group == 2 else {w2}


def milliseconds(run):
    return run()
"""


@pytest.fixture
def history(tmp_path, monkeypatch):
    """A repository of five commits; W1 takes half as long again from the fourth on."""

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    file = tmp_path / "benchmarks" / "overhead.py"
    file.parent.mkdir()
    for i, w1 in enumerate((20, 20, 20, 30, 30)):
        file.write_text(OVERHEAD.format(w1=w1, w2=7) + f"# {i}\n")
        git("add", "-A")
        git("commit", "-qm", f"commit {i}")
        git("tag", f"t{i}")
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    return tmp_path


def test_it_names_the_commit_from_which_a_workload_is_slower(history, capsys):
    file = history / "times.json"
    compare.main(["t0", "t0..t4", "--workloads", "W1", "W2", "--repeats", "3", "--json", str(file)])
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if " W1 " in line]
    assert [float(line.split()[-4]) for line in rows] == [10, 10, 10, 15, 15]  # of one outer step of two
    assert all(line.endswith("1.50 [1.50, 1.50]") for line in rows[3:])
    rise, flat = table.splitlines()[-2:]
    assert "W1: the largest rise is 1.00 to 1.50" in rise and rise.endswith("commit 3")
    assert "W2: the largest rise is 1.00 to 1.00" in flat
    times = json.loads(file.read_text())
    assert times["ms"]["W2"] == [[7.0] * 3] * 5 and times["versions"][4].endswith("commit 4")


def test_a_range_is_thinned_evenly_and_keeps_its_newest_commit(history):
    def names(points):
        return [
            compare.git("log", "-1", "--format=%s", c).decode().strip()
            for c in compare.commits("t0..t4", points)
        ]

    assert names(2) == ["commit 2", "commit 4"] and names(1) == ["commit 4"]
    assert names(9) == [f"commit {i}" for i in range(1, 5)]


def test_an_environment_is_measured_with_the_benchmarks_of_the_working_tree(history, capsys):
    compare.main([sys.executable, ".", "--workloads", "W2", "--repeats", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(sys.executable[:52]) and lines[2].startswith("working tree")


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["nothing"], "bad revision 'nothing'"),
        (["t4", "t4..t4"], "there is no commit in t4..t4"),
        (["t0", "t1", "--workloads", "W9"], "unknown workload W9, allowed: W1, W2"),
        (["t0", "t1", "--repeats", "1"], "--repeats at least 2"),
    ],
)
def test_what_cannot_be_compared_is_one_line(history, capsys, arguments, line):
    with pytest.raises(SystemExit, match="2"):
        compare.main(arguments)
    error = capsys.readouterr().err
    assert line in error.splitlines()[-1] and "Traceback" not in error


def test_the_interval_is_that_of_the_median():
    middle, low, high = compare.ratio([float(i) for i in range(1, 16)], [1.0] * 15)
    assert (middle, low, high) == (8, 4, 12)  # the 4th of 15: 96.5 % by the binomial distribution
