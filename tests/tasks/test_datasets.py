import os
import zipfile

import numpy as np
import pytest

from tasks.data import datasets, loaders, text


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("digits", (1797, 64), 10),
        ("breast_cancer", (569, 30), 2),
        ("wine", (178, 13), 3),
        ("iris", (150, 4), 3),
        ("diabetes", (442, 10), 0),
        ("teacher:0", (2048, 64), 10),
    ],
)
def test_a_named_data_set_has_the_documented_size_and_scale(name, shape, classes):
    data = datasets.load(name)
    assert data.x.shape == shape and data.x.dtype == np.float32 and data.num_classes == classes
    assert np.prod(data.shape) == shape[1]
    if name == "digits":
        assert data.x.min() == 0 and data.x.max() == 1
    else:
        assert np.abs(data.x.mean(0)).max() < 0.1 and np.abs(data.x.std(0) - 1).max() < 0.1
    assert data.y.dtype == (np.int32 if classes else np.float32)
    assert not classes or set(np.unique(data.y)) == set(range(classes))


def test_a_teacher_depends_on_its_seed_only_and_balances_its_labels():
    first, second = loaders.teacher("3"), loaders.teacher("3")
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.y, second.y)
    assert (loaders.teacher("4").y != first.y).mean() > 0.5
    shares = np.bincount(first.y) / len(first.y)
    assert shares.min() > 0.05 and shares.max() < 0.2


def test_deformed_digits_keep_their_labels_and_never_share_a_digit_with_the_reserved_ones():
    few = loaders.deformed("3", variants=2), loaders.deformed("9001", variants=2)
    digits = datasets.load("digits")
    for data, first, count in zip(few, (0, 1200), (1200, 595), strict=True):
        rows = np.arange(2 * count)
        digit = first + 5 * (rows // 10) + rows % 5
        assert data.x.shape == (2 * count, 256) and data.shape == (16, 16, 1)
        np.testing.assert_array_equal(data.y, digits.y[digit])
        # A variant looks most like the digit that it is a variant of: 200 of them; measured .64 and .41.
        small = data.x.reshape(-1, 8, 2, 8, 2).mean((2, 4)).reshape(-1, 64)
        own, other = (
            np.mean([np.corrcoef(small[i], digits.x[digit[i + by]])[0, 1] for i in range(200)])
            for by in (0, 200)
        )
        assert own > 0.6 and own > other + 0.15
    again = loaders.deformed("3", variants=2)
    np.testing.assert_array_equal(few[0].x, again.x)
    assert np.abs(loaders.deformed("4", variants=2).x - again.x).mean() > 0.1


def test_a_slice_takes_rows_in_the_order_of_the_whole():
    whole, part = datasets.load("digits"), datasets.load("digits[597:1200]")
    np.testing.assert_array_equal(part.x, whole.x[597:1200])
    np.testing.assert_array_equal(part.y, whole.y[597:1200])
    assert len(datasets.load("digits[:7]").x) == 7 and len(datasets.load("digits[1790:]").x) == 7


def test_every_fifth_row_is_kept_for_validation():
    data = datasets.load("digits[:12]")
    train, valid = datasets.split(data, "train"), datasets.split(data, "valid")
    np.testing.assert_array_equal(valid.x, data.x[[4, 9]])
    np.testing.assert_array_equal(train.y, data.y[[0, 1, 2, 3, 5, 6, 7, 8, 10, 11]])


def test_a_stack_pads_to_equal_rows_and_says_how_many_are_real():
    stack = datasets.stack(("digits[:50]", "teacher:1[:100]"))
    train = stack.data["train"]
    assert train["x"].shape == (2, 80, 8, 8, 1) and list(train["rows"]) == [40, 80]
    assert not np.asarray(train["x"][0, 40:]).any() and np.asarray(train["x"][1, 40:]).any()
    digits = datasets.split(datasets.load("digits[:50]"), "train")
    np.testing.assert_array_equal(train["x"][0, :40].reshape(40, 64), digits.x)
    np.testing.assert_array_equal(train["y"][0, :40], digits.y)
    assert stack.num_classes == 10 and stack.equal_classes


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", ["unknown data set 'digit'", "did you mean digits?"]),
        ("teecher:1", ["unknown data set 'teecher:1'", "teacher"]),
        ("digits:1", ["unknown data set 'digits:1'"]),
        ("teacher:", ["unknown data set 'teacher:'"]),
        ("teacher:x", ["seed", "'teacher:x'", "integer"]),
        ("teacher:-1", ["seed", "'teacher:-1'"]),
        ("digits[100:50]", ["rows 100 to 50", "1797"]),
        ("digits[:5000]", ["rows 0 to 5000", "1797"]),
        ("digits[a:]", ["unknown data set 'digits[a:]'"]),
        ("", ["not a name"]),
    ],
)
def test_a_wrong_name_is_refused_in_one_line_that_says_what_is_allowed(name, words):
    with pytest.raises(ValueError, match="^datasets: ") as error:
        datasets.load(name)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), ["at least one"]),
        (("digits", "iris"), ["(8, 8, 1)", "(4,)", "'iris'"]),
        (("digits[:3]",), ["3 rows", "at least 5"]),
    ],
)
def test_data_sets_that_do_not_stack_are_refused(names, words):
    with pytest.raises(ValueError, match="^datasets: ") as error:
        datasets.stack(names)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_split_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no split 'test', allowed: 'train', 'valid'"):
        datasets.split(datasets.load("iris"), "test")


