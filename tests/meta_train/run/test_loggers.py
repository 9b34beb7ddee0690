"""TensorBoard and trackio, in addition to metrics.jsonl."""

import subprocess
import sys
import types

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_train.config import load as config_lib
from meta_train.errors import ConfigError
from meta_train.run import loggers, train
from meta_train.run.metrics import read_jsonl

CONFIG = {
    "outer_steps": 20,
    "tasks": [{"name": "quadratic", "dim": 2}],
    "learned_optimizer": {"name": "learnable_sgd"},
    "inner": {"unroll_length": 4},
    "estimator": {"name": "pes", "num_particles": 2, "truncation_length": 2},
    "outer_optimizer": {"name": "adam", "learning_rate": 0.01},
    "logging": {"every": 2, "tensorboard": {"enabled": True}},
    "checkpoint": {"every": 10},
}


def read_events(folder):
    """Tag -> [(step, value)], as TensorBoard itself reads them."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_has_every_number_of_metrics_jsonl_also_of_a_resumed_run(tmp_path, interrupted):
    config = config_lib.parse(CONFIG)
    interrupted(config, tmp_path / "run", 16)  # saved at 10: the rows after it are written again
    said = []
    train.run(config, tmp_path / "run", resume=True, display=train.Display(say=said.append))
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    found = read_events(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in found["loss"]] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    for row in rows:
        for name, value in row.items():
            if name != "step":
                (seen,) = [x for step, x in found[name] if step == row["step"]]
                assert seen == pytest.approx(value, rel=1e-6, nan_ok=True), name
    assert f"TensorBoard: tensorboard --logdir {tmp_path / 'run' / 'tensorboard'}" in said


def test_a_logger_whose_package_is_missing_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    logging = {"tensorboard": {"enabled": True}, "trackio": {"enabled": True}}
    config = config_lib.parse(CONFIG | {"logging": logging})
    with pytest.raises(ConfigError) as caught:
        train.run(config, tmp_path / "run")
    assert str(caught.value).splitlines() == [
        "logging.tensorboard.enabled: needs the package tensorboardX: pip install 'learned-opt[tensorboard]'",
        "logging.trackio.enabled: needs the package trackio: pip install 'learned-opt[trackio]'",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_memory_refuses_loggers():
    config = config_lib.parse(CONFIG | {"logging": {"wandb": {"mode": "offline"}}})
    with pytest.raises(ConfigError, match=r"^logging.wandb.mode: must be disabled for a run in memory"):
        train.run(config, None)
    with pytest.raises(ConfigError, match=r"^logging.tensorboard.enabled: must be false for a run in memory"):
        train.run(config_lib.parse(CONFIG), None)


@pytest.fixture
def trackio(monkeypatch):
    """A module with the functions of trackio that are used; what was done with them."""
    done = []

    class Run:
        def log(self, metrics, step=None):
            done.append((step, metrics))
            if metrics.get("loss") == "bad":
                raise OSError("the database is locked\nat length")

        def finish(self):
            print("* Run finished.")
            done.append("finished")

    def init(project, name=None, space_id=None, config=None, resume="never", embed=True, **options):
        print("* Trackio project initialized")
        assert not embed and options == {"auto_log_gpu": False, "auto_log_cpu": False}
        done.append((project, name, space_id, resume))
        return Run()

    module = types.ModuleType("trackio")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    return done


OPTIONS = {"project": "p", "name": None, "space_id": None, "config": {"seed": 0}}


def test_trackio_gets_every_row_under_the_name_of_the_directory_and_prints_nothing(tmp_path, trackio, capsys):
    said, warned = [], []
    options = OPTIONS | {"directory": tmp_path / "mine", "warn": warned.append, "say": said.append}
    writer = loggers.trackio_writer(**options, resume_step=None)
    writer.write(4, {"loss": 0.5})
    writer.close()
    loggers.trackio_writer(**options, resume_step=5)
    assert trackio == [
        ("p", "mine", None, "never"),
        (4, {"loss": 0.5}),
        "finished",
        ("p", "mine", None, "allow"),
    ]
    assert said == 2 * ["trackio: trackio show --project p"] and not warned
    assert capsys.readouterr().out == ""


def test_a_logger_that_fails_is_reported_once_and_stops_nothing(tmp_path, trackio):
    warned = []
    options = OPTIONS | {"directory": tmp_path, "warn": warned.append, "say": lambda line: None}
    writer = loggers.trackio_writer(**options, resume_step=None)
    writer.write(0, {"loss": "bad"})
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert warned == ["trackio failed (the database is locked): going on without it"]
    assert [entry for entry in trackio if entry == "finished" or entry[0] == 1] == []


def test_a_logger_that_cannot_start_is_reported_and_stops_nothing(tmp_path, monkeypatch):
    def broken(**options):
        raise OSError("no space left")

    monkeypatch.setattr(loggers, "tensorboard_writer", broken)
    warned = []
    found = loggers.open_all(
        config_lib.parse(CONFIG).logging,
        tmp_path,
        config={},
        resume_step=None,
        wandb_id=None,
        warn=warned.append,
        say=lambda line: None,
    )
    assert warned == ["tensorboard cannot start (no space left): going on without it"] and len(found) == 1


def test_loggers_that_are_not_enabled_are_not_imported():
    code = "import sys, meta_train.run.train; sys.exit(bool({'tensorboardX', 'trackio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
