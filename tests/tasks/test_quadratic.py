import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.families.quadratic import quadratic

KEY = jax.random.key(7)


def task_of(**options):
    family = quadratic(dim=5, **options)
    cfg = jax.jit(family.sample)(KEY)
    return cfg, family.task(cfg)


@pytest.mark.parametrize("rotated", [False, True])
def test_the_hessian_has_the_stated_spectrum_and_the_gradient_is_h_times_offset(rotated):
    cfg, task = task_of(condition_number=100.0, rotated=rotated)
    params = task.init(KEY)
    hessian = np.asarray(jax.hessian(task.loss)(params, KEY, ()))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian)[::-1], np.geomspace(1, 0.01, 5), rtol=1e-4)
    gradient = jax.grad(task.loss)(params, KEY, ())
    np.testing.assert_allclose(gradient, hessian @ np.asarray(params - cfg["center"]), rtol=1e-3, atol=1e-5)
    assert (np.abs(hessian - np.diag(np.diag(hessian))).max() > 1e-3) == rotated


def test_the_minimum_is_zero_and_lies_at_the_center():
    cfg, task = task_of(rotated=True)
    assert task.loss(cfg["center"], KEY, ()) == 0
    np.testing.assert_array_equal(jax.grad(task.loss)(cfg["center"], KEY, ()), np.zeros(5))


def test_gradient_descent_follows_its_closed_form():
    cfg, task = task_of(condition_number=10.0)
    start = params = task.init(KEY)
    for _ in range(3):
        params = params - 0.5 * jax.grad(task.loss)(params, KEY, ())
    expected = cfg["center"] + (1 - 0.5 * cfg["eigenvalues"]) ** 3 * (start - cfg["center"])
    np.testing.assert_allclose(params, expected, rtol=1e-5)


def test_gradient_noise_has_the_stated_deviation_and_mean_zero():
    # N = 20000 gradients of 5 coordinates: standard error of a mean 0.3 / sqrt(N) = 0.0021 and of a
    # deviation 0.0015. |z| < 5 on 10 numbers of a fixed key; false alarm for a new key below 1e-5.
    cfg, task = task_of(noise=0.3)
    keys = jax.random.split(jax.random.key(1), 20000)
    gradients = jax.vmap(jax.grad(task.loss), (None, 0, None))(cfg["center"], keys, ())
    np.testing.assert_allclose(gradients.mean(0), np.zeros(5), atol=5 * 0.0021)
    np.testing.assert_allclose(gradients.std(0), 0.3 * np.ones(5), atol=5 * 0.0015)


def test_condition_numbers_stay_in_their_range_and_fill_it():
    family = quadratic(condition_number=(2.0, 50.0))
    smallest = jax.vmap(family.sample)(jax.random.split(KEY, 500))["eigenvalues"][:, -1]
    numbers = 1 / np.asarray(smallest)
    assert numbers.min() >= 2 * (1 - 1e-5) and numbers.max() <= 50 * (1 + 1e-5)
    assert numbers.min() < 2.2 and numbers.max() > 45


@pytest.mark.parametrize("condition", [0.5, (0.1, 2.0), (3.0, 2.0)])
def test_an_impossible_condition_number_is_refused_by_name(condition):
    with pytest.raises(ValueError, match="^condition_number: "):
        quadratic(condition_number=condition)


def test_the_initial_loss_is_the_sum_of_eigenvalues_on_average():
    # offset ~ N(0, 2 I): E[loss] = sum(l). N = 20000, std of one loss sqrt(2 sum(l^2)) < 1.5, so the
    # standard error is below 0.011; |z| < 5 at a fixed key, false alarm for a new key 6e-7.
    family = quadratic(dim=3, condition_number=10.0)

    def one(key):
        key_cfg, key_init = jax.random.split(key)
        task = family.task(family.sample(key_cfg))
        return task.loss(task.init(key_init), key, ())

    losses = jax.vmap(one)(jax.random.split(KEY, 20000))
    total = float(jnp.sum(10.0 ** -jnp.linspace(0, 1, 3)))
    np.testing.assert_allclose(losses.mean(), total, atol=5 * 0.011)