def test_nan_and_labels_out_of_range_are_refused_with_the_row():
    x, y = np.zeros((6, 2), np.float32), np.arange(6, dtype=np.int32)
    with pytest.raises(ValueError, match="labels of 'mine' must lie in 0..2, got 0..5"):
        datasets.check(datasets.Dataset(x, y, 3, (2,), "test"), "mine")
    x[4, 1] = np.nan
    with pytest.raises(ValueError, match="'mine' holds NaN or infinity, first in row 4"):
        datasets.check(datasets.Dataset(x, y, 6, (2,), "test"), "mine")


def test_loaded_arrays_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        datasets.load("iris").x[0] = 1


def test_an_npz_file_gives_classes_for_integers_and_targets_for_floats(tmp_path):
    x = np.random.RandomState(0).standard_normal((20, 4, 3))
    np.savez(tmp_path / "c.npz", x=x, y=np.arange(20) % 3)
    np.savez(tmp_path / "r.npz", x=x, y=np.linspace(0, 1, 20))
    classes, targets = (datasets.load(f"npz:{tmp_path}/{name}.npz") for name in "cr")
    assert classes.num_classes == 3 and targets.num_classes == 0
    assert classes.shape == (4, 3) and classes.x.shape == (20, 12)
    np.testing.assert_allclose(targets.y, np.linspace(0, 1, 20), rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((3, 2))}, "cannot read arrays x and y"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, "must hold numbers x"),
        ({"x": np.zeros((3, 2)), "y": np.array(["a", "b", "c"])}, "must hold numbers x"),
        ({"x": np.full((3, 2), np.nan), "y": np.zeros(3)}, "NaN or infinity, first in row 0"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2)}, r"\(3, 2\), \(2,\)"),
        (
            {"x": np.zeros((3, 2)), "y": np.array([0, 1, 2**32])},
            "labels of .* must lie in .*, got 0..4294967296",
        ),
        ({"x": np.zeros((3, 2)), "y": np.array([0, -1, 1])}, "must lie in 0..999999, got -1..1"),
        ({"x": np.zeros((9, 0)), "y": np.zeros(9)}, r"needs x .*, got \(9, 0\)"),
        (b"not a zip file", "cannot read arrays"),
        (None, "cannot read arrays x and y from .*No such file"),
    ],
)
def test_an_npz_file_that_does_not_fit_is_refused_in_one_line(tmp_path, arrays, words):
    path = tmp_path / "data.npz"
    if isinstance(arrays, bytes):
        path.write_bytes(arrays)
    elif arrays is not None:
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"^datasets: .*{words}") as error:
        datasets.load(f"npz:{path}")
    assert "\n" not in str(error.value)


def test_a_fifo_or_a_device_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero"):
        with pytest.raises(ValueError, match="^datasets: cannot read arrays .*it is not a regular file"):
            datasets.load(f"npz:{path}")
        with pytest.raises(ValueError, match="^texts: cannot read .*: it is not a regular file"):
            text.load_text(f"file:{path}")


def test_what_no_memory_holds_is_refused_by_its_size(tmp_path, monkeypatch):
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 2)), y=np.zeros(3))
    monkeypatch.setattr(loaders, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"^datasets: .*: x.npy has 176 bytes, allowed are 100"):
        datasets.load(f"npz:{tmp_path}/data.npz")
    with open(tmp_path / "text", "wb") as file:
        file.truncate(2**42)
    with pytest.raises(ValueError, match="^texts: .*: it has 4,398,046,511,104 bytes, allowed are"):
        text.load_text(f"file:{tmp_path}/text")


def test_an_npz_file_whose_header_promises_terabytes_is_refused_at_once(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 2)), y=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "data.npz") as archive:
        x, y = (archive.read(f"{name}.npy") for name in "xy")
    huge = x.replace(b"(3, 2)", b"(500000000000, 1)").replace(b" " * 11 + b"\n", b"\n")
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", huge)
        archive.writestr("y.npy", y)
    with pytest.raises(
        ValueError, match=r"^datasets: .*header of x.npy asks for \(500000000000, 1\) float64"
    ):
        datasets.load(f"npz:{tmp_path}/huge.npz")


def test_digits_are_those_that_scikit_learn_loads(monkeypatch):
    straight = datasets.load("digits")
    monkeypatch.setattr(loaders, "_digits_file", lambda: None)
    loaded = loaders._sklearn.__wrapped__("digits")
    np.testing.assert_array_equal(straight.x, loaded.x)
    np.testing.assert_array_equal(straight.y, loaded.y)
