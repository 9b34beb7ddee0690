"""Unbiased online recurrent optimization."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, from_particle, pathwise
from meta_train.core.system import Rollout, UnrolledSystem, finished, start, window_loss
from meta_train.estimators.factory import PATHWISE, Count, factory
from meta_train.estimators.window import floats_of, of_floats

TINY = 1e-7  # keeps the ratio of two norms finite


class UOROState(NamedTuple):
    """One particle: its rollout, and the factors of E[s theta^T] = ds/dtheta."""

    rollout: Rollout  # where it is
    s: list[jax.Array]  # float leaves of the state
    theta: Any  # like theta


@factory(differentiates=True, returns=PATHWISE)
def uoro(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    stagger: bool = True,
) -> GradientEstimator:
    """A random rank-one influence matrix, carried forward (Tallec & Ollivier 2018).

    `grad = dL/dtheta + (dL/ds . s~) theta~`, then `s~ <- rho0 ds'/ds s~ + rho1 nu` and
    `theta~ <- theta~ / rho0 + nu^T ds'/dtheta / rho1`, nu = +-1 at random; ' is a window later.

    Bias: none, theta frozen during an inner problem.
    Variance: 0 in the first window of an inner problem; there is no closed form for later ones.
    Cost: 7 to 11 K steps; memory 2 |inner state| + |theta|, and K |inner state| while a window runs.
    Needs: a system that is differentiable in theta and state, forward and reverse mode.
    Reduces to: TBPTT in the first window of an inner problem; BPTT where T = K.

    Args:
      num_particles: N rollouts.
      truncation_length: K, steps of one window; 1 is the published algorithm.

    Source: Tallec & Ollivier, "Unbiased Online Recurrent Optimization", ICLR 2018.
    Differs from it in: one rank-one update per window instead of per step, exact forward derivatives.
    """

    def init_one(theta, key):
        rollout = start(system, theta, key, stagger=truncation_length if stagger else None)
        zeros = [jnp.zeros_like(x) for x in floats_of(rollout.state)]
        return UOROState(rollout, zeros, perturb.zeros_like(theta))

    def estimate_one(theta, state, key, data):
        key_restart, key_unroll, key_nu = jax.random.split(key, 3)
        restarted = finished(state.rollout)
        s, th = perturb.where(restarted, perturb.zeros_like((state.s, state.theta)), (state.s, state.theta))
        floats = floats_of(state.rollout.state)
        window = of_floats(
            window_loss(system, restarted, key_restart, key_unroll, data, truncation_length), state.rollout
        )
        (ends, loss), pull, end = jax.vjp(window, theta, floats, has_aux=True)
        direct, by_state = pull((perturb.zeros_like(ends), jnp.ones_like(loss)))
        indirect = sum((jnp.vdot(a, b) for a, b in zip(by_state, s, strict=True)), jnp.zeros([]))
        one, end = pathwise(perturb.add_scaled(direct, indirect, th), loss, restarted, end)

        keys = jax.random.split(key_nu, max(len(ends), 1))
        nu = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, ends, strict=False)]
        (moved, _) = jax.jvp(window, (theta, floats), (perturb.zeros_like(theta), s), has_aux=True)[1]
        pulled, _ = pull((nu, jnp.zeros_like(loss)))
        rho0, rho1 = _ratio(th, moved), _ratio(pulled, nu)
        s = perturb.add(perturb.scale(rho0, moved), perturb.scale(rho1, nu))
        th = perturb.add(perturb.scale(1 / rho0, th), perturb.scale(1 / rho1, pulled))
        return one, UOROState(end, s, th)

    return from_particle(init_one, estimate_one, num_particles, truncation_length)


def _ratio(a, b):
    """The root of |a| / |b|."""
    return jnp.sqrt((jnp.sqrt(perturb.sq_norm(a)) + TINY) / (jnp.sqrt(perturb.sq_norm(b)) + TINY))
