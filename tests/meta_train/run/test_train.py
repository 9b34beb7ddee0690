"""Runs from start to end, in this process and in others that are killed."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import learned_opt
from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.config import load as config_lib
from meta_train.errors import ConfigError, RunError
from meta_train.run import train
from meta_train.run.directory import load_trained, prepare
from meta_train.run.experiment import assemble
from meta_train.run.hooks import warn_of_divergence
from meta_train.run.metrics import read_jsonl

CONFIG = {
    "outer_steps": 60,
    "tasks": [{"name": "quadratic", "dim": 3}, {"name": "quadratic", "dim": 2, "weight": 2.0}],
    "learned_optimizer": {"name": "learnable_adam"},
    "inner": {"unroll_length": {"min": 10, "max": 40}},
    "estimator": {"name": "pes", "num_particles": 4, "truncation_length": 5, "sigma": 0.1},
    "outer_optimizer": {"name": "adam", "learning_rate": 0.01, "ema": 0.9, "clip_norm": 1.0},
    "checkpoint": {"every": 2, "max_to_keep": 3},
    "logging": {"every": 2},
}


def config_of(**changes):
    return config_lib.parse(CONFIG | changes)


def leaves(tree):
    def plain(x):
        return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return [np.asarray(plain(x)) for x in jax.tree.leaves(tree)]


def newest(directory, config):
    state = jax.eval_shape(assemble(config).outer.init, jax.random.key(0))
    with Checkpoints(directory / "checkpoints") as checkpoints:
        return checkpoints.restore(state)


def assert_same_state(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nobody interrupted: (directory, config)."""
    directory, config = tmp_path_factory.mktemp("runs") / "whole", config_of()
    train.run(config, directory)
    return directory, config


def test_a_run_leaves_config_metrics_and_the_newest_checkpoints(finished):
    directory, config = finished
    assert config_lib.load(directory / "config.yaml") == config
    rows = read_jsonl(directory / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 60, 2))
    wanted = {"loss", "quadratic_1/loss", "quadratic_2/snr", "quadratic_1/delta_p90", "quadratic_1/diverged"}
    wanted |= {"quadratic_1/restarted", "quadratic_2/theta_drift", "inner_steps_per_second"}
    assert wanted <= rows[-1].keys()
    with Checkpoints(directory / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [56, 58, 60]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, tmp_path):
    directory, config = finished
    train.run(config, tmp_path / "again")
    assert_same_state(newest(directory, config).state, newest(tmp_path / "again", config).state)
    other = config_of(seed=1)
    train.run(other, tmp_path / "other")
    theta, theta_other = (newest(d, config).state.theta for d in (directory, tmp_path / "other"))
    assert any((a != b).any() for a, b in zip(leaves(theta), leaves(theta_other), strict=True))


def test_a_run_resumed_halfway_ends_in_the_same_bits_and_the_same_rows(finished, interrupted, tmp_path):
    directory, config = finished
    assert 31 not in interrupted(config, tmp_path / "half", at=32)  # calls are of 2 steps
    train.run(config, tmp_path / "half", resume=True)
    assert_same_state(newest(directory, config).state, newest(tmp_path / "half", config).state)
    timing = ("inner_steps_per_second",)
    for a, b in zip(*(read_jsonl(d / "metrics.jsonl") for d in (directory, tmp_path / "half")), strict=True):
        a, b = ({k: v for k, v in row.items() if k not in timing} for row in (a, b))
        np.testing.assert_equal(a, b)


def test_resuming_on_four_devices_continues_with_the_same_particles(finished, interrupted, tmp_path):
    directory, config = finished
    interrupted(config, tmp_path / "half", at=32)
    four = config_of(mesh={"particles": 4})
    train.run(four, tmp_path / "half", resume=True)
    whole, resumed = newest(directory, config), newest(tmp_path / "half", four)
    assert whole.step == resumed.step == 60
    for x, y in zip(leaves(whole.state), leaves(resumed.state), strict=True):  # up to the order of a sum
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    assert [row["step"] for row in read_jsonl(tmp_path / "half" / "metrics.jsonl")] == list(range(1, 60, 2))


