"""A stranger's package, outside of this repository, from the shell and from Python: train to export.

Its three files are one task, one estimator and one learned optimizer, named by path in one config and by
module in the other.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import learned_opt
import meta_train
from meta_train.cli import main as cli
from meta_train.errors import RunError

ROOT = Path(__file__).parents[3]
TASK = '''
"""Tasks."""

import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily


def line_fit(*, batch_size: int = 8, noise: float = 0.1):
    """Fit a line."""

    def task(slope):
        def loss(params, key, data):
            x, e = jax.random.normal(key, (2, batch_size))
            return jnp.mean((params["w"] * x + params["b"] - slope * x - noise * e) ** 2)

        return Task(lambda key: {"w": jax.random.normal(key), "b": jnp.zeros([])}, loss)

    return TaskFamily(jax.random.normal, task, {"train": (), "valid": ()})


def tasks():
    """What is evaluated."""
    return {"easy": line_fit(noise=0.0), "bowl": {"name": "quadratic", "dim": 3}}
'''
OPTIMIZER = '''
"""Optimizers."""

import jax.numpy as jnp
import optax

from learned_opt import LearnedOptimizer


def signed(*, initial_lr: float = 0.05):
    """Sign descent with a learned rate."""

    def init(key):
        return {"log_lr": jnp.log(jnp.float32(initial_lr))}

    def build(theta, num_steps):
        tx = optax.chain(optax.scale_by_sign(), optax.scale(-jnp.exp(theta["log_lr"])))
        return optax.with_extra_args_support(tx)

    return LearnedOptimizer(init, build)


def two(*, initial_lr: float = 0.05):
    """Another one, with two meta-parameters."""
    return signed(initial_lr=initial_lr)._replace(init=lambda key: {"log_lr": jnp.zeros(2)})
'''
ESTIMATOR = '''
"""Estimators."""

from meta_train.estimators import truncated_es


def my_es(system, *, num_particles: int = 2, truncation_length: int = 2, sigma: float = 0.1):
    """Truncated ES by another name."""
    return truncated_es(system, num_particles=num_particles, truncation_length=truncation_length, sigma=sigma)
'''
CONFIG = """
outer_steps: {steps}
tasks: [{{name: "{task}:line_fit", batch_size: 4}}]
learned_optimizer: {{name: "{optimizer}:signed"}}
inner: {{unroll_length: 20}}
estimator: {{name: "{estimator}:my_es", num_particles: 4, truncation_length: 5}}
outer_optimizer: {{name: adam, learning_rate: 0.01}}
checkpoint: {{every: 20}}
logging: {{every: 20}}
evaluation: {{tasks: [{{name: "{task}:line_fit", noise: 0.0}}, {{name: quadratic, label: bowl}}],
              horizons: [20], num_seeds: 1}}
