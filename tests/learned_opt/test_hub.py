"""Artefacts on the hub, without a network: a folder behaves like it; and the model card."""

import shutil
import sys
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest

import learned_opt
from learned_opt import ArtefactError, load, push_to_hub, read
from learned_opt.artefact.format import CARD, CONFIG, WEIGHTS

EVALUATION = {
    "table": {"head": ["held-out task", "steps", "ratio"], "rows": [["a|b", 200, 0.4881], ["c", 500, None]]},
    "notes": ["speed-up 1.97x", "diverged: 0%"],
    "cells": [{"seeds": [1, 2, 3]}],
}


def save(directory, **more):
    arguments = {
        "name": "residual",
        "options": {"hidden": 2},
        "theta": learned_opt.residual(hidden=2).init(jax.random.key(0)),
        "horizon": (100, 500),
        "provenance": {"outer_step": 7, "jax": "0.10"},
        "config": {
            "tasks": [{"name": "image_mlp", "label": "small"}, {"name": "quadratic"}],
            "seed": 3,
            "mesh": {},
        },
        "evaluation": EVALUATION,
    }
    learned_opt.save(directory, **(arguments | more))
    return directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("artefact") / "lo")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder for each repository and revision; what is not there is refused as the hub does."""
    root = tmp_path / "hub"

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        (root / repo_id / "main").mkdir(parents=True, exist_ok=exist_ok)
        (root / repo_id / "main" / ".gitattributes").write_text("")

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
        shutil.copytree(folder_path, root / repo_id / (revision or "main"), dirs_exist_ok=True)

    def snapshot_download(repo_id, *, revision, allow_patterns):
        found = root / repo_id / (revision or "main")
        if not found.is_dir():
            raise huggingface_hub.errors.LocalEntryNotFoundError(f"404\nRepository Not Found: {repo_id}")
        local = tmp_path / "cache" / repo_id / (revision or "main")
        local.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (found / name).is_file():
                shutil.copy(found / name, local / name)
        return str(local)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return root


def test_what_was_pushed_comes_back_bitwise(saved, hub):
    name = push_to_hub(saved, "user/name")
    assert name == "hub:user/name"
    there = hub / "user/name/main"
    assert sorted(p.name for p in there.iterdir()) == [".gitattributes", CARD, CONFIG, WEIGHTS]
    for file in (CONFIG, WEIGHTS):
        assert (there / file).read_bytes() == (saved / file).read_bytes()
    before, after = read(saved), read(name)
    assert after[2:] == before[2:]
    for a, b in zip(jax.tree.leaves(before.theta), jax.tree.leaves(after.theta), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    tx = load(name, num_steps=100)
    state = tx.init({"w": np.ones(3, np.float32)})
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_the_card_of_the_hub_names_its_repository(saved, hub):
    push_to_hub(saved, "user/name")
    card = (hub / "user/name/main" / CARD).read_text(encoding="utf-8")
    assert 'learned_opt.load("hub:user/name", num_steps=1000)' in card and "USER" not in card


def my_residual(*, hidden: int = 4):
    """A network of my own."""
    return learned_opt.residual(hidden=hidden)


def test_an_architecture_of_one_s_own_is_published_and_whoever_loads_it_gives_its_factory(hub, tmp_path):
    mine = save(tmp_path / "mine", name="mine.py:my_residual", architecture=my_residual)
    name = push_to_hub(mine, "user/name")
    with pytest.raises(ArtefactError, match="unknown architecture 'mine.py:my_residual'"):
        load(name, num_steps=100)
    tx = load(name, num_steps=100, architecture=my_residual)
    assert jax.tree.leaves(tx.init({"w": np.ones(3, np.float32)}))
    card = (hub / "user/name/main" / CARD).read_text(encoding="utf-8")
    assert 'load("hub:user/name", num_steps=1000, architecture=my_residual)' in card
    assert "A network of my own." in card and "is not a part of `learned_opt`" in card
    with pytest.raises(ArtefactError, match=r"does not fit the architecture at"):
        read(name, architecture=lambda *, hidden: learned_opt.residual(hidden=hidden + 1))


def test_a_revision_is_kept_apart(saved, hub, tmp_path):
    push_to_hub(saved, "user/name")
    other = save(tmp_path / "other", horizon=7)
    assert push_to_hub(other, "user/name", revision="v2") == "hub:user/name@v2"
    assert read("hub:user/name").horizon == [100, 500] and read("hub:user/name@v2").horizon == 7


def test_without_a_network_the_cache_is_used(saved, tmp_path, monkeypatch):
    """huggingface_hub's own function, on a cache laid out as it lays it out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--user--name"
    shutil.copytree(saved, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert read("hub:user/name").provenance == read(saved).provenance
    assert read(f"hub:user/name@{'a' * 40}").name == "residual"
    with pytest.raises(ArtefactError, match="hub:user/other cannot be downloaded: ") as error:
        load("hub:user/other")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["hub:", "hub:name", "hub:a/b/c", "hub:../x", "hub:a/b@", "hub:a b/c"])
