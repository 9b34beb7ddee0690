"""What a user may set when loading an optimizer: a rate, a decay, a schedule; and what is warned of."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.artefact import limits

PARAMS = {"b": jnp.array([0.5, -1.0, 2.0]), "w": jnp.cos(jnp.arange(6.0)).reshape(2, 3)}
GRADS = jax.tree.map(lambda p: p - 0.3, PARAMS)


def write(directory, name, **options):
    theta = learned_opt.LEARNED_OPTIMIZERS[name](**options).init(jax.random.key(0))
    more = {"horizon": (100, 1000), "provenance": {}, "parameters": 10}
    learned_opt.save(directory, name=name, options=options, theta=theta, **more)
    return directory


@pytest.fixture
def spectral(tmp_path):
    return write(tmp_path / "spectral", "spectral", learning_rate=0.1)


@pytest.fixture
def adam(tmp_path):
    return write(tmp_path / "adam", "learnable_adam")


@pytest.fixture(autouse=True)
def nothing_warned_of_yet(monkeypatch):
    monkeypatch.setattr(limits, "_WARNED", set())


def steps(tx, count=3):
    state, found = tx.init(PARAMS), []
    for _ in range(count):
        updates, state = tx.update(GRADS, state, PARAMS, value=1.0)
        found.append(updates)
    return found


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8), a, b)


def test_a_relative_learning_rate_multiplies_every_step_of_any_architecture(spectral, adam):
    for directory in (spectral, adam):
        plain = steps(learned_opt.load(directory, num_steps=100))
        half = steps(learned_opt.load(directory, num_steps=100, learning_rate=0.5))
        assert_close(half, jax.tree.map(lambda u: 0.5 * u, plain))


def test_a_schedule_of_ones_own_replaces_the_learned_one_and_needs_no_horizon(spectral):
    constant = steps(learned_opt.load(spectral, schedule=None, weight_decay=0.0))
    halving = steps(
        learned_opt.load(spectral, schedule=lambda t: 0.5**t, weight_decay=0.0, learning_rate=3.0)
    )
    for t, (one, other) in enumerate(zip(constant, halving, strict=True)):
        assert_close(other, jax.tree.map(lambda u, t=t: 3 * 0.5**t * u, one))
    sizes = [float(jnp.linalg.norm(u["w"])) for u in constant]
    np.testing.assert_allclose(sizes, sizes[0], rtol=0.3)  # nothing anneals


def test_the_weight_decay_is_replaced(spectral):
    with_decay, without = (
        steps(learned_opt.load(spectral, schedule=None, weight_decay=decay), 1)[0] for decay in (0.5, 0.0)
    )
    assert_close(with_decay, jax.tree.map(lambda u, p: u - 0.1 * 0.5 * p, without, PARAMS))


def test_what_an_architecture_cannot_do_is_refused_by_name(spectral, adam):
    with pytest.raises(ValueError, match="^learnable_adam has no weight_decay of its own"):
        learned_opt.load(adam, weight_decay=0.1)
    with pytest.raises(ValueError, match="^learnable_adam has no schedule of its own"):
        learned_opt.load(adam, schedule=None)
    with pytest.raises(ValueError, match="^schedule must be 'learned', None or a function"):
        learned_opt.load(spectral, schedule="cosine")
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="^learning_rate must be > 0"):
            learned_opt.load(spectral, num_steps=10, learning_rate=rate)
    with pytest.raises(ValueError, match="^weight_decay must be >= 0"):
        learned_opt.load(spectral, num_steps=10, weight_decay=-1.0)
    with pytest.raises(ValueError, match="^spectral needs num_steps"):
        learned_opt.load(spectral)


def test_a_horizon_far_outside_meta_training_is_warned_of_once(spectral):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for near in (20, 100, 1000, 5000):
            learned_opt.load(spectral, num_steps=near)
    with pytest.warns(UserWarning, match=r"trainings of 100 to 1000 steps; 10000000 is far outside"):
        learned_opt.load(spectral, num_steps=10**7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned_opt.load(spectral, num_steps=10**7)


def test_a_model_far_larger_than_any_that_was_tried_is_warned_of_once(spectral):
    large = {"w": jnp.zeros((40, 30))}
    tx = learned_opt.load(spectral, num_steps=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tx.init(PARAMS)
    with pytest.warns(UserWarning, match="at most 10 parameters; this one has 1,200"):
        jax.eval_shape(tx.init, large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tx.init(large)


def test_the_loaded_optimizer_is_chained_like_any_other(spectral):
    tx = optax.chain(optax.clip(1.0), learned_opt.load(spectral, num_steps=100, learning_rate=2.0))
    assert all(np.isfinite(u).all() for u in jax.tree.leaves(steps(tx)))
