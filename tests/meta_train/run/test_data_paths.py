"""Paths in a config: relative to the config, and found again from anywhere."""

import shutil

import numpy as np
import pytest

from meta_train.cli import main as cli
from meta_train.config import load as config_lib
from meta_train.config.places import portable
from meta_train.run.metrics import read_jsonl

CONFIG = """
outer_steps: 8
tasks: [{name: tabular_mlp, hidden: [4], datasets: ["npz:data/mine.npz[:40]"], batch_size: 4}]
learned_optimizer: {name: learnable_sgd}
inner: {unroll_length: 4}
estimator: {name: pes, num_particles: 2, truncation_length: 2}
outer_optimizer: {name: adam, learning_rate: 0.01}
checkpoint: {every: 4}
logging: {every: 4}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a config and its data; the current directory is another one."""
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (folder / "data").mkdir(parents=True)
    elsewhere.mkdir()
    draw = np.random.RandomState(0)
    np.savez(folder / "data" / "mine.npz", x=draw.standard_normal((50, 3)), y=draw.standard_normal(50))
    (folder / "mine.yaml").write_text(CONFIG)
    monkeypatch.chdir(elsewhere)
    return folder


def test_a_relative_path_is_relative_to_the_config_and_one_of_the_command_line_to_the_current_directory(
    project,
):
    here = f"npz:{project / 'data' / 'mine.npz'}[:40]"
    config = config_lib.load(project / "mine.yaml")
    assert config.tasks[0].spec["datasets"] == (here,)
    assert config_lib.parse(config_lib.resolved(config)) == config
    config = config_lib.load(project / "mine.yaml", ["tasks.0.datasets=['npz:../project/data/mine.npz']"])
    assert config.tasks[0].spec["datasets"] == (here.removesuffix("[:40]"),)


def test_folders_are_relative_to_the_config_too_unless_they_are_no_paths(project):
    config = config_lib.load(project / "mine.yaml", ["runtime.compilation_cache=~/cache"])
    assert config.runtime.compilation_cache == "~/cache"
    extra = "runtime: {compilation_cache: cache}\ninit_from: runs/one/optimizer\n"
    (project / "mine.yaml").write_text(CONFIG + extra)
    config = config_lib.load(project / "mine.yaml")
    assert config.runtime.compilation_cache == str(project / "cache")
    assert config.init_from == str(project / "runs" / "one" / "optimizer")
    assert portable(config_lib.resolved(config))["init_from"] == "one/optimizer"
    config = config_lib.load(project / "mine.yaml", ["init_from=x"])
    assert config.init_from == str(project.parent / "elsewhere" / "x")
    for name in ("pretrained:general", "hub:user/name"):
        assert config_lib.load(project / "mine.yaml", [f"init_from={name}"]).init_from == name


def test_a_run_is_resumed_from_elsewhere_and_where_its_data_were_moved_to(
    project, tmp_path, monkeypatch, capsys
):
    run = ["run", str(project / "mine.yaml"), "--out", str(tmp_path / "run")]
    assert cli.command([*run, "outer_steps=8"]) == 0
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    assert cli.command([*run, "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    moved = shutil.move(project, tmp_path / "moved")
    assert cli.command(["run", f"{moved}/mine.yaml", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")][:2] == [3, 7]
