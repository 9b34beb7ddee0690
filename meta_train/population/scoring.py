"""What a learned optimizer is worth to a population: whole inner trainings on fixed seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import LearnedOptimizer
from meta_train.core import combine
from meta_train.inner import Objective, inner_training
from tasks import TaskFamily


def mean_log_loss(
    families: Sequence[TaskFamily],
    lopt: LearnedOptimizer,
    *,
    horizon: int,
    num_seeds: int,
    stream: int,
    num_devices: int = 1,
) -> Callable[[Any, Any], jax.Array]:
    """`(theta, data of the families) -> f32[]`, log(training loss) over steps, seeds and families.

    Args:
      families: whose tasks are trained.
      lopt: what trains them.
      horizon: steps of each training.
      num_seeds: trainings per family: tasks, initial parameters and minibatches, always the same.
      stream: of the seeds; another one has others.
      num_devices: of the mesh axis "particles", inside of which this is called; the seeds are split over them
        where they can be. 1: it is called anywhere.
    """
    systems = [
        inner_training(family, lopt, unroll_length=horizon, objective=Objective()) for family in families
    ]
    apart = num_devices > 1 and num_seeds % num_devices == 0
    own = num_seeds // num_devices if apart else num_seeds

    def one(system, theta, key, data):
        key_init, key_steps = jax.random.split(key)
        state, _ = system.init(theta, key_init)

        def step(state, key):
            state, loss = system.step(theta, state, key, data)
            return state, jnp.where(
                jnp.isfinite(loss), jnp.minimum(loss, system.worst_loss), system.worst_loss
            )

        return jax.lax.scan(step, state, jax.random.split(key_steps, horizon))[1].mean()

    def score(theta, data):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), stream), num_seeds)
        if apart:
            keys = jax.lax.dynamic_slice_in_dim(keys, jax.lax.axis_index(combine.AXIS) * own, own)
        means = [
            jax.vmap(lambda key, system=system, d=d: one(system, theta, key, d))(keys).mean()
            for system, d in zip(systems, data, strict=True)
        ]
        mean = jnp.stack(means).mean()
        return jax.lax.pmean(mean, combine.AXIS) if apart else mean

    return score
