"""A curved valley with steep, noisy walls: what lowers the noise now makes the way along the floor longer."""

import jax
import jax.numpy as jnp

from meta_train.population.base import Member, Trainer


def noisy_valley(*, dim: int = 32, slope: float = 1e-3, noise: float = 0.5) -> Trainer:
    """SGD with momentum on `dim` copies of slope x^2 / 2 + (y - sin x)^2 / 2; the gradient of y is noisy.

    All copies start on the floor, y = sin x, with a total loss of 1. Fitness is -log of the exact loss. The
    hyperparameters are `learning_rate` and `damping`, which is 1 minus the coefficient of momentum. The noise
    adds a loss that grows with learning_rate / damping, and so does the speed of x along the floor, about
    slope learning_rate / damping per step.

    Args:
      dim: copies, which average the noise.
      slope: curvature along the floor; that of the walls is 1.
      noise: standard deviation of the gradient noise.
    """
    x0 = (2 / (slope * dim)) ** 0.5

    def init(key, hypers):
        place = jnp.full([dim], x0)
        return Member(jnp.stack([place, jnp.sin(place)]), jnp.zeros([2, dim]))

    def step(member, hypers, key, data):
        x, y = member.weights
        wall = y - jnp.sin(x)
        noisy = wall + noise * jax.random.normal(key, (dim,))
        gradient = jnp.stack([slope * x - wall * jnp.cos(x), noisy])
        momentum = (1 - hypers["damping"]) * member.opt_state - hypers["learning_rate"] * gradient
        return Member(member.weights + momentum, momentum)

    def score(member, data):
        x, y = member.weights
        return -jnp.log(0.5 * jnp.sum(slope * jnp.square(x) + jnp.square(y - jnp.sin(x))))

    names = ("learning_rate", "damping")
    return Trainer(init, step, score, hypers=names, required=names, static=("dim",))
