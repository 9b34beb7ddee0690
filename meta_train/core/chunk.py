"""How many particles a device works on at a time, so that what they train stays in its cache."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax

from meta_train.core.devices import widest
from meta_train.core.estimator import GradientEstimator

LEAST = 16  # particles: fewer at a time cost more per particle than the cache gives back
CACHE = 2**22  # bytes of state of the particles that are worked on at a time


def chunk_of(
    option: int | Literal["auto"] | None,
    estimator: GradientEstimator,
    init_theta: Callable[[jax.Array], Any],
    num_devices: int,
    platform: str,
) -> int | None:
    """The chunk for `devices.shard`; None for all particles of a device at once.

    With "auto" a CPU takes the largest number that divides its particles and whose states are at most CACHE
    bytes, or LEAST particles where not even so many fit; an accelerator takes all of them.

    Args:
      option: "auto", a number of particles, or None.
      estimator: of all particles.
      init_theta: `(key) -> theta`; traced for its shapes, and only where they decide.
      num_devices: that its particles are split over.
      platform: "cpu", "gpu" or "tpu".
    """
    if option != "auto":
        return option
    particles = estimator.num_particles // num_devices
    if platform != "cpu" or particles <= LEAST:
        return None
    state = jax.eval_shape(lambda key: estimator.init(init_theta(key), key), jax.random.key(0))
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    most = max(LEAST, CACHE * estimator.num_particles // max(size, 1))
    chunk = widest(particles, most)
    return None if chunk == particles or 2 * chunk < LEAST else chunk
