"""Real-time recurrent learning."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, from_particle, pathwise
from meta_train.core.system import Rollout, UnrolledSystem, finished, start, window_loss
from meta_train.estimators.factory import PATHWISE, Count, Positive, factory
from meta_train.estimators.window import floats_of, of_floats


class RTRLState(NamedTuple):
    """One particle: its rollout, and the derivative of its float leaves by theta, leaves [|theta|, ...]."""

    rollout: Rollout
    influence: list[jax.Array]


@factory(differentiates=True, returns=PATHWISE)
def rtrl(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    truncation_length: Count = 10,
    max_gib: Positive = 4.0,
    stagger: bool = True,
) -> GradientEstimator:
    """Real-time recurrent learning (Williams & Zipser 1989).

    `J <- ds'/ds J + ds'/dtheta; grad = mean(dL/ds J + dL/dtheta)`, the whole influence of theta.

    Bias: none, theta frozen during an inner problem.
    Variance: only that of the tasks and minibatches: 0 where nothing is random.
    Cost: about (1 + 2 |theta|) K steps; memory |theta| |inner state|: for some hundred meta-parameters.
    Needs: a system that is differentiable in theta and state, forward mode.
    Reduces to: BPTT where T = K.

    Args:
      num_particles: N rollouts.
      max_gib: the most that the influence matrices of all particles may take, in GiB; `init` refuses more.

    Source: Williams & Zipser, "A Learning Algorithm for Continually Running Fully Recurrent Neural
      Networks", 1989.
    Differs from it in: nothing.
    """

    def basis(theta):
        flat, unravel = ravel_pytree(theta)
        return jax.vmap(unravel)(jnp.eye(flat.size, dtype=flat.dtype))

    def init_one(theta, key):
        rollout = start(system, theta, key, stagger=truncation_length if stagger else None)
        size, floats = perturb.size(theta), floats_of(rollout.state)
        gib = num_particles * size * sum(x.nbytes for x in floats) / 2**30
        if gib > max_gib:
            raise ValueError(
                f"max_gib must be at least {gib:.3g}, what {num_particles} influence matrices of "
                f"{size} meta-parameters take, got {max_gib}"
            )
        return RTRLState(rollout, [jnp.zeros((size, *x.shape), x.dtype) for x in floats])

    def estimate_one(theta, state, key, data):
        key_restart, key_unroll = jax.random.split(key)
        restarted, floats = finished(state.rollout), floats_of(state.rollout.state)
        window = of_floats(
            window_loss(system, restarted, key_restart, key_unroll, data, truncation_length), state.rollout
        )

        def push(e, tangent):
            (_, loss), (tangent, slope), end = jax.jvp(window, (theta, floats), (e, tangent), has_aux=True)
            return (loss, end), (tangent, slope)

        (loss, end), (influence, slopes) = jax.vmap(push, out_axes=(None, 0))(basis(theta), state.influence)
        one, end = pathwise(ravel_pytree(theta)[1](slopes), loss, restarted, end)
        return one, RTRLState(end, influence)

    return from_particle(init_one, estimate_one, num_particles, truncation_length)
