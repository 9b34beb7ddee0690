"""Atomic writes: old content or new, no litter, and locks that end with their process."""

import os
import subprocess
import sys

import pytest

from learned_opt.artefact import atomic
from learned_opt.artefact.reading import FileError, one_line, parse_json, read_bytes, read_text


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    for content in ("a", b"b", "c" * 10**6):
        atomic.write_file(tmp_path / "f", content)
        assert (tmp_path / "f").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["f"]
    atomic.write_file(tmp_path / ("n" * 255), "a name as long as there can be")


def test_a_directory_is_replaced_also_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    atomic.write_directory(tmp_path / "up" / "d", {"a": b"1"})
    atomic.write_directory(tmp_path / "up" / "d", {"b": b"2"})
    assert os.listdir(tmp_path / "up" / "d") == ["b"]
    monkeypatch.setattr(atomic, "_exchanged", lambda a, b: False)
    atomic.write_directory(tmp_path / "up" / "d", {"c": b"3"})
    assert os.listdir(tmp_path / "up" / "d") == ["c"] and os.listdir(tmp_path / "up") == ["d"]


def test_what_an_interrupted_exchange_set_aside_comes_back(tmp_path):
    (tmp_path / ".d.old-1").mkdir()
    (tmp_path / ".d.old-1" / "a").write_text("1")
    assert (atomic.settled(tmp_path / "d") / "a").read_text() == "1"


def test_litter_of_dead_writers_goes_and_that_of_live_ones_and_files_of_others_stay(tmp_path):
    (tmp_path / ".f.new-dead").write_text("half")
    (tmp_path / ".f.new-live").write_text("half")
    (tmp_path / ".f.backup").write_text("mine")
    with atomic._flock(tmp_path / ".f.new-live"):
        atomic.write_file(tmp_path / "f", "x")
        assert sorted(os.listdir(tmp_path)) == [".f.backup", ".f.new-live", "f"]


def test_a_lock_names_its_holder_and_ends_with_the_process(tmp_path):
    code = f"""
from pathlib import Path
from learned_opt.artefact import atomic
with atomic.locked(Path({str(tmp_path / "lock")!r})):
    print("held", flush=True)
    input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(atomic.Busy, match=f"^process {holder.pid} on "), atomic.locked(tmp_path / "lock"):
            pass
        holder.kill()
    with atomic.locked(tmp_path / "lock"):
        pass


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    atomic.write_file(tmp_path / "f", "old")
    atomic.write_directory(tmp_path / "d", {"a": b"old"})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_file(tmp_path / "f", "new")
    with pytest.raises(OSError, match="No space"):
        atomic.write_directory(tmp_path / "d", {"a": b"new"})
    assert (tmp_path / "f").read_text() == "old" and (tmp_path / "d" / "a").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["d", "f"]


def test_what_cannot_be_read_is_one_line_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**42)
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for name, reason in (
        ("fifo", "not a regular file"),
        ("huge", "it has 4,398,046,511,104 bytes, allowed are 8,388,608"),
        ("latin", "is not UTF-8 text .byte 3."),
        ("nothing", "No such file"),
        (".", "directory"),
        ("a\0b", "null (byte|character)"),
        ("a\x1b[31m\n", "No such file"),
    ):
        with pytest.raises(FileError, match=reason) as error:
            read_text(tmp_path / name)
        assert str(error.value).isprintable()
    with pytest.raises(FileError, match="not a regular file"):
        read_bytes("/dev/zero")


def test_json_is_bounded_in_depth_and_in_digits_and_text_is_not_taken_for_depth():
    for text, reason in (
        (b"[" * 100_000, "nested more than 100 deep"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested more than 100 deep"),
        (b"1" * 10_000, "not JSON .Exceeds the limit"),
        (b"\xff", "not JSON"),
        (b"", "not JSON"),
    ):
        with pytest.raises(FileError, match=reason):
            parse_json(text, "x")
    assert parse_json(b'"' + b'[\\"' * 200 + b'"', "x") == '["' * 200
    assert parse_json(b"[" * 100 + b"]" * 100, "x")
    assert len(parse_json(b"[" + b"[]," * 1000 + b"[]]", "x")) == 1001
    assert one_line("a\n b\x1b[0m" + "c" * 400, 10) == "a b?[0mccc ..."