"""
BRIEF = ["--horizons", "20", "--num-seeds", "1", "--rivals", "adam", "--rates", "3", "--rates-only"]


def write_package(home):
    """The package `my_lo` in a directory, and two configs that name its files and its modules."""
    package = home / "my_lo"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name, text in {"task": TASK, "optimizer": OPTIMIZER, "estimator": ESTIMATOR}.items():
        (package / f"{name}.py").write_text(text)
    names = ("task", "optimizer", "estimator")
    files = {name: f"{name}.py" for name in names}
    modules = {name: f"my_lo.{name}" for name in names}
    (package / "files.yaml").write_text(CONFIG.format(steps=400, **files))
    (home / "modules.yaml").write_text(CONFIG.format(steps=40, **modules))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The package, and in `run` a run of its files that was killed with -9 and resumed, from the shell."""
    home = tmp_path_factory.mktemp("stranger")
    write_package(home)
    words = [sys.executable, "-m", "meta_train", "run", "my_lo/files.yaml", "--out", "run"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    checkpoint = home / "run" / "checkpoints" / "20"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    out = process.communicate()[0].decode()
    assert process.returncode == -signal.SIGKILL, out
    done = subprocess.run([*words, "--resume"], cwd=home, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "resumed at outer step" in done.stderr + done.stdout, done.stderr
    return home


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)


def refused(capsys, *argv, code=1):
    """The line that a command is refused with."""
    assert cli.command([*argv]) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_that_was_killed_is_as_one_that_was_not(tmp_path):
    config = meta_train.load_config("my_lo/files.yaml")
    result = meta_train.train(config, tmp_path / "whole")
    resumed = meta_train.load_run(Path("run"), print)
    assert resumed.outer_step == 400
    jax.tree.map(np.testing.assert_array_equal, resumed.theta, result.theta)


def test_the_run_records_each_source_with_its_digest_and_a_copy(home):
    found = json.loads(Path("run/sources/sources.json").read_text())
    assert set(found) == {"tasks.0", "learned_optimizer", "estimator", "evaluation.tasks.0"}
    (digest,) = found["estimator"]["files"].values()
    assert found["estimator"]["name"] == f"{home / 'my_lo' / 'estimator.py'}:my_es"
    assert Path(f"run/sources/{digest[:12]}_estimator.py").read_text() == ESTIMATOR


def test_from_the_shell_it_is_evaluated_and_exported_and_the_artefact_needs_its_factory(capsys):
    assert cli.command(["evaluate", "run", *BRIEF, "--out", "e"]) == 0
    cells = json.loads(Path("e/evaluation.json").read_text())["cells"]
    assert [cell["task"] for cell in cells] == ["line_fit", "bowl"]
    assert cli.command(["export", "run"]) == 0
    assert "architecture=signed" in capsys.readouterr().out
    line = refused(capsys, "evaluate", "run/optimizer", *BRIEF, "--tasks", "my_lo/task.py:tasks")
    assert "unknown architecture 'optimizer.py:signed'" in line and "--architecture FILE.py:FACTORY" in line
    own = ["--tasks", "my_lo/task.py:tasks", "--architecture", "my_lo/optimizer.py:signed"]
    assert cli.command(["evaluate", "run/optimizer", *BRIEF, *own, "--out", "f"]) == 0
    found = json.loads(Path("f/evaluation.json").read_text())
    assert [cell["task"] for cell in found["cells"]] == ["easy", "bowl"]
    assert found["tasks"] == "my_lo/task.py:tasks"
    assert list(found["sources"]["my_lo/task.py:tasks"]) == ["task.py"]
    capsys.readouterr()
    assert cli.command(["verify", "run/optimizer"]) == 0
    assert "whether it fits optimizer.py:signed" in capsys.readouterr().out


@pytest.mark.slow
def test_from_python_its_modules_train_evaluate_and_export(tmp_path):
    from my_lo.optimizer import signed  # type: ignore[import-not-found]
    from my_lo.optimizer import two as other  # type: ignore[import-not-found]

    config = meta_train.load_config("modules.yaml")
    assert config.tasks[0].name == "my_lo.task:line_fit" and config.tasks[0].label == "line_fit"
    meta_train.train(config, tmp_path / "r")
    recorded = json.loads((tmp_path / "r/sources/sources.json").read_text())
    assert set(recorded["estimator"]["files"]) == {"my_lo", "my_lo.estimator"}
    options = {"horizons": (20,), "num_seeds": 1, "rates": 3, "tune_decay": False}
    found = meta_train.evaluate(str(tmp_path / "r"), options=options, out=tmp_path / "e")
    assert [cell.task for cell in found.cells] == ["line_fit", "bowl"]
    list(meta_train.export(tmp_path / "r", tmp_path / "o"))
    with pytest.raises(learned_opt.ArtefactError, match="unknown architecture 'my_lo.optimizer:signed'"):
        learned_opt.load(tmp_path / "o")
    tx = learned_opt.load(tmp_path / "o", architecture=signed)
    params = {"w": np.ones(3, np.float32)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert (np.asarray(updates["w"]) < 0).all()
    with pytest.raises(learned_opt.ArtefactError, match="does not fit the architecture at log_lr"):
        learned_opt.load(tmp_path / "o", architecture=other)
    with pytest.raises(learned_opt.ArtefactError, match="must return a LearnedOptimizer, got a dict"):
        learned_opt.load(tmp_path / "o", architecture=dict)
    with pytest.raises(learned_opt.ArtefactError, match="is one of this package: leave `architecture` out"):
        learned_opt.load("pretrained:quickstart", num_steps=200, architecture=signed)


def test_an_artefact_s_name_is_never_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("open('executed', 'w').close()\n\n\ndef signed(**options):\n    return 1\n")
    theta = {"log_lr": np.zeros([], np.float32)}
    from my_lo.optimizer import signed  # type: ignore[import-not-found]

    save = {"options": {}, "theta": theta, "horizon": 20, "provenance": {}, "architecture": signed}
    for name in ("evil.py:signed", "evil:signed"):
        learned_opt.save("a", name=name, **save, config={"learned_optimizer": {"name": name}})
        for argv in (["evaluate", "a"], ["verify", "a"]):
            cli.command(argv)
        with pytest.raises(learned_opt.ArtefactError, match="unknown architecture"):
            learned_opt.read("a")
    assert not Path("executed").exists() and "evil" not in sys.modules


@pytest.mark.parametrize("argv", [["run", "my_lo/files.yaml", "--resume"], ["evaluate"], ["export"]])
def test_a_source_that_changed_is_refused_and_the_copy_puts_it_right(capsys, argv):
    file = Path("my_lo/estimator.py")
    words = [*argv, "--out", "run"] if argv[0] == "run" else [*argv, "run", "--out", "x"]
    try:
        file.write_text(ESTIMATOR + "# changed\n")
        line = refused(capsys, *words)
        assert "estimator.name is" in line and "estimator.py was changed after the run began" in line
        copy = Path(line.split("change it back to ")[1])
        file.write_bytes(copy.read_bytes())
        assert meta_train.load_run(Path("run"), print).outer_step == 400
    finally:
        file.write_text(ESTIMATOR)
    assert not Path("x").exists()


def test_a_source_that_is_gone_is_refused_and_may_be_moved(capsys, tmp_path):
    there, moved = Path("my_lo/optimizer.py"), tmp_path / "optimizer.py"
    config, before = Path("run/config.yaml"), Path("run/config.yaml").read_text()
    there.rename(moved)
    try:
        for argv in (["evaluate", "run", "--out", "x"], ["export", "run", "--out", "x"]):
            assert f"{there.absolute()} is gone: put it back, or write there where it is" in refused(
                capsys, *argv
            )
        line = refused(capsys, "run", "my_lo/files.yaml", "--out", "run", "--resume", code=2)
        assert "optimizer.py cannot be read: No such file or directory" in line
        config.write_text(before.replace(f"{there.absolute()}:", f"{moved}:"))
        assert meta_train.load_run(Path("run"), print).outer_step == 400
        moved.write_text(OPTIMIZER + "# changed\n")
        with pytest.raises(RunError, match="was changed after the run began"):
            meta_train.load_run(Path("run"), print)
    finally:
        there.write_text(OPTIMIZER)
        config.write_text(before)


def test_a_run_that_lost_its_record_is_refused(capsys):
    file = Path("run/sources/sources.json")
    before = file.read_text()
    try:
        file.unlink()
        assert "does not say of what source the run was made" in refused(
            capsys, "export", "run", "--out", "x"
        )
    finally:
        file.write_text(before)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_lo/task.py:nothing", "--tasks: my_lo/task.py has no nothing; allowed: line_fit, tasks"),
        ("my_lo/task.py:jax", "module"),
        ("my_lo/nothing.py:tasks", "my_lo/nothing.py cannot be read"),
        ("my_lo/task.py:line_fit+my_lo/task.py:line_fit+wrong", "no such ring or task"),
        ("my_lo/wrong.py:number", "number: must be a TaskFamily, got int"),
        ("my_lo/wrong.py:fails", "fails: ZeroDivisionError: division by zero (wrong.py, line 7)"),
        ("my_lo/wrong.py:none", "my_lo/wrong.py:none has no tasks"),
        ("my_lo/wrong.py:bowls", "a.dim: must be >= 1 (value 0)"),
        ("my_lo/task.py:tasks+my_lo/wrong.py:easy", "is the label of two tasks"),
    ],
)
def test_tasks_that_cannot_be_evaluated_on_are_one_line(capsys, name, words):
    Path("my_lo/wrong.py").write_text(
        "from tasks import make\n\nnumber = 3\n\n\ndef fails():\n    return 1 / 0\n"
        "\n\ndef none():\n    return {}\n"
        '\n\nbowls = {"a": {"name": "quadratic", "dim": 0}}\neasy = make({"name": "quadratic"})\n'
    )
    assert words in refused(capsys, "evaluate", "optax:adam", "--tasks", name, "--out", "x", code=2)


def test_a_theta_to_begin_with_is_read_with_the_config_s_own_architecture(tmp_path):
    from my_lo.optimizer import signed  # type: ignore[import-not-found]

    theta = {"log_lr": np.float32(-1.5)}
    save = {"options": {}, "theta": theta, "horizon": 20, "provenance": {}, "architecture": signed}
    learned_opt.save(tmp_path / "a", name="optimizer.py:signed", **save)
    overrides = [f"init_from={tmp_path / 'a'}", "outer_steps=20", "outer_optimizer.learning_rate=0"]
    config = meta_train.load_config("my_lo/files.yaml", overrides)
    assert meta_train.train(config, tmp_path / "r").theta["log_lr"] == np.float32(-1.5)
