"""SIGKILL before every system call that changes a file, of a save, an export and a rewind of the metrics.

After every kill, the old or the new content is there, whole, and the same operation, repeated, succeeds and
leaves no litter. `kill_at` counts the calls and kills.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta_train.checkpoint import kill_at

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not kill_at.SUPPORTED, reason="needs ptrace of Linux on x86_64 or aarch64"),
]

# Each case is a program: it forks, and pytest has threads.
BEGIN = """
import os, sys, warnings
warnings.simplefilter("ignore")  # Python warns of forks in a process with threads
import jax, numpy as np
import learned_opt
from learned_opt import residual
from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.checkpoint.files import orbax
from meta_train.run.metrics import jsonl_writer, read_jsonl
from tests.meta_train.checkpoint.kill_at import every_kill
orbax()
"""
END = """
print("changes", every_kill(sys.argv[1], prepare, act, check, final))
"""

SAVE = """
def state(x):
    return {"a": np.arange(4.0) + x, "b": np.full(3, x)}
def prepare(directory):
    with Checkpoints(directory, max_to_keep=1) as checkpoints:
        checkpoints.save(1, state(1))
def act(directory):
    with Checkpoints(directory, max_to_keep=1, warn=lambda text: None) as checkpoints:
        checkpoints.save(2, state(2), replace=True)
def check(directory):
    with Checkpoints(directory, warn=lambda text: None) as checkpoints:
        found = checkpoints.restore(state(0))
    assert found.step in (1, 2)
    np.testing.assert_array_equal(found.state["a"], state(found.step)["a"])
def final(directory):
    assert sorted(os.listdir(directory)) == ["2"], os.listdir(directory)
"""

EXPORT = """
options = {"hidden": 2}
lopt = residual(**options)
def theta(x):
    like = jax.eval_shape(lopt.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.full(leaf.shape, x, leaf.dtype), like)
def save(directory, x):
    arguments = {"options": options, "theta": theta(x), "horizon": None, "provenance": {"x": x}}
    learned_opt.save(directory, name="residual", **arguments)
def prepare(directory):
    save(directory, 1.0)
def act(directory):
    save(directory, 2.0)
def check(directory):
    found = learned_opt.read(directory)
    assert found.provenance["x"] in (1.0, 2.0)
    assert all((leaf == found.provenance["x"]).all() for leaf in jax.tree.leaves(found.theta))
def final(directory):
    assert os.listdir(directory.parent) == ["d"], os.listdir(directory.parent)
    assert learned_opt.read(directory).provenance["x"] == 2.0
"""

# Where names cannot be exchanged, two renames and a recovery do it.
EXPORT_TWO_RENAMES = (
    "from learned_opt.artefact import atomic; atomic._exchanged = lambda a, b: False" + EXPORT
)

REWIND = """
def write(directory, steps, **options):
    writer = jsonl_writer(directory / "m.jsonl", **options)
    for step in steps:
        writer.write(step, {"loss": step / 10})
    writer.close()
def steps(directory):
    return [row["step"] for row in read_jsonl(directory / "m.jsonl")]
def prepare(directory):
    directory.mkdir()
    write(directory, [0, 10, 20, 30])
def act(directory):
    write(directory, [20, 40], resume_step=20)
def check(directory):
    assert steps(directory) in ([0, 10, 20, 30], [0, 10], [0, 10, 20], [0, 10, 20, 40])
def final(directory):
    assert steps(directory) == [0, 10, 20, 40] and os.listdir(directory) == ["m.jsonl"]
"""


IN_PLACE = """
import threading
def write(directory, text):
    thread = threading.Thread(target=lambda: (directory / "f").write_text(text))
    thread.start()
    thread.join()
def prepare(directory):
    directory.mkdir()
    write(directory, "old")
def act(directory):
    write(directory, "new")
def check(directory):
    assert (directory / "f").read_text() in ("old", "new")
def final(directory):
    pass
"""


def program(scenario, directory):
    return subprocess.run(
        [sys.executable, "-c", BEGIN + scenario + END, str(directory)],
        capture_output=True,
        text=True,
        timeout=1800,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )


@pytest.mark.parametrize(
    ("scenario", "least"), [(SAVE, 60), (EXPORT, 15), (EXPORT_TWO_RENAMES, 16), (REWIND, 8)]
)
def test_a_kill_before_every_change_of_the_file_system_leaves_the_old_content_or_the_new(
    scenario, least, tmp_path
):
    done = program(scenario, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= least, done.stdout


def test_a_file_that_a_thread_writes_in_place_is_caught(tmp_path):
    done = program(IN_PLACE, tmp_path)
    assert done.returncode == 1 and "after the kill before change 2" in done.stderr
