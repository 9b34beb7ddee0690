"""Every optax optimizer by name, with any schedule, from plain options."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from meta_train.cli.describe import describe
from meta_train.config.outer_optimizer import NOT_OFFERED, fill, optimizers, outer_optimizer, schedules
from meta_train.config.registry import check
from meta_train.errors import ConfigError

THETA = {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.ones((2, 2))}
GRADS = {"w": jnp.array([0.5, 1.0, -0.25]), "b": jnp.full((2, 2), -2.0)}


def trajectory(optimizer, num_steps=4):
    theta, state = THETA, optimizer.init(THETA)
    for _ in range(num_steps):
        updates, state = optimizer.update(GRADS, state, theta)
        theta = optax.apply_updates(theta, updates)
    return theta


def problems(spec):
    with pytest.raises(ConfigError) as error:
        outer_optimizer(spec, 100)
    return str(error.value).splitlines()


@pytest.mark.parametrize("name", sorted(optimizers()))
def test_every_optimizer_offered_needs_nothing_but_a_gradient(name):
    optimizer = outer_optimizer({"name": name, "learning_rate": 0.1}, 10)

    def step(theta, grads):
        updates, state = optimizer.update(grads, optimizer.init(theta), theta, value=jnp.float32(1))
        return optax.apply_updates(theta, updates), state

    theta, state = jax.eval_shape(step, THETA, GRADS)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), theta) == jax.tree.map(
        lambda x: (x.shape, x.dtype), THETA
    )
    assert jax.tree.structure(state) == jax.tree.structure(jax.eval_shape(optimizer.init, THETA))


def test_all_that_optax_calls_an_optimizer_is_offered_or_has_a_reason_not_to_be():
    found = {
        name
        for module in (optax, optax.contrib)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and "learning_rate" in inspect.signature(function).parameters
    }
    assert found - set(optimizers()) <= set(NOT_OFFERED)
    assert {"adam", "adamw", "sgd", "lion", "muon", "prodigy"} <= set(optimizers())


@pytest.mark.parametrize("name", sorted(NOT_OFFERED))
def test_what_is_not_offered_is_refused(name):
    assert problems({"name": name, "learning_rate": 0.1})[0].startswith(
        f'outer_optimizer.name: unknown name (value "{name}")'
    )


@pytest.mark.parametrize("name", sorted(optimizers()))
def test_the_options_of_an_optimizer_are_optax_s_own_with_its_defaults(name):
    function = getattr(optax, name, None) or getattr(optax.contrib, name)
    parameters = inspect.signature(function).parameters
    filled, found = fill({"name": name, "learning_rate": 0.1})
    assert not found and fill(filled) == (filled, [])
    ours = {"name", "learning_rate", "clip_norm", "key"}
    for option in set(filled) - ours:
        default = parameters[option].default
        assert filled[option] == (list(default) if isinstance(default, tuple) else default)
    left_out = [option for option in parameters if option not in filled]  # what only a program can give
    assert [option for option in left_out if not any(word in option for word in PROGRAM)] == []


PROGRAM = ("mask", "dtype", "_fn", "dimension_numbers", "seed", "base_optimizer")


def test_the_optimizer_built_is_optax_s():
    spec = {"name": "adam", "learning_rate": 0.1, "b2": 0.99}
    expected = trajectory(optax.adam(0.1, b2=0.99))
    jax.tree.map(np.testing.assert_array_equal, trajectory(outer_optimizer(spec, 10)), expected)


def test_clipping_comes_first():
    spec = {"name": "sgd", "learning_rate": 1.0, "clip_norm": 0.5}
    change = jax.tree.map(jnp.subtract, THETA, trajectory(outer_optimizer(spec, 10), 1))
    np.testing.assert_allclose(optax.tree.norm(change), 0.5, rtol=1e-6)


def test_a_schedule_lasts_the_whole_run_unless_told_otherwise_and_counts_updates():
    rate = {"schedule": "cosine", "init_value": 0.1, "alpha": 0.02}
    built = trajectory(outer_optimizer({"name": "sgd", "learning_rate": rate}, 4))
    expected = trajectory(optax.sgd(optax.cosine_decay_schedule(0.1, 4, alpha=0.02)))
    jax.tree.map(np.testing.assert_array_equal, built, expected)
    built = trajectory(outer_optimizer({"name": "sgd", "learning_rate": rate | {"decay_steps": 2}}, 4))
    expected = trajectory(optax.sgd(optax.cosine_decay_schedule(0.1, 2, alpha=0.02)))
    jax.tree.map(np.testing.assert_array_equal, built, expected)


SCHEDULES = {
    "constant_schedule": ({"value": 0.1}, [0.1, 0.1]),
    "cosine_decay_schedule": ({"init_value": 0.1}, [0.1, 0.0]),
    "cosine_onecycle_schedule": ({"peak_value": 0.1}, [0.004, 4e-7]),
    "exponential_decay": ({"init_value": 0.1, "decay_rate": 0.5}, [0.1, 0.05]),
    "join_schedules": (
        {
            "schedules": [
                {"schedule": "linear", "init_value": 0.0, "end_value": 0.1, "transition_steps": 10},
                {"schedule": "constant", "value": 0.3},
            ],
            "boundaries": [10],
        },
        [0.0, 0.3],
    ),
    "linear_onecycle_schedule": ({"peak_value": 0.1}, [0.004, 4e-7]),
    "linear_schedule": ({"init_value": 0.1, "end_value": 0.2}, [0.1, 0.2]),
    "piecewise_constant_schedule": ({"init_value": 0.1, "boundaries_and_scales": {50: 0.5}}, [0.1, 0.05]),
    "piecewise_interpolate_schedule": (
        {"interpolate_type": "linear", "init_value": 0.1, "boundaries_and_scales": {50: 0.5}},
        [0.1, 0.05],
    ),
    "polynomial_schedule": ({"init_value": 0.1, "end_value": 0.0, "power": 2}, [0.1, 0.0]),
    "sgdr_schedule": (
        {"cosine_kwargs": [{"init_value": 0, "peak_value": 0.1, "warmup_steps": 5, "decay_steps": 50}] * 2},
        [0.0, 0.0],
    ),
    "warmup_constant_schedule": ({"init_value": 0, "peak_value": 0.1, "warmup_steps": 5}, [0.0, 0.1]),
    "warmup_cosine_decay_schedule": ({"init_value": 0, "peak_value": 0.1, "warmup_steps": 5}, [0.0, 0.0]),
    "warmup_exponential_decay_schedule": (
        {"init_value": 0, "peak_value": 0.1, "warmup_steps": 0, "decay_rate": 0.5},
        [0.1, 0.05],
    ),
}


@pytest.mark.parametrize("name", sorted(schedules()))
def test_every_schedule_of_optax_begins_and_ends_where_it_should(name):
    options, (first, last) = SCHEDULES[name]
    spec = {"name": "sgd", "learning_rate": {"schedule": name, **options}}
    filled, found = fill(spec)
    assert not found and fill(filled) == (filled, [])
    rate = schedules()[name]  # through the optimizer: one step of sgd moves by the rate
    assert rate.__name__ == name
    optimizer = outer_optimizer(filled, 100)
    ones = {"w": jnp.ones(())}
    update = jax.jit(optimizer.update)
    state, moves = optimizer.init(ones), []
    for _ in range(101):
        updates, state = update(ones, state, ones)
        moves.append(-float(updates["w"]))
    np.testing.assert_allclose([moves[0], moves[100]], [first, last], atol=1e-6)


def test_a_schedule_s_name_may_be_shortened():
    rate = {"init_value": 0.1}
    for name in ("cosine", "cosine_decay", "cosine_decay_schedule"):
        filled, found = fill({"name": "sgd", "learning_rate": {"schedule": name, **rate}})
        assert not found and filled["learning_rate"]["schedule"] == "cosine_decay_schedule"


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        ({"learning_rate": 1}, ["name: is required, but not given; allowed: "]),
        (
            {"name": "adm", "learning_rate": 1},
            ['name: unknown name (value "adm"); did you mean adam? allowed: '],
        ),
        ({"name": "adam"}, ["learning_rate: is required, but not given"]),
        (
            {"name": "adam", "learning_rate": "fast"},
            ['learning_rate: must be a number or a mapping {schedule: ..., and options} (value "fast")'],
        ),
        ({"name": "adam", "learning_rate": -1}, ["learning_rate: must be >= 0 (value -1)"]),
        (
            {"name": "adam", "learning_rate": 1, "beta1": 0.9, "b2": 1, "clip_norm": 0},
            [
                "b2: must be < 1 (value 1)",
                "clip_norm: must be > 0 (value 0)",
                "beta1: unknown option (value 0.9); did you mean b1? allowed: b1, b2, clip_norm, eps, "
                "eps_root, learning_rate, mu_dtype, nesterov",
            ],
        ),
        (
            {"name": "adam", "learning_rate": {"schedule": "cosin"}, "b1": 1},
            [
                'learning_rate.schedule: unknown name (value "cosin"); did you mean cosine_decay_s',
                "b1: must be < 1",
            ],
        ),
        (
            {"name": "adam", "learning_rate": {}},
            ["learning_rate.schedule: is required, but not given; allowed: "],
        ),
        (
            {
                "name": "adam",
                "learning_rate": {"schedule": "linear", "init_value": 1, "end": 0, "transition_steps": 0},
            },
            [
                "learning_rate.end_value: is required, but not given",
                "learning_rate.transition_steps: must be > 0 (value 0)",
                "learning_rate.end: unknown option (value 0); did you mean end_value? allowed: end_value,",
            ],
        ),
        (
            {
                "name": "adam",
                "learning_rate": {"schedule": "join", "schedules": [{"schedule": "x"}], "boundaries": [1]},
            },
            ['learning_rate.schedules.0.schedule: unknown name (value "x"); did you mean'],
        ),
        (
            {
                "name": "adam",
                "learning_rate": {
                    "schedule": "join",
                    "schedules": [{"schedule": "constant", "value": 1}],
                    "boundaries": [1],
                },
            },
            ["learning_rate.boundaries: must be 0 ascending steps for 1 schedules, got [1]"],
        ),
        (
            {"name": "adam", "learning_rate": {"schedule": "sgdr", "cosine_kwargs": [{"init_valu": 1}]}},
            [
                "learning_rate.cosine_kwargs.0.init_value: is required",
                "learning_rate.cosine_kwargs.0.peak_value: is required",
                "learning_rate.cosine_kwargs.0.warmup_steps: is required",
                "learning_rate.cosine_kwargs.0.decay_steps: is required",
                "learning_rate.cosine_kwargs.0.init_valu: unknown option (value 1); did you mean init_value?",
            ],
        ),
        (
            {
                "name": "adam",
                "learning_rate": {
                    "schedule": "warmup_cosine",
                    "init_value": 0,
                    "peak_value": 1,
                    "warmup_steps": 200,
                },
            },
            ["learning_rate: The cosine_decay_schedule requires positive decay_steps, got decay_steps=-100."],
        ),
    ],
)
def test_a_wrong_spec_is_refused_with_a_line_for_each_problem(spec, lines):
    found = problems(spec)
    assert len(found) == len(lines)
    for line, beginning in zip(found, lines, strict=True):
        assert line.startswith(f"outer_optimizer.{beginning}")


def test_optimizers_and_schedules_have_descriptions_with_ranges_and_defaults():
    adam = {option.name: option for option in describe(optimizers(), "adam").options}
    assert (adam["b1"].type, adam["b1"].allowed, adam["b1"].default) == ("number", ">= 0 and < 1", "0.9")
    assert adam["learning_rate"].default == "required" and "first moment" in adam["b1"].help
    assert "before anything else" in adam["clip_norm"].help
    cosine = {option.name: option for option in describe(schedules(), "cosine_decay_schedule").options}
    assert cosine["decay_steps"].default == "null" and "whole run" in cosine["decay_steps"].help


def test_no_two_calls_share_what_they_were_given():
    spec = {"name": "sgd", "learning_rate": {"schedule": "linear", "init_value": 1, "end_value": 0}}
    before = str(spec)
    assert outer_optimizer(spec, 10) is not outer_optimizer(spec, 20)
    assert str(spec) == before and not check(optimizers(), spec)
