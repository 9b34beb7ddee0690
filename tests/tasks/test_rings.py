import hashlib
import json
from pathlib import Path

import jax
import pytest
import yaml

import tasks
from tasks import rings


def test_the_rings_are_the_ones_that_results_were_quoted_for():
    # A change here makes old and new results incomparable: raise rings.VERSION with it.
    text = json.dumps(rings.RINGS, sort_keys=True)
    assert (rings.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, "9dfd76c2e5992a22")


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
    assert rings.overlap({"name": "image_mlp", "datasets": ["digits[:1200]", "teacher:1"]}) is None


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
    config = yaml.safe_load(path.read_text())
    for spec in specs(config):
        task = {key: value for key, value in tasks.expand(spec).items() if key not in ("weight", "label")}
        assert rings.overlap(task) is None, f"{path.name}: {rings.overlap(task)}"
    for trains in (c for c in (config, config.get("trainer", {}).get("config", {})) if "outer_steps" in c):
        assert list(specs(trains)), f"{path.name}: no tasks were found in it"


def test_the_held_out_sizes_are_those_of_their_names():
    sizes = {}
    for name, spec in rings.HELD_OUT.items():
        family = tasks.make(spec)
        task = family.task(family.sample(jax.random.key(0)))
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))))
    assert sizes == {"digits_permuted": 2410, "new_teacher": 2410, "tanh_64_64": 8970, "relu_128": 9610}
