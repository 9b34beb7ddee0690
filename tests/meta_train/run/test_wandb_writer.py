"""Weights & Biases beside a run: real files offline, and no harm without network."""

import os
import struct
import subprocess
import sys
import time

import pytest

from meta_train.run.wandb_writer import wandb_writer

OFFLINE = """
import os, sys
import jax
jax.random.key(0)  # W&B starts a process: jax's threads must not make it warn
from meta_train.run.wandb_writer import wandb_writer
options = dict(mode="offline", project="p", directory=sys.argv[1], config={"task": {"width": 32}}, warn=print)
first = wandb_writer(name="first", **options)
for step in (0, 10, 20):
    first.write(step, {"meta/loss": 1.0 / (step + 1), "bad": float("nan")})
first.close()
second = wandb_writer(run_id=first.run_id, **options)
second.write(30, {"meta/loss": 0.0})
second.close()
assert second.run_id == first.run_id
print(first.run_id)
"""


def environment(home, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", **more}


def history(path):
    """The (step, meta/loss) rows of W&B's own file: LevelDB's log format with 32 KiB blocks."""
    from wandb.proto import wandb_internal_pb2

    data, rows, record, position = path.read_bytes(), [], b"", 7
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the only or last piece
            parsed = wandb_internal_pb2.Record.FromString(record)
            items = {item.key or "/".join(item.nested_key): item.value_json for item in parsed.history.item}
            if items:
                rows.append((int(items["_step"]), float(items["meta/loss"])))
            record = b""
    return rows


def test_offline_rows_are_in_the_directory_and_nothing_is_written_elsewhere(tmp_path):
    home, directory = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE, str(directory)],
        capture_output=True,
        text=True,
        env=environment(home),
        cwd=home,
        timeout=300,
    )
    assert run.stderr == ""
    (run_id,) = run.stdout.split()
    assert list(home.iterdir()) == []
    assert [path.name for path in directory.iterdir()] == ["wandb"]
    first, second = sorted(directory.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))
    assert history(first) == [(0, 1.0), (10, 1 / 11), (20, 1 / 21)]
    assert history(second) == [(30, 0.0)]


def test_disabled_does_not_import_wandb_and_writes_nothing(tmp_path):
    code = (
        "import sys; from meta_train.run.wandb_writer import wandb_writer;"
        "w = wandb_writer(mode='disabled', project='p', directory=sys.argv[1] + '/run');"
        "w.write(0, {'a': 1}); w.close(); assert w.run_id is None; sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 0
    assert list(tmp_path.iterdir()) == []


ONLINE = """
import sys
from meta_train.run.wandb_writer import wandb_writer
writer = wandb_writer(mode="online", project="p", directory=sys.argv[1], warn=print)
writer.write(0, {"meta/loss": 1.0})
writer.close()
"""


def online(directory, **more):
    return subprocess.run(
        [sys.executable, "-c", ONLINE, str(directory)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment(directory, WANDB_BASE_URL="http://127.0.0.1:9", **more),
        timeout=300,
    )


def check_went_offline(run, directory):
    assert run.returncode == 0
    assert "Traceback" not in run.stderr
    (line,) = run.stdout.splitlines()
    assert line.startswith("Weights & Biases cannot be reached (") and "going on offline" in line
    (file,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    assert history(file) == [(0, 1.0)]


def test_online_without_an_account_goes_on_offline(tmp_path):
    check_went_offline(online(tmp_path), tmp_path)


@pytest.mark.slow
def test_online_without_network_warns_within_thirty_seconds_and_goes_on_offline(tmp_path):
    # Nothing listens on port 9. The bound is on everything, from the start of Python to its end.
    began = time.monotonic()
    run = online(tmp_path, WANDB_API_KEY="a" * 40)
    check_went_offline(run, tmp_path)
    assert time.monotonic() - began < 30


class Broken:
    """A run of a W&B that fails after it started."""

    id = "abc"
    url = "https://wandb.invalid/abc"

    def log(self, row, step):
        raise RuntimeError("the service died\nwith details")

    def finish(self):
        raise AssertionError("nothing more is asked of a W&B that failed")


def test_a_failure_while_logging_is_told_once_and_stops_nothing(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **options: Broken())
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
    said = []
    writer = wandb_writer(mode="online", project="p", directory=tmp_path, warn=said.append, say=said.append)
    for step in range(3):
        writer.write(step, {"loss": 1.0})
    writer.close()
    assert said == [
        "Weights & Biases: https://wandb.invalid/abc",
        "Weights & Biases failed (the service died): going on without it",
    ]


def test_a_start_that_fails_is_told_and_stops_nothing(tmp_path, monkeypatch):
    import wandb

    def refuse(**options):
        raise wandb.errors.UsageError("no such mode here")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))
    for mode, verb in (("offline", "start"), ("online", "be reached")):
        said = []
        writer = wandb_writer(mode=mode, project="p", directory=tmp_path, warn=said.append)
        writer.write(0, {"loss": 1.0})
        writer.close()
        assert writer.run_id is None
        assert said == [f"Weights & Biases cannot {verb} (no such mode here): going on without it"]
