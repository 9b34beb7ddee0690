"""The fitness of a learned optimizer in a population: whole inner trainings on fixed seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import LearnedOptimizer
from meta_train.core import devices
from meta_train.core.system import start, unroll
from meta_train.inner import inner_training
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
      lopt: the optimizer that trains them.
      horizon: steps of each training.
      num_seeds: trainings per family: tasks, initial parameters and minibatches, always the same.
      stream: of the seeds; different streams have different seeds.
      num_devices: of the mesh axis "particles", inside which this is called; the seeds are split over them
        where they divide the seeds. 1: it can be called anywhere.
    """
    systems = [inner_training(family, lopt, unroll_length=horizon) for family in families]
    split = num_devices > 1 and num_seeds % num_devices == 0
    own = num_seeds // num_devices if split else num_seeds

    def mean_over_seeds(system, theta, keys, data):
        def one(key):
            key_steps = jax.random.split(key)[1]  # the other half is that of `start`
            return unroll(system, theta, start(system, theta, key), key_steps, data, horizon)[1].mean()

        return jax.vmap(one)(keys).mean()

    def score(theta, data):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), stream), num_seeds)
        if split:
            keys = jax.lax.dynamic_slice_in_dim(keys, jax.lax.axis_index(devices.AXIS) * own, own)
        means = [mean_over_seeds(one, theta, keys, d) for one, d in zip(systems, data, strict=True)]
        mean = jnp.stack(means).mean()
        return jax.lax.pmean(mean, devices.AXIS) if split else mean

    return score
