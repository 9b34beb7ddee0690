"""Checkpoints: what is saved comes back bit for bit, and damage is found."""

import json
import random
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.errors import CheckpointError


class Outer(NamedTuple):
    theta: Any
    opt_state: Any
    extras: dict
    key: jax.Array
    outer_step: int


def outer(seed: int) -> Outer:
    """A state with everything that one may hold."""
    keys = jax.random.split(jax.random.key(seed), 3)
    theta = {"mlp/linear": {"w": jax.random.normal(keys[0], (3, 4)), "b": jnp.full(4, seed, jnp.bfloat16)}}
    extras = {
        "empty": jnp.zeros((0, 3)),
        "no_keys": keys[:0],
        "none": (None, (), optax.EmptyState()),
        "numpy": np.arange(3.0) * seed,
        "scalar": np.float32(seed),
        "half": jnp.full((2, 2), seed, jnp.float16),
        "bytes": jnp.full(3, seed, jnp.uint8),
        "flag": True,
        "best": 0.1 + seed,
        "weak": jnp.asarray(0.5),
    }
    opt_state = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(theta)
    return Outer(theta, opt_state, extras, keys, seed)


def as_bytes(tree):
    """What makes two trees bitwise equal: structure, kinds, dtypes, bytes."""
    leaves, structure = jax.tree.flatten(tree)

    def one(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return "key", str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf)).tobytes()
        array = np.asarray(leaf)
        return (
            isinstance(leaf, jax.Array),
            type(leaf) if np.isscalar(leaf) else "array",
            array.dtype,
            array.tobytes(),
        )

    return structure, [one(leaf) for leaf in leaves]


def save_all(directory, steps, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, outer(step), {"best": step / 10, "run": "abc"})


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    save_all(tmp_path / "run", [3])
    restored = Checkpoints(tmp_path / "run").restore(outer(0))
    assert restored.step == 3
    assert restored.meta == {"best": 0.3, "run": "abc"}
    assert as_bytes(restored.state) == as_bytes(outer(3))


def test_an_abstract_target_is_enough(tmp_path):
    state = {"theta": jnp.arange(3.0), "key": jax.random.split(jax.random.key(1, impl="rbg"))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state)
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
    assert as_bytes(restored.state) == as_bytes(state)
    assert restored.meta == {}


def test_what_was_not_committed_to_a_device_is_not_committed_when_restored(tmp_path):
    device = jax.devices()[0]
    state = {"free": jnp.ones(3), "placed": jax.device_put(jnp.ones(3), device)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state)
        restored = checkpoints.restore(state).state
    assert not restored["free"].committed
    assert restored["placed"].committed


def test_the_state_may_be_donated_while_it_is_being_written(tmp_path):
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    state = jnp.arange(300_000.0)
    expected = np.array(state)
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(3):
            checkpoints.save(step, state)
            overwrite(state)
            state = jnp.arange(300_000.0)
        for step in range(3):
            np.testing.assert_array_equal(checkpoints.restore(state, step=step).state, expected)


def test_numpy_leaves_may_be_changed_in_place_while_they_are_being_written(tmp_path):
    state = np.zeros(300_000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state)
        state[:] = 1
        assert checkpoints.restore(state).state.sum() == 0


