"""Checkpoints that two real processes write together: each its shards, all or nothing, read by any number."""

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.parallel import exchange


def state(devices, seed):
    """A state like a run's: particles and their keys split, theta and the key everywhere."""
    mesh = jax.make_mesh((devices,), ("particles",), axis_types=(AxisType.Auto,))
    split, everywhere = NamedSharding(mesh, PartitionSpec("particles")), NamedSharding(mesh, PartitionSpec())

    def make(seed):
        key = jax.random.key(seed)
        return {
            "particles": jax.random.bits(key, (8, 20_000)).astype(np.float32),
            "keys": jax.random.split(key, 8),
            "theta": jax.random.bits(key, (501,)).astype(np.float32),
            "key": key,
            "empty": jax.numpy.zeros((8, 0)),
        }

    shardings = {"particles": split, "keys": split, "theta": everywhere, "key": everywhere, "empty": split}
    return jax.jit(make, out_shardings=shardings)(np.uint32(seed))


def same(a, b):
    """Bit for bit, as far as this process holds it."""
    for name in a:
        x, y = (jax.random.key_data(s[name]) if "key" in name else s[name] for s in (a, b))
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim), name
        for one, two in zip(x.addressable_shards, y.addressable_shards, strict=True):
            np.testing.assert_array_equal(np.asarray(one.data), np.asarray(two.data))


HEAD = f"""
import os, sys, time
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from meta_train.errors import CheckpointError
from meta_train.checkpoint.checkpoints import Checkpoints

{inspect.getsource(state)}
{inspect.getsource(same)}
"""
CHILD = f"""
{HEAD}
def fail_here(*args, **options):
    raise OSError(28, "No space left on device")

def say(text):
    if me == 0:
        print(text, flush=True)

me, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.stdout = open(sys.argv[4], "w")  # Gloo's threads write to the first stdout, in the midst of lines
jax.config.update("jax_num_cpu_devices", 2)
address = f"127.0.0.1:{{port}}"
detect = {{"cluster_detection_method": "deactivate", "heartbeat_timeout_seconds": 10}}
jax.distributed.initialize(address, 2, me, **detect)
with Checkpoints(directory, warn=say) as checkpoints:
"""

SAVE = """
    overwrite = jax.jit(lambda s: {**s, "particles": s["particles"] * 0 - 1}, donate_argnums=0)
    for step in (1, 2):
        donated = state(4, step)
        checkpoints.save(step, donated, {"at": step})
        jax.block_until_ready(overwrite(donated))  # while it is being written
    restored = checkpoints.restore(state(4, 0))
    assert (restored.step, restored.meta, checkpoints.steps()) == (2, {"at": 2}, [1, 2])
    same(restored.state, state(4, 2))
"""
READ = """
    restored = checkpoints.restore(state(4, 0))
    same(restored.state, state(4, restored.step))
    say(restored.step)
    checkpoints.save(restored.step + 1, state(4, restored.step + 1))
    assert checkpoints.steps()[-1] == restored.step + 1
"""
# One process cannot write its part, first in the foreground and then behind; then the first one cannot.
FAIL = """
    from learned_opt.artefact import atomic
    from meta_train.checkpoint import files, shards
    for broken, attribute, module in (
        (1, "_handler", shards),
        (1, "sync", atomic),
        (0, "sign", files),
        (0, "refuse_full_disk", files),
    ):
        whole = getattr(module, attribute)
        if me == broken:
            setattr(module, attribute, fail_here)
        try:
            checkpoints.save(2, state(4, 9), replace=True)
            checkpoints.wait()
        except CheckpointError as error:
            print(error, flush=True)
        setattr(module, attribute, whole)
        assert checkpoints.steps() == [1, 2]
        assert os.listdir(directory).count("2.unfinished") == 0
    checkpoints.save(2, state(4, 9), replace=True)
    same(checkpoints.restore(state(4, 0)).state, state(4, 9))
"""
# The second process dies inside its part of a save, while the first one waits for it.
DIE = """
    from meta_train.checkpoint import shards as checkpoint_shards
    if me == 1:
        checkpoint_shards._part = lambda save, process: os._exit(9)
    checkpoints.save(3, state(4, 3))
    began = time.time()
    try:
        checkpoints.wait()
    except Exception as error:
        print(type(error).__name__, flush=True)
    checkpoints.give_up()
    assert checkpoints.steps() == [1, 2]
    print(time.time() - began, flush=True)
    os._exit(0)
"""


