import hashlib
import json

import jax

import tasks
from tasks import rings


def test_the_held_out_tasks_are_the_ones_that_results_were_quoted_for():
    # A change here makes old and new results incomparable: raise rings.VERSION with it.
    text = json.dumps(rings.HELD_OUT, sort_keys=True)
    assert (rings.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, "33032eb206733ccb")


def test_every_held_out_task_can_be_built():
    for name, spec in rings.HELD_OUT.items():
        tasks.check_family(tasks.make(spec), name)


def test_training_on_a_held_out_task_or_a_reserved_seed_is_noticed():
    assert "reserved" in (
        rings.overlap({"name": "image_mlp", "datasets": ["digits", "teacher:9001[:5]"]}) or ""
    )
    as_in_a_file = json.loads(json.dumps(rings.HELD_OUT["tanh_64_64"]))
    assert "tanh_64_64" in (rings.overlap(as_in_a_file) or "")
    assert rings.overlap({"name": "image_mlp", "datasets": ["digits[:1200]", "teacher:1"]}) is None


def test_the_held_out_sizes_are_those_of_their_names():
    sizes = {}
    for name, spec in rings.HELD_OUT.items():
        family = tasks.make(spec)
        task = family.task(family.sample(jax.random.key(0)))
        sizes[name] = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))))
    assert sizes == {"digits_permuted": 2410, "new_teacher": 2410, "tanh_64_64": 8970, "relu_128": 9610}
