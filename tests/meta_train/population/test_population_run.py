"""Populations as a user meets them: configs, directories, kills, and what is read from a finished run."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.cli import main as cli
from meta_train.config.file import parse
from meta_train.population import config as config_lib
from meta_train.population import lineage
from meta_train.population.rounds import begin
from meta_train.population.run import build_population, run_population

CONFIGS = Path(__file__).parents[3] / "configs"
CONFIG = """
rounds: 30
round_steps: 20
eval_every: 4
trainer: {name: noisy_quadratic, dim: 2}
hypers:
  learning_rate: {name: log, bounds: [0.001, 1.0]}
controller: {name: fire_pbt, subpopulations: [4, 4], evaluators: [3]}
"""


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(CONFIG)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing interrupted."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    run_population(config_lib.parse(parse(CONFIG)), directory)
    return directory


def last_state(directory):
    config = config_lib.load(directory / "config.yaml")
    with Checkpoints(directory / "checkpoints") as checkpoints:
        restored = checkpoints.restore(begin(build_population(config)).members)
    return restored.step, [np.asarray(x).tobytes() for x in jax.tree.leaves(restored.state)], restored.meta


def kill_after(rows, directory):
    """Runs the config in a process of its own and kills it (-9) once its lineage has so many rows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "meta_train", "population", "mine.yaml", "--out", str(directory), "--resume"],
        env=os.environ,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    file = directory / "lineage.jsonl"
    while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < rows):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9
    return file.read_bytes().count(b"\n")


def test_killed_and_resumed_it_ends_in_the_same_bits(finished, tmp_path):
    done = kill_after(7, tmp_path / "killed")
    assert 7 <= done < 30
    run_population(config_lib.load("mine.yaml"), tmp_path / "killed", resume=True)
    assert (tmp_path / "killed" / "lineage.jsonl").read_bytes() == (finished / "lineage.jsonl").read_bytes()
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert last_state(tmp_path / "killed") == last_state(finished)


@pytest.mark.slow
def test_killed_in_many_rounds_it_still_ends_in_the_same_bits(finished, tmp_path):
    for rows in (1, 6, 11, 19, 26):
        kill_after(rows, tmp_path / "killed")
    run_population(config_lib.load("mine.yaml"), tmp_path / "killed", resume=True)
    assert (tmp_path / "killed" / "lineage.jsonl").read_bytes() == (finished / "lineage.jsonl").read_bytes()
    assert last_state(tmp_path / "killed") == last_state(finished)


