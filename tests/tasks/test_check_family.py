import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import Task, TaskFamily, check_family, fixed, make

GOOD_DATA = {"train": {"x": np.zeros(3, np.float32)}, "valid": {"x": np.zeros(2, np.float32)}}


def family(init=lambda key: jnp.zeros(2), loss=lambda p, key, data: jnp.sum(p**2), data=None, **changes):
    return TaskFamily(lambda key: (), lambda cfg: Task(init, loss), data or GOOD_DATA)._replace(**changes)


def test_a_good_family_passes_without_compiling_anything(caplog):
    with jax.log_compiles(), caplog.at_level("DEBUG"):
        check_family(family())
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


NAN = {"x": np.array([0, np.nan], np.float32)}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (3, "must be a TaskFamily, got int"),
        (family(loss=lambda p, key, data: p), r"loss must be a scalar f32, got float32\[2\]"),
        (family(loss=lambda p, key, data: jnp.int32(1)), r"loss must be a scalar f32, got int32\[\]"),
        (family(loss=lambda p, key, data: (p[0], p[1])), "loss must be a scalar f32, got 2 arrays"),
        (family(loss=lambda p, key: p[0]), r"loss\(params, key, data\['train'\]\) failed: .*positional"),
        (family(init=lambda: jnp.zeros(2)), r"init\(key\) failed"),
        (family(init=lambda key: ()), "init returned no parameters"),
        (
            family(init=lambda key: {"a": jnp.zeros(2, jnp.int32)}),
            r"parameter \['a'\] must be float, got int32",
        ),
        (family(data={"train": NAN, "valid": NAN}), r"NaN or infinity in data train\['x'\]"),
        (family(data={"train": {}}), r"no split 'valid' in the data, there are: \['train'\]"),
        (family(data={"train": {}, "valid": {"x": np.zeros(1)}}), "split 'valid' .* structure of 'train'"),
        (family(data={"train": [1.0], "valid": [2.0]}), r"data must be arrays, train\[0\] is 1.0"),
        (family(data=[1]), "data must be a dict of splits, got list"),
        (family(sample=lambda: ()), r"sample\(key\) failed"),
        (family(task=lambda cfg: 1), "must be a Task, got int"),
    ],
)
def test_a_broken_family_is_named_with_what_is_wrong_in_one_line(broken, message):
    with pytest.raises(ValueError, match=f"^tasks.0: .*{message}") as error:
        check_family(broken, "tasks.0")
    assert "\n" not in str(error.value)


def test_a_fixed_task_is_a_family_without_data():
    check_family(fixed(Task(lambda key: jnp.zeros(2), lambda p, key, data: jnp.sum(p**2))))


def test_a_test_split_is_checked_as_the_others_are():
    with_test = {**GOOD_DATA, "test": {"x": np.zeros(2, np.float32)}}
    check_family(family(data=with_test))
    with pytest.raises(ValueError, match="split 'test' of the data has not the structure of 'train'"):
        check_family(family(data={**GOOD_DATA, "test": {}}))


def test_a_spec_may_name_a_test_split_of_its_own():
    made = make({"name": "image_mlp", "datasets": ("digits[:20]",), "test": {"datasets": ("digits[20:30]",)}})
    plain = make({"name": "image_mlp", "datasets": ("digits[20:30]",)})
    assert set(made.data) == {"train", "valid", "test"} and set(plain.data) == {"train", "valid"}
    np.testing.assert_array_equal(made.data["test"]["x"], plain.data["train"]["x"])
