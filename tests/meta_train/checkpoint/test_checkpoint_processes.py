"""Checkpoints across processes: killed ones, full disks, other numbers of devices."""

import os
import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from meta_train.checkpoint.checkpoints import Checkpoints

COMMON = """
import resource, sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from meta_train.errors import CheckpointError
from meta_train.checkpoint.checkpoints import Checkpoints

def content(step):
    return {"w": np.random.default_rng(step).normal(size=(100, 1000)), "n": step}
"""


def content(step):
    return {"w": np.random.default_rng(step).normal(size=(100, 1000)), "n": step}


def child(code, directory, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + code, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


FOREVER = """
with Checkpoints(sys.argv[1], max_to_keep=2) as checkpoints:
    restored = checkpoints.restore(content(0))
    step = restored.step if restored else 0
    while True:
        step += 1
        checkpoints.save(step, content(step))
        if step % 3 == 0:
            checkpoints.wait()
            print(step, flush=True)
"""

# Every save goes back in time, and only one is kept: the hard case of the best one kept apart.
BACKWARDS = """
with Checkpoints(sys.argv[1], max_to_keep=1) as checkpoints:
    restored = checkpoints.restore(content(0))
    step = restored.step if restored else 10**6
    while True:
        step -= 1
        checkpoints.save(step, content(step), replace=True)
        if step % 3 == 0:
            checkpoints.wait()
            print(step, flush=True)
"""


@pytest.mark.parametrize(("code", "direction"), [(FOREVER, 1), (BACKWARDS, -1)], ids=["forward", "replacing"])
def test_a_process_killed_inside_a_save_leaves_the_last_complete_checkpoint(tmp_path, code, direction):
    chance = random.Random(0)
    for _ in range(3):
        process = child(code, tmp_path)
        done = [int(process.stdout.readline())]
        time.sleep(chance.uniform(0.0, 0.4))  # a save takes some 0.05 s: where it is hit is random
        process.kill()
        rest, errors = process.communicate()
        assert process.returncode == -9 and "Error" not in errors
        done += [int(line) for line in rest.split()]
        said = []
        restored = Checkpoints(tmp_path, warn=said.append).restore(content(0))
        assert direction * restored.step >= direction * done[-1]
        assert not any("damaged" in line for line in said)
        np.testing.assert_array_equal(restored.state["w"], content(restored.step)["w"])


FULL_DISK = """
checkpoints = Checkpoints(sys.argv[1], max_to_keep=1)
assert "orbax" not in sys.modules  # half a second that not every command needs to spend
checkpoints.save(1, content(1))
checkpoints.wait()
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in (100_000, 100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    for replace in (False, True):
        try:
            checkpoints.save(1 if replace else 2, content(2), replace=replace)
            checkpoints.wait()
        except CheckpointError as error:
            print(error)
    print(checkpoints.restore(content(0)).step)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
checkpoints.save(2, content(2))
checkpoints.close()
"""


def test_a_write_that_fails_is_one_clear_error_and_the_last_good_checkpoint_stays(tmp_path):
    out, errors = child(FULL_DISK, tmp_path).communicate(timeout=300)
    # TensorStore may print a traceback of its own when a second array fails after Orbax has given up, and may
    # write a file after what was written has been removed.
    assert errors.count("Traceback") == errors.count("RuntimeError: Event loop is closed"), errors
    late = ("is a half-written checkpoint: skipped", "self._warn(")
    rest = "\n".join(line for line in errors.lower().splitlines() if not any(x in line for x in late))
    assert "orbax" not in rest and "checkpoint" not in rest, errors
    said = out.splitlines()
    assert len(said) == 6 and said[2] == said[5] == "1"
    for step, line in zip([2, 1, 2, 1], [*said[:2], *said[3:5]], strict=True):
        assert line == f"cannot save checkpoint {step} in {tmp_path}: File too large; the last good one is 1"
    assert os.listdir(tmp_path) == ["2"]
    np.testing.assert_array_equal(Checkpoints(tmp_path).restore(content(0)).state["w"], content(2)["w"])


FOUR_DEVICES = """
assert len(jax.devices()) == 4
mesh = jax.make_mesh((4,), ("particles",), axis_types=(AxisType.Auto,))
split, everywhere = NamedSharding(mesh, PartitionSpec("particles")), NamedSharding(mesh, PartitionSpec())
target = {
    "particles": jax.ShapeDtypeStruct((8, 3), np.float32, sharding=split),
    "keys": jax.device_put(jax.random.split(jax.random.key(0), 8), split),
    "theta": jax.device_put(np.zeros(5, np.float32), everywhere),
}
with Checkpoints(sys.argv[1]) as checkpoints:
    state = checkpoints.restore(target).state
    for name, value in state.items():
        assert value.sharding == target[name].sharding, name
        assert len(value.addressable_shards) == 4, name
    checkpoints.save(2, state)
"""


def test_a_state_moves_to_four_devices_and_back_unchanged(tmp_path):
    keys = jax.random.split(jax.random.key(7), 8)
    state = {
        "particles": jax.random.normal(keys[0], (8, 3)),
        "keys": keys,
        "theta": jax.random.normal(keys[1], (5,)),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    process = child(FOUR_DEVICES, tmp_path, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    out, errors = process.communicate(timeout=300)
    assert (process.returncode, out, errors) == (0, "", "")
    restored = Checkpoints(tmp_path).restore(state)
    assert restored.step == 2
    for name in state:
        assert restored.state[name].sharding == state[name].sharding
        before, after = (
            jax.random.key_data(s[name]) if name == "keys" else s[name] for s in (state, restored.state)
        )
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
