"""Truncated gradients by the reparameterisation trick, alone and mixed with those of evolution strategies."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Lt

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, OneParticle, from_particle, pathwise
from meta_train.core.system import Rollout, UnrolledSystem, finished, start, window_loss
from meta_train.estimators.factory import PATHWISE, Count, Positive, factory
from meta_train.estimators.window import difference


class _Pair(NamedTuple):
    """One window of a pair that starts from a shared state, and of a third rollout with theta itself."""

    restarted: jax.Array
    noise: Any
    losses: jax.Array
    grad: Any  # the mean of both halves' gradients
    end: Rollout  # of the third rollout


def _pair(system, num_steps, sigma, theta, rollout, key, data) -> _Pair:
    key_restart, key_eps, key_unroll = jax.random.split(key, 3)
    restarted, noise = finished(rollout), perturb.gaussian_like(key_eps, theta)
    window = window_loss(system, restarted, key_restart, key_unroll, data, num_steps)
    thetas = perturb.antithetic(theta, perturb.scale(sigma, noise))
    with_gradient = jax.vmap(jax.value_and_grad(window, has_aux=True), (0, None))
    (_, (losses, ends)), grads = with_gradient(thetas, rollout)
    _, (_, end) = window(theta, rollout)
    end = end._replace(diverged=end.diverged | ends.diverged.any())
    return _Pair(restarted, noise, losses, jax.tree.map(lambda g: g.mean(0), grads), end)


@factory(differentiates=True, returns=PATHWISE)
def reparam(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    sigma: Positive = 0.01,
    stagger: bool = True,
) -> GradientEstimator:
    """Backpropagation at perturbed meta-parameters (Metz et al. 2019).

    `grad = d/dtheta (mean(L+) + mean(L-)) / 2`, both halves from one shared state, eps new in every window.

    Bias: truncation: what theta did before the window counts as given. Can have the wrong sign.
    Variance: 0 for linear and quadratic losses without other randomness.
    Cost: about 9 K steps; memory 2 K |inner state| and 2 |theta| while a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: TBPTT as sigma goes to 0.

    Args:
      truncation_length: K, steps of one window; T for the smoothed gradient of whole inner problems.

    Source: Metz et al., "Understanding and correcting pathologies in the training of learned
      optimizers", ICML 2019.
    Differs from it in: antithetic pairs; the state goes on with theta itself.
    """

    def init_one(theta, key):
        return start(system, theta, key, stagger=truncation_length if stagger else None)

    def estimate_one(theta, rollout, key, data):
        pair = _pair(system, truncation_length, sigma, theta, rollout, key, data)
        one, end = pathwise(pair.grad, pair.losses.mean(), pair.restarted, pair.end)
        return one._replace(delta=difference(pair.losses), sigma=sigma), end

    return from_particle(init_one, estimate_one, num_particles, 3 * truncation_length)


class Metz2019State(NamedTuple):
    """One particle: its rollout, and running mean squares (like theta) of its gradients of both kinds."""

    rollout: Rollout
    sq_path: Any
    sq_es: Any


@factory(differentiates=True)
def metz2019(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    sigma: Positive = 0.01,
    decay: Annotated[float, Ge(0), Lt(1)] = 0.9,
    stagger: bool = True,
) -> GradientEstimator:
    """Inverse-variance mix of reparameterisation and ES gradients (Metz et al. 2019).

    `grad = (g_path / v_path + g_es / v_es) / (1 / v_path + 1 / v_es)`, number by number of theta, both from
    the same antithetic pair.

    Bias: truncation: what theta did before the window counts as given. Can have the wrong sign.
    Variance: 2 to 6 % of that of truncated ES on the two systems of benchmarks/estimator_claims.py, where
      reparam has none.
    Cost: about 9 K steps; memory 2 |theta|, and 2 K |inner state| and 3 |theta| while a window runs.
    Needs: a system that is differentiable in theta and state.
    Reduces to: truncated ES where backpropagated gradients are not finite.

    Args:
      truncation_length: K, steps of one window; T for the smoothed gradient of whole inner problems.
      decay: of the running mean squares, in windows.

    Source: Metz et al., "Understanding and correcting pathologies in the training of learned
      optimizers", ICML 2019.
    Differs from it in: the weights come from the mean squares of the particle's own earlier windows, not
      from the variance over the particles of this one, which would bias the mix.
    """

    def init_one(theta, key):
        rollout = start(system, theta, key, stagger=truncation_length if stagger else None)
        return Metz2019State(rollout, perturb.zeros_like(theta), perturb.zeros_like(theta))

    def estimate_one(theta, state, key, data):
        pair = _pair(system, truncation_length, sigma, theta, state.rollout, key, data)
        delta = difference(pair.losses)
        es = perturb.scale(delta / (2 * sigma), pair.noise)
        path = perturb.where(jnp.isfinite(perturb.sq_norm(pair.grad)), pair.grad, es)
        one = OneParticle(
            direction=jax.tree.map(_mix, path, es, state.sq_path, state.sq_es),
            loss=pair.losses.mean(),
            delta=delta,
            restarted=pair.restarted,
            diverged=pair.end.diverged,
            sigma=sigma,
        )

        def running(mean_sq, grad):
            return jax.tree.map(lambda m, g: decay * m + (1 - decay) * jnp.square(g), mean_sq, grad)

        return one, Metz2019State(pair.end, running(state.sq_path, path), running(state.sq_es, es))

    return from_particle(init_one, estimate_one, num_particles, 3 * truncation_length)


def _mix(path, es, sq_path, sq_es):
    """Weights 1 / variance, half and half before the first window."""
    total = sq_path + sq_es
    share = jnp.where(total > 0, sq_es / jnp.where(total > 0, total, 1), 0.5)
    return share * path + (1 - share) * es
