"""SIGKILL before every change of the file system that a save, an export or a rewind of the metrics makes.

A forked child counts the changes below one directory by Python's audit events, and kills itself before
the n-th; n runs from 1 until a child gets through. After every kill, the old or the new content is there,
whole, and the same operation, repeated, succeeds and leaves no litter.
"""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

HARNESS = """
import os, signal, sys, shutil, tempfile, warnings
from pathlib import Path
warnings.simplefilter("ignore")  # Python warns of forks in a process with threads
import jax, numpy as np
import learned_opt
from learned_opt import residual
from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.checkpoint.files import orbax
from meta_train.run.metrics import jsonl_writer, read_jsonl
orbax()
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}

def child(act):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed_at(n, root, act):
    def run():
        left = [n]
        def hook(event, args):
            if event not in CHANGES or not isinstance(args[0], (str, bytes)):
                return
            if os.fsdecode(args[0]).startswith(root):
                if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
                    return
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        act()
    return child(run)

def every_kill(prepare, act, check, final):
    n = 0
    while True:
        n += 1
        root = tempfile.mkdtemp(dir=sys.argv[1])
        directory = Path(root) / "d"
        assert child(lambda: prepare(directory)) == 0
        code = killed_at(n, root, lambda: act(directory))
        assert code in (0, -signal.SIGKILL), (n, code)
        assert child(lambda: check(directory)) == 0, f"after the kill before change {n}"
        assert child(lambda: (act(directory), final(directory))) == 0, f"repeated after change {n}"
        shutil.rmtree(root)
        if code == 0:
            print("changes", n - 1)
            return

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
every_kill(prepare, act, check, final)
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
every_kill(prepare, act, check, final)
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
every_kill(prepare, act, check, final)
"""


@pytest.mark.parametrize(
    ("scenario", "least"), [(SAVE, 10), (EXPORT, 6), (EXPORT_TWO_RENAMES, 7), (REWIND, 5)]
)
def test_a_kill_before_every_change_of_the_file_system_leaves_the_old_content_or_the_new(
    scenario, least, tmp_path
):
    done = subprocess.run(
        [sys.executable, "-c", HARNESS + scenario, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= least, done.stdout