def test_the_winners_schedule_is_the_way_back_through_its_sources(finished, capsys):
    assert cli.command(["export-schedule", str(finished), "--out", "schedule.json"]) == 0
    capsys.readouterr()
    found, records = json.loads(Path("schedule.json").read_text()), lineage.read(finished)
    slots = found["slots"]
    assert len(slots) == 30 and slots[-1] < 8
    for number in range(29):
        assert records[number].source[slots[number + 1]] == slots[number]
    rates = [records[i].hypers["learning_rate"][slot] for i, slot in enumerate(slots)]
    for piece in found["pieces"]:
        inside = rates[piece["from"] // 20 : piece["to"] // 20]
        assert set(inside) == {piece["hypers"]["learning_rate"]}
    assert found["pieces"][0]["from"] == 0 and found["pieces"][-1]["to"] == 600


def test_a_replay_trains_the_schedule_from_scratch(finished, capsys):
    assert cli.command(["replay", str(finished), "--num-seeds", "2", "--json", "replay.json"]) == 0
    found = json.loads(Path("replay.json").read_text())
    assert np.shape(found["scores"]) == (2, 150) and found["scores"][0] != found["scores"][1]
    assert np.isfinite(found["fitness"]).all() and "from scratch, 2 seeds" in capsys.readouterr().out


def test_a_picture_of_every_member_is_drawn(finished, capsys):
    assert cli.command(["plot", str(finished), "--out", "population.png"]) == 0
    assert Path("population.png").read_bytes().startswith(b"\x89PNG")


def test_the_metrics_count_ancestors_and_events(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    records = lineage.read(finished)
    assert [row["step"] for row in rows] == list(range(30))
    ancestors = np.arange(11)
    for row, record in zip(rows, records, strict=True):
        evaluates = sum(event["event"] == "evaluate" for event in record.events)
        assert row.get("events/evaluate", 0) == evaluates
        assert row["fitness/best"] == record.fitness[:8].max()
        ancestors = ancestors[record.source] if record.round else ancestors
    assert rows[-1]["ancestors"] < 8 and 0 < rows[5]["evaluators_busy"] <= 1


# Everything that a user can get wrong: one line, before anything compiles or is written.


def refused(capsys, *overrides):
    before = sorted(map(str, Path().rglob("*")))
    assert cli.command(["population", "mine.yaml", *overrides]) == 2
    out, err = capsys.readouterr()
    assert out == "" and sorted(map(str, Path().rglob("*"))) == before
    return err.splitlines()


SHORT = {
    "eval_every=3": "command line: eval_every: must divide round_steps (20) (value 3)",
    "average=6": "command line: average: must be at most the 5 evaluations of a round (value 6)",
    "controller.max_eval_steps=24": "max_eval_steps: must hold at least 7 evaluations",
    "controller.subpopulations=[3, 4]": "controller.subpopulations.0: must be >= 4 (value 3)",
    "controller.evaluators=[5]": "controller.evaluators: must be at most the 4 members of P2, got 5",
    "controller.exploit={name: truncation, top: 0.6, bottom: 0.6}": "top: must be at most 1 - bottom (0.4)",
    "controller.exploit={name: truncation, top: 1.5}": "controller.exploit.top: must be <= 1 (value 1.5)",
    "mesh.members=3": "mesh.members must divide the 11 members, got 3",
    "mesh.particles=2": "mesh.particles must be 1 for a trainer without particles, got 2",
    "hypers.dim={name: integer, bounds: [1, 4]}": "hypers.dim: changes shapes or the program",
    "hypers.learning_rat={name: log, bounds: [0.1, 1.0]}": "did you mean learning_rate?",
    "hypers={x: {name: log, bounds: [0.1, 1.0]}}": "hypers.learning_rate: is required by the trainer",
    "hypers.learning_rate.bounds=[1.0, 0.1]": "hypers.learning_rate.bounds: must ascend, got [1.0, 0.1]",
    "controller.name=fire": "controller.name: unknown name (value \"fire\"); did you mean fire_pbt?",
    "round_stepz=5": "round_stepz: unknown option (value 5); did you mean round_steps?",
}  # fmt: skip


@pytest.mark.parametrize("override", SHORT)
def test_what_cannot_work_is_refused_in_one_line(capsys, override):
    lines = refused(capsys, override)
    assert SHORT[override] in "\n".join(lines)
    assert len(lines) == (2 if override.startswith("hypers={x") else 1)


def test_a_population_that_diverged_altogether_stops_and_names_the_round(capsys):
    wild = "hypers.learning_rate={name: log, bounds: [1.0e+6, 1.0e+9]}"
    assert cli.command(["population", "mine.yaml", wild, "--out", "run"]) == 1
    err = capsys.readouterr().err
    *progress, line = err.splitlines()
    assert line == "meta-train: no member has a finite fitness any more after round 1 (step 20)"
    assert all(other.startswith("round ") for other in progress)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("population_*.yaml")), ids=lambda file: file.stem)
def test_the_configs_that_come_along_can_be_run(file):
    config = config_lib.load(file)
    assert config_lib.parse(config_lib.resolved(config)) == config


def test_another_config_cannot_resume_a_run(finished, capsys):
    assert cli.command(["population", "mine.yaml", "seed=5", "--out", str(finished), "--resume"]) == 1
    assert "another config: seed is 0 there, 5 here" in capsys.readouterr().err


def test_what_is_no_population_is_told_apart(finished, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("outer_steps: 3\n")
    for command in ("plot", "replay", "export-schedule"):
        assert cli.command([command, str(tmp_path)]) == 1
        assert "is not the directory of a run" in capsys.readouterr().err
        assert cli.command([command, str(tmp_path / "other")]) == 1
        words = "has no metrics yet" if command == "plot" else "is not the directory of a population"
        assert words in capsys.readouterr().err


def test_the_schedule_of_an_unfinished_run_is_refused(finished, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for name in ("config.yaml", "lineage.jsonl"):
        lines = (finished / name).read_text().splitlines(keepends=True)
        (unfinished / name).write_text("".join(lines[:5] if name == "lineage.jsonl" else lines))
    assert cli.command(["export-schedule", str(unfinished)]) == 1
    assert "has done 5 of 30 rounds: resume it first" in capsys.readouterr().err


def test_the_results_of_a_run_on_more_devices_than_there_are_can_be_read(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "r")
    file = tmp_path / "r" / "config.yaml"
    file.write_text(file.read_text().replace("members: 1,", "members: 11,"))
    assert config_lib.load(file).mesh.members == 11 > len(jax.devices())
    for argv in (["export-schedule", "r"], ["plot", "r"], ["replay", "r", "--num-seeds", "1"]):
        assert cli.command(argv) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert cli.command(["population", "mine.yaml", "mesh.members=11"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mesh.members must be between 1 and 4, the devices there are, got 11")


def test_members_may_take_the_devices_that_there_are(monkeypatch):
    config = config_lib.load("mine.yaml", ["mesh.members=auto"])
    assert config_lib.mesh_of(config, 8).devices.shape == (4, 1)
    assert config_lib.mesh_of(config, 11).devices.shape == (1, 1)
    assert config_lib.mesh_of(config, 6).devices.shape == (3, 1)
