"""A three-link swimmer: MuJoCo's physics of the Gym task in closed form, a linear policy as theta."""

import math
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from meta_train.core.system import UnrolledSystem
from reproductions.systems.outer_problem import OuterProblem

# Three capsules of length 1 (plus half spheres), radius 0.1 and the density of water.
RADIUS, DENSITY = 0.1, 1000.0
_CYLINDER, _SPHERE = DENSITY * math.pi * RADIUS**2, DENSITY * 4 / 3 * math.pi * RADIUS**3
MASS = _CYLINDER + _SPHERE
INERTIA = _CYLINDER * (1 / 12 + RADIUS**2 / 4) + _SPHERE * (2 * RADIUS**2 / 5 + 1 / 4 + 3 * RADIUS / 8)
INERTIA_AXIAL = _CYLINDER * RADIUS**2 / 2 + 2 * _SPHERE * RADIUS**2 / 5
ARMATURE = 0.1  # added to the inertia of every coordinate
GEAR, LIMIT = 150.0, 100 * math.pi / 180
DT, SUBSTEPS = 0.01, 4
CONTROL_COST, FLUID_DENSITY, VISCOSITY = 1e-4, 4000.0, 0.1
# Half sizes of the box with a link's inertia, along and across it; the sphere of the same mean size.
BOX_ALONG = math.sqrt(1.5 / MASS * (2 * INERTIA - INERTIA_AXIAL))
BOX_ACROSS = math.sqrt(1.5 / MASS * INERTIA_AXIAL)
DIAMETER = (2 * BOX_ALONG + 4 * BOX_ACROSS) / 3
# Soft joint limits: stiffness and damping of MuJoCo's default solref (0.02, 1) at its solimp (0.9, 0.95).
STIFFNESS, DAMPING = 1 / (0.95 * 0.02) ** 2, 2 / (0.95 * 0.02)
DOF_INVERSE_WEIGHT = np.array([0.38529334162134676, 0.3933336741383495])
# Centres of mass are (x, y) + CENTRES @ (unit vectors of the links); link i turns with sum TURNS[i] qdot[2:].
CENTRES = np.array([[1.0, 0.0, 0.0], [0.5, -0.5, 0.0], [0.5, -1.0, -0.5]])
TURNS = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])


class SwimmerState(NamedTuple):
    """q: f32[5], x, y, heading, two joint angles; qdot: f32[5]."""

    q: jax.Array
    qdot: jax.Array


def swimmer(
    *, unroll_length: Annotated[int, Ge(1)] = 1000, integrator: Literal["euler", "rk4"] = "euler"
) -> OuterProblem:
    """Forward swimming with a linear policy, u = theta @ (angles[3], qdot[5]); theta f32[2, 8] from 0.

    Loss per step: -(dx / 0.04 s - 1e-4 |u|^2), u clipped to [-1, 1]; T times its mean is -(the return).

    Args:
      unroll_length: T, control steps of 0.04 s.
      integrator: of the four steps of 0.01 s, semi-implicit "euler" (as in Brax) or "rk4" (as in Gym).

    Source: Gym's Swimmer on MuJoCo (Todorov, Erez & Tassa 2012; Coulom 2002).
    Differs from it in: nothing to 1e-10 in float64 over 200 steps of 0.01 s; no termination.
    """

    def init(theta, key):
        q, qdot = jax.random.uniform(key, (2, 5), minval=-0.1, maxval=0.1)
        return SwimmerState(q, qdot), jnp.int32(unroll_length)

    def step(theta, state, key, data):
        control = jnp.clip(theta @ jnp.concatenate([state.q[2:], state.qdot]), -1, 1)
        after = control_step(state, control, integrator)
        reward = (after.q[0] - state.q[0]) / (SUBSTEPS * DT) - CONTROL_COST * jnp.square(control).sum()
        return after, -reward

    system = UnrolledSystem(init, step, unroll_length, unroll_length, worst_loss=100.0)
    return OuterProblem(system, lambda key: jnp.zeros((2, 8)))


def control_step(
    state: SwimmerState, control: jax.Array, integrator: Literal["euler", "rk4"] = "euler"
) -> SwimmerState:
    """0.04 s of physics under constant torques; control: f[2] in [-1, 1]."""
    for _ in range(SUBSTEPS):
        state = (_euler if integrator == "euler" else _rk4)(state, control)
    return state


def _euler(state, control):
    qdot = state.qdot + DT * acceleration(state, control)
    return SwimmerState(state.q + DT * qdot, qdot)


def _rk4(state, control):
    def slope(at):
        return SwimmerState(at.qdot, acceleration(at, control))

    def moved(by, h):
        return jax.tree.map(lambda a, b: a + h * b, state, by)

    k1 = slope(state)
    k2 = slope(moved(k1, DT / 2))
    k3 = slope(moved(k2, DT / 2))
    k4 = slope(moved(k3, DT))
    return jax.tree.map(lambda s, a, b, c, d: s + DT / 6 * (a + 2 * b + 2 * c + d), state, k1, k2, k3, k4)


