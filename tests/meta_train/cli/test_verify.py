"""`meta-train verify`: an intact directory passes every check, and each kind of damage fails one."""

import json
import shutil

import numpy as np
import pytest

from meta_train.cli.artefact import export_run
from meta_train.cli.evaluate_source import refuse_foreign
from meta_train.cli.main import command
from meta_train.cli.sources import open_source
from meta_train.config import load as config_lib
from meta_train.errors import RunError
from meta_train.run import train

CONFIG = {
    "outer_steps": 8,
    "tasks": [{"name": "quadratic", "dim": 3}],
    "learned_optimizer": {"name": "learnable_adam"},
    "inner": {"unroll_length": 10},
    "estimator": {"name": "pes", "num_particles": 2, "truncation_length": 5, "sigma": 0.1},
    "outer_optimizer": {"learning_rate": 0.01},
    "checkpoint": {"every": 4},
    "logging": {"every": 2},
    "selection": {"every": 4, "tasks": [{"name": "quadratic", "dim": 4}], "horizons": [20], "num_seeds": 1},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("verify") / "run"
    train.run(config_lib.parse(CONFIG), directory)
    list(export_run(directory, directory / "optimizer"))
    return directory


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def failures(directory, capsys):
    capsys.readouterr()
    code = command(["verify", str(directory)])
    lines = capsys.readouterr().out.splitlines()
    found = [line.removeprefix("FAILED ") for line in lines if line.startswith("FAILED")]
    assert code == bool(found) and all(line.startswith(("ok ", "FAILED ")) for line in lines)
    return found


def test_an_intact_run_and_artefact_pass_and_something_else_is_refused(finished, tmp_path, capsys):
    assert failures(finished, capsys) == []
    assert failures(finished / "optimizer", capsys) == []
    assert command(["verify", str(tmp_path)]) == 1
    assert "is neither the directory of a run" in capsys.readouterr().err


def test_a_relative_path_will_do(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished.parent)
    for name in (finished.name, f"{finished.name}/optimizer"):
        assert command(["verify", name]) == 0, capsys.readouterr().out


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda run: flip(largest(run / "checkpoints" / "8" / "state")),
            "is not what was written, by its di",
        ),
        (lambda run: flip(run / "checkpoints" / "4" / "manifest.json"), "manifest"),
        (lambda run: flip(run / "optimizer" / "theta.safetensors"), "theta.safetensors is damaged"),
        (lambda run: replace(run / "config.yaml", "sigma: 0.1", "sigma: 0.2"), "changed after the run began"),
        (lambda run: replace(run / "config.yaml", "sigma: 0.1", "sigma: -1"), "estimator.sigma"),
        (lambda run: cut(run / "metrics.jsonl", slice(2, None)), "the checkpoint counts"),
        (lambda run: cut(run / "metrics.jsonl", slice(None, None, -1)), "is out of order"),
        (lambda run: cut(run / "metrics.jsonl", [0, 0, 1]), "repeats step"),
        (lambda run: (run / "metrics.jsonl").unlink(), "No such file"),
        (
            lambda run: [shutil.rmtree(path) for path in (run / "checkpoints").iterdir()],
            "no undamaged checkp",
        ),
    ],
)
def test_damage_of_each_kind_is_named(damage, words, copy, capsys):
    damage(copy)
    found = failures(copy, capsys)
    assert any(words in line for line in found), found


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def cut(path, which):
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [lines[i] for i in which] if isinstance(which, list) else lines[which]
    path.write_bytes(b"".join(kept))


def test_a_theta_that_is_not_finite_is_named_although_its_digests_match(tmp_path, capsys):
    from meta_train.checkpoint.checkpoints import Checkpoints

    train.run(config_lib.parse(CONFIG), tmp_path / "run")
    with Checkpoints(tmp_path / "run" / "best", max_to_keep=1) as best:
        best.save(8, {"theta": {"w": np.array([1.0, np.nan])}}, {"score": 0.0}, replace=True)
    assert any("state['theta']['w'] is not finite" in line for line in failures(tmp_path / "run", capsys))


def test_evaluate_takes_the_last_theta_of_a_run_and_of_nothing_else(finished):
    assert open_source(str(finished), last=True).what["which"] == "last"
    assert open_source(str(finished)).what["which"] == "best"
    for other in ("optax:adam", "pretrained:general", str(finished / "optimizer")):
        with pytest.raises(RunError, match="--last is for a run"):
            open_source(other, last=True)


def test_evaluate_replaces_no_file_that_is_not_of_an_evaluation(tmp_path):
    for name, content in (
        ("evaluation.json", '{"mine": 1}'),
        ("evaluation.json", "[" * 1000),
        ("evaluation.csv", "a,b\n1,2\n"),
        ("evaluation.html", "<p>mine</p>"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(RunError, match=f"{name} will not be overwritten: it is not of an evaluation"):
            refuse_foreign(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "evaluation.json").write_text(json.dumps({"format": "meta-train/evaluation", "version": 1}))
    (tmp_path / "evaluation.html").write_text("ours")
    refuse_foreign(tmp_path)
