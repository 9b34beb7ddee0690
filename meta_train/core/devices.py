"""Estimator -> estimator over devices: particles are split over a mesh, and their means taken together."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from meta_train.core.combine import AverageState, Means, average
from meta_train.core.estimator import Estimate, GradientEstimator

AXIS = "particles"
EVERYWHERE: Any = PartitionSpec()
SPLIT: Any = PartitionSpec(AXIS)


def particle_mesh(num_devices: int) -> Mesh:
    """A mesh of `num_devices` devices with the one axis that `shard` splits particles over.

    With several processes each gives equally many of its devices.

    Raises:
      ValueError: more devices than there are, or not equally many of every process.
    """
    processes, here = jax.process_count(), jax.devices()
    if not 1 <= num_devices <= len(here):
        raise ValueError(
            f"mesh.particles must be between 1 and {len(here)}, the devices there are, got {num_devices}"
        )
    if num_devices % processes:
        raise ValueError(
            f"mesh.particles must be a multiple of the number of processes ({processes}), got {num_devices}"
        )
    each = num_devices // processes
    devices = [d for i in range(processes) for d in [d for d in here if d.process_index == i][:each]]
    return jax.make_mesh((num_devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def widest(rows: int, most: int, multiple: int = 1) -> int:
    """The largest divisor of `rows`, at most `most`, that `multiple` divides; `multiple` if there is none."""
    fitting = (n for n in range(most, 0, -1) if rows % n == 0 and n % multiple == 0)
    return next(fitting, multiple)


def shard(
    estimator: GradientEstimator, mesh: Mesh, *, chunk: int | None = None, deterministic: bool = False
) -> GradientEstimator:
    """Splits an estimator's particles over the devices of a mesh: same estimates, up to rounding.

    theta and data are replicated, every particle leaf lives on its own device, and the only
    communication of an outer step is the mean of the gradient and of the loss: |theta| + 1 floats.

    Args:
      estimator: what is split.
      mesh: of `particle_mesh`.
      chunk: particles that a device works on at a time, one chunk after the other; None for all of
        its own at once. The temporaries of a window are those of one chunk.
      deterministic: the same gradient, bit by bit, on any number of devices: chunks are what is computed
        alike everywhere, so one is needed, and their gradients are gathered and summed in their
        order: as many times |theta| on every device and in its communication.

    Raises:
      ValueError: a number of particles that the number of devices, or that times the chunk, does not
        divide; no chunk where it is to be deterministic.
    """
    local = own_particles(estimator, mesh.size, chunk=chunk, deterministic=deterministic)

    def estimate(theta, state, key, data):
        one, state = local.estimate(theta, state, key, data)
        grad, loss = _over_devices((one.grad, one.loss), mesh.size, deterministic)
        return one._replace(grad=grad, loss=loss), state

    return _on_mesh(estimator._replace(estimate=estimate), mesh, SPLIT)


def shard_average(
    estimators: dict[str, GradientEstimator],
    mesh: Mesh,
    *,
    chunks: dict[str, int | None],
    deterministic: bool = False,
    weights: dict[str, Any] | None = None,
    scaling: Literal["none", "ema", "loss"] = "none",
) -> GradientEstimator:
    """`combine.average` with the particles of every family split over the devices of a mesh.

    The only communication of an outer step is one collective operation, whatever the number of families:
    the mean of |theta| + 2 floats for each of them.

    Args:
      estimators: label -> estimator of all particles of one family.
      mesh: as of `shard`.
      chunks: label -> chunk, as of `shard`.
      deterministic: as of `shard`.
      weights: as of `average`.
      scaling: as there.

    Raises:
      ValueError: as `shard` and `average`.
    """
    if mesh.size == 1:  # nothing is communicated, and a program of each family is simpler to forecast
        apart = {
            label: shard(one, mesh, chunk=chunks[label], deterministic=deterministic)
            for label, one in estimators.items()
        }
        return average(apart, weights=weights, scaling=scaling)
    own = {
        label: own_particles(one, mesh.size, chunk=chunks[label], deterministic=deterministic)
        for label, one in estimators.items()
    }
    together = partial(means_over_devices, num_devices=mesh.size, chunks=chunks, deterministic=deterministic)
    averaged = average(own, weights=weights, scaling=scaling, together=together)
    return _on_mesh(averaged, mesh, AverageState(SPLIT, EVERYWHERE, EVERYWHERE))


def own_particles(
    estimator: GradientEstimator, num_devices: int, *, chunk: int | None = None, deterministic: bool = False
) -> GradientEstimator:
    """An estimator for code that runs inside a `shard_map` over the axis "particles" already.

    `estimate` takes and gives the state of a device's own particles; all its numbers are theirs alone, and
    `means_over_devices` has to follow. Where it is deterministic, its gradient and its loss are those of its
    chunks, [chunks, ...]. `init` is still that of all particles.

    Args:
      estimator: of all particles.
      num_devices: size of the axis.
      chunk: as in `shard`.
      deterministic: as there.

    Raises:
      ValueError: as there.
    """
    if estimator.num_particles % num_devices:
        raise ValueError(
            f"num_particles must be a multiple of the number of devices ({num_devices}), "
            f"got {estimator.num_particles}"
        )
    _check_chunk(chunk, estimator.num_particles // num_devices, deterministic)
    if chunk is None:
        return estimator

    def estimate(theta, state, key, data):
        one, state = _in_chunks(estimator, chunk, theta, state, key, data)
        if not deterministic:
            grad, loss = _ordered_mean((one.grad, one.loss))
            one = one._replace(grad=grad, loss=loss)
        return one, state

    return estimator._replace(estimate=estimate)


def means_over_devices(
    estimates: dict[str, Estimate], num_devices: int, chunks: dict[str, int | None], deterministic: bool
) -> dict[str, Means]:
    """The means over the particles of all devices, by one collective operation for all families.

    Args:
      estimates: label -> of a device's own particles, as `own_particles` makes them.
      num_devices: size of the axis.
      chunks: label -> chunk.
      deterministic: as in `shard`.
    """
    parts = {}
    for label, one in estimates.items():
        grad_sq = one.particles["grad_sq"]
        parts[label] = Means(
            one.grad,
            one.loss,
            grad_sq.reshape(-1, chunks[label]).mean(1) if deterministic else grad_sq.mean(),
        )
    return _over_devices(parts, num_devices, deterministic)


def _over_devices(parts, num_devices, deterministic):
    """The mean over devices, or over the chunks of all devices in their order; one collective operation."""
    if not deterministic:
        if num_devices == 1:
            return parts
        flat, tree = ravel_pytree(parts)
        return tree(jax.lax.pmean(flat, AXIS))
    if num_devices > 1:
        flat, tree = ravel_pytree(parts)
        gathered = jax.vmap(tree)(jax.lax.all_gather(flat, AXIS))
        parts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), gathered)
    return _ordered_mean(parts)


def _on_mesh(estimator, mesh, specs):
    """An estimator whose `estimate` is that of a device's own particles, on a mesh; `specs` of its state."""
    estimate = jax.shard_map(
        estimator.estimate,
        mesh=mesh,
        in_specs=(EVERYWHERE, specs, EVERYWHERE, EVERYWHERE),
        out_specs=(Estimate(EVERYWHERE, EVERYWHERE, SPLIT, EVERYWHERE), specs),
        check_vma=False,
    )

    def init(theta, key):
        places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        return jax.lax.with_sharding_constraint(estimator.init(theta, key), places)

    return estimator._replace(init=init, estimate=estimate)


def _check_chunk(chunk, particles, deterministic):
    """Refuses options of `shard` by name (ValueError); `particles` are those of one device."""
    if deterministic and chunk is None:
        raise ValueError(
            "particle_chunk must be given where mesh.deterministic is true: it is what is computed alike on "
            "any number of devices, got none"
        )
    if chunk is not None and (chunk < 1 or particles % chunk):
        raise ValueError(f"particle_chunk must divide the particles of one device ({particles}), got {chunk}")


def _in_chunks(estimator, chunk, theta, state, key, data):
    """Estimates of `chunk` particles at a time: grad and loss [chunks, ...], everything else joined."""
    split = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), state)
    estimates, states = jax.lax.map(lambda part: estimator.estimate(theta, part, key, data), split)
    joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (estimates.particles, states))
    return estimates._replace(particles=joined[0]), joined[1]


def _ordered_mean(parts):
    """Mean over the leading axis, summed in its order."""

    def mean(x):
        total, _ = jax.lax.scan(lambda total, part: (total + part, None), jnp.zeros_like(x[0]), x)
        return total / len(x)

    return jax.tree.map(mean, parts)
