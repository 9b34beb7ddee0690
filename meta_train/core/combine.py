"""Estimator -> estimator: over devices, and over task families."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from meta_train.core import perturb
from meta_train.core.estimator import Estimate, GradientEstimator

AXIS = "particles"


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
    local = on_axis(estimator, mesh.size, chunk=chunk, deterministic=deterministic)
    everywhere: Any = PartitionSpec()
    split: Any = PartitionSpec(AXIS)
    estimate = jax.shard_map(
        local.estimate,
        mesh=mesh,
        in_specs=(everywhere, split, everywhere, everywhere),
        out_specs=(Estimate(everywhere, everywhere, split, everywhere), split),
        check_vma=False,
    )

    def init(theta, key):
        return jax.lax.with_sharding_constraint(estimator.init(theta, key), NamedSharding(mesh, split))

    return estimator._replace(init=init, estimate=estimate)


def on_axis(
    estimator: GradientEstimator, num_devices: int, *, chunk: int | None = None, deterministic: bool = False
) -> GradientEstimator:
    """An estimator for code that runs inside a `shard_map` over the axis "particles" already.

    `estimate` takes and gives the state of a device's own particles; its gradient and its loss are those of
    all particles, its `particles` numbers those of its own. `init` is still that of all of them.

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

    def estimate(theta, state, key, data):
        if chunk is None:
            estimate, state = estimator.estimate(theta, state, key, data)
            grad, loss = jax.lax.pmean((estimate.grad, estimate.loss), AXIS)
        else:
            estimate, state = _in_chunks(estimator, chunk, theta, state, key, data)
            parts = (estimate.grad, estimate.loss)
            if deterministic:
                grad, loss = _ordered_mean(jax.lax.all_gather(parts, AXIS, tiled=True))
            else:
                grad, loss = jax.lax.pmean(_ordered_mean(parts), AXIS)
        return estimate._replace(grad=grad, loss=loss), state

    return estimator._replace(estimate=estimate)


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


class AverageState(NamedTuple):
    """States of the families' estimators, and what scales their gradients.

    Attributes:
      states: label -> state of that family's estimator.
      running: f32[families], running means of squared gradient norms, or of losses; None without scaling.
      counts: i32[families], estimates so far.
    """

    states: dict[str, Any]
    running: jax.Array | None
    counts: jax.Array


def average(
    estimators: dict[str, GradientEstimator],
    *,
    weights: dict[str, Any] | None = None,
    scaling: Literal["none", "ema", "loss"] = "none",
    decay: float = 0.99,
) -> GradientEstimator:
    """The weighted mean of several families' gradients: one estimator of their common theta.

    `grad = sum_f w_f grad_f / scale_f / sum_f w_f`; the families may differ in every shape.

    Args:
      estimators: label -> estimator of one family. `estimate` takes `data` as label -> data.
      weights: label -> w_f > 0, a number or a traced f32[]; None for equal ones.
      scaling: "none" (scale_f = 1: a family with large losses dominates), or "ema": scale_f is the
        root of the running mean of its particles' squared gradient norms, so that families weigh alike;
        "loss": the running mean of its |loss|, so that relative improvements weigh alike.
      decay: of that running mean, in [0, 1).

    Returns:
      A `GradientEstimator`; metrics and particle numbers are labelled `label/name`. Its state is that
      of all families, not one array per particle.

    Raises:
      ValueError: no family, weights that are not > 0 or not one for each family, an option out of range.
    """
    labels = list(estimators)
    weights = dict.fromkeys(labels, 1.0) if weights is None else weights
    _check_average(labels, weights, scaling, decay)
    total = sum(weights[label] for label in labels)

    def init(theta, key):
        keys = jax.random.split(key, len(labels))
        states = {label: estimators[label].init(theta, k) for label, k in zip(labels, keys, strict=True)}
        running = None if scaling == "none" else jnp.zeros(len(labels))
        return AverageState(states, running, jnp.zeros(len(labels), jnp.int32))

    def estimate(theta, state, key, data):
        keys = jax.random.split(key, len(labels))
        estimates, states = {}, {}
        for label, k in zip(labels, keys, strict=True):
            one, states[label] = estimators[label].estimate(theta, state.states[label], k, data[label])
            estimates[label] = one

        shares = jnp.asarray([weights[label] / total for label in labels])
        counts = state.counts + 1
        grad, loss, running = weigh(
            list(estimates.values()), shares, state.running, counts, scaling=scaling, decay=decay
        )
        metrics, particles = {}, {}
        for label, one in estimates.items():
            metrics[f"{label}/loss"] = one.loss
            metrics[f"{label}/grad_norm"] = jnp.sqrt(perturb.sq_norm(one.grad))
            particles |= {f"{label}/{name}": value for name, value in one.particles.items()}
        return Estimate(grad, loss, particles, metrics), AverageState(states, running, counts)

    each = estimators.values()
    return GradientEstimator(
        init, estimate, sum(e.num_particles for e in each), sum(e.inner_steps for e in each)
    )


def weigh(
    estimates: list[Estimate],
    shares: jax.Array,
    running: jax.Array | None,
    counts: jax.Array,
    *,
    scaling: Literal["none", "ema", "loss"],
    decay: float,
) -> tuple[Any, jax.Array, jax.Array | None]:
    """The weighted, scaled mean of families' gradients, that of their losses, and the running sizes.

    Args:
      estimates: one of each family.
      shares: f32[families], weights that add up to 1.
      running: f32[families], as in `AverageState`, before these estimates; None for scaling "none".
      counts: i32[families], estimates of each with these.
      scaling: as in `average`.
      decay: of the running means.
    """
    factors = shares
    if running is not None:
        if scaling == "loss":
            sizes = jnp.stack([jnp.abs(one.loss) for one in estimates])
        else:
            sizes = jnp.stack([one.particles["grad_sq"].mean() for one in estimates])
        running = decay * running + (1 - decay) * sizes
        sizes = jnp.maximum(running / (1 - decay**counts), 1e-30)
        factors = shares / (jnp.sqrt(sizes) if scaling == "ema" else sizes)
    grad = perturb.zeros_like(estimates[0].grad)
    for i, one in enumerate(estimates):
        grad = perturb.add_scaled(grad, factors[i], one.grad)
    return grad, jnp.asarray(sum(shares[i] * one.loss for i, one in enumerate(estimates))), running


def _check_average(labels, weights, scaling, decay):
    """Refuses options of `average` by name (ValueError)."""
    if not labels:
        raise ValueError("estimators must hold at least one family, got none")
    if sorted(weights) != sorted(labels):
        raise ValueError(f"weights must name the families {', '.join(labels)}, got {', '.join(weights)}")
    for label in labels:
        if not isinstance(weights[label], jax.Array) and not weights[label] > 0:
            raise ValueError(f"weights must be > 0, got {weights[label]} for {label}")
    if scaling not in ("none", "ema", "loss"):
        raise ValueError(f"scaling must be none, ema or loss, got {scaling}")
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