def test_without_a_checkpoint_nothing_is_restored_and_nothing_is_written(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.restore(outer(0)) is None
    assert checkpoints.steps() == []
    assert not (tmp_path / "run").exists()


def test_the_newest_are_kept(tmp_path):
    save_all(tmp_path / "two", [1, 2, 9, 10], max_to_keep=2)
    assert Checkpoints(tmp_path / "two").steps() == [9, 10]
    save_all(tmp_path / "all", [1, 2, 9, 10], max_to_keep=None)
    assert Checkpoints(tmp_path / "all").steps() == [1, 2, 9, 10]
    with pytest.raises(ValueError, match="^max_to_keep must be >= 1 or None, got 0"):
        Checkpoints(tmp_path, max_to_keep=0)


def test_one_step_can_be_asked_for(tmp_path):
    save_all(tmp_path, [1, 2])
    assert Checkpoints(tmp_path).restore(outer(0), step=1).state.outer_step == 1
    with pytest.raises(CheckpointError, match=r"no checkpoint 7, only \[1, 2\]"):
        Checkpoints(tmp_path).restore(outer(0), step=7)


def test_saving_an_old_step_again_is_refused_unless_it_replaces_what_is_newer(tmp_path):
    save_all(tmp_path, [1, 2, 3])
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 3):
            with pytest.raises(CheckpointError, match=f"cannot save step {step}: .* already has step 3"):
                checkpoints.save(step, outer(step))
        checkpoints.save(2, outer(7), replace=True)
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.restore(outer(0)).state.outer_step == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s._replace(outer_step=jnp.int32(1)),
            r"state\.outer_step is int\[\] in .*, int32\[\] in this",
        ),
        (
            lambda s: s._replace(key=s.key[:2]),
            r"state\.key is key<fry>\[3\] in the checkpoint, key<fry>\[2\]",
        ),
        (
            lambda s: s._replace(theta={}),
            r"state\.theta\['mlp/linear'\]\['b'\] .* is in the checkpoint, not in",
        ),
        (
            lambda s: s._replace(theta={**s.theta, "v": 0.0}),
            r"state\.theta\['v'\] .* is not in the checkpoint",
        ),
        (
            lambda s: s._replace(extras={**s.extras, "half": jnp.ones((2, 2))}),
            r"float16\[2,2\] .*, float32\[2,2\]",
        ),
    ],
    ids=["kind", "shape", "missing", "extra", "dtype"],
)
def test_a_target_that_does_not_fit_is_refused_by_name_and_no_older_one_is_tried(tmp_path, change, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, change(outer(1)))
        checkpoints.save(2, outer(2))
        with pytest.raises(CheckpointError, match=f"{tmp_path}/2 does not fit: .*{message}"):
            checkpoints.restore(change(outer(0)))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"name": "adam"}, r"state\['name'\] is a str"),
        ({"f": print}, r"state\['f'\] is a builtin_function"),
        ({"a": np.array(["x"])}, r"state\['a'\] is a <U1 array"),
        ({"n": 2**70}, "more than 64 bits"),
        ({"n": jnp.zeros(0)}, "no data"),
    ],
)
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path, state, message):
    with Checkpoints(tmp_path / "run") as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.save(1, state)
    assert not (tmp_path / "run").exists()


def test_meta_that_is_not_json_and_a_negative_step_are_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="meta of checkpoint 1 is not JSON"):
            checkpoints.save(1, outer(1), {"x": print})
        with pytest.raises(CheckpointError, match="step must be >= 0, got -1"):
            checkpoints.save(-1, outer(1))


# What bad luck does. Two good checkpoints, of steps 1 and 2; the second is damaged.


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    save_all(directory, [1, 2])
    return directory


@pytest.fixture
def run(two_checkpoints, tmp_path):
    return shutil.copytree(two_checkpoints, tmp_path / "run")


def array_files(step_directory):
    """The files that hold the values of the arrays, largest last."""
    files = [path for path in (step_directory / "state").rglob("*") if path.parent.name == "d"]
    return sorted(files, key=lambda path: path.stat().st_size)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def edit_manifest(step_directory, **changes):
    path = step_directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def put_in_place_of(step_directory, other):
    shutil.rmtree(step_directory)
    shutil.copytree(step_directory.with_name(other), step_directory)


def make_empty(step_directory):
    shutil.rmtree(step_directory)
    step_directory.mkdir()


