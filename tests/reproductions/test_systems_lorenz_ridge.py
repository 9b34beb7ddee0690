"""Lorenz and ridge held against independent computations, and what every system of SYSTEMS keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.core.system import ENDLESS
from reproductions.systems import SYSTEMS, OuterProblem
from reproductions.systems.lorenz import INIT_THETA, START, TRUTH, lorenz
from reproductions.systems.ridge import best_log_l2, ridge, ridge_data, valid_loss


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_keeps_the_state_and_returns_a_scalar_loss(name):
    problem = SYSTEMS[name]()
    assert isinstance(problem, OuterProblem)
    key = jax.eval_shape(lambda: jax.random.key(0))
    theta = jax.eval_shape(problem.init_theta, key)
    state, length = jax.eval_shape(problem.system.init, theta, key)
    after, loss = jax.eval_shape(problem.system.step, theta, state, key, problem.data)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert loss.shape == length.shape == ()
    assert loss.dtype == jnp.float32 and length.dtype == jnp.int32


def lorenz_z(a, r, num_steps):
    """The z of Euler's method, in float64 and one line a coordinate."""
    x, y, z = START
    found = []
    for _ in range(num_steps):
        x, y, z = x + 0.005 * a * (y - x), y + 0.005 * (x * (r - z) - y), z + 0.005 * (x * y - TRUTH[2] * z)
        found.append(z)
    return np.asarray(found)


@pytest.fixture(scope="module")
def lorenz_losses():
    """theta -> the losses of 300 steps."""
    problem = lorenz()

    def losses(theta):
        state, _ = problem.system.init(theta, jax.random.key(0))
        keys = jax.random.split(jax.random.key(1), 300)
        return jax.lax.scan(lambda s, k: problem.system.step(theta, s, k, ()), state, keys)[1]

    return jax.jit(losses)


def test_the_lorenz_loss_is_the_squared_distance_of_two_trajectories(lorenz_losses):
    expected = (lorenz_z(*np.exp(INIT_THETA), 300) - lorenz_z(*TRUTH[:2], 300)) ** 2
    found = lorenz_losses(jnp.asarray(INIT_THETA))
    # 1.5 units of time: chaos has not yet told float32 from float64.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
    assert expected.max() > 100


def test_the_true_parameters_have_no_lorenz_loss(lorenz_losses):
    assert lorenz_losses(jnp.log(jnp.asarray(TRUTH[:2]))).max() < 1e-3


def test_a_ridge_model_trains_to_the_exact_solution():
    problem = ridge(learning_rate=0.003)
    theta = jnp.float32(3.0)
    w, length = problem.system.init(theta, jax.random.key(0))
    assert length == ENDLESS

    def step(w, _):
        return problem.system.step(theta, w, jax.random.key(0), problem.data)

    losses = jax.jit(lambda w: jax.lax.scan(step, w, None, 1000)[1])(w)
    assert losses[0] > losses[-1] + 10
    np.testing.assert_allclose(losses[-1], valid_loss(problem.data, 3.0), rtol=1e-5)


def test_the_best_penalty_has_no_slope():
    # By the implicit function theorem: -exp(theta) w' (X'X + exp(theta) I)^-1 Xv'(Xv w - yv).
    data = ridge_data()
    best = best_log_l2(data)
    x, y, x_valid, y_valid = (np.asarray(a, np.float64) for a in data)
    slopes = []
    for theta in (best - 0.01, best, best + 0.01):
        a = x.T @ x + np.exp(theta) * np.eye(x.shape[1])
        w = np.linalg.solve(a, x.T @ y)
        slopes.append(-np.exp(theta) * w @ np.linalg.solve(a, x_valid.T @ (x_valid @ w - y_valid)))
    assert slopes[0] < 0 < slopes[2]
    assert abs(slopes[1]) < 1e-3


def test_ridge_reads_a_file_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(5, 3, (30, 4))
    np.savez(tmp_path / "own.npz", x=x, y=x @ rng.normal(size=4))
    data = ridge_data(path=str(tmp_path / "own.npz"), train_rows=20)
    assert data.x.shape == (20, 4) and data.y_valid.shape == (10,)
    np.testing.assert_allclose(jnp.concatenate([data.x, data.x_valid]).std(0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones((3, 2))}, "with arrays x and y"),
        ({"x": np.ones(3), "y": np.ones(3)}, r"x must be \[M, D\]"),
    ],
    ids=["no y", "flat x"],
)
def test_ridge_refuses_a_file_of_another_kind(tmp_path, arrays, words):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        ridge(path=str(tmp_path / "bad.npz"))


def test_ridge_refuses_a_split_that_leaves_nothing():
    with pytest.raises(ValueError, match=r"train_rows must be in \[1, 441\], got 442"):
        ridge(train_rows=442)
