"""A population on two real processes over loopback: the same bits, one of them killed, what they agree on."""

import os
import socket
import subprocess
import sys

import pytest

from meta_train.config.file import parse
from meta_train.population import config as config_lib
from meta_train.population.run import run_population

pytestmark = pytest.mark.slow

CONFIG = """
rounds: {rounds}
round_steps: 20
eval_every: 10
average: 2
trainer:
  name: supervised
  task: {{name: image_mlp, hidden: [4], batch_size: 8, datasets: ["digits[:100]"]}}
hypers:
  learning_rate: {{name: log, bounds: [0.001, 1.0]}}
controller: {{name: pbt, num_members: 8}}
checkpoint: {{every: 5, max_to_keep: 2}}
mesh: {{members: 2}}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(directory, configs):
    """Two processes with a command line each; `configs` are their configs' texts."""
    port = free_port()
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    started = []
    for i, text in enumerate(configs):
        (directory / f"{i}.yaml").write_text(text)
        command = [sys.executable, "-m", "meta_train", "population", str(directory / f"{i}.yaml")]
        command += ["--out", str(directory / "r"), "--coordinator", f"127.0.0.1:{port}"]
        command += ["--num-processes", "2", "--process-id", str(i), "--heartbeat", "30"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env))
    return started


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The lineage of the same population in one process with two devices."""
    directory = tmp_path_factory.mktemp("one") / "r"
    run_population(config_lib.parse(parse(CONFIG.format(rounds=300))), directory)
    return (directory / "lineage.jsonl").read_bytes()


def test_two_processes_write_the_lineage_of_one_and_only_the_first_talks(tmp_path, one_process):
    both = start(tmp_path, [CONFIG.format(rounds=300)] * 2)
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "best: member" in said[0][0] and said[1][0].count("best: member") == 0
    assert (tmp_path / "r" / "lineage.jsonl").read_bytes() == one_process
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes().count(b"\n") == 300


def test_when_one_process_is_killed_the_other_says_so_and_resume_ends_in_the_same_bits(
    tmp_path, one_process, kill_second
):
    both = start(tmp_path, [CONFIG.format(rounds=300)] * 2)
    lineage = tmp_path / "r" / "lineage.jsonl"
    kill_second(
        both, lambda: lineage.exists() and lineage.read_bytes().count(b"\n") >= 12, "population", 0.002
    )
    assert lineage.read_bytes().count(b"\n") < 300
    run_population(config_lib.parse(parse(CONFIG.format(rounds=300))), tmp_path / "r", resume=True)
    assert lineage.read_bytes() == one_process


def test_processes_that_disagree_on_the_config_are_refused(tmp_path):
    both = start(tmp_path, [CONFIG.format(rounds=300), CONFIG.format(rounds=400)])
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1]
    for error in said:
        words = "the processes must have the same config: rounds is 300 in process 0, 400 in process 1"
        assert f"meta-train: {words}" in error
    assert not (tmp_path / "r").exists()
