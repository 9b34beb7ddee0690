"""Names of data that hold a path, and texts in Parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data import paths, text


@pytest.mark.parametrize(
    ("name", "absolute", "short"),
    [
        ("npz:a/b.npz[:100]", "npz:/here/a/b.npz[:100]", "npz:b.npz[:100]"),
        ("npz:/there/b.npz", "npz:/there/b.npz", "npz:b.npz"),
        ("file:../b.txt", "file:/b.txt", "file:b.txt"),
        (
            "hf:data?split=test&input=x/y",
            "hf:/here/data?split=test&input=x/y",
            "hf:data?split=test&input=x/y",
        ),
        ("tfds:mnist?split=a+b&data_dir=d/e", "tfds:mnist?split=a+b&data_dir=/here/d/e", None),
        ("tfds:mnist?size=8", "tfds:mnist?size=8", "tfds:mnist?size=8"),
        ("tfds:mnist", "tfds:mnist", "tfds:mnist"),
        ("digits[:1200]", "digits[:1200]", "digits[:1200]"),
        ("teacher:3", "teacher:3", "teacher:3"),
        ("npz:", "npz:", "npz:"),
    ],
)
def test_a_path_in_a_name_becomes_absolute_or_loses_its_directories_and_nothing_else_changes(
    name, absolute, short
):
    assert paths.absolute(name, Path("/here")) == absolute
    assert paths.short(absolute) == (short or "tfds:mnist?split=a+b&data_dir=e")


def test_the_home_directory_may_be_written_short(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.absolute("npz:~/x.npz", Path("/here")) == "npz:/home/me/x.npz"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "train.parquet"
    table = pa.table({"id": [1, 2, 3], "text": ["one two", None, "three"], "title": ["A", "B", "C"]})
    pq.write_table(table, file)
    return file


def test_a_text_is_the_rows_of_the_first_text_column_or_of_the_one_that_is_named(file):
    whole = text.load_text(f"hf:{file}")
    expected = text._from_bytes(b"one two\nthree", "")
    assert whole.tokens.tolist() == expected.tokens.tolist()
    assert f"file {file}, train, text" in whole.source
    assert len(text.load_text(f"hf:{file}?input=title").tokens) == 5
    assert len(text.load_text(f"hf:{file.parent}?limit=1[2:5]").tokens) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:{}?input=id", "has no text column 'id', it has: id, text, title$"),
        ("hf:{}?split=test", "cannot read|has no split 'test'"),
        ("hf:nothing.parquet", "cannot read hf:nothing.parquet"),
        ("hff:{}", "unknown text .*did you mean hf"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_in_one_line(file, name, words):
    with pytest.raises(ValueError, match=words) as caught:
        text.load_text(name.format(file.parent if "split" in name else file))
    assert len(str(caught.value).splitlines()) == 1
