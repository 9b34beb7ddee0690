"""One hyperparameter whose best value is known: the L2 penalty of a linear model."""

from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Gt

from meta_train.core.system import ENDLESS, UnrolledSystem
from reproductions.systems.outer_problem import OuterProblem


class RidgeData(NamedTuple):
    """x: f32[M, D], y: f32[M] of the training rows; the same of the validation rows. Standardised."""

    x: jax.Array
    y: jax.Array
    x_valid: jax.Array
    y_valid: jax.Array


def ridge_data(*, path: str | None = None, train_rows: int = 60, seed: int = 7) -> RidgeData:
    """A regression set, split at random. Raises ValueError for a file that is none or too short.

    Args:
      path: an npz file with arrays x [M, D] and y [M]; None for scikit-learn's diabetes (442 x 10).
      train_rows: rows to train on; the others validate.
      seed: of the split.
    """
    if path is None:
        from sklearn.datasets import load_diabetes

        x, y = (np.asarray(a, np.float64) for a in load_diabetes(return_X_y=True))
    else:
        x, y = _read(path)
    if not 0 < train_rows < len(x):
        raise ValueError(f"train_rows must be in [1, {len(x) - 1}], got {train_rows}")
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    order = np.random.default_rng(seed).permutation(len(x))
    train, valid = order[:train_rows], order[train_rows:]
    return RidgeData(*(jnp.asarray(a, jnp.float32) for a in (x[train], y[train], x[valid], y[valid])))


def _read(path):
    try:
        with np.load(Path(path)) as file:
            x, y = np.asarray(file["x"], np.float64), np.asarray(file["y"], np.float64)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"path must be an npz file with arrays x and y, got {path}: {error}") from error
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"path: x must be [M, D] and y [M], got {x.shape} and {y.shape} in {path}")
    return x, y


def valid_loss(data: RidgeData, log_l2: float) -> float:
    """|x w - y|^2 / 2 of the validation rows at the exact ridge solution w, in float64."""
    x, y, x_valid, y_valid = (np.asarray(a, np.float64) for a in data)
    w = np.linalg.solve(x.T @ x + np.exp(log_l2) * np.eye(x.shape[1]), x.T @ y)
    return 0.5 * float(np.square(x_valid @ w - y_valid).sum())


def best_log_l2(data: RidgeData) -> float:
    """The theta with the least `valid_loss`: the best of a grid on [-8, 10], refined."""
    from scipy.optimize import minimize_scalar

    grid = np.linspace(-8, 10, 181)
    near = grid[np.argmin([valid_loss(data, theta) for theta in grid])]
    found = minimize_scalar(lambda theta: valid_loss(data, theta), bounds=(near - 0.1, near + 0.1))
    return float(found.x)  # pyright: ignore[reportAttributeAccessIssue]


def ridge(
    *,
    init_log_l2: float = 0.0,
    learning_rate: Annotated[float, Gt(0)] = 0.001,
    path: str | None = None,
    train_rows: Annotated[int, Ge(1)] = 60,
    seed: Annotated[int, Ge(0)] = 7,
) -> OuterProblem:
    """The log of an L2 penalty, tuned while a linear model trains; one endless inner problem.

    `w <- w - learning_rate grad(|x w - y|^2 / 2 + exp(theta) |w|^2 / 2)`, w_0 = 0, loss |x w - y|^2 / 2
    of the validation rows; theta f32[]. One step shows little of what a penalty does: short windows mislead.

    Args:
      init_log_l2: theta to begin with.
      learning_rate: of the inner gradient descent.
      path: an npz file with x [M, D] and y [M]; None for scikit-learn's diabetes.
      train_rows: rows to train on; the others validate.
      seed: of the split.

    Source: the experiment on UCI Yacht of Vicol, Metz & Sohl-Dickstein, ICML 2021, and their public code.
    Differs from it in: the data, which come with scikit-learn; few training rows: the penalty matters.
    """
    data = ridge_data(path=path, train_rows=train_rows, seed=seed)

    def init(theta, key):
        return jnp.zeros(data.x.shape[1]), jnp.int32(ENDLESS)

    def step(theta, w, key, data):
        grad = (data.x @ w - data.y) @ data.x + jnp.exp(theta) * w
        w = w - learning_rate * grad
        return w, 0.5 * jnp.square(data.x_valid @ w - data.y_valid).sum()

    return OuterProblem(UnrolledSystem(init, step, 0, None), lambda key: jnp.float32(init_log_l2), data)
