"""Real-time recurrent learning."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt
from jax.flatten_util import ravel_pytree

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, check_differentiable, from_particle, pathwise
from meta_train.core.system import Rollout, UnrolledSystem, check_truncation, finished
from meta_train.estimators.forward import floats_of, start_function, window_function


class RTRLState(NamedTuple):
    """One particle: its rollout, and the derivative of its float leaves by theta, leaves [|theta|, ...]."""

    rollout: Rollout
    influence: list[jax.Array]


def rtrl(
    system: UnrolledSystem,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    max_gib: Annotated[float, Gt(0)] = 4.0,
    stagger: bool = True,
) -> GradientEstimator:
    """Real-time recurrent learning (Williams & Zipser 1989).

    `J <- ds'/ds J + ds'/dtheta; grad = mean(dL/ds J + dL/dtheta)`, the whole influence of theta.

    Bias: none, theta frozen during an inner problem.
    Variance: only that of the tasks and minibatches; explodes where the inner dynamics are chaotic.
    Cost: about |theta| K steps; memory |theta| |inner state|: for at most some hundred meta-parameters.
    Needs: a system that is differentiable in theta and state, forward mode.
    Reduces to: BPTT where T = K.

    Args:
      system: what is unrolled; its lengths must be multiples of `truncation_length`.
      num_particles: N rollouts.
      truncation_length: K, steps of one window.
      max_gib: the most that the influence matrices of all particles may take, in GiB.
      stagger: draws every particle's first length short, so that particles are out of phase.

    Returns:
      A `GradientEstimator`. A particle whose gradient is not finite counts 0 in the mean, is told in
      the metrics as diverged, and restarts.

    Raises:
      ValueError: an option out of range, `truncation_length` that does not divide the lengths; from
        `init`: influence matrices larger than `max_gib`.

    Source: Williams & Zipser, "A Learning Algorithm for Continually Running Fully Recurrent Neural
      Networks", 1989.
    Differs from it in: nothing.
    """
    check_differentiable(system, "rtrl")
    check_truncation(system, truncation_length)

    def basis(theta):
        flat, unravel = ravel_pytree(theta)
        return jax.vmap(unravel)(jnp.eye(flat.size, dtype=flat.dtype))

    def init_one(theta, key):
        begin = start_function(system, key, truncation_length if stagger else None)
        floats, rollout = begin(theta)
        gib = num_particles * perturb.size(theta) * sum(x.nbytes for x in floats) / 2**30
        if gib > max_gib:
            raise ValueError(
                f"max_gib must be at least {gib:.3g}, what {num_particles} influence matrices of "
                f"{perturb.size(theta)} meta-parameters take, got {max_gib}"
            )
        influence = jax.vmap(lambda e: jax.jvp(lambda th: begin(th)[0], (theta,), (e,))[1])(basis(theta))
        return RTRLState(rollout, influence)

    def estimate_one(theta, state, key, data):
        key_restart, key_unroll = jax.random.split(key)
        restarted, floats = finished(state.rollout), floats_of(state.rollout.state)
        window = window_function(
            system, state.rollout, restarted, key_restart, key_unroll, data, truncation_length
        )

        def push(e, tangent):
            (_, loss), (tangent, slope), end = jax.jvp(window, (theta, floats), (e, tangent), has_aux=True)
            return (loss, end), (tangent, slope)

        (loss, end), (influence, slopes) = jax.vmap(push, out_axes=(None, 0))(basis(theta), state.influence)
        one, end = pathwise(ravel_pytree(theta)[1](slopes), loss, restarted, end)
        return one, RTRLState(end, influence)

    return from_particle(init_one, estimate_one, num_particles, truncation_length)
