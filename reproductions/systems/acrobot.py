"""Acrobot: two links that hang from a pivot, driven at the elbow alone; they have to swing up."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge

from meta_train.core.system import UnrolledSystem
from reproductions.systems.outer_problem import OuterProblem

# Both links: mass 1 kg, length 1 m, centre in the middle, inertia about it 1 kg m^2 (as in Gym).
LENGTH, CENTRE, INERTIA, GRAVITY = 1.0, 0.5, 1.0, 9.8
MAX_TORQUE, DT, SUBSTEPS = 1.0, 0.05, 4  # N m, s; a torque is held for 0.2 s


class AcrobotState(NamedTuple):
    """q: f[2], the first link's angle from hanging and the second's from the first; qdot: f[2]."""

    q: jax.Array
    qdot: jax.Array


def acrobot(*, unroll_length: Annotated[int, Ge(1)] = 200, hidden: Annotated[int, Ge(1)] = 8) -> OuterProblem:
    """Swing-up with a policy of one hidden layer; theta {"in": f32[hidden, 7], "out": f32[hidden]}.

    Loss per step: -(height of the tip above the pivot) / 2, in [-1, 1]; T times its mean is -(the return).
    The first layer starts at random, the second at 0, so that the first policy does nothing.

    Args:
      unroll_length: T, control steps of 0.2 s.
      hidden: tanh units.

    Source: Gym's Acrobot-v1 (Sutton 1996; the "book" dynamics).
    Differs from it in: any torque in [-1, 1] instead of three; the height instead of -1 until it exceeds 1;
      no limits of speed, which would break the conservation of energy; 4 Runge-Kutta steps of 0.05 s
      instead of one of 0.2 s; the height after the step counts; an episode does not end early.
    """

    def init_theta(key):
        return {
            "in": 0.5 * jax.random.normal(key, (hidden, 7), jnp.float32),
            "out": jnp.zeros(hidden, jnp.float32),
        }

    def step(theta, state, key, data):
        seen = jnp.append(observe(state), 1.0)
        state = control_step(state, theta["out"] @ jnp.tanh(theta["in"] @ seen))
        return state, -reward(state)

    def init(theta, key):
        return reset(key), jnp.int32(unroll_length)

    return OuterProblem(UnrolledSystem(init, step, unroll_length, unroll_length), init_theta)


def reset(key: jax.Array) -> AcrobotState:
    """Hanging nearly still: all four numbers in (-0.1, 0.1). The key is consumed."""
    q, qdot = jax.random.uniform(key, (2, 2), minval=-0.1, maxval=0.1)
    return AcrobotState(q, qdot)


def observe(state: AcrobotState) -> jax.Array:
    """f[6]: cosines and sines of both angles, and the speeds over 4 rad/s."""
    return jnp.concatenate([jnp.cos(state.q), jnp.sin(state.q), state.qdot / 4])


def reward(state: AcrobotState) -> jax.Array:
    """f[]: the height of the tip above the pivot over that of the upright acrobot, in [-1, 1]."""
    return -(jnp.cos(state.q[0]) + jnp.cos(state.q.sum())) / 2


def control_step(state: AcrobotState, control: jax.Array) -> AcrobotState:
    """0.2 s under one torque, `control` (f[]) clipped to [-1, 1] N m; classical Runge-Kutta."""
    torque = MAX_TORQUE * jnp.clip(control, -1, 1)
    for _ in range(SUBSTEPS):
        state = runge_kutta(state, torque, DT)
    return state


def runge_kutta(state: AcrobotState, torque: jax.Array, dt: float) -> AcrobotState:
    """One step of the fourth order."""

    def slope(by, h):
        at = jax.tree.map(lambda a, b: a + h * b, state, by)
        return AcrobotState(at.qdot, acceleration(at, torque))

    k1 = slope(jax.tree.map(jnp.zeros_like, state), 0.0)
    k2 = slope(k1, dt / 2)
    k3 = slope(k2, dt / 2)
    k4 = slope(k3, dt)
    return jax.tree.map(lambda s, a, b, c, d: s + dt / 6 * (a + 2 * b + 2 * c + d), state, k1, k2, k3, k4)


def mass_matrix(q: jax.Array) -> tuple[jax.Array, jax.Array, float]:
    """Its entries (1, 1), (1, 2) and (2, 2)."""
    outer, coupling = CENTRE**2 + INERTIA, LENGTH * CENTRE * jnp.cos(q[1])
    return 2 * outer + LENGTH**2 + 2 * coupling, outer + coupling, outer


def energy(state: AcrobotState) -> jax.Array:
    """f[]: kinetic plus potential energy in J; -19.6 at rest where it hangs, 19.6 upright."""
    m11, m12, m22 = mass_matrix(state.q)
    first, second = state.qdot
    kinetic = m11 * first**2 / 2 + m12 * first * second + m22 * second**2 / 2
    height = -(CENTRE + LENGTH) * jnp.cos(state.q[0]) - CENTRE * jnp.cos(state.q.sum())
    return kinetic + GRAVITY * height


def acceleration(state: AcrobotState, torque: jax.Array) -> jax.Array:
    """f[2]: qddot, of M(q) qddot + C(q, qdot) + G(q) = (0, torque)."""
    (first, second), bend = state.qdot, LENGTH * CENTRE * jnp.sin(state.q[1])
    pull = GRAVITY * CENTRE * jnp.sin(state.q.sum())
    b1 = bend * second * (second + 2 * first) - GRAVITY * (CENTRE + LENGTH) * jnp.sin(state.q[0]) - pull
    b2 = torque - bend * first**2 - pull
    m11, m12, m22 = mass_matrix(state.q)
    return jnp.stack([m22 * b1 - m12 * b2, m11 * b2 - m12 * b1]) / (m11 * m22 - m12**2)
