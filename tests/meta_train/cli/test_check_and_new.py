"""`meta-train new` writes what passes as it is; `meta-train check` says what is wrong with what does not."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from meta_train.cli import main as cli
from meta_train.cli.new import TEMPLATES, source
from meta_train.config import load as config_lib
from meta_train.run.experiment import assemble

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "estimator" else ()) for kind in TEMPLATES]
)
def test_what_new_writes_passes_its_own_test_and_the_check(kind, capsys):
    assert cli.command(["new", kind, f"mine_{kind}"]) == 0
    assert f"meta-train check mine_{kind}.py:mine_{kind}" in capsys.readouterr().out
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_mine_{kind}.py"]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_a_config_names_what_new_writes():
    for kind in TEMPLATES:
        cli.command(["new", kind, f"mine_{kind}"])
    Path("run.yaml").write_text(
        "outer_steps: 2\ninner: {unroll_length: 4}\nouter_optimizer: {learning_rate: 0.01}\n"
        'tasks: [{name: "mine_task.py:mine_task"}]\n'
        'estimator: {name: "mine_estimator.py:mine_estimator", truncation_length: 2}\n'
        'learned_optimizer: {name: "mine_optimizer.py:mine_optimizer"}\n'
    )
    assert set(assemble(config_lib.load("run.yaml")).families) == {"mine_task"}


def test_new_replaces_nothing_and_refuses_names_that_would_hide_modules(capsys):
    Path("test_line.py").write_text("mine")
    for name, words in {
        "line": "test_line.py exists already, and will not be overwritten",
        "jax": "which jax is: its file would hide the module",
        "two words": "must be a name in Python (letters, digits, _), got two words",
        "class": "must be a name in Python",
    }.items():
        assert cli.command(["new", "task", name]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert [path.name for path in Path().iterdir()] == ["test_line.py"]
    assert Path("test_line.py").read_text() == "mine"


def rows(capsys):
    """The lines of the table of `check`: name -> whether it passed."""
    found = re.findall(r"^  (ok    |FAILED)  (.{28})", capsys.readouterr().out, re.MULTILINE)
    return {name.strip(): word == "ok    " for word, name in found}


def test_a_wrong_task_fails_the_checks_that_it_breaks(capsys):
    text = source("task", "line").replace("return jnp.mean(", "return jnp.nan * jnp.mean(")
    Path("line.py").write_text(text)
    assert cli.command(["check", "line.py:line", "batch_size=4"]) == 1
    found = rows(capsys)
    assert found["shapes"] and found["data"] and not found["finite"] and not found["descends"]


def test_a_wrong_estimator_fails_the_checks_that_it_breaks(capsys):
    text = source("estimator", "es")
    text = text.replace("rollout = begin_window(", "_ = begin_window(")  # inner problems never end
    Path("es.py").write_text(text)
    assert cli.command(["check", "es.py:es"]) == 1
    found = rows(capsys)
    assert not all(found.values()) and "unbiased: pooled" not in found and found["compiles once"]


def test_an_augmentation_is_checked_on_a_family(capsys):
    Path("a.py").write_text("def same(family, *, factor: float = 1.0):\n    return family\n")
    assert cli.command(["check", "a.py:same"]) == 0
    assert rows(capsys)["descends"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a.py:number"], "a.py:number makes something of the type int: an estimator, a task family"),
        (["a.py:line", "batch_size=0"], "batch_size: must be >= 1 (value 0)"),
        (["a.py:line", "size=3"], "size: unknown option"),
        (["a.py:line", "--smoothing", "window"], "--smoothing is for an estimator"),
        (["a.py:fails"], "a.py:fails fails: ZeroDivisionError: division by zero (a.py, line 2)"),
        (["a.py:nothing"], "a.py has no nothing"),
        (["a.py"], "which function of a.py? write a.py:FACTORY"),
        (["quadratik"], "quadratik is unknown; did you mean quadratic?"),
        (["a.py:three"], "takes b as a positional argument"),
        (["a.py:SIZE"], "is no factory: it is of the type int"),
        (["nothing.py:line"], "nothing.py cannot be read"),
    ],
)
def test_what_cannot_be_checked_is_one_line(capsys, argv, words):
    Path("a.py").write_text(
        "def fails():\n    return 1 / 0\n\n\ndef number():\n    return 3\n"
        "\n\ndef three(a, b):\n    return a\n"
        f"\n\nSIZE = 3\n{source('task', 'line')}"
    )
    assert cli.command(["check", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_describe_takes_a_factory_of_one_s_own_too(capsys):
    Path("line.py").write_text(source("task", "line"))
    assert cli.command(["describe", "line.py:line"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("line.py:line: Fit a line") and "batch_size: whole number, >= 1, default 16" in out
    assert cli.command(["describe", "line.py:lime"]) == 2
    assert "line.py has no lime; did you mean line?" in capsys.readouterr().err


def test_a_list_has_the_entry_points_of_installed_packages_and_what_is_wrong_with_one(capsys, monkeypatch):
    Path("my_listed.py").write_text(source("task", "line"))
    monkeypatch.syspath_prepend(".")
    values = {"my_line": "my_listed:line", "my_broken": "my_listed:nothing"}
    points = [metadata.EntryPoint(name, value, "meta_train.tasks") for name, value in values.items()]
    monkeypatch.setattr(
        metadata, "entry_points", lambda *, group: [point for point in points if point.group == group]
    )
    assert cli.command(["list", "tasks"]) == 0
    out = capsys.readouterr().out
    assert re.search("^my_line +Fit a line", out, re.MULTILINE)
    assert re.search("^my_broken +my_listed has no nothing", out, re.MULTILINE)
