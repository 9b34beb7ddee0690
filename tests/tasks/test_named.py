import inspect
import json

import jax
import numpy as np
import pytest

import tasks
from tasks import rings
from tasks.named import NAMED


def test_there_are_at_least_60_named_tasks_of_30_families_or_more():
    assert len(NAMED) >= 60 and len({spec["name"] for spec in NAMED.values()}) >= 30
    specs = [repr(sorted(spec.items())) for spec in NAMED.values()]
    assert len(set(specs)) == len(specs)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_task_builds_passes_the_check_and_is_not_held_out(name):
    tasks.check_family(tasks.make(NAMED[name]), name)
    assert rings.overlap(NAMED[name]) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_named_task_is_finite_and_training_lowers_it(name, probe):
    family = tasks.make(NAMED[name])
    result = probe(family, 0.01, 100)(family.data["train"], jax.random.key(0))
    assert all(np.isfinite(losses).all() for losses in result.values())
    assert result["after"].mean() < result["before"].mean()


def test_a_named_task_can_be_made_by_name_and_its_options_overridden():
    assert tasks.expand({"name": "digits_mlp_128"}) == NAMED["digits_mlp_128"]
    assert tasks.expand({"name": "digits_mlp_128", "batch_size": 4})["batch_size"] == 4
    family = tasks.make({"name": "digits_mlp_128", "hidden": (3,)})
    init = family.task(family.sample(jax.random.key(0))).init
    assert jax.eval_shape(init, jax.random.key(0))["linear_0"]["w"].shape == (64, 3)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_task_is_known_by_its_spec_as_json_holds_it(name):
    spec = json.loads(json.dumps(tasks.expand({"name": name})))
    assert tasks.name_of({**spec, "weight": 2, "label": "x"}, "none") == name
    option = next(iter(inspect.signature(tasks.TASKS[spec["name"]]).parameters))
    assert tasks.name_of({**spec, option: "another"}, "none") == "none"


def test_defaults_that_are_spelt_out_do_not_hide_a_named_task():
    assert tasks.name_of({"name": "image_mlp", "hidden": [], "batch_size": 64}, "none") == "digits_softmax"
    assert tasks.name_of({"name": "mine"}, "none") == "none"
