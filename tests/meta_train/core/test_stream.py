"""Data that pass through a buffer on the device: the order, the refreshes, resume, and what goes wrong."""

import time

import jax
import numpy as np
import pytest

from meta_train.config import load as config_lib
from meta_train.core import stream as stream_lib
from meta_train.core.stream import Feeds, buffer_at, chunk_at, stream
from meta_train.errors import ConfigError, RunError
from meta_train.run import train

HOST = {
    "x": np.arange(2 * 24, dtype=np.float32).reshape(2, 24, 1),
    "y": np.arange(2 * 24, dtype=np.int32).reshape(2, 24),
    "rows": np.array([24, 6], np.int32),
    "classes": np.array([3, 3], np.int32),
}


def make(**options):
    return stream(
        "big", HOST, **{"buffer_rows": 8, "chunk": 4, "every": 2, "timeout": 5.0, "seed": 1} | options
    )


def test_every_pass_over_the_data_brings_every_row_once_in_an_order_of_its_own():
    one = make()
    seen = [buffer_at(one, 0)["y"][0], *(chunk_at(one, count)[0]["y"][0] for count in range(1, 11))]
    first, second = np.concatenate(seen).reshape(2, 24)
    assert sorted(first) == sorted(second) == list(range(24)) and list(first) != list(second)
    other = make(seed=2)
    assert list(buffer_at(other, 0)["y"][0]) != list(first[:8])


def test_a_data_set_that_fits_stays_as_it_is():
    for count in (0, 3):
        found = buffer_at(make(), count)
        assert list(found["y"][1, :6]) == list(range(24, 30)) and list(found["rows"]) == [8, 6]
    assert list(buffer_at(make(buffer_rows=32), 5)["y"][0, :24]) == list(range(24))


def test_the_buffer_is_a_function_of_the_outer_step_however_it_got_there():
    one, data = make(), {"big": {"train": HOST, "valid": HOST}, "other": ()}
    with Feeds({"big": one}, data, jax.device_put) as feeds:
        for step in range(0, 16, 2):
            feeds.advance(step)
            feeds.advance(step)  # asking twice changes nothing
            want = buffer_at(one, step // 2)
            for name in want:
                np.testing.assert_array_equal(feeds.data["big"]["train"][name], want[name])
            np.testing.assert_array_equal(feeds.data["big"]["train"]["x"][..., 0], want["y"])
            with Feeds({"big": one}, data, jax.device_put, step) as resumed:
                resumed.advance(step)
                np.testing.assert_array_equal(resumed.data["big"]["train"]["y"], want["y"])
        assert feeds.data["other"] == ()


def test_a_stream_that_stalls_or_fails_ends_the_run_with_a_line(monkeypatch):
    data = {"big": {"train": HOST}}
    monkeypatch.setattr(stream_lib, "chunk_at", lambda one, count: time.sleep(1))
    with (
        Feeds({"big": make(timeout=0.05)}, data, jax.device_put) as feeds,
        pytest.raises(RunError, match=r"^the data stream of task 'big' gave nothing for 0.05 s"),
    ):
        feeds.advance(2)

    def broken(one, count):
        raise OSError("the disk is gone")

    monkeypatch.setattr(stream_lib, "chunk_at", broken)
    with (
        Feeds({"big": make()}, data, jax.device_put) as feeds,
        pytest.raises(RunError, match="^the data stream of task 'big' cannot be read: the disk is gone$"),
    ):
        feeds.advance(2)


RAW = {
    "outer_steps": 16,
    "tasks": [
        {
            "name": "image_mlp",
            "datasets": ["teacher:1[:200]"],
            "hidden": [],
            "label": "big",
            "stream": {"rows": 32, "chunk": 16, "every": 2},
        },
        {"name": "quadratic", "dim": 2},
    ],
    "learned_optimizer": {"name": "learnable_adam"},
    "inner": {"unroll_length": 8},
    "estimator": {"name": "nres", "num_particles": 2, "truncation_length": 4, "sigma": 0.1},
    "outer_optimizer": {"learning_rate": 0.01},
    "checkpoint": {"every": 4},
}


def test_a_resumed_run_sees_the_same_rows_bit_for_bit_and_other_data_are_refused(
    interrupted, tmp_path, monkeypatch
):
    config = config_lib.parse(RAW)
    whole = train.run(config, tmp_path / "whole")
    interrupted(config, tmp_path / "parts", at=12)
    parts = train.run(config, tmp_path / "parts", resume=True)
    jax.tree.map(np.testing.assert_array_equal, parts.theta, whole.theta)

    without = config_lib.parse(RAW | {"tasks": [RAW["tasks"][0] | {"stream": None}, RAW["tasks"][1]]})
    fixed = train.run(without, tmp_path / "without")
    differ = jax.tree.map(lambda a, b: not np.array_equal(a, b), fixed.theta, whole.theta)
    assert any(jax.tree.leaves(differ))  # the rows do pass through

    interrupted(config, tmp_path / "others", at=12)
    monkeypatch.setattr(stream_lib, "digest", lambda one: "0" * 64)
    with pytest.raises(
        RunError, match="^the data of task 'big' are not those of the checkpoint at outer step 8"
    ):
        train.run(config, tmp_path / "others", resume=True)


@pytest.mark.parametrize(
    "task, line",
    [
        ({"stream": {"rows": 32, "chunk": 5}}, r"stream.chunk must divide stream.rows \(32\), got 5"),
        ({"name": "char_rnn", "datasets": None}, "stream must be given to a task on tables of rows"),
        ({"stream": {"rows": 0}}, "tasks.0.stream.rows: must be >= 1"),
    ],
)
def test_what_cannot_be_streamed_is_refused(tmp_path, task, line):
    spec = {k: v for k, v in (RAW["tasks"][0] | task).items() if v is not None}
    spec = {k: v for k, v in spec.items() if spec["name"] == "image_mlp" or k not in ("hidden",)}
    with pytest.raises(ConfigError, match=line):
        train.run(config_lib.parse(RAW | {"tasks": [spec]}), tmp_path / "r")
    assert not (tmp_path / "r").exists()
