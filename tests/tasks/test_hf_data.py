import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data import datasets

PIXELS = np.random.RandomState(0).randint(0, 256, (30, 6, 6)).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set of images in two files of a split, as on the hub, and a plain table."""
    from PIL import Image

    root = tmp_path_factory.mktemp("hf")
    (root / "images" / "data").mkdir(parents=True)
    info = {"info": {"features": {"label": {"names": ["a", "b", "c", "d"]}}}}
    metadata = {b"huggingface": json.dumps(info).encode()}
    for part, rows in enumerate((range(20), range(20, 30))):
        images = []
        for i in rows:
            file = io.BytesIO()
            Image.fromarray(PIXELS[i]).save(file, "PNG")
            images.append({"bytes": file.getvalue(), "path": f"{i}.png"})
        table = pa.table({"image": images, "label": [i % 3 for i in rows]}).replace_schema_metadata(metadata)
        pq.write_table(table, root / "images" / "data" / f"train-0000{part}-of-00002.parquet")
    table = pa.table(
        {"a": np.arange(10.0), "name": [str(i) for i in range(10)], "b": np.ones(10), "y": np.arange(10.0)}
    )
    pq.write_table(table, root / "table.parquet")
    return root


def test_images_come_in_order_with_the_classes_that_the_file_declares(root):
    data = datasets.load(f"hf:{root}/images")
    np.testing.assert_allclose(data.x.reshape(30, 6, 6), PIXELS / 255, rtol=1e-6)
    np.testing.assert_array_equal(data.y, np.arange(30) % 3)
    assert data.num_classes == 4 and data.shape == (6, 6, 1)
    assert datasets.load(f"hf:{root}/images?size=3&limit=8").x.shape == (8, 9)


def test_a_table_uses_its_number_columns(root):
    data = datasets.load(f"hf:{root}/table.parquet")
    assert data.x.shape == (10, 2) and data.num_classes == 0
    np.testing.assert_array_equal(data.x[:, 0], np.arange(10))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}/images?split=test", "no split 'test' .*train-00000-of-00002.parquet"),
        ("{}/nothing.parquet", "cannot read hf:"),
        ("{}/table.parquet?target=z", "no column 'z'; say .target=NAME, one of: a, name, b, y"),
        ("{}/table.parquet?input=name", "no number or image column among: name"),
        ("{}/table.parquet?input=q", "no column 'q'"),
        ("{}/table.parquet?inptu=a", "no option 'inptu'; did you mean input"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(root, name, words):
    with pytest.raises(ValueError, match=f"^datasets: .*{words}") as error:
        datasets.load("hf:" + name.format(root))
    assert "\n" not in str(error.value)
