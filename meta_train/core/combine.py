"""Estimator -> estimator: the average over task families."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.estimator import Estimate, GradientEstimator


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


class Means(NamedTuple):
    """What the average needs of one family: means over all of its particles.

    Attributes:
      grad: like theta.
      loss: f32[].
      grad_sq: f32[], of the squared norms of the particles' gradients.
    """

    grad: Any
    loss: jax.Array
    grad_sq: jax.Array


def means(estimates: dict[Any, Estimate]) -> dict[Any, Means]:
    """Those of estimates that are of all particles."""
    return {
        label: Means(one.grad, one.loss, one.particles["grad_sq"].mean()) for label, one in estimates.items()
    }


def average(
    estimators: dict[str, GradientEstimator],
    *,
    weights: dict[str, Any] | None = None,
    scaling: Literal["none", "ema", "loss"] = "none",
    decay: float = 0.99,
    together: Callable[[dict[str, Estimate]], dict[str, Means]] = means,
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
      together: gives the means of all families, where the estimates are of a part of the particles (see
        `devices.means_over_devices`).

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

        found = together(estimates)
        shares = jnp.asarray([weights[label] / total for label in labels])
        counts = state.counts + 1
        grad, loss, running = weigh(
            list(found.values()), shares, state.running, counts, scaling=scaling, decay=decay
        )
        metrics, particles = {}, {}
        for label, one in found.items():
            metrics[f"{label}/loss"] = one.loss
            metrics[f"{label}/grad_norm"] = jnp.sqrt(perturb.sq_norm(one.grad))
            particles |= {f"{label}/{name}": value for name, value in estimates[label].particles.items()}
        return Estimate(grad, loss, particles, metrics), AverageState(states, running, counts)

    each = estimators.values()
    return GradientEstimator(
        init, estimate, sum(e.num_particles for e in each), sum(e.inner_steps for e in each)
    )


def weigh(
    families: list[Means],
    shares: jax.Array,
    running: jax.Array | None,
    counts: jax.Array,
    *,
    scaling: Literal["none", "ema", "loss"],
    decay: float,
) -> tuple[Any, jax.Array, jax.Array | None]:
    """The weighted, scaled mean of families' gradients, that of their losses, and the running sizes.

    Args:
      families: the means of each.
      shares: f32[families], weights that add up to 1.
      running: f32[families], as in `AverageState`, before these; None for scaling "none".
      counts: i32[families], estimates of each, these included.
      scaling: as in `average`.
      decay: of the running means.
    """
    factors = shares
    if running is not None:
        if scaling == "loss":
            sizes = jnp.stack([jnp.abs(one.loss) for one in families])
        else:
            sizes = jnp.stack([one.grad_sq for one in families])
        running = decay * running + (1 - decay) * sizes
        sizes = jnp.maximum(running / (1 - decay**counts), 1e-30)
        factors = shares / (jnp.sqrt(sizes) if scaling == "ema" else sizes)
    grad = perturb.zeros_like(families[0].grad)
    for i, one in enumerate(families):
        grad = perturb.add_scaled(grad, factors[i], one.grad)
    return grad, jnp.asarray(sum(shares[i] * one.loss for i, one in enumerate(families))), running


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
