"""Streams of rows that a program gives: sequences, grain data sets, iterables; and how they are resumed."""

import jax
import numpy as np
import pytest

from meta_train.config import load as config_lib
from meta_train.core.stream import Feeds, buffer_at, chunk_at, stream
from meta_train.errors import ConfigError, RunError
from meta_train.run import train
from meta_train.run.metrics import read_jsonl
from tasks.data import datasets

PROGRAM = """
import itertools, random
import numpy as np

def example(i):
    return np.float32([i, -i, 1]), i % 3

class Numbers:
    def __len__(self):
        return 100
    def __getitem__(self, i):
        if not 0 <= i < 100:
            raise IndexError(i)
        return example(i)

def sequence():
    return Numbers()

def by_grain():
    import grain
    return grain.MapDataset.source(Numbers())

def iterated_by_grain():
    import grain
    return grain.MapDataset.source(Numbers()).shuffle(seed=3).repeat().to_iter_dataset()

def endless():
    return map(example, itertools.count())

def finite():
    for i in range(100):
        yield {"x": example(i)[0], "y": example(i)[1]}

def other_every_time():
    while True:
        yield example(random.SystemRandom().randrange(99))

def regression():
    return [(x, float(y)) for x, y in map(example, range(30))]

def ragged():
    return [example(i) for i in range(9)] + [(np.zeros(2), 0)]

def no_pairs():
    return list(range(30))

def empty():
    return []

def breaks():
    yield from map(example, range(2000))
    raise OSError("the disk is gone")
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("program") / "data.py"
    file.write_text(PROGRAM)
    return file


def make(file, factory, split="train", **options):
    with datasets.on_host():
        host = datasets.stack([f"python:{file}:{factory}?classes=3"]).data[split]
    defaults = {"buffer_rows": 8, "chunk": 4, "every": 2, "timeout": 60.0, "seed": 1}
    return stream("big", host, **defaults | options)


def numbers(arrays):
    """The numbers of the examples in a buffer or chunk; their parts must belong together."""
    x = arrays["x"][0]
    np.testing.assert_array_equal(arrays["y"][0], x[:, 0] % 3)
    np.testing.assert_array_equal(x[:, 1:], np.stack([-x[:, 0], np.ones(len(x))], 1))
    return x[:, 0].astype(int).tolist()


TRAIN = [i for i in range(100) if i % 5 != 4]


@pytest.mark.parametrize("factory", ["sequence", "by_grain"])
def test_a_sequence_and_a_grain_map_data_set_are_shuffled_anew_in_every_pass(file, factory):
    one = make(file, factory)
    seen = numbers(buffer_at(one, 0))
    for count in range(1, 39):
        seen += numbers(chunk_at(one, count)[0])
    assert sorted(seen[:80]) == sorted(seen[80:]) == TRAIN and seen[:80] != seen[80:]
    assert numbers(buffer_at(make(file, factory, "valid", buffer_rows=20), 0)) == list(range(4, 100, 5))


@pytest.mark.parametrize("factory", ["endless", "finite"])
def test_an_iterable_gives_its_rows_in_order_and_begins_again_at_its_end(file, factory):
    one = make(file, factory)
    seen = numbers(buffer_at(one, 0))
    for count in range(1, 39):
        seen += numbers(chunk_at(one, count)[0])
    assert seen[:80] == TRAIN
    assert seen[80:] == (TRAIN if factory == "finite" else [i for i in range(100, 200) if i % 5 != 4])
    valid = set(numbers(buffer_at(make(file, factory, "valid", buffer_rows=20), 0)))
    assert len(valid) == 20 and valid <= set(range(4, 100 if factory == "finite" else 1280, 5))


@pytest.mark.parametrize("factory", ["sequence", "by_grain", "iterated_by_grain", "endless", "finite"])
def test_a_resumed_stream_holds_the_rows_of_one_that_was_never_interrupted(file, factory):
    data, warned = {"big": {"train": {}}}, []
    with Feeds({"big": make(file, factory)}, data, jax.device_put) as whole:
        for step in (0, 2, 6, 22):
            whole.advance(step)
            place = whole.position(step)
            assert ("state" in place["big"]) == (factory == "iterated_by_grain")
            with Feeds({"big": make(file, factory)}, data, jax.device_put, step, place) as resumed:
                resumed.check(step, place, warned.append)
                for later in (step, step + 2):
                    whole_now = buffer_at(make(file, factory), later // 2)
                    resumed.advance(later)
                    np.testing.assert_array_equal(resumed.data["big"]["train"]["x"], whole_now["x"])
            np.testing.assert_array_equal(
                whole.data["big"]["train"]["x"], buffer_at(make(file, factory), step // 2)["x"]
            )
    assert warned == []


def test_a_source_that_does_not_repeat_itself_is_reported_and_one_that_was_replaced_is_refused(file):
    data, warned = {"big": {"train": {}}}, []
    with Feeds({"big": make(file, "other_every_time")}, data, jax.device_put) as feeds:
        feeds.advance(4)
        place = feeds.position(4)
    with Feeds({"big": make(file, "other_every_time")}, data, jax.device_put, 4, place) as feeds:
        feeds.check(4, place, warned.append)
    (line,) = warned
    assert line.startswith("the data stream of task 'big' does not repeat itself: the run goes on with other")
    place["big"] = {"refreshes": 2, "digest": "0" * 64}
    with (
        Feeds({"big": make(file, "sequence")}, data, jax.device_put, 4, place) as feeds,
        pytest.raises(
            RunError, match="the data of task 'big' are not those of the checkpoint at outer step 4"
        ),
    ):
        feeds.check(4, place, warned.append)


def test_a_source_that_fails_while_it_runs_ends_the_run_with_a_line(file):
    one = make(file, "breaks", buffer_rows=1600, chunk=400)
    with (
        Feeds({"big": one}, {"big": {"train": {}}}, jax.device_put) as feeds,
        pytest.raises(RunError, match="^the data stream of task 'big' cannot be read: the disk is gone$"),
    ):
        feeds.advance(4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}:sequence", "has classes as y; say how many: .classes=N"),
        ("{}:regression?classes=3", "has classes=3, but y is no integer"),
        ("{}:sequence?classes=2", r"labels of .* must lie in 0..1, got 0..2"),
        ("{}:ragged?classes=3", r"must have x \(3,\) and a number y, got \(2,\) and \(\)"),
        ("{}:no_pairs?classes=3", "must be .x, y. or .* got int"),
        ("{}:empty?classes=3", "has no examples"),
        ("{}:sequense?classes=3", "cannot load .* has no attribute 'sequense'"),
        ("{}:sequence?rows=3", "may have the option .classes=N alone"),
        ("nothing.py:sequence", "cannot load python:nothing.py:sequence: there is no such file"),
        ("no_such_module:sequence", "cannot load python:no_such_module:sequence: No module named"),
    ],
)
def test_a_program_that_gives_no_such_rows_is_refused_in_one_line(file, name, words):
    with pytest.raises(ValueError, match=words) as caught:
        datasets.load("python:" + name.format(file))
    assert len(str(caught.value).splitlines()) == 1


def test_without_a_stream_all_rows_are_in_memory(file):
    data = datasets.load(f"python:{file}:finite?classes=3")
    assert data.x[:, 0].tolist() == list(range(100)) and data.num_classes == 3
    assert datasets.load(f"python:{file}:regression").num_classes == 0


CONFIG = {
    "outer_steps": 24,
    "tasks": [{"name": "image_mlp", "hidden": [2], "batch_size": 4, "stream": {"rows": 8, "every": 2}}],
    "learned_optimizer": {"name": "learnable_sgd"},
    "inner": {"unroll_length": 4},
    "estimator": {"name": "pes", "num_particles": 2, "truncation_length": 2},
    "outer_optimizer": {"name": "adam", "learning_rate": 0.01},
    "logging": {"every": 4},
    "checkpoint": {"every": 12},
}


def test_a_run_on_an_iterable_is_resumed_bit_for_bit(file, tmp_path, interrupted):
    task = CONFIG["tasks"][0] | {"datasets": [f"python:{file}:iterated_by_grain?classes=3"]}
    config = config_lib.parse(CONFIG | {"tasks": [task]})
    whole = train.run(config, tmp_path / "whole")
    interrupted(config, tmp_path / "parts", 16)
    parts = train.run(config, tmp_path / "parts", resume=True)
    jax.tree.map(np.testing.assert_array_equal, parts.theta, whole.theta)
    losses = [[r["loss"] for r in read_jsonl(tmp_path / d / "metrics.jsonl")] for d in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_two_data_sets_cannot_share_the_stream_of_a_program(file):
    task = CONFIG["tasks"][0] | {"datasets": [f"python:{file}:finite?classes=3", "digits"]}
    with pytest.raises(ConfigError, match="must be the only data set of a streamed task, got 2"):
        config_lib.parse(CONFIG | {"tasks": [task]})
