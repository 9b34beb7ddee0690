"""What a gradient estimator is, and how one is made from its rule for a single particle."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.system import Rollout, UnrolledSystem

Theta = Any
EState = Any


class Estimate(NamedTuple):
    """One estimate of the outer gradient.

    Attributes:
      grad: like theta; gradient of the mean loss per step.
      loss: f32[], mean over the window's steps, then over particles (both halves of each pair).
      particles: name -> f32[N], one number per particle, for the metrics.
      metrics: name -> f32[]; an average puts its families' `label/loss` and `label/grad_norm` there,
        `summarise` everything else.
    """

    grad: Theta
    loss: jax.Array
    particles: dict[str, jax.Array]
    metrics: dict[str, jax.Array]


class GradientEstimator(NamedTuple):
    """An outer-gradient estimator: a pair of pure functions.

    Attributes:
      init: `(theta, key) -> state`; the key is consumed. Every leaf of the state is [N, ...].
      estimate: `(theta, state, key, data) -> (Estimate, state)`, one window of every particle; the
        key is consumed. Same key, same answer, on any number of devices.
      num_particles: N.
      inner_steps: steps of the system that one estimate takes, all particles together.
    """

    init: Callable[[Theta, jax.Array], EState]
    estimate: Callable[[Theta, EState, jax.Array, Any], tuple[Estimate, EState]]
    num_particles: int
    inner_steps: int


class OneParticle(NamedTuple):
    """What the rule of one particle returns along with its state. Build it by keyword.

    Attributes:
      direction: like theta; `weight * direction` is this particle's gradient. They are separate, so that the
        mean over particles never holds all of their gradients.
      loss: f32[], mean loss of its window.
      restarted: bool[], whether it began a new inner problem in this window.
      weight: f32[].
      delta: f32[], difference of the pair's mean losses (0 for estimators without pairs).
      diverged: bool[], whether something was not finite; it restarts before its next window.
      sigma: f32[], std of its perturbation (1 for estimators that do not perturb).
    """

    direction: Theta
    loss: Any
    restarted: Any
    weight: Any = 1.0
    delta: Any = 0.0
    diverged: Any = False
    sigma: Any = 1.0


class Particles(NamedTuple):
    """State of N particles.

    Attributes:
      index: i32[N]; a particle's name, which alone decides its randomness, whatever device it is on.
      theta_sketch: f32[N, 31], `perturb.sketch` of theta when its inner problem began.
      state: the particles' own states, leaves [N, ...].
    """

    index: jax.Array
    theta_sketch: jax.Array
    state: Any


def pathwise(
    grad: Theta, loss: jax.Array, restarted: jax.Array, rollout: Rollout
) -> tuple[OneParticle, Rollout]:
    """A particle whose gradient is backpropagated or pushed forward, and its rollout after the window.

    A gradient that is not finite counts as 0, is reported as diverged, and makes the rollout restart.
    """
    finite = jnp.isfinite(perturb.sq_norm(grad))
    end = rollout._replace(diverged=rollout.diverged | ~finite)
    direction = perturb.where(finite, grad, perturb.zeros_like(grad))
    return OneParticle(direction=direction, loss=loss, restarted=restarted, diverged=end.diverged), end


def whole_length(system: UnrolledSystem, name: str) -> int:
    """T, for an estimator that takes whole inner problems; refuses a random or endless one (ValueError)."""
    if system.max_length is None or system.max_length != system.length_multiple:
        raise ValueError(f"unroll_length must be one constant number for {name}, got a random or endless one")
    return system.max_length


# Estimators that only evaluate losses.
GRADIENT_FREE = ("full_es", "gpes", "nres", "pes", "truncated_es")


def check_differentiable(system: UnrolledSystem, name: str) -> None:
    """Refuses (ValueError) a system that the estimator called `name` cannot differentiate."""
    if system.no_gradient:
        raise ValueError(
            f"{name} needs gradients, {system.no_gradient} has none; allowed: {', '.join(GRADIENT_FREE)}"
        )


def from_particle(
    init_one: Callable[[Theta, jax.Array], Any],
    estimate_one: Callable[[Theta, Any, jax.Array, Any], tuple[OneParticle, Any]],
    num_particles: int,
    inner_steps: int,
    *,
    keys: Callable[[jax.Array, jax.Array], Any] = jax.random.fold_in,
) -> GradientEstimator:
    """Lifts the rule of one particle to N independent particles and the mean of their gradients.

    Args:
      init_one: `(theta, key) -> state` of one particle.
      estimate_one: `(theta, state, key, data) -> (OneParticle, state)`.
      num_particles: N >= 1.
      inner_steps: steps of the system that one particle takes in one estimate.
      keys: `(key, index i32[]) -> ` what the rules get as `key`; a key of the particle's own by default.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles must be >= 1, got {num_particles}")

    def keys_of(key, index):
        return jax.vmap(keys, (None, 0))(key, index)

    def init(theta, key):
        index = jnp.arange(num_particles)
        theta_sketch = jnp.broadcast_to(perturb.sketch(theta), (num_particles, perturb.SKETCH))
        return Particles(index, theta_sketch, jax.vmap(init_one, (None, 0))(theta, keys_of(key, index)))

    def estimate(theta, particles, key, data):
        one, state = jax.vmap(estimate_one, (None, 0, 0, None))(
            theta, particles.state, keys_of(key, particles.index), data
        )
        now = perturb.sketch(theta)
        began = jnp.where(one.restarted[:, None], now, particles.theta_sketch)
        numbers = {
            "delta": one.delta,
            "restarted": one.restarted.astype(jnp.float32),
            "diverged": one.diverged.astype(jnp.float32),
            "theta_drift": jnp.linalg.norm(now - began, axis=-1) / one.sigma,
            "grad_sq": jnp.square(one.weight) * jax.vmap(perturb.sq_norm)(one.direction),
        }
        grad = jax.tree.map(lambda d: _weighted_mean(one.weight, d), one.direction)
        return Estimate(grad, one.loss.mean(), numbers, {}), Particles(particles.index, began, state)

    return GradientEstimator(init, estimate, num_particles, num_particles * inner_steps)