def test_what_is_no_name_is_refused(name, hub):
    with pytest.raises(ArtefactError, match="is no name on the hub: it should be hub:user/name"):
        load(name)


def test_a_repository_that_does_not_exist_is_refused_in_one_line(hub):
    with pytest.raises(ArtefactError, match="^hub:user/name cannot be downloaded: 404 Repository Not Found"):
        load("hub:user/name")


def test_a_repository_that_is_no_artefact_is_refused(hub):
    (hub / "user/llama/main").mkdir(parents=True)
    with pytest.raises(ArtefactError, match="hub:user/llama is not an artefact: it has no config.json"):
        load("hub:user/llama")
    (hub / "user/llama/main" / CONFIG).write_text('{"architectures": ["Llama"]}')
    with pytest.raises(ArtefactError, match="hub:user/llama is not an artefact: it has no theta.safetensors"):
        load("hub:user/llama")
    (hub / "user/llama/main" / WEIGHTS).write_bytes(b"")
    with pytest.raises(ArtefactError, match="config.json is not of an artefact"):
        load("hub:user/llama")


@pytest.mark.parametrize(
    ("file", "message"), [(CONFIG, "config.json is damaged"), (WEIGHTS, "theta.safetensors is damaged")]
)
def test_a_digest_that_does_not_match_is_refused(saved, hub, file, message):
    push_to_hub(saved, "user/name")
    content = bytearray((hub / "user/name/main" / file).read_bytes())
    content[len(content) // 2] ^= 1
    (hub / "user/name/main" / file).write_bytes(content)
    with pytest.raises(ArtefactError, match=message):
        load("hub:user/name")


def test_what_is_no_artefact_is_not_uploaded(saved, hub, tmp_path):
    shutil.copytree(saved, tmp_path / "lo")
    (tmp_path / "lo" / WEIGHTS).write_bytes(b"other")
    with pytest.raises(ArtefactError, match="is damaged"):
        push_to_hub(tmp_path / "lo", "user/name")
    with pytest.raises(ArtefactError, match="'hub:name' is no name"):
        push_to_hub(saved, "name")
    assert not hub.exists()


def test_a_refusal_of_the_hub_is_one_line(saved, hub, monkeypatch):
    def refuse(self, repo_id, **more):
        raise OSError("403 Forbidden\nyour token may not write")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(
        ArtefactError, match="^hub:user/name cannot be uploaded: 403 Forbidden your token may not write$"
    ):
        push_to_hub(saved, "user/name")


def test_without_huggingface_hub_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: load("hub:user/name"), lambda: push_to_hub(saved, "user/name")):
        with pytest.raises(ImportError, match=r"pip install 'learned-opt\[hub\]'"):
            call()


def test_the_card_has_metadata_that_the_hub_reads_and_the_evaluation(saved):
    text = (saved / CARD).read_text(encoding="utf-8")
    data = huggingface_hub.ModelCard(text).data.to_dict()
    assert data["library_name"] == "learned-opt"
    assert {"learned-optimizer", "optax", "residual"} <= set(data["tags"])
    assert (
        "| held-out task | steps | ratio |\n| --- | --- | --- |\n| a\\|b | 200 | 0.488 |\n| c | 500 | - |"
        in text
    )
    assert "* speed-up 1.97x\n* diverged: 0%\n" in text and "seeds" not in text
    assert "| tasks | image_mlp (small), quadratic |" in text and "| outer_step | 7 |" in text
    assert "mesh" not in text and "100 to 500" in text
    size = sum(x.size for x in jax.tree.leaves(read(saved).theta))
    assert f"{size} meta-parameters" in text


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        ([{"task": "t", "loss": 0.12345}, {"task": "u", "lr": 1}], "| t | 0.123 | - |\n| u | - | 1 |"),
        ("see the paper", "`see the paper`"),
    ],
)
def test_an_evaluation_of_another_form_is_shown_as_it_is(evaluation, expected, tmp_path):
    text = (save(tmp_path / "lo", evaluation=evaluation) / CARD).read_text(encoding="utf-8")
    assert "## Evaluation" in text and expected in text


def test_the_code_in_the_card_loads_the_artefact(saved, hub):
    push_to_hub(saved, "user/name")
    text = Path(hub / "user/name/main" / CARD).read_text(encoding="utf-8")
    names = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert hasattr(names["tx"], "update")
