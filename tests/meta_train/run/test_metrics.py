"""The metrics file, which is the record of truth, and how writers combine."""

import json
import math
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.errors import MetricsError
from meta_train.run.metrics import Writer, all_of, jsonl_writer, read_jsonl


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write_steps(path, steps, **options):
    writer = jsonl_writer(path, **options)
    for step in steps:
        writer.write(step, {"loss": step / 10})
    writer.close()


def steps_of(path):
    return [row["step"] for row in read_jsonl(path)]


def test_rows_come_back_as_they_were_written(path):
    row = {
        "loss": jnp.float32(0.1),
        "half": jnp.asarray(1.5, jnp.bfloat16),
        "count": np.int64(3),
        "hit": np.bool_(True),
        "family": "digits",
        "nothing": None,
        "quantiles": np.array([0.25, 0.5]),
        "nested": {"a": (1, 2.5)},
    }
    writer = jsonl_writer(path)
    writer.write(7, row)
    writer.close()
    expected = {
        "step": 7,
        "loss": float(np.float32(0.1)),
        "half": 1.5,
        "count": 3,
        "hit": True,
        "family": "digits",
        "nothing": None,
        "quantiles": [0.25, 0.5],
        "nested": {"a": [1, 2.5]},
    }
    assert read_jsonl(path) == [expected]
    assert list(json.loads(path.read_text())) == list(expected)


def test_the_file_is_strict_json_also_for_numbers_that_json_does_not_have(path):
    writer = jsonl_writer(path)
    writer.write(0, {"a": math.nan, "b": jnp.inf, "c": {"d": [np.float32(-np.inf), 1.0]}})
    writer.close()

    def refuse(constant):
        raise AssertionError(constant)

    strict = json.loads(path.read_text(), parse_constant=refuse)
    assert strict == {"step": 0, "a": "NaN", "b": "Infinity", "c": {"d": ["-Infinity", 1.0]}}
    (row,) = read_jsonl(path)
    assert math.isnan(row["a"]) and row["b"] == math.inf and row["c"]["d"] == [-math.inf, 1.0]


def test_on_resume_the_rows_that_will_be_written_again_are_dropped(path):
    write_steps(path, [0, 10, 20, 30])
    write_steps(path, [20, 40], resume_step=20)
    assert steps_of(path) == [0, 10, 20, 40]
    assert os.listdir(path.parent) == [path.name]


def test_a_torn_last_line_is_left_out_and_dropped_on_resume(path):
    write_steps(path, [0, 10])
    with open(path, "ab") as file:
        file.write(b'{"step": 20, "lo')
    assert steps_of(path) == [0, 10]
    write_steps(path, [20], resume_step=20)
    assert steps_of(path) == [0, 10, 20]
    assert path.read_bytes().count(b"\n") == 3


def test_a_last_row_that_lacks_only_its_line_end_is_kept(path):
    write_steps(path, [0, 10])
    path.write_bytes(path.read_bytes()[:-1])
    write_steps(path, [20], resume_step=20)
    assert steps_of(path) == [0, 10, 20]


def test_resuming_a_file_that_is_not_there_begins_it(path):
    write_steps(path, [5], resume_step=5)
    assert steps_of(path) == [5]


def test_a_new_file_is_not_put_over_an_old_one(path):
    write_steps(path, [0])
    with pytest.raises(MetricsError, match=f"^{path} exists already"):
        jsonl_writer(path)
    assert steps_of(path) == [0]


BAD_LINES = [
    *(b"garbage", b"[1]", b"3", b'{"loss": 1}', b"\x00\xff", b"", b"[" * 100_000, b'{"step": "1"}'),
    *(b'{"step": 1e400}', b'{"step": -1}', b'{"step": true}', b'{"step": ' + b"9" * 10_000 + b"}"),
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_damaged_line_is_named_and_the_file_left_alone(path, line):
    write_steps(path, [0, 10])
    first, second, _ = path.read_bytes().split(b"\n")
    damaged = b"\n".join([first, line, second, b""])
    path.write_bytes(damaged)
    for act in (lambda: read_jsonl(path), lambda: jsonl_writer(path, resume_step=5)):
        with pytest.raises(
            MetricsError, match="metrics.jsonl, line 2, is not a row of metrics: .*; delete this line"
        ):
            act()
    assert path.read_bytes() == damaged


def test_what_cannot_be_written_is_named_before_anything_is(path):
    writer = jsonl_writer(path)
    with pytest.raises(MetricsError, match="row of step 3: a function cannot be logged"):
        writer.write(3, {"loss": 1.0, "f": test_a_new_file_is_not_put_over_an_old_one})
    with pytest.raises(MetricsError, match="named step"):
        writer.write(3, {"step": 4})
    writer.close()
    assert path.read_bytes() == b""


def test_a_place_that_cannot_be_written_or_read_is_one_clear_error(tmp_path):
    with pytest.raises(MetricsError, match="cannot write metrics to .*/missing/m.jsonl: No such file"):
        jsonl_writer(tmp_path / "missing" / "m.jsonl")
    with pytest.raises(MetricsError, match="cannot read metrics: .*/m.jsonl cannot be read: No such file"):
        read_jsonl(tmp_path / "m.jsonl")


FULL_DISK = """
import resource, sys
from meta_train.errors import MetricsError
from meta_train.run.metrics import jsonl_writer
writer = jsonl_writer(sys.argv[1])
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
for step in range(10):
    try:
        writer.write(step, {"loss": 0.123456789})
    except MetricsError as error:
        print(step, error)
        break
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
writer.write(step, {"loss": 0.5})
"""


def test_a_full_disk_is_one_clear_error_and_leaves_whole_rows(path):
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True)
    # Three rows of 33 bytes fit under the limit of 100; the fourth is cut at its first byte.
    assert (run.stdout, run.stderr) == (f"3 cannot write metrics to {path}: File too large\n", "")
    assert steps_of(path) == [0, 1, 2, 3]
    assert path.read_bytes().count(b"\n") == 4


def test_every_row_is_in_the_file_as_soon_as_it_is_written(path):
    writer = jsonl_writer(path)
    for step in range(3):
        writer.write(step, {})
        assert steps_of(path) == list(range(step + 1))
    writer.close()


def test_several_writers_are_one_and_all_are_closed_even_if_one_fails():
    said = []

    def fail():
        raise MetricsError("first")

    writer = all_of(
        [
            Writer(lambda step, row: said.append(("a", step, row)), fail),
            Writer(lambda step, row: said.append(("b", step, row)), lambda: said.append("b closed"), "id"),
        ]
    )
    assert writer.run_id == "id"
    writer.write(1, {"x": 2})
    with pytest.raises(MetricsError, match="first"):
        writer.close()
    assert said == [("a", 1, {"x": 2}), ("b", 1, {"x": 2}), "b closed"]
