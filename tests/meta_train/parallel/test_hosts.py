"""A run on two real processes over loopback: the same bits, one of them killed, what they must agree on."""

import os
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from meta_train.config import load as config_lib
from meta_train.errors import ConfigError, RunError
from meta_train.parallel import hosts, rendezvous
from meta_train.run import train
from meta_train.run.directory import load_trained

pytestmark = pytest.mark.slow

CONFIG = """
outer_steps: {steps}
tasks: [{{name: quadratic, dim: 3}}, {{name: digits_softmax}}]
learned_optimizer: {{name: learnable_adam}}
inner: {{unroll_length: 10}}
estimator: {{name: pes, num_particles: 4, truncation_length: 5, sigma: 0.1}}
outer_optimizer: {{learning_rate: 0.01, ema: 0.9}}
selection: {{every: 10, tasks: [{{name: quadratic, dim: 4}}], horizons: [20], num_seeds: 1}}
checkpoint: {{every: 10, max_to_keep: 2}}
logging: {{every: 10}}
mesh: {{particles: 2}}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(directory, configs, *options):
    """Two processes with a command line each; `configs` are their config files."""
    port = free_port()
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "meta_train", "run", str(file), "--out", str(directory / "r")]
            + ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id", str(i)]
            + ["--heartbeat", "30", *options],  # on a loaded machine, 10 s may not be enough to end
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for i, file in enumerate(configs)
    ]


def write(directory, name="c.yaml", steps=40):
    (directory / name).write_text(CONFIG.format(steps=steps))
    return directory / name


def theta(directory):
    return jax.device_get(load_trained(directory, print).theta)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The theta of the same run in one process."""
    directory = tmp_path_factory.mktemp("one")
    train.run(config_lib.load(write(directory)), directory / "r")
    return theta(directory / "r")


def test_two_processes_give_the_theta_of_one_and_only_the_first_talks(tmp_path, one_process):
    both = start(tmp_path, [write(tmp_path)] * 2)
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "40 outer steps" in said[0][0] and "outer steps" not in said[1][0]
    rows = (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 4 + 4  # metrics and held-out scores, once each
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        theta(tmp_path / "r"),
        one_process,
    )


def test_when_one_process_is_killed_the_other_says_so_and_resume_goes_on_in_one(tmp_path, kill_second):
    """Killed with -9 after a checkpoint; the survivor ends within the heartbeat; one process goes on."""
    both = start(tmp_path, [write(tmp_path, steps=200_000)] * 2)
    kill_second(both, lambda: list((tmp_path / "r" / "checkpoints").glob("[0-9]*[0-9]")), "run", 0.1)
    saved = max(int(p.name) for p in (tmp_path / "r" / "checkpoints").glob("[0-9]*[0-9]"))

    class Enough(Exception):
        pass

    def stop(step):
        assert step > saved
        raise Enough

    with pytest.raises(Enough):
        train.run(
            config_lib.load(tmp_path / "c.yaml"),
            tmp_path / "r",
            resume=True,
            display=train.Display(step=stop),
        )


def test_processes_that_disagree_on_the_config_are_refused(tmp_path):
    both = start(tmp_path, [write(tmp_path), write(tmp_path, "d.yaml", steps=50)])
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1]
    for error in said:
        line = "the processes must have the same config: outer_steps is 40 in process 0, 50 in process 1"
        assert f"meta-train: {line}" in error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "options, line",
    [
        (("nowhere", 2, 0), "--coordinator: must be HOST:PORT"),
        (("here:70000", 2, 0), "--coordinator: must have a port between 1 and 65535"),
        (("here:1", None, 0), "--num-processes: must be >= 1 with a coordinator"),
        (("here:1", 2, 2), "--process-id: must be between 0 and 1"),
        ((None, 2, 0), "--coordinator: is required with several processes"),
    ],
)
def test_host_options_that_do_not_belong_together_are_refused(options, line):
    with pytest.raises(ConfigError, match=line):
        hosts.join(*options)


def test_a_coordinator_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(hosts, "START", 1)
    with pytest.raises(RunError, match=r"^cannot join 127.0.0.1:\d+: no process 0 there in 1 s \(Connection"):
        hosts.join(f"127.0.0.1:{free_port()}", 2, 1)
    with pytest.raises(RunError, match="^cannot join nowhere.invalid:1: no such host"):
        hosts.join("nowhere.invalid:1", 2, 1)


def test_a_port_in_use_and_another_program_there_are_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(RunError, match=f"^cannot start at {address}: the port cannot be opened .Addr"):
            hosts.join(address, 2, 0)

        def answer():
            with other.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(RunError, match=f"^cannot join {address}: the run there has already started"):
            hosts.join(address, 2, 1)
        thread.join()


def meet_all(*processes, timeout=30.0):
    """What `meet` does in threads: (P, process id, seconds before it starts) -> None or its error's text."""
    address, found = f"127.0.0.1:{free_port()}", {}

    def one(i, num_processes, process_id, delay):
        time.sleep(delay)
        try:
            found[i] = rendezvous.meet(address, num_processes, process_id, timeout)
        except RunError as error:
            found[i] = str(error).replace(address, "HOST")

    threads = [threading.Thread(target=one, args=(i, *p)) for i, p in enumerate(processes)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return [found[i] for i in range(len(processes))]


def test_processes_meet_also_when_one_is_late():
    assert meet_all((3, 0, 0.3), (3, 1, 0), (3, 2, 0.6)) == [None, None, None]


def test_a_process_that_never_comes_is_named_by_all_others():
    reason = "process 2 did not come within 1 s"
    expected = [f"cannot start at HOST: {reason}", f"cannot join HOST: {reason}"]
    assert meet_all((3, 0, 0), (3, 1, 0), timeout=1) == expected


def test_processes_with_the_same_number_or_another_count_are_refused_and_the_run_starts():
    found = meet_all((3, 0, 0), (3, 1, 0.2), (3, 1, 0.5), (4, 2, 0.5), (3, 2, 1.0))
    assert found == [
        None,
        None,
        "cannot join HOST: another process has --process-id 1 too",
        "cannot join HOST: process 0 has --num-processes 3, this one 4",
        None,
    ]


def test_two_real_processes_where_one_never_comes_or_comes_late_leave_one_line_and_no_trace(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    code = (
        "from meta_train.parallel import hosts; hosts.START = 3; from meta_train.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "run", str(write(tmp_path)), "--out", str(tmp_path / "r")]
    command += ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id"]
    for me, words in (("0", "process 1 did not come within 3 s"), ("1", "no process 0 there in 3 s")):
        done = subprocess.run([*command, me], capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1, (
            done.stderr
        )