def acceleration(state: SwimmerState, control: jax.Array) -> jax.Array:
    """f[5]: qddot, from torques, fluid and soft joint limits; control: f[2] in [-1, 1]."""
    qdot = state.qdot
    heading, turning = TURNS @ state.q[2:], TURNS @ qdot[2:]
    along = jnp.stack([jnp.cos(heading), jnp.sin(heading)], -1)  # [link, xy]
    across = jnp.stack([-along[:, 1], along[:, 0]], -1)
    # d(centre of link i) / d(coordinate 2 + k): [link, xy, k]; d/d(x, y) is the identity.
    jacobian = jnp.einsum("ij,jx,jk->ixk", CENTRES, across, TURNS)
    velocity = qdot[:2] + jacobian @ qdot[2:]
    centripetal = -jnp.einsum("ij,jx,j->ix", CENTRES, along, jnp.square(turning))
    drag, drag_torque = _fluid((velocity * along).sum(-1), (velocity * across).sum(-1), turning)
    force = drag[0][:, None] * along + drag[1][:, None] * across - MASS * centripetal
    push = force.sum(0)
    torque = jnp.einsum("ixk,ix->k", jacobian, force) + drag_torque @ TURNS
    torque = torque + GEAR * jnp.concatenate([jnp.zeros(1), jnp.clip(control, -1, 1)])

    # Translation eliminated: M = [[m I, B], [B^T, R]], its angles' inertia S = R - B^T B / m.
    mass = 3 * MASS + ARMATURE
    coupling = MASS * jacobian.sum(0)
    rotation = MASS * jnp.einsum("ixk,ixl->kl", jacobian, jacobian) + INERTIA * TURNS.T @ TURNS
    inverse = _inverse3(rotation + ARMATURE * np.eye(3) - coupling.T @ coupling / mass)
    turn = inverse @ (torque - coupling.T @ push / mass)
    limit = _limit_torque(state.q[3:], qdot[3:], turn[1:], inverse[1:, 1:])
    turn = turn + inverse[:, 1:] @ limit
    return jnp.concatenate([(push - coupling @ turn) / mass, turn])


def _fluid(along, across, turning):
    """MuJoCo's inertia-box fluid: forces along and across each link, and its torque, all f[3]."""
    stokes = -3 * math.pi * DIAMETER * VISCOSITY
    a = stokes * along - 2 * FLUID_DENSITY * BOX_ACROSS**2 * jnp.abs(along) * along
    p = stokes * across - 2 * FLUID_DENSITY * BOX_ALONG * BOX_ACROSS * jnp.abs(across) * across
    quadratic = FLUID_DENSITY / 2 * BOX_ACROSS * (BOX_ALONG**4 + BOX_ACROSS**4)
    torque = -math.pi * DIAMETER**3 * VISCOSITY * turning - quadratic * jnp.abs(turning) * turning
    return (a, p), torque


def _inverse3(m):
    """Inverse of a symmetric 3 x 3 matrix, by cofactors: no library call per particle."""
    cofactors = jnp.stack([jnp.cross(m[1], m[2]), jnp.cross(m[2], m[0]), jnp.cross(m[0], m[1])])
    return cofactors / (m[0] @ cofactors[0])


def _limit_torque(angle, speed, free, mobility):
    """f[2]: torques f >= 0 towards the inside that minimise f'(A + R) f / 2 - g'f over the limits passed.

    `free`: accelerations without them; `mobility`: f[2, 2], acceleration per torque.
    """
    side = -jnp.sign(angle)
    excess = LIMIT - jnp.abs(angle)
    active = excess < 0
    x = jnp.minimum(jnp.abs(excess) / 0.001, 1)
    impedance = 0.9 + 0.05 * jnp.where(x <= 0.5, 2 * x**2, 1 - 2 * (1 - x) ** 2)
    wanted = -DAMPING * side * speed - STIFFNESS * impedance * excess
    g = jnp.where(active, wanted - side * free, -1.0)  # -1: an angle inside its limits takes no torque
    regulariser = (1 - impedance) / impedance * DOF_INVERSE_WEIGHT
    h0, h1 = mobility[0, 0] + regulariser[0], mobility[1, 1] + regulariser[1]
    h01 = jnp.where(active.all(), side[0] * side[1] * mobility[0, 1], 0.0)
    both = jnp.stack([h1 * g[0] - h01 * g[1], h0 * g[1] - h01 * g[0]]) / (h0 * h1 - h01**2)
    one = jnp.stack([g[0] / h0, g[1] / h1])
    first_alone = jnp.stack([one[0], jnp.zeros_like(one[0])])
    second_alone = jnp.stack([jnp.zeros_like(one[1]), one[1]])
    first_is_best = (one[0] >= 0) & (h01 * one[0] >= g[1])
    force = jnp.where(first_is_best, first_alone, second_alone)
    force = jnp.where((both >= 0).all(), both, force)
    return side * jnp.where((g <= 0).all(), 0.0, force)