def two_processes(directory, mode):
    """Runs a piece of code in two processes; what each said."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch, str(i)) for i in range(2)]
        both = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD + mode, str(i), str(port), str(directory), str(file)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
            )
            for i, file in enumerate(files)
        ]
        errors = [process.communicate(timeout=180)[1] for process in both]
        said = [file.read_text().splitlines() if file.exists() else [] for file in files]
    return [process.returncode for process in both], said, errors


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two checkpoints of two processes with two devices each."""
    directory = tmp_path_factory.mktemp("shards")
    codes, _, errors = two_processes(directory, SAVE)
    assert codes == [0, 0], errors
    return directory


@pytest.fixture
def run(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def own_files(directory, process):
    return [p for p in (directory / "state" / f"ocdbt.process_{process}").rglob("*") if p.is_file()]


@pytest.mark.slow
def test_each_process_writes_its_own_shards_and_every_file_has_its_digest(written):
    whole = 8 * 20_000 * 4  # bytes, of random numbers: nothing to compress
    for process in range(2):
        size = sum(file.stat().st_size for file in own_files(written / "2", process))
        assert 0.4 * whole < size < 0.7 * whole
    manifest = json.loads((written / "2" / "manifest.json").read_text())
    assert manifest["format"] == 2
    on_disk = {str(p.relative_to(written / "2")) for p in (written / "2").rglob("*") if p.is_file()}
    assert set(manifest["files"]) == on_disk - {"manifest.json"}


@pytest.mark.slow
def test_one_process_reads_what_two_have_written_and_two_read_what_one_has(written, tmp_path):
    one = state(1, 0)
    restored = Checkpoints(written).restore(one)
    same(restored.state, state(1, 2))
    assert restored.state["particles"].sharding == one["particles"].sharding
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state(1, 5))
    codes, said, errors = two_processes(tmp_path, READ)
    assert codes == [0, 0] and said[0] == ["5"], errors
    same(Checkpoints(tmp_path).restore(one).state, state(1, 6))


@pytest.mark.slow
def test_one_two_four_and_eight_devices_read_what_two_processes_have_written(written):
    code = """
jax.config.update("jax_num_cpu_devices", 8)
for devices in (1, 2, 4, 8):
    same(Checkpoints(sys.argv[1]).restore(state(devices, 0)).state, state(devices, 2))
"""
    subprocess.run(
        [sys.executable, "-c", HEAD + code, str(written)],
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"},
        check=True,
        timeout=180,
    )


@pytest.mark.slow
def test_damage_that_one_process_finds_all_skip_and_the_first_says_it_in_one_line(run):
    manifest = sorted(json.loads((run / "2" / "manifest.json").read_text())["files"])
    odd = next(name for name in manifest[1::2] if (run / "2" / name).stat().st_size)  # of process 1's share
    data = bytearray((run / "2" / odd).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (run / "2" / odd).write_bytes(data)
    shutil.copytree(run / "1", run / "9.unfinished")
    codes, said, errors = two_processes(run, READ)
    assert codes == [0, 0], errors
    assert said == [
        [
            f"{run}/9.unfinished is a half-written checkpoint: skipped",
            f"checkpoint {run}/2 is damaged: {odd} is not what was written, by its digest: skipped",
            "1",
        ],
        [],
    ]
    assert sorted(os.listdir(run)) == ["1", "2", "damaged"]
    same(Checkpoints(run).restore(state(1, 0)).state, state(1, 2))


@pytest.mark.slow
def test_a_part_that_fails_is_the_same_line_everywhere_and_nothing_is_replaced(run):
    codes, said, errors = two_processes(run, FAIL)
    assert codes == [0, 0], errors
    start, end = f"cannot save checkpoint 2 in {run}: No space left on device", "; the last good one is 2"
    for lines in said:
        who = [" (process 1)", " (process 1)", "", ""]
        assert [line.startswith(start + part) for line, part in zip(lines, who, strict=True)] == [True] * 4
    assert all(line.endswith(end) for line in said[0])


@pytest.mark.slow
def test_a_process_that_dies_inside_a_save_is_noticed_and_the_last_whole_one_stays(run):
    codes, said, errors = two_processes(run, DIE)
    assert codes == [0, 9], errors
    assert said[0][0] == "JaxRuntimeError" and float(said[0][1]) < 10, errors
    restored = Checkpoints(run, warn=lambda line: None).restore(state(1, 0))
    assert restored.step == 2
    same(restored.state, state(1, 2))


def test_alone_a_process_agrees_with_itself():
    assert exchange.gather("one") == ["one"]
    assert exchange.anybody(True) and not exchange.anybody(False)
    assert exchange.together(lambda: 3, ValueError) == 3
    with pytest.raises(ValueError, match="no"):
        exchange.together(lambda: (_ for _ in ()).throw(ValueError("no")), ValueError)
