"""What becomes of a population whose files are changed or damaged: one line, and no wrong result."""

import json
import re
import shutil

import numpy as np
import pytest

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.cli import main as cli
from meta_train.config.file import parse
from meta_train.errors import MetricsError
from meta_train.population import config as config_lib
from meta_train.population import lineage
from meta_train.population.base import Member
from meta_train.population.run import run_population

CONFIG = """
rounds: 6
round_steps: 20
eval_every: 4
trainer: {name: noisy_quadratic, dim: 2}
hypers:
  learning_rate: {name: log, bounds: [0.001, 1.0]}
controller: {name: pbt, num_members: 4}
checkpoint: {every: 3}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    run_population(config_lib.parse(parse(CONFIG)), directory)
    return directory


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished, tmp_path / "run")


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("noise: 8.0", "noise: 7.0", "trainer.noise is 7.0, but checkpoint [36] was made with 8.0"),
        (
            "weights: true",
            "weights: false",
            "copied.weights is false, but checkpoint [36] was made with true",
        ),
    ],
)
def test_a_config_that_was_changed_is_neither_read_nor_resumed(copy, capsys, tmp_path, old, new, words):
    replace(copy / "config.yaml", old, new)
    (tmp_path / "mine.yaml").write_text((copy / "config.yaml").read_text())
    commands = ["export-schedule", "run"], ["replay", "run", "--num-seeds", "1"], ["verify", "run"]
    for argv in (*commands, ["population", "mine.yaml", "--out", "run", "--resume"]):
        assert cli.command(argv) == 1, argv
        out, err = capsys.readouterr()
        lines = [line for line in (out + err).splitlines() if "was changed after the run began" in line]
        assert lines, (argv, out, err)
        assert all(re.search(words, line) for line in lines)


def test_an_intact_population_passes_every_check(finished, capsys):
    assert cli.command(["verify", str(finished)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert sum("the weights of 4 of 4 members are finite" in line for line in lines) == 2
    assert sum("matches the config" in line for line in lines) == 2


def test_weights_that_are_not_finite_are_named_by_their_member(copy, capsys):
    with Checkpoints(copy / "checkpoints") as checkpoints:
        body = json.loads((copy / "checkpoints" / "6" / "manifest.json").read_text())
        weights = np.ones((4, 2), np.float32)
        weights[2, 1] = np.nan
        checkpoints.save(6, Member(weights), body["meta"], replace=True)
    assert cli.command(["verify", str(copy)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert line.endswith("state.weights of member 2 is not finite")


DAMAGE = {
    "a row without scores": (lambda row: row.pop("scores"), "line 3, is damaged: scores: Field required"),
    "a text for a number": (lambda row: row.update(fitness=["x"] * 4), "line 3, is damaged: fitness.0: "),
    "a member that is not there": (lambda row: row.update(source=[0, 1, 2, 9]), "not those of 4 members"),
    "another number of members": (lambda row: row["fitness"].pop(), "lists are not those of 3 members"),
    "a step that was left out": (lambda row: row.update(step=3), "line 3, is not round 2 of this population"),
    "another hyperparameter": (lambda row: row.update(hypers={"x": [1.0] * 4}), "is not round 2 of"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_lineage_is_one_line_that_names_it(copy, capsys, kind):
    change, words = DAMAGE[kind]
    rows = [json.loads(line) for line in (copy / "lineage.jsonl").read_text().splitlines()]
    change(rows[2])
    (copy / "lineage.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(MetricsError, match="lineage.jsonl, line 3"):
        lineage.read(copy)
    for argv in (["export-schedule", "run"], ["replay", "run"], ["plot", "run"]):
        assert cli.command(argv) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
