import io
import subprocess
import sys

import numpy as np
import pytest

from tasks import make
from tasks.data import datasets, text
from tasks.data import tfds as tfds_data

ROWS, TEST_ROWS = 60, 20


def png(pixels):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three small real TFDS data sets, prepared here without tensorflow."""
    import tensorflow_datasets as tfds

    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (ROWS + TEST_ROWS, 16, 16, 3)).astype(np.uint8)
    features = tfds.features

    class Builder(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(range(ROWS)),
                "test": self._generate_examples(range(ROWS, ROWS + TEST_ROWS)),
            }

        def _generate_examples(self, rows):
            for i in rows:
                yield i, self.example(i)

        def example(self, i):
            raise NotImplementedError

    class TinyImages(Builder):
        def _info(self):
            spec = {"image": features.Image(shape=(16, 16, 3)), "label": features.ClassLabel(num_classes=4)}
            return tfds.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(spec), supervised_keys=("image", "label")
            )

        def example(self, i):
            return {"image": png(images[i]), "label": i % 4}

    class TinyTable(Builder):
        def _info(self):
            spec = {"age": np.float32, "height": np.float32, "who": features.Text(), "weight": np.float32}
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(spec))

        def example(self, i):
            return {"age": i, "height": i * i, "who": f"row {i}", "weight": 3.0 * i + 1}

    root = tmp_path_factory.mktemp("tfds")
    for builder in (TinyImages, TinyTable):
        builder(data_dir=root, file_format="array_record").download_and_prepare()
    builder = TinyImages(data_dir=root / "record", file_format="array_record")
    builder.download_and_prepare()
    info = root / "record" / "tiny_images" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return root, images


def test_images_become_rows_in_their_order_scaled_to_one(data_dir):
    root, images = data_dir
    data = datasets.load(f"tfds:tiny_images?data_dir={root}")
    assert data.shape == (16, 16, 3) and data.num_classes == 4 and "tiny_images/1.0.0" in data.source
    order = [int(np.argmin(np.abs(images / 255 - x.reshape(16, 16, 3)).sum((1, 2, 3)))) for x in data.x]
    assert sorted(order) == list(range(ROWS))
    np.testing.assert_allclose(data.x.reshape(-1, 16, 16, 3), images[order] / 255, atol=1e-6)
    np.testing.assert_array_equal(data.y, np.array(order) % 4)


def test_size_grey_standardise_split_and_limit_are_options(data_dir):
    root, images = data_dir
    small = datasets.load(f"tfds:tiny_images?data_dir={root}&size=8&grey=1&split=test&limit=10")
    assert small.x.shape == (10, 64) and small.shape == (8, 8, 1)
    grey = images @ np.array([0.299, 0.587, 0.114]) / 255
    pooled = grey.reshape(-1, 8, 2, 8, 2).mean((2, 4)).reshape(-1, 64)
    assert all(np.abs(pooled[ROWS:] - x).max(1).min() < 1e-5 for x in small.x)
    scaled = datasets.load(f"tfds:tiny_images?data_dir={root}&standardise=1")
    np.testing.assert_allclose(scaled.x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.x.std(0), 1, atol=1e-4)
    assert len(datasets.load(f"tfds:tiny_images?data_dir={root}&split=train+test").x) == ROWS + TEST_ROWS


def test_a_table_uses_all_numbers_but_the_target(data_dir):
    data = datasets.load(f"tfds:tiny_table?data_dir={data_dir[0]}&target=weight&standardise=1")
    assert data.x.shape == (ROWS, 2) and data.num_classes == 0
    np.testing.assert_allclose(data.y, data.x[:, 0], atol=1e-4)  # weight is linear in age
    one = datasets.load(f"tfds:tiny_table?data_dir={data_dir[0]}&target=weight&limit=5[:3]")
    assert one.x.shape == (3, 2)


def test_text_features_are_joined_and_serve_a_language_model(data_dir):
    name = f"tfds:tiny_table?data_dir={data_dir[0]}"
    content, source = tfds_data.read_text(name.removeprefix("tfds:"))
    assert sorted(content.decode().split("\n")) == sorted(f"row {i}" for i in range(ROWS))
    assert "who" in source
    assert len(text.load_text(name).tokens) == len(content)
    make({"name": "mlp_lm", "texts": (name,)})


def test_the_cache_is_one_file_and_a_damaged_one_is_made_again(data_dir, monkeypatch):
    root, _ = data_dir
    argument = f"tiny_images?data_dir={root}&size=4"
    first = tfds_data.read_table(argument)
    cache = root / "tiny_images" / ".learned_opt_cache"
    before = {path: path.read_bytes() for path in cache.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(tfds_data, "_rows", None)  # a second reading of the rows would fail
        np.testing.assert_array_equal(tfds_data.read_table(argument).x, first.x)
    for path in before:
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(tfds_data.read_table(argument).x, first.x)
    assert {path.name for path in cache.iterdir()} == {path.name for path in before}


def test_a_data_set_that_only_a_directory_knows_is_read_without_tensorflow(data_dir):
    code = (
        "import sys; from tasks.data import datasets\n"
        f"d = datasets.load('tfds:tiny_images?data_dir={data_dir[0]}&size=8')\n"
        "print(d.x.shape, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"({ROWS}, 192) False"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiny_imagez?data_dir={}", ["TFDS has no data set 'tiny_imagez'"]),
        ("mnits?data_dir={}", ["did you mean mnist"]),
        ("mnist?data_dir={}", ["tfds:mnist is not prepared in", "download_and_prepare()", "array_record"]),
        ("tiny_images?data_dir={}/record", ["prepared as tfrecord", "array_record"]),
        ("tiny_images?data_dir={}&split=valid", ["no split 'valid'", "train, test"]),
        ("tiny_images?data_dir={}&siz=8", ["no option 'siz'", "did you mean size?"]),
        ("tiny_images?data_dir={}&size=x", ["option size", "'x'", "integer"]),
        ("tiny_table?data_dir={}", ["target", "weight (Tensor)"]),
        ("tiny_table?data_dir={}&target=weight&input=who", ["'who'", "not an image or a number"]),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_that_says_what_to_do(data_dir, name, words):
    with pytest.raises(ValueError, match="^datasets: ") as error:
        datasets.load("tfds:" + name.format(data_dir[0]))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_images_where_text_is_expected_are_refused(data_dir):
    with pytest.raises(ValueError, match=r"texts: tfds:tiny_images has no text feature .* image \(Image\)"):
        text.load_text(f"tfds:tiny_images?data_dir={data_dir[0]}")


def test_area_averaging_keeps_the_mean_for_any_size():
    x = np.random.RandomState(0).random_sample((7, 5, 2)).astype(np.float32)
    for size in (1, 3, 7, 11):
        resized = tfds_data._resize(tfds_data._resize(x, 0, size), 1, size)
        assert resized.shape == (size, size, 2)
        np.testing.assert_allclose(resized.mean((0, 1)), x.mean((0, 1)), rtol=1e-5)
