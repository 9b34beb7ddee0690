"""How many particles are worked on at a time where nobody says it."""

import jax.numpy as jnp
import pytest

from meta_train.core.chunk import CACHE, LEAST, chunk_of
from meta_train.core.estimator import OneParticle, from_particle


def estimator(particles, floats):
    """One whose particles have so many numbers of state."""

    def estimate(theta, state, key, data):
        del key, data
        return OneParticle(direction=theta, loss=state.sum(), restarted=False), state

    return from_particle(lambda theta, key: jnp.zeros(floats), estimate, particles, 1)


def auto(particles, floats, devices=1, platform="cpu"):
    return chunk_of("auto", estimator(particles, floats), lambda key: jnp.zeros(3), devices, platform)


@pytest.mark.parametrize("option", [None, 7])
def test_what_was_asked_for_is_taken(option):
    assert chunk_of(option, estimator(64, 10), lambda key: jnp.zeros(3), 1, "cpu") == option


def test_an_accelerator_takes_all_particles_at_once():
    assert auto(1024, 10**6, platform="gpu") is None and auto(1024, 10**6, platform="tpu") is None


def test_a_cpu_takes_as_many_particles_as_its_cache_holds_and_not_less_than_sixteen():
    assert auto(256, CACHE // 4) == LEAST  # a single one fills the cache
    assert auto(256, CACHE // 4 // 80) == 64  # 80 fit, and the chunk divides the particles
    assert auto(256, 10) is None  # all of them fit
    assert auto(LEAST, CACHE) is None
    assert auto(256, CACHE // 4, devices=16) is None  # sixteen on each device
    assert auto(256, CACHE // 4, devices=4) == LEAST


def test_particles_that_nothing_divides_well_are_taken_all_at_once():
    assert auto(31, CACHE) is None  # a prime: 31 chunks of one would be slow
    assert auto(36, CACHE) == 12
