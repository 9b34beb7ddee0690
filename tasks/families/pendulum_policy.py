"""A control policy, trained by gradients through the dynamics."""

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families import networks
from tasks.families.networks import Activation, Positive, PositiveInt, Range, Widths


def pendulum_policy(
    *,
    hidden: Widths = (16,),
    activation: Activation = "tanh",
    steps: PositiveInt = 20,
    time_step: Positive = 0.1,
    max_torque: Positive = 3.0,
    length: Range = 1.0,
    batch_size: PositiveInt = 8,
) -> TaskFamily:
    """Swing a pendulum of unit mass up, and hold it, from random states.

    `angle'' = 9.81 / length sin(angle) + torque`, semi-implicit Euler; 0 is upright. The loss is the
    mean over steps of `1 - cos(angle) + 0.05 speed^2 + 0.01 torque^2`.

    Args:
      hidden: widths of the policy's hidden layers; it sees cos, sin and speed.
      activation: after every hidden layer.
      steps: of a rollout.
      time_step: seconds per step.
      max_torque: the torque is this times the tanh of the policy's output.
      length: of the pendulum in metres; a number or a log-uniform range.
      batch_size: rollouts of a minibatch, from uniform angles and speeds in (-1, 1).

    Returns:
      A family without data; cfg {"length": f32[]}.

    Source: the pendulum of Gymnasium, differentiated through its steps.
    """
    networks.check_range("length", length)
    init, apply = networks.pure(lambda x: networks.mlp(x, hidden, 1, activation)[..., 0], 1, 3)

    def sample(key):
        return {"length": networks.sample_range(key, length)}

    def task(cfg):
        def loss(params, key, data):
            draws = jax.random.uniform(key, (2 * batch_size,), jnp.float32, -1.0, 1.0)

            def step(state, _):
                angle, speed = state
                seen = jnp.stack([jnp.cos(angle), jnp.sin(angle), speed], axis=-1)
                torque = max_torque * jnp.tanh(apply(params, seen))
                speed = speed + time_step * (9.81 / cfg["length"] * jnp.sin(angle) + torque)
                angle = angle + time_step * speed
                return (angle, speed), 1 - jnp.cos(angle) + 0.05 * speed**2 + 0.01 * torque**2

            start = (jnp.pi * draws[:batch_size], draws[batch_size:])
            return jnp.mean(jax.lax.scan(step, start, length=steps)[1])

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)
