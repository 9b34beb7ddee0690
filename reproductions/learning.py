"""What the reproductions that train networks share: the objective of whole inner problems."""

from typing import Any

import jax
import numpy as np

from meta_train.core.system import start, unroll
from reproductions.systems.outer_problem import OuterProblem


def objective(problem: OuterProblem, thetas: Any, key: jax.Array, *, episodes: int) -> np.ndarray:
    """f64[M]: the mean loss per step of whole inner problems at each of M thetas (leaves [M, ...]).

    As estimators see them: a loss that is not finite counts `worst_loss`. The key is consumed; every
    theta meets the same `episodes` inner problems, and the mean over them is returned.
    """
    system = problem.system
    length = system.max_length
    assert length is not None

    def one(theta, key, data):
        key_start, key_unroll = jax.random.split(key)
        rollout = start(system, theta, key_start)
        return unroll(system, theta, rollout, key_unroll, data, length)[1].mean()

    many = jax.jit(jax.vmap(jax.vmap(one, (None, 0, None)), (0, None, None)))
    return np.asarray(many(thetas, jax.random.split(key, episodes), problem.data), np.float64).mean(1)
