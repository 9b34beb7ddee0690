"""Loss curves of whole trainings, on problems whose answers are known; all keys are fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.evaluation import curves as curves_lib
from meta_train.evaluation.baselines import BASELINES, build, theta
from meta_train.evaluation.curves import curves, seed_keys, smooth, trainer
from tasks.base import Task, TaskFamily

RATES = (0.001, 0.01, 0.1, 0.3, 1.0)


def quadratic(shift=0.0):
    """Tasks told apart by their minimum; minibatches by rows of the data."""

    def task(cfg):
        def loss(params, key, data):
            rows = data[jax.random.randint(key, (4,), 0, len(data))]
            return 0.5 * jnp.mean((params["x"] - cfg - rows) ** 2)

        return Task(lambda key: {"x": 3 * jax.random.normal(key, (3,))}, loss)

    rows = jax.random.normal(jax.random.key(1), (50, 3)) * 0.1 + shift
    return TaskFamily(
        lambda key: jax.random.normal(key, (3,)), task, {"train": rows[:40], "valid": rows[40:]}
    )


@pytest.fixture(scope="module")
def family():
    return quadratic()


@pytest.fixture(scope="module")
def adam_trainer(family):
    """Two families of one shape."""
    adam = build(BASELINES["adam"])
    return trainer([family, quadratic(2.0)], adam, 100, num_valid_batches=2, rows_at_once=2)


def by_hand(family, optimizer, key, num_steps):
    """A plain optax loop: the losses and the validation loss at the end."""
    key_cfg, key_init, key_steps, key_valid = jax.random.split(key, 4)
    task = family.task(family.sample(key_cfg))
    params = task.init(key_init)
    state = optimizer.init(params)
    losses = []

    @jax.jit
    def step(params, state, key):
        loss, grads = jax.value_and_grad(task.loss)(params, key, family.data["train"])
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    for t in range(num_steps):
        params, state, loss = step(params, state, jax.random.fold_in(key_steps, t))
        losses.append(float(loss))
    valid = [task.loss(params, k, family.data["valid"]) for k in jax.random.split(key_valid, 2)]
    return losses, np.mean(valid)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_curve_is_that_of_a_plain_optax_loop_also_beside_another_family(adam_trainer, schedule):
    keys = seed_keys("evaluation", 3)
    found = curves(adam_trainer, theta(RATES, schedule), keys, 30)
    assert found.train.shape == (2, 5, 3, 30) and found.valid.shape == (2, 5, 3, 1)
    rate = optax.cosine_decay_schedule(0.1, 30) if schedule == "cosine" else 0.1
    for g, shift in enumerate((0.0, 2.0)):
        losses, valid = by_hand(quadratic(shift), optax.adam(rate), keys[1], 30)
        np.testing.assert_allclose(found.train[g, 2, 1], losses, rtol=1e-5)
        np.testing.assert_allclose(found.valid[g, 2, 1, 0], valid, rtol=1e-5)


def test_a_seed_means_the_same_whatever_the_horizon_the_number_of_seeds_and_the_chunks(
    adam_trainer, monkeypatch
):
    grid = theta(RATES, "constant")
    long = curves(adam_trainer, grid, seed_keys("tuning", 4), 50, (10, 50))
    monkeypatch.setattr(curves_lib, "PARALLEL_BYTES", 1)
    steps = []
    short = curves(adam_trainer, grid, seed_keys("tuning", 2), 10, progress=steps.append)
    np.testing.assert_allclose(short.train, long.train[:, :, :2, :10], rtol=1e-6)
    np.testing.assert_allclose(short.valid[..., 0], long.valid[:, :, :2, 0], rtol=1e-6)
    assert sum(steps) == 2 * 5 * 2 * 10


def test_what_all_settings_share_and_validation_parameters_reach_the_optimizer(family):
    def doubled(setting, num_steps):
        row, shared = setting
        return optax.sgd(row * shared["rate"])

    train = trainer(
        family, doubled, 5, num_valid_batches=1, eval_params=lambda p, s: jax.tree.map(jnp.zeros_like, p)
    )
    keys = seed_keys("tuning", 1)
    found = curves(train, np.float32([1, 2]), keys, 5, shared={"rate": np.float32(0.1)})
    losses, _ = by_hand(family, optax.sgd(0.2), keys[0], 5)
    np.testing.assert_allclose(found.train[0, 1, 0], losses, rtol=1e-5)
    assert found.valid[0, 0] == found.valid[0, 1]  # both read at zero


def test_validation_losses_are_nan_without_a_validation_split(family):
    only_train = family._replace(data={"train": family.data["train"]})
    train = trainer(only_train, lambda rate, num_steps: optax.sgd(rate), 3)
    found = curves(train, np.float32([0.1]), seed_keys("tuning", 1), 3)
    assert np.isnan(found.valid).all() and np.isfinite(found.train).all()


def test_a_run_that_diverged_is_worse_than_any_other_from_then_on(family):
    train = trainer(family, lambda rate, num_steps: optax.sgd(rate), 30)
    found = curves(train, np.float32([1e-2, np.inf]), seed_keys("tuning", 1), 30)
    assert np.isfinite(found.train[0, 0]).all() and np.isfinite(found.valid[0, 0]).all()
    assert np.isfinite(found.train[0, 1, 0, 0]) and np.isposinf(found.train[0, 1, 0, 1:]).all()
    assert np.isposinf(found.valid[0, 1]).all()


def test_stops_beyond_the_horizon_are_refused(adam_trainer):
    with pytest.raises(ValueError, match=r"stops must ascend to num_steps <= 100, got \(5, 3\)"):
        curves(adam_trainer, theta(RATES, "constant"), seed_keys("tuning", 1), 3, (5, 3))


def test_no_stream_shares_a_key_with_another():
    keys = np.concatenate([jax.random.key_data(seed_keys(s, 50)) for s in curves_lib.STREAMS])
    assert len(np.unique(keys, axis=0)) == 150
    assert not np.array_equal(
        jax.random.key_data(seed_keys("tuning", 1)), jax.random.key_data(seed_keys("tuning", 1, 7))
    )


def test_smoothing_is_a_moving_average_from_the_first_value_on():
    np.testing.assert_allclose(smooth(np.array([[4.0, 0.0, 8.0]]), 0.5), [[4.0, 2.0, 5.0]])
    np.testing.assert_array_equal(smooth(np.array([1.0, np.inf, 1.0]), 0.5), [1.0, np.inf, np.inf])
