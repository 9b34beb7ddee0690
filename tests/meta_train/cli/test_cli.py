"""The command line as a user meets it: what it prints, what it refuses, and its exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import learned_opt
from meta_train.cli import listing
from meta_train.cli import main as cli
from meta_train.run.directory import load_trained

CONFIG = """
outer_steps: 20
tasks: [{name: quadratic, dim: 3}]
learned_optimizer: {name: learnable_adam}
inner: {unroll_length: 20}
estimator: {name: pes, num_particles: 4, truncation_length: 5, sigma: 0.1}
outer_optimizer: {name: adam, learning_rate: 0.01}
evaluation: {tasks: [{name: quadratic, dim: 4}], horizons: [20], num_seeds: 2}
"""


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(CONFIG)


def files():
    return sorted(str(p) for p in Path().rglob("*"))


def refused(capsys, *argv):
    """What a command that is refused prints to stderr; it must write nothing."""
    before = files()
    assert cli.command([*argv]) == 2
    assert files() == before
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()


def test_run_evaluate_and_export_make_an_optimizer_that_optax_can_use(capsys):
    assert cli.command(["run", "mine.yaml", "--out", "r", "--json", "run.json"]) == 0
    assert "20 outer steps" in capsys.readouterr().out
    assert json.loads(Path("run.json").read_text())["outer_steps"] == 20
    assert cli.command(["evaluate", "r"]) == 0
    printed = capsys.readouterr().out
    assert "speed-up" in printed and "r/evaluation.png" in printed
    assert Path("r/evaluation.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads(Path("r/evaluation.json").read_text())
    assert figures["outer_step"] == 20
    assert cli.command(["export", "r", "--out", "optimizer"]) == 0
    assert "learned_opt.load" in capsys.readouterr().out
    trained = load_trained(Path("r"), print)
    artefact = learned_opt.read("optimizer")
    jax.tree.map(np.testing.assert_array_equal, artefact.theta, jax.device_get(trained.theta))
    tx = learned_opt.load("optimizer", num_steps=20)
    params = {"w": np.ones(3, np.float32)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert (np.asarray(updates["w"]) < 0).all()


def test_a_finished_run_is_not_run_again(capsys):
    assert cli.command(["run", "mine.yaml"]) == 0
    assert cli.command(["run", "mine.yaml"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert cli.command(["run", "mine.yaml", "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out


def test_dry_run_prints_config_and_sizes_and_writes_nothing(capsys):
    before = files()
    assert cli.command(["run", "mine.yaml", "seed=3", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "seed: 3" in printed and "truncation_length: 5" in printed
    assert "meta-parameters" in printed and "MiB" in printed
    assert files() == before


def test_every_mistake_of_a_config_is_one_line_with_exit_code_2_and_nothing_written(capsys):
    bad = (
        CONFIG.replace("sigma", "simga")
        .replace("learnable_adam", "lernable_adam")
        .replace("dim: 3", "dim: 0")
    )
    Path("bad.yaml").write_text(bad.replace("unroll_length: 20", "unroll_length: 22"))
    lines = refused(capsys, "run", "bad.yaml")
    assert len(lines) == 4
    assert any("tasks.0.dim" in line and ">= 1" in line for line in lines)
    assert any("lernable_adam" in line and "did you mean learnable_adam?" in line for line in lines)
    assert any("simga" in line and "did you mean sigma?" in line for line in lines)
    assert any("unroll_length" in line and "multiple" in line for line in lines)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["run", "mine.yaml", "estimator.sigma=-1"], "estimator.sigma: must be > 0"),
        (["run", "mine.yaml", "outer_stepz=3"], "did you mean outer_steps?"),
        (["run", "mine.yaml", "seed"], "key=value"),
        (["describe", "pess"], "did you mean pes?"),
        (["run", "mine.yaml", "mesh.particles=3"], "mesh.particles: must divide"),
        (["run", "mine.yaml", "estimator.num_particles=80", "mesh.particles=80"], "mesh.particles"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(capsys, argv, words):
    lines = refused(capsys, *argv)
    assert len(lines) == 1 and words in lines[0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["evaluate", "nowhere"], "not the directory of a run"),
        (["export", "nowhere", "--out", "x"], "not the directory of a run"),
        (["run", "mine.yaml", "--out", "."], "holds no run"),
    ],
)
def test_a_wrong_directory_is_one_line_and_exit_code_1(capsys, argv, words):
    assert cli.command(argv) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and words in lines[0]


@pytest.mark.parametrize("kind", listing.KINDS)
def test_list_names_everything_and_describe_describes_it(capsys, kind):
    assert cli.command(["list", kind, "--json", "list.json"]) == 0
    printed = capsys.readouterr().out
    for name in json.loads(Path("list.json").read_text()):
        assert name in printed
        assert cli.command(["describe", name]) == 0
        assert name in capsys.readouterr().out


def test_describe_config_documents_every_key(capsys):
    assert cli.command(["describe", "config"]) == 0
    printed = capsys.readouterr().out
    for key in (
        "outer_steps",
        "inner.unroll_length",
        "logging.wandb.mode",
        "selection.every",
        "mesh.particles",
    ):
        assert key in printed


def test_a_foreign_tasks_module_is_named_and_refused(tmp_path):
    (tmp_path / "tasks.py").write_text("x = 1")
    result = subprocess.run(
        [sys.executable, "-m", "meta_train", "list", "tasks"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "tasks.py" in result.stderr and "Traceback" not in result.stderr


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(capsys, monkeypatch):
    assert cli.command(["run", "mine.yaml", "checkpoint.every=5", "outer_steps=10", "--out", "r"]) == 0
    capsys.readouterr()
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert cli.command(["run", "mine.yaml", "--out", "r2"]) == 1
    *progress, line = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line and line.startswith("meta-train: cannot save checkpoint 20")
    assert all("outer step" in other for other in progress)
    assert Path("r/checkpoints/10").is_dir()


def test_a_write_that_fails_in_the_middle_is_told_and_the_last_good_checkpoint_stays(tmp_path):
    """A limit on the size of files: the writes really fail. TensorStore may print what it likes before."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from meta_train.cli import main as cli;"
        "code = cli.command(['run', 'mine.yaml', 'checkpoint.every=5', 'outer_steps=10', '--out', 'r']);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "sys.exit(cli.command(['run', 'big.yaml', '--out', 'r2']) + 10 * code)"
    )
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}  # it warns by itself
    (tmp_path / "big.yaml").write_text(CONFIG.replace("num_particles: 4", "num_particles: 4096"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert result.returncode == 1, result.stderr
    # Other threads write to the same pipe at the same time: the line may begin behind a piece of theirs.
    told = re.findall("meta-train: .*", result.stderr)
    assert len(told) == 1 and "cannot save checkpoint 20" in told[0] and "File too large" in told[0]
    assert (tmp_path / "r" / "checkpoints" / "10").is_dir()


def test_overrides_may_stand_after_options(capsys):
    for argv in (
        ["run", "mine.yaml", "--dry-run", "seed=3", "outer_steps=7"],
        ["run", "mine.yaml", "seed=3", "--dry-run", "outer_steps=7"],
    ):
        assert cli.parse(argv).overrides == ["seed=3", "outer_steps=7"]
    with pytest.raises(SystemExit):
        cli.parse(["run", "mine.yaml", "--dryrun", "seed=3"])
    with pytest.raises(SystemExit):
        cli.parse(["list", "tasks", "more"])
    assert "unrecognized arguments: more" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as done:
        cli.command(["--version"])
    assert done.value.code == 0
    assert re.fullmatch(r"meta-train \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("mine.yaml", "mine.yaml"),
        ("mine.yaml/below", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("a/" * 3000, "File name too long"),
    ],
)
def test_a_directory_that_cannot_be_made_is_one_line(capsys, out, words):
    before = files()
    assert cli.command(["run", "mine.yaml", "--out", out]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("meta-train: ") and words in line
    assert files() == before


def test_a_package_that_is_not_installed_is_named_with_the_extra_that_has_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic", None)
    for name in [name for name in sys.modules if name.startswith("meta_train.config")]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.command(["list", "tasks"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "meta-train: the package pydantic is not installed; this command needs it: "
        "pip install 'learned-opt[train]'"
    )


def test_a_module_tasks_beside_a_script_is_named_in_one_line(tmp_path):
    (tmp_path / "tasks.py").write_text("x = 1")
    (tmp_path / "train.py").write_text(
        "try:\n    import meta_train\nexcept ImportError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True)
    (line,) = result.stdout.splitlines()
    assert str(tmp_path / "tasks.py") in line and "rename that file" in line