def _weighted_mean(weight, direction):
    """mean_i weight[i] direction[i, ...]."""
    total = jnp.tensordot(weight.astype(direction.dtype), direction, 1, precision=jax.lax.Precision.HIGHEST)
    return total / len(weight)


def summarise(estimate: Estimate) -> Estimate:
    """Fills in the metrics of an estimate (after all devices' particles are together).

    `loss`, `grad_norm`, and for each family (named `label/...` in an average):

    * `snr`: debiased |G|^2 / (tr Cov / N) of the mean gradient; `n_crit`: tr Cov / |G|^2,
      the particle count at which signal and noise are equal (NaN for one particle). Particles
      at different places of their inner problems count as noise.
    * `delta_p50`, `delta_p90`, `delta_max`: quantiles of |delta|.
    * `diverged`, `restarted`: fractions of the particles.
    * `theta_drift`: mean of |theta - theta when the inner problem began| / sigma (within 25 %);
      above 1 the running inner problems belong to another theta than the one that is updated.
    """
    metrics = {
        "loss": estimate.loss,
        "grad_norm": jnp.sqrt(perturb.sq_norm(estimate.grad)),
        **estimate.metrics,
    }
    families: dict[str, dict[str, jax.Array]] = {}
    for label, value in estimate.particles.items():
        prefix, _, name = label.rpartition("/")
        families.setdefault(f"{prefix}/" if prefix else "", {})[name] = value
    for prefix, numbers in families.items():
        found = _family_metrics(numbers, jnp.square(metrics[f"{prefix}grad_norm"]))
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
    return estimate._replace(metrics=metrics)


def _family_metrics(numbers: dict[str, jax.Array], grad_sq: jax.Array) -> dict[str, jax.Array]:
    n = numbers["grad_sq"].shape[0]
    # tr Cov of one particle from scalars alone: sum |g_i|^2 - N |mean g|^2.
    trace = n * (numbers["grad_sq"].mean() - grad_sq) / (n - 1) if n > 1 else jnp.full([], jnp.nan)
    signal = grad_sq - trace / n
    p50, p90, largest = jnp.quantile(jnp.abs(numbers["delta"]), jnp.asarray([0.5, 0.9, 1.0]))
    return {
        "snr": signal / (trace / n),
        "n_crit": trace / signal,
        "delta_p50": p50,
        "delta_p90": p90,
        "delta_max": largest,
        "diverged": numbers["diverged"].mean(),
        "restarted": numbers["restarted"].mean(),
        "theta_drift": numbers["theta_drift"].mean(),
    }
