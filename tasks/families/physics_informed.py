"""Physics-informed networks: a differential equation as the loss."""

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families import networks
from tasks.families.networks import PositiveInt, Widths, normal


def physics_informed(
    *,
    hidden: Widths = (16, 16),
    modes: PositiveInt = 2,
    batch_size: PositiveInt = 32,
) -> TaskFamily:
    """A network solves u'' = f on (0, 1), u(0) = u(1) = 0 (Raissi et al. 2019).

    `u(x) = x (1 - x) net(x)` meets the boundary; `loss = mean (u'' - f)^2 / 100` at random x. The
    right-hand side belongs to a known solution, the sum of a_j sin(j pi x) / j^2 with a_j ~ N(0, 1).

    Args:
      hidden: widths of the hidden layers (tanh).
      modes: sines in the solution.
      batch_size: points of a minibatch.

    Returns:
      A family without data; cfg {"amplitudes": f32[modes]}.

    Source: Raissi, Perdikaris & Karniadakis 2019.
    """
    init, apply = networks.pure(lambda x: networks.mlp(x, hidden, 1, "tanh")[..., 0], 1, 1)
    frequencies = jnp.pi * jnp.arange(1, modes + 1, dtype=jnp.float32)

    def task(cfg):
        def loss(params, key, data):
            def u(x):
                return x * (1 - x) * apply(params, 2 * x[:, None] - 1)

            def slope(x):
                return jax.jvp(u, (x,), (jnp.ones_like(x),))[1]

            x = jax.random.uniform(key, (batch_size,), jnp.float32)
            curvature = jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]
            wanted = -(jnp.pi**2) * jnp.sin(x[:, None] * frequencies) @ cfg["amplitudes"]
            return jnp.mean((curvature - wanted) ** 2) / 100

        return Task(init, loss)

    return TaskFamily(lambda key: {"amplitudes": normal(key, (modes,))}, task, NO_DATA)