DAMAGE = {
    "byte_flipped": lambda d: [flip(path, path.stat().st_size // 2) for path in array_files(d)],
    "truncated": lambda d: [path.write_bytes(path.read_bytes()[:-5]) for path in array_files(d)],
    "array_file_missing": lambda d: array_files(d)[-1].unlink(),
    "arrays_missing": lambda d: shutil.rmtree(d / "state"),
    "empty_directory": make_empty,
    "manifest_missing": lambda d: (d / "manifest.json").unlink(),
    "manifest_garbled": lambda d: (d / "manifest.json").write_bytes(b"\x00\xff{"),
    "manifest_empty": lambda d: (d / "manifest.json").write_bytes(b""),
    "manifest_no_object": lambda d: (d / "manifest.json").write_text("[1]"),
    "manifest_changed": lambda d: edit_manifest(d, meta={"best": 0.0}),
    "another_step": lambda d: put_in_place_of(d, "1"),
    "a_file": lambda d: (shutil.rmtree(d), d.write_text("x")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(run, damage):
    DAMAGE[damage](run / "2")
    said = []
    with Checkpoints(run, warn=said.append) as checkpoints:
        restored = checkpoints.restore(outer(0))
        assert as_bytes(restored.state) == as_bytes(outer(1))
        assert restored.step == 1 and restored.meta["best"] == 0.1
        assert (
            len(said) == 1 and said[0].startswith(f"checkpoint {run}/2 is damaged: ") and "\n" not in said[0]
        )
        with pytest.raises(CheckpointError, match="/2 is damaged: "):
            checkpoints.restore(outer(0), step=2)
        assert checkpoints.steps() == [1]
        checkpoints.save(2, outer(20))
        assert checkpoints.restore(outer(0)).state.outer_step == 20
        assert checkpoints.steps() == [1, 2]
    assert (run / "damaged" / "2").exists()


def test_a_byte_flipped_anywhere_is_found(run):
    chance = random.Random(0)
    files = sorted(path for path in (run / "2").rglob("*") if path.is_file() and path.stat().st_size)
    previous = as_bytes(outer(1))
    for path in files * 3:
        position = chance.randrange(path.stat().st_size)
        flip(path, position)
        said = []
        restored = Checkpoints(run, warn=said.append).restore(outer(0))
        assert len(said) == 1 and "2 is damaged: " in said[0]
        assert as_bytes(restored.state) == previous
        flip(path, position)
    assert Checkpoints(run).restore(outer(0)).step == 2


def test_a_half_written_checkpoint_is_named_skipped_and_cleaned_away_by_the_next_save(run):
    unfinished = run / "3.unfinished"
    shutil.copytree(run / "2", unfinished)
    said = []
    with Checkpoints(run, warn=said.append) as checkpoints:
        assert checkpoints.restore(outer(0)).step == 2
        assert said == [f"{unfinished} is a half-written checkpoint: skipped"]
        assert unfinished.exists()
        checkpoints.save(3, outer(3))
        assert checkpoints.steps() == [1, 2, 3]
    assert not unfinished.exists()


def test_when_all_are_damaged_that_is_an_error_and_they_are_moved_only_if_something_is_saved(run):
    make_empty(run / "1")
    make_empty(run / "2")
    with Checkpoints(run, warn=lambda line: None) as checkpoints:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged; the newest is 2"):
                checkpoints.restore(outer(0))
        assert sorted(path.name for path in run.iterdir()) == ["1", "2"]
        checkpoints.save(0, outer(0))
        assert checkpoints.steps() == [0]
    assert sorted(path.name for path in (run / "damaged").iterdir()) == ["1", "2"]


def test_a_checkpoint_of_a_later_format_is_not_called_damaged(run, monkeypatch):
    monkeypatch.setattr("meta_train.checkpoint.files.FORMAT", 3)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(3, outer(3))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="3 has format 3, only 1 and 2 are known"):
        Checkpoints(run).restore(outer(0))


def test_a_replacement_that_was_interrupted_leaves_the_replaced_one_restorable(run):
    shutil.rmtree(run / "1")
    (run / "replaced").mkdir()
    (run / "2").rename(run / "replaced" / "2")
    with Checkpoints(run, max_to_keep=1) as best:
        assert best.restore(outer(0)).step == 2
        best.save(1, outer(1), replace=True)
        assert best.restore(outer(0)).step == 1
    assert [path.name for path in run.iterdir()] == ["1"]


def test_an_error_of_the_writing_thread_reaches_the_next_call_once(run, monkeypatch):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(run)
    with monkeypatch.context() as broken:
        broken.setattr("meta_train.checkpoint.checkpoints.write", refuse)
        checkpoints.save(3, outer(3))
        with pytest.raises(
            CheckpointError,
            match="cannot save checkpoint 3 in .*: No space left on device; the last good one is 2$",
        ):
            checkpoints.save(4, outer(4))
    checkpoints.save(4, outer(4))
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 4]


def test_an_error_of_the_caller_is_not_hidden_by_one_of_the_last_save(run, monkeypatch):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meta_train.checkpoint.checkpoints.write", refuse)
    said = []
    with pytest.raises(KeyError), Checkpoints(run, warn=said.append) as checkpoints:
        checkpoints.save(3, outer(3))
        raise KeyError
    assert len(said) == 1 and "No space left" in said[0]


def test_once_the_other_processes_are_given_up_no_question_is_put_to_them(run, monkeypatch):
    """With no save in flight, too: after a process is lost, its survivor lists what is saved."""

    def gather(text):
        raise RuntimeError("the other process is dead")

    monkeypatch.setattr("meta_train.parallel.exchange.gather", gather)
    checkpoints = Checkpoints(run)
    with pytest.raises(RuntimeError):
        checkpoints.steps()
    checkpoints.give_up()
    assert checkpoints.steps() == [1, 2]
