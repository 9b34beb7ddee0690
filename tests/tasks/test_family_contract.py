import inspect

import jax
import numpy as np
import pytest

import tasks

DIGITS = {"datasets": ("digits[:300]",), "batch_size": 16}
# A small instance for the contract tests, where the defaults are not small; a family without one is as it is.
TINY: dict[str, dict] = {
    "char_rnn": {"width": 8, "length": 4, "batch_size": 8},
    "deep_linear": {"width": 4, "depth": 2},
    "gaussian_mixture": {"batch_size": 16},
    "gaussian_process": {"points": 8},
    "image_autoencoder": {**DIGITS, "hidden": (8,), "latent": 4},
    "image_contrastive": {**DIGITS, "hidden": (8,), "embedding": 4},
    "image_conv": {**DIGITS, "channels": (8, 8)},
    "image_denoiser": {**DIGITS, "hidden": (8,)},
    "image_field": {"hidden": (8,)},
    "image_mixer": {**DIGITS, "patch": 4, "width": 8},
    "image_mlp": {"datasets": ("digits[:300]", "teacher:1[:200]"), "hidden": (8,), "batch_size": 16},
    "image_resnet": {**DIGITS, "channels": (4,)},
    "image_vae": {**DIGITS, "hidden": (8,), "latent": 2},
    "image_vit": {**DIGITS, "width": 8},
    "logistic_regression": {"features": 8},
    "matrix_factorization": {"rows": 8, "columns": 8, "batch_size": 32},
    "memory_rnn": {"width": 8, "length": 3},
    "mlp_lm": {"hidden": (8,), "batch_size": 16},
    "normalizing_flow": {"layers": 2, "hidden": (8,)},
    "optimizer_in_loop": {"hidden": (4,), "steps": 5},
    "pendulum_policy": {"hidden": (8,), "steps": 10},
    "physics_informed": {"hidden": (8,)},
    "quadratic": {"dim": 4, "rotated": True},
    "skip_gram": {"embedding": 4, "batch_size": 64},
    "sparse_regression": {"features": 16, "rows": 12},
    "tabular_mlp": {"hidden": (8,)},
    "teacher_mlp": {"features": 8, "hidden": (8,), "batch_size": 16, "label_noise": 0.1},
    "transformer_lm": {"width": 8, "length": 4},
}
# Families whose loss does not depend on the key: there are no minibatches.
NO_MINIBATCHES = {"classic_function", "gaussian_process", "quadratic", "sparse_regression"}


@pytest.fixture(scope="module", params=sorted(tasks.TASKS))
def case(request, probe):
    name = request.param
    options, stochastic = TINY.get(name, {}), name not in NO_MINIBATCHES
    family = tasks.make({"name": name, **options})
    run = probe(family)
    return family, stochastic, run, run(family.data["train"], jax.random.key(0))


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
def test_options_are_keyword_only_and_typed_and_have_defaults(name):
    factory = tasks.TASKS[name]
    for option in inspect.signature(factory).parameters.values():
        assert option.kind is option.KEYWORD_ONLY, option
        assert option.annotation is not option.empty, option
        assert option.default is not option.empty, option


# House style: of the families that have named tasks. Nothing of it is needed to be right.
@pytest.mark.parametrize("name", sorted({spec["name"] for spec in tasks.NAMED.values()}))
def test_every_option_is_documented(name):
    for option in inspect.signature(tasks.TASKS[name]).parameters:
        assert f"\n  {option}: " in (inspect.getdoc(tasks.TASKS[name]) or ""), option
