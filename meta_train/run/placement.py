"""Where the particles of a run are: over which devices, and how many of them at a time."""

import jax
from jax.sharding import Mesh

from learned_opt import LearnedOptimizer
from meta_train.config.load import RunConfig
from meta_train.core import devices
from meta_train.core.chunk import chunk_of
from meta_train.estimators import GradientEstimator


def devices_of(config: RunConfig) -> int:
    """The devices that the particles are split over; with `auto`, as many as there are and as divide them."""
    if config.mesh.particles != "auto":
        return config.mesh.particles
    rows, processes = config.estimator.get("num_particles", 1), jax.process_count()
    chunk = config.runtime.particle_chunk
    return devices.widest(rows // (chunk if isinstance(chunk, int) else 1), len(jax.devices()), processes)


def split_over(
    config: RunConfig,
    estimators: dict[str, GradientEstimator],
    weights: dict[str, float],
    mesh: Mesh,
    lopt: LearnedOptimizer,
) -> tuple[dict[str, GradientEstimator], GradientEstimator]:
    """The families' estimators on the devices of the mesh, and that of their mean (ValueError)."""
    chunks = {label: particle_chunk(config, one, lopt, mesh.size) for label, one in estimators.items()}
    deterministic = config.mesh.deterministic
    apart = {
        label: devices.shard(one, mesh, chunk=chunks[label], deterministic=deterministic)
        for label, one in estimators.items()
    }
    return apart, devices.shard_average(
        estimators,
        mesh,
        chunks=chunks,
        deterministic=deterministic,
        weights=weights,
        scaling=config.loss_scaling,
    )


def particle_chunk(
    config: RunConfig, estimator: GradientEstimator, lopt: LearnedOptimizer, num_devices: int
) -> int | None:
    """Particles that a device works on at a time; what `auto` gives depends on the number of devices, so
    that `mesh.deterministic` needs a number."""
    option = config.runtime.particle_chunk
    if option == "auto" and config.mesh.deterministic:
        return None
    return chunk_of(option, estimator, lopt.init, num_devices, jax.default_backend())
