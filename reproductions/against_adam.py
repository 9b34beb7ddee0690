"""How many steps of tuned Adam a training with a learned optimizer is worth, on one task family."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.base import LearnedOptimizer
from meta_train.core.system import start, unroll
from meta_train.inner import Objective, inner_training
from reproductions.populations import half_width
from tasks import TaskFamily

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
LAST = 10  # steps at the end of a training whose mean loss counts
AT_ONCE = 16  # thetas whose trainings run together: more of them do not fit into the cache


def curves(
    family: TaskFamily, lopt: LearnedOptimizer, thetas: Any, key: jax.Array, *, length: int, episodes: int
) -> np.ndarray:
    """f64[M, length]: the training loss at every step, a mean over the same `episodes` trainings.

    Args:
      family: of the trainings.
      lopt: the learned optimizer.
      thetas: M of its meta-parameters, leaves [M, ...].
      key: consumed.
      length: T.
      episodes: trainings.
    """
    system = inner_training(family, lopt, unroll_length=length, objective=Objective(log=False))

    def one(theta, key, data):
        key_start, key_unroll = jax.random.split(key)
        return unroll(system, theta, start(system, theta, key_start), key_unroll, data, length)[1]

    @jax.jit
    def many(thetas, keys, data):
        def mean(theta):
            return jax.vmap(one, (None, 0, None))(theta, keys, data).mean(0)

        return jax.lax.map(mean, thetas, batch_size=AT_ONCE)

    return np.asarray(many(thetas, jax.random.split(key, episodes), family.data), np.float64)


def adam() -> LearnedOptimizer:
    """Adam with a cosine from theta["rate"] to 0 at step theta["horizon"]."""

    def build(theta, num_steps=None):
        def schedule(t):
            return theta["rate"] * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(t / theta["horizon"], 1)))

        return optax.with_extra_args_support(optax.adam(schedule))

    return LearnedOptimizer(lambda key: {"rate": jnp.float32(0.01), "horizon": jnp.float32(100)}, build)


def ladder(
    family: TaskFamily, key: jax.Array, *, horizons: tuple[int, ...], episodes: int
) -> tuple[list[int], list[float]]:
    """Horizons, and the loss that Adam with the best of `RATES` ends with at each, made not to rise.

    The key is consumed; the trainings are those of `curves` with the same key where `episodes` agree.
    """
    rate, horizon = (x.ravel() for x in np.meshgrid(RATES, horizons, indexing="ij"))
    thetas = {"rate": jnp.asarray(rate, jnp.float32), "horizon": jnp.asarray(horizon, jnp.float32)}
    found = curves(family, adam(), thetas, key, length=max(horizons), episodes=episodes)
    ends = np.array([line[h - LAST : h].mean() for line, h in zip(found, horizon, strict=True)])
    best = ends.reshape(len(RATES), -1).min(0)
    return list(horizons), np.minimum.accumulate(best).tolist()


def speed_up(loss: np.ndarray, length: int, steps: tuple[list[int], list[float]]) -> np.ndarray:
    """Steps that tuned Adam needs to end at `loss` f64[...], over `length`; no further than the ladder goes.

    Interpolated between the horizons of `steps` (from `ladder`), linearly in their logarithm.
    """
    horizons, losses = steps
    log_steps = np.interp(-np.asarray(loss), -np.asarray(losses), np.log(horizons))
    return np.exp(log_steps - math.log(length))


def ratio(factors: list[float]) -> str:
    """Geometric mean and its 95 % t-interval over the seeds."""
    logs = np.log(factors)
    mean, half = logs.mean(), half_width(logs)
    return f"{np.exp(mean):.2f} [{np.exp(mean - half):.2f}, {np.exp(mean + half):.2f}]"