def test_a_directory_with_another_run_is_refused_by_the_name_of_what_differs(finished):
    directory, config = finished
    with pytest.raises(RunError, match="holds a run already"):
        train.run(config, directory)
    with pytest.raises(RunError, match=r"estimator\.sigma is 0\.1 there, 0\.2 here"):
        train.run(config_of(estimator=CONFIG["estimator"] | {"sigma": 0.2}), directory, resume=True)


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="holds no run"):
        train.run(config_of(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_when_all_particles_diverge_the_run_stops_with_step_family_and_checkpoint(tmp_path):
    # A learning rate of 1e30 on a quadratic is NaN after a few steps.
    lopt = {"name": "learnable_sgd", "initial_lr": 1e30}
    config = config_of(learned_optimizer=lopt, inner={"unroll_length": 40, "objective": {"log": False}})
    words = r"all families, 'quadratic_1', 'quadratic_2' diverged, up to outer step \d+; .*checkpoint"
    with pytest.raises(RunError, match=words):
        train.run(config, tmp_path / "run")


def test_the_best_theta_by_held_out_score_is_kept_apart_and_loaded(tmp_path):
    selection = {"every": 20, "tasks": [{"name": "quadratic", "dim": 4}], "horizons": [20], "num_seeds": 2}
    config = config_of(selection=selection)
    train.run(config, tmp_path / "run")
    rows = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "held_out/score" in row]
    assert [row["step"] for row in rows] == [19, 39, 59]
    best = min(rows, key=lambda row: row["held_out/score"])
    trained = load_trained(tmp_path / "run", print)
    assert (trained.which, trained.outer_step) == ("best", best["step"] + 1)
    assert trained.score == best["held_out/score"]
    last = load_trained(tmp_path / "run", print, last=True)
    assert (last.which, last.outer_step) == ("last", 60)


def test_a_run_needs_the_artefact_that_it_began_with_no_longer_once_it_is_trained(tmp_path):
    theta = jax.tree.map(lambda x: x + 0.1, learned_opt.learnable_adam().init(jax.random.key(0)))
    start_of = tmp_path / "a"
    learned_opt.save(start_of, name="learnable_adam", options={}, theta=theta, horizon=None, provenance={})
    config = config_of(init_from=str(start_of))
    train.run(config, tmp_path / "run")
    shutil.rmtree(start_of)
    trained = load_trained(tmp_path / "run", print)
    assert (trained.outer_step, trained.experiment.config.init_from) == (60, str(start_of))


def test_a_run_says_where_its_optimizer_differs_from_the_artefact_it_begins_with(tmp_path):
    theta = learned_opt.learnable_adam().init(jax.random.key(0))
    options = {"initial_lr": 0.25}
    learned_opt.save(
        tmp_path, name="learnable_adam", options=options, theta=theta, horizon=None, provenance={}
    )
    with pytest.warns(UserWarning, match="^init_from: learned_optimizer has initial_lr 0.001, not 0.25 as "):
        assemble(config_of(init_from=str(tmp_path)))


def test_a_config_that_cannot_work_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="unroll_length"):
        train.run(config_of(inner={"unroll_length": 12}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def start(config_file, directory):
    command = [sys.executable, "-m", "meta_train", "run", str(config_file), "--out", str(directory)]
    command.append("--resume")
    # The log goes to a file: a pipe that nobody reads would stop the process.
    with open(directory.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)


def wait_for_rows(process, directory, rows):
    """Until the run has written so many more rows; False if it ended before."""
    file = directory / "metrics.jsonl"
    while process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= rows:
            return True
        time.sleep(0.002)
    return False


def test_killed_at_random_moments_it_ends_in_the_bits_of_the_uninterrupted_run(tmp_path):
    """SIGKILL while it saves after every second step; the moments are drawn, the answer is not."""
    config_file = tmp_path / "config.yaml"
    config = config_of(outer_steps=160)
    config_file.write_text(config_lib.to_yaml(config))
    train.run(config, tmp_path / "whole")
    directory, rng, kills, rows = tmp_path / "killed", random.Random(0), 0, 0
    for _ in range(4):
        process = start(config_file, directory)
        if wait_for_rows(process, directory, rows + rng.randrange(4, 16)):
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        rows = (directory / "metrics.jsonl").read_bytes().count(b"\n")
    assert kills >= 3
    assert start(config_file, directory).wait() == 0, (tmp_path / "killed.log").read_text()
    assert_same_state(newest(tmp_path / "whole", config).state, newest(directory, config).state)
    rows = read_jsonl(directory / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 160, 2))
    progress = [row["step"] for row in rows if "loss" not in row]
    assert progress == sorted(set(progress))  # said at each doubling of the outer steps, once


def test_ctrl_c_saves_says_how_to_resume_and_the_run_continues_from_there(tmp_path):
    config = config_of(outer_steps=4000, checkpoint={"every": None})
    config_file, directory = tmp_path / "config.yaml", tmp_path / "run"
    config_file.write_text(config_lib.to_yaml(config))
    process = start(config_file, directory)
    assert wait_for_rows(process, directory, 20)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    log = (tmp_path / "run.log").read_text()
    assert "the checkpoint is saved" in log and "--resume" in log and "Traceback" not in log
    step = newest(directory, config).step
    rows = read_jsonl(directory / "metrics.jsonl")
    assert step == rows[-1]["step"] + 1
    process = start(config_file, directory)
    assert wait_for_rows(process, directory, len(rows) + 5)
    process.kill()
    process.wait()
    again = read_jsonl(directory / "metrics.jsonl")
    assert again[: len(rows)] == rows  # nothing is done twice, nothing is left out
    assert [row["step"] for row in again] == list(range(1, 2 * len(again), 2))


def test_a_profile_is_a_jax_trace_of_a_few_calls_and_the_time_left_is_told_once(tmp_path):
    said = []
    config = config_of(outer_steps=40, logging={"every": 5}, checkpoint={"every": None}, selection={})
    train.run(config, tmp_path / "r", display=train.Display(say=said.append), profile=tmp_path / "trace")
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    assert (
        sum("to go" in line for line in said) == 1 and sum("trace of 3 calls" in line for line in said) == 1
    )


def test_a_changed_config_is_neither_exported_nor_resumed(finished, tmp_path):
    directory, config = finished
    run = shutil.copytree(directory, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    assert "sigma: 0.1" in text
    (run / "config.yaml").write_text(text.replace("sigma: 0.1", "sigma: 0.2"))
    changed = config_lib.load(run / "config.yaml")
    words = r"was changed after the run began: estimator\.sigma is 0\.2, but checkpoint 60 was made with 0\.1"
    with pytest.raises(RunError, match=words):
        load_trained(run, print)
    with pytest.raises(RunError, match=words):
        train.run(changed, run, resume=True)
    # What a resumed run may change, comments and the order of keys are no change.
    more = yaml_of(config_of(logging={"every": 4}))
    (run / "config.yaml").write_text("# a comment\n" + more)
    assert load_trained(run, print).outer_step == 60


def yaml_of(config):
    return config_lib.to_yaml(config)


def test_a_directory_is_written_by_one_process_at_a_time_and_read_meanwhile(finished, tmp_path):
    directory, config = finished
    code = f"""
from pathlib import Path
from learned_opt.artefact.atomic import locked
with locked(Path({str(directory)!r}) / ".lock"):
    print("locked", flush=True)
    input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(
            RunError, match=f"in use by process {holder.pid} on .*: wait until that run has ended"
        ):
            train.run(config, directory, resume=True)
        assert load_trained(directory, print).outer_step == 60
        holder.kill()
    train.run(config, directory, resume=True)


@pytest.mark.parametrize("left", ["config.tmp", ".config.yaml.new-1a2b3c4d", ".lock"])
def test_what_a_run_killed_at_its_beginning_left_is_no_obstacle(left, tmp_path):
    (tmp_path / left).write_text("half")
    with contextlib.ExitStack() as held:
        prepare(tmp_path, config_of(), False, held)
    assert config_lib.load(tmp_path / "config.yaml") == config_of()
    assert not (tmp_path / ".config.yaml.new-1a2b3c4d").exists()


def test_a_damaged_best_theta_is_replaced_by_the_newest_one_with_a_warning(tmp_path):
    selection = {"every": 20, "tasks": [{"name": "quadratic", "dim": 4}], "horizons": [20], "num_seeds": 2}
    train.run(config_of(selection=selection), tmp_path / "run")
    (best,) = (path for path in (tmp_path / "run" / "best").iterdir() if path.name.isdecimal())
    (best / "manifest.json").write_text("{")
    warnings = []
    trained = load_trained(tmp_path / "run", warnings.append)
    assert (trained.which, trained.outer_step) == ("last", 60)
    assert any("the newest checkpoint is taken instead of the best one" in line for line in warnings)


def test_lost_rows_of_metrics_are_counted_on_resume(finished, interrupted, tmp_path):
    run = tmp_path / "run"
    interrupted(config_of(), run, at=32)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:6]))
    warnings = []
    train.run(config_of(), run, resume=True, display=train.Display(warn=warnings.append))
    lost = [line for line in warnings if "has lost" in line]
    assert len(lost) == 1 and "rows from before outer step" in lost[0]


def test_the_best_score_of_rewritten_rows_is_that_of_their_own_time(tmp_path):
    """The selection is more frequent than the checkpoints: rows after the newest one are written again."""
    selection = {"every": 4, "tasks": [{"name": "quadratic", "dim": 4}], "horizons": [20], "num_seeds": 2}
    config = config_of(selection=selection, checkpoint={"every": 20, "max_to_keep": 3})
    train.run(config, tmp_path / "run")

    def scores():
        rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
        return [(row["step"], row["held_out/best_score"]) for row in rows if "held_out/score" in row]

    before = scores()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "60")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "40")
    assert before[4][1] > before[-1][1]  # otherwise the test shows nothing
    train.run(config, tmp_path / "run", resume=True)
    assert scores() == before


def test_one_diverged_family_is_warned_of_and_the_run_goes_on(tmp_path):
    warnings = []
    rows = [
        {"a/diverged": 1.0, "b/diverged": 0.2, "update_norm": 1.0},
        {"a/diverged": 0.5, "b/diverged": 0.0},
    ]
    lost = warn_of_divergence(10, rows[0], set(), warnings.append)
    assert lost == {"a"} and warnings == [
        "all particles of family 'a' diverged, up to outer step 10: only the others teach"
    ]
    assert warn_of_divergence(20, rows[0], lost, warnings.append) == {"a"} and len(warnings) == 1
    assert warn_of_divergence(30, rows[1] | {"update_norm": 1.0}, lost, warnings.append) == set()
    with pytest.raises(
        RunError, match="all particles of all families, 'a', 'b' diverged, up to outer step 40"
    ):
        warn_of_divergence(40, {"a/diverged": 1.0, "b/diverged": 1.0, "update_norm": 1.0}, lost, print)
    with pytest.raises(RunError, match="the update of theta is not finite at outer step 50"):
        warn_of_divergence(50, {"a/diverged": 0.0, "update_norm": float("nan")}, set(), print)
