import hashlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import tasks
from meta_train.config.file import read
from tasks import rings
from tasks.data.text import load_text

FROZEN = {
    "held_out": "33032eb206733ccb",
    "A": "5f51a14c923eec45",
    "B": "f6275ff7e3a0405e",
    "C": "9568f8339d431189",
    "L": "967b1cf86194d2f9",
    "XL": "772ef3d5b7a5eb0c",
    "sanity": "cd97af7f17f41bb2",
}


@pytest.mark.parametrize("ring", rings.RINGS)
def test_the_rings_are_the_ones_that_results_were_quoted_for(ring):
    # A change of a ring makes old and new results incomparable: raise rings.VERSION with it.
    text = json.dumps(rings.RINGS[ring], sort_keys=True)
    assert (rings.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, FROZEN[ring])


def test_the_old_rings_are_unchanged_by_the_ladder():
    old = {name: ring for name, ring in rings.RINGS.items() if name not in ("L", "XL")}
    text = json.dumps(old, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "9dfd76c2e5992a22"


@pytest.mark.parametrize(("ring", "name"), [(r, n) for r, members in rings.RINGS.items() for n in members])
def test_every_task_of_a_ring_can_be_built_from_data_that_come_with_python(ring, name):
    spec = rings.RINGS[ring][name]
    tasks.check_family(tasks.make(spec), name)
    assert rings.overlap(json.loads(json.dumps(spec)))


def test_training_on_a_reserved_seed_is_noticed_and_ordinary_training_is_not():
    assert "reserved" in (
        rings.overlap({"name": "image_mlp", "datasets": ["digits", "teacher:9001[:5]"]}) or ""
    )
    assert "reserved" in (rings.overlap({"name": "image_mlp", "datasets": ["digits"]}) or "")
    assert "reserved" in (rings.overlap({"name": "image_mlp", "datasets": ["digits[100:1300]"]}) or "")
    assert "reserved" in (rings.overlap({"name": "char_rnn", "texts": ["markov:9000"]}) or "")
    assert "reserved" in (rings.overlap({"name": "image_mlp", "datasets": ["deformed:9401"]}) or "")
    for text in ("pydoc", "pydoc[200000:300000]", "pydoc[:200001]"):
        assert "use 'pydoc[:200000]'" in (rings.overlap({"name": "char_rnn", "texts": [text]}) or "")
    assert rings.overlap({"name": "char_rnn", "texts": ["pydoc[:200000]"]}) is None
    assert rings.overlap({"name": "image_mlp", "datasets": ["digits[:1200]", "teacher:1"]}) is None


def parameters(spec):
    family = tasks.make(spec)
    task = family.task(family.sample(jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))))


@pytest.mark.parametrize("name", [*rings.RING_L, *rings.RING_XL])
def test_a_rung_of_the_ladder_has_the_size_of_its_name(name):
    spec = {**rings.RING_L, **rings.RING_XL}[name]
    named = float(name.rpartition("_")[2])
    assert 0.7 < parameters(spec) / named < 1.5
    if spec["name"] == "transformer_lm":
        assert spec["length"] * spec["batch_size"] >= 1000


def test_the_splits_of_the_ladder_share_no_text_and_no_digit():
    family = tasks.make(rings.RING_L["lm_1e4"])
    whole = bytes(np.asarray(load_text("pydoc").tokens))
    start = 0
    for split in ("train", "valid", "test"):
        tokens = bytes(np.asarray(family.data[split]["tokens"][0]))
        start = whole.index(tokens, start) + len(tokens)
    # Rows of the deformed digits -> the digit that each is made of.
    digit = 5 * (np.arange(19040) // 160) + np.arange(19040) % 5
    learnt, test = digit[:15040], digit[15040:]
    valid = np.arange(15040) % 5 == 4
    parts = [set(learnt[~valid]), set(learnt[valid]), set(test)]
    assert [len(part) for part in parts] == [376, 94, 125]
    assert not parts[0] & parts[1] and not (parts[0] | parts[1]) & parts[2]


def specs(config):
    """The tasks that a config trains and selects on, at any depth (a population's trainer has a config)."""
    for key, value in config.items():
        if key == "tasks" and isinstance(value, list):
            yield from value
        elif isinstance(value, dict) and key != "evaluation":
            yield from specs(value)


SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("**/*.y*ml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_shipped_config_trains_or_selects_on_an_evaluation_task(path):
    config = read(path)
    for spec in specs(config):
        task = {key: value for key, value in tasks.expand(spec).items() if key not in ("weight", "label")}
        assert rings.overlap(task) is None, f"{path.name}: {rings.overlap(task)}"
    for trains in (c for c in (config, config.get("trainer", {}).get("config", {})) if "outer_steps" in c):
        assert list(specs(trains)), f"{path.name}: no tasks were found in it"


def test_the_held_out_sizes_are_those_of_their_names():
    sizes = {name: parameters(spec) for name, spec in rings.HELD_OUT.items()}
    assert sizes == {"digits_permuted": 2410, "new_teacher": 2410, "tanh_64_64": 8970, "relu_128": 9610}
