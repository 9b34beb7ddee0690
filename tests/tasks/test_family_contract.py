import inspect

import jax
import numpy as np
import pytest

import tasks

# One small instance of every family, and whether its loss depends on the key.
SMALL_IMAGES = {"datasets": ("digits[:300]",), "batch_size": 16}
TINY = {
    "char_rnn": ({"width": 8, "length": 4, "batch_size": 8}, True),
    "classic_function": ({}, False),
    "deep_linear": ({"width": 4, "depth": 2}, True),
    "gaussian_mixture": ({"batch_size": 16}, True),
    "gaussian_process": ({"points": 8}, False),
    "image_autoencoder": ({**SMALL_IMAGES, "hidden": (8,), "latent": 4}, True),
    "image_contrastive": ({**SMALL_IMAGES, "hidden": (8,), "embedding": 4}, True),
    "image_conv": ({**SMALL_IMAGES, "channels": (8, 8)}, True),
    "image_denoiser": ({**SMALL_IMAGES, "hidden": (8,)}, True),
    "image_field": ({"hidden": (8,)}, True),
    "image_mixer": ({**SMALL_IMAGES, "patch": 4, "width": 8}, True),
    "image_mlp": ({"datasets": ("digits[:300]", "teacher:1[:200]"), "hidden": (8,), "batch_size": 16}, True),
    "image_resnet": ({**SMALL_IMAGES, "channels": (4,)}, True),
    "image_vae": ({**SMALL_IMAGES, "hidden": (8,), "latent": 2}, True),
    "image_vit": ({**SMALL_IMAGES, "width": 8}, True),
    "logistic_regression": ({"features": 8}, True),
    "matrix_factorization": ({"rows": 8, "columns": 8, "batch_size": 32}, True),
    "memory_rnn": ({"width": 8, "length": 3}, True),
    "mlp_lm": ({"hidden": (8,), "batch_size": 16}, True),
    "normalizing_flow": ({"layers": 2, "hidden": (8,)}, True),
    "optimizer_in_loop": ({"hidden": (4,), "steps": 5}, True),
    "pendulum_policy": ({"hidden": (8,), "steps": 10}, True),
    "physics_informed": ({"hidden": (8,)}, True),
    "quadratic": ({"dim": 4, "rotated": True}, False),
    "skip_gram": ({"embedding": 4, "batch_size": 64}, True),
    "sparse_regression": ({"features": 16, "rows": 12}, False),
    "tabular_mlp": ({"hidden": (8,)}, True),
    "teacher_mlp": ({"features": 8, "hidden": (8,), "batch_size": 16, "label_noise": 0.1}, True),
    "transformer_lm": ({"width": 8, "length": 4}, True),
    "variational_regression": ({}, True),
}


@pytest.fixture(scope="module", params=sorted(TINY))
def case(request, probe):
    name = request.param
    options, stochastic = TINY[name]
    family = tasks.make({"name": name, **options})
    run = probe(family)
    return family, stochastic, run, run(family.data["train"], jax.random.key(0))


def test_every_registered_family_has_a_small_instance_here():
    assert sorted(TINY) == sorted(tasks.TASKS)


def test_passes_the_check_that_users_families_get(case):
    tasks.check_family(case[0])


def test_losses_are_finite_before_during_and_after_training(case):
    for name, losses in case[3].items():
        assert np.isfinite(losses).all(), name


def test_the_same_key_gives_the_same_losses(case):
    family, _, run, first = case
    again = run(family.data["train"], jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_another_key_gives_another_minibatch(case):
    _, stochastic, _, result = case
    distinct = [len(np.unique(row)) for row in result["after"]]
    assert distinct == [result["after"].shape[1] if stochastic else 1] * len(distinct)


def test_gradient_descent_lowers_the_loss(case):
    result = case[3]
    assert (result["after"].mean(1) < result["before"].mean(1)).all()


def test_the_data_is_an_argument_and_not_part_of_the_program(case, baked_in):
    assert baked_in(case[0]) <= 1000


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_options_are_keyword_only_typed_and_documented_and_have_defaults(name):
    factory = tasks.TASKS[name]
    for option in inspect.signature(factory).parameters.values():
        assert option.kind is option.KEYWORD_ONLY, option
        assert option.annotation is not option.empty, option
        assert option.default is not option.empty, option
        assert f"      {option.name}: " in factory.__doc__, f"{option} is not in the docstring"
