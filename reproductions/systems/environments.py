"""Environments for policy-gradient methods: the pendulum of Gym, and the acrobot."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from reproductions.systems import acrobot as acrobot_lib

GRAVITY, DT = 10.0, 0.05  # of the pendulum: a rod of 1 kg and 1 m
MAX_TORQUE, MAX_SPEED = 2.0, 8.0


class Environment(NamedTuple):
    """One control problem: pure, unbatched functions.

    Attributes:
      reset: `(key) -> state`; the key is consumed.
      observe: `(state) -> f[n]`, numbers of the order of 1.
      step: `(state, action f[]) -> (state, reward f[])`; the action is clipped to [-1, 1].
      length: steps of an episode, which never ends early.
      discount: of the learner's returns.
      scale: the size of a bad reward; the learner divides by it.
    """

    reset: Callable[[jax.Array], Any]
    observe: Callable[[Any], jax.Array]
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array]]
    length: int
    discount: float
    scale: float


class PendulumState(NamedTuple):
    """angle: f[], 0 is upright; speed: f[]."""

    angle: jax.Array
    speed: jax.Array


def pendulum(*, length: int = 100) -> Environment:
    """Swing a rod up and hold it there, with a torque too weak to lift it at once.

    Reward: -(angle^2 + 0.1 speed^2 + 0.001 torque^2) before the step, the angle in [-pi, pi).

    Args:
      length: steps of 0.05 s of an episode.

    Source: Gym's Pendulum-v1.
    Differs from it in: episodes of 100 steps instead of 200; the speed is observed over 8 rad/s.
    """

    def reset(key):
        angle, speed = jax.random.uniform(key, (2,), minval=-1, maxval=1)
        return PendulumState(jnp.pi * angle, speed)

    def observe(state):
        return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed / MAX_SPEED])

    def step(state, action):
        torque = MAX_TORQUE * jnp.clip(action, -1, 1)
        away = jnp.mod(state.angle + jnp.pi, 2 * jnp.pi) - jnp.pi
        reward = -(away**2 + 0.1 * state.speed**2 + 0.001 * torque**2)
        speed = state.speed + DT * (1.5 * GRAVITY * jnp.sin(state.angle) + 3 * torque)
        speed = jnp.clip(speed, -MAX_SPEED, MAX_SPEED)
        return PendulumState(state.angle + DT * speed, speed), reward

    return Environment(reset, observe, step, length, 0.95, 10.0)


def pendulum_energy(state: PendulumState) -> jax.Array:
    """f[]: kinetic plus potential energy of the rod in J; 5 at rest upright."""
    return state.speed**2 / 6 + GRAVITY / 2 * jnp.cos(state.angle)


def acrobot(*, length: int = 200) -> Environment:
    """The acrobot of `systems/acrobot.py`; its reward is the height after the step.

    Args:
      length: steps of 0.2 s of an episode.
    """

    def step(state, action):
        state = acrobot_lib.control_step(state, action)
        return state, acrobot_lib.reward(state)

    return Environment(acrobot_lib.reset, acrobot_lib.observe, step, length, 0.98, 1.0)


ENVIRONMENTS = {"pendulum": pendulum, "acrobot": acrobot}
