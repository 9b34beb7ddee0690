"""Where members and their particles live: one mesh of two axes, and copies between its devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from meta_train.core import devices
from meta_train.parallel import hosts
from meta_train.population.base import Trainer

MEMBERS, PARTICLES = "members", devices.AXIS


def member_mesh(num_devices: int, num_members: int, particles: int = 1) -> Mesh:
    """A mesh of the axes "members" and "particles". With several processes each gives equally many devices.

    Args:
      num_devices: that the members are split over.
      num_members: M.
      particles: devices that the particles of each member are split over; they belong to one process
        where possible, as they speak in every step and members only between rounds.

    Raises:
      ValueError: more devices than there are, not equally many of every process, or a number that does not
        divide the members.
    """
    processes, devices, total = jax.process_count(), jax.devices(), num_devices * particles
    if particles == 1 and not 1 <= num_devices <= len(devices):
        raise ValueError(
            f"mesh.members must be between 1 and {len(devices)}, the devices there are, got {num_devices}"
        )
    if not 1 <= total <= len(devices):
        raise ValueError(
            f"mesh.members times mesh.particles must be between 1 and {len(devices)}, the devices there are, "
            f"got {num_devices} times {particles}"
        )
    if total % processes:
        raise ValueError(
            f"mesh.members times mesh.particles must be a multiple of the number of processes ({processes}), "
            f"got {num_devices} times {particles}"
        )
    if num_members % num_devices:
        raise ValueError(f"mesh.members must divide the {num_members} members, got {num_devices}")
    each = total // processes
    chosen = [d for i in range(processes) for d in [d for d in devices if d.process_index == i][:each]]
    grid = np.asarray(chosen).reshape(num_devices, particles)
    return Mesh(grid, (MEMBERS, PARTICLES), axis_types=(AxisType.Auto,) * 2)


def divided(trainer: Trainer, num_devices: int) -> Trainer:
    """The trainer with the particles of each member over so many devices.

    Raises:
      ValueError: it has no particles, or their number is not a multiple of the devices.
    """
    if trainer.split is not None:
        return trainer.split(num_devices)
    if num_devices != 1:
        raise ValueError(f"mesh.particles must be 1 for a trainer without particles, got {num_devices}")
    return trainer


def specs(trainer: Trainer) -> Any:
    """A prefix of the members' tree: how their leaves [M, ...], or [M, N, ...], lie on the mesh."""
    rows: Any = PartitionSpec(MEMBERS)
    return jax.tree.map(lambda p: PartitionSpec(MEMBERS, PARTICLES) if p else rows, trainer.particles)


def constrain(tree: Any, mesh: Mesh, prefix: Any) -> Any:
    """Leaves put where a prefix of `specs` says; inside a traced function."""

    def put(spec, part):
        return jax.lax.with_sharding_constraint(part, NamedSharding(mesh, spec))

    return jax.tree.map(put, prefix, tree)


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """The same arrays, or keys, on every device of the mesh, those of other processes included."""
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(x):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        return jax.device_put(hosts.global_array(x), sharding)

    return jax.tree.map(put, tree)


def take_rows(members: Any, source: jax.Array, slots: jax.Array, num_devices: int) -> Any:
    """Rows `source` of arrays that are split over the axis "members"; inside a `shard_map`.

    The devices' rows go round in a ring, so that a device never holds those of more than two.

    Args:
      members: leaves [m, ...], the device's own rows.
      source: i32[m], the row, counted over all devices, that each of its rows becomes.
      slots: i32[m], their own numbers.
      num_devices: size of the axis.
    """
    if num_devices == 1:
        return jax.tree.map(lambda x: x[source], members)
    own, here = slots.shape[0], jax.lax.axis_index(MEMBERS)
    ring = [(i, (i + 1) % num_devices) for i in range(num_devices)]

    def turn(i, carry):
        found, passing = carry
        first = (here - i) % num_devices * own
        inside = (source >= first) & (source < first + own)
        place = jnp.clip(source - first, 0, own - 1)
        found = jax.tree.map(lambda a, b: jnp.where(along(inside, a), b[place], a), found, passing)
        return found, jax.lax.ppermute(passing, MEMBERS, ring)

    return jax.lax.fori_loop(0, num_devices, turn, (members, members))[0]


def along(mask: jax.Array, x: jax.Array) -> jax.Array:
    """A mask [m] reshaped to select rows of x [m, ...]."""
    return mask.reshape(-1, *(1,) * (x.ndim - 1))
