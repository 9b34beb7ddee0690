"""Two trainers of a few lines, on which the algorithms are known to differ."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from meta_train.population.base import Member, Trainer


def surrogate(
    searched: tuple[str, ...] = (), *, learning_rate: Annotated[float, Gt(0)] = 0.02, start: float = 0.9
) -> Trainer:
    """Ascends 1.2 - h0 w0^2 - h1 w1^2 and its fitness is 1.2 - w0^2 - w1^2 (Jaderberg et al. 2017, figure 2).

    Hypers h0 and h1 in [0, 1]. With (1, 0) and (0, 1) neither of two members can get above 0.39 alone.

    Args:
      searched: names of the hyperparameters that the population searches.
      learning_rate: of the ascent.
      start: both weights.
    """

    def step(member, hypers, key, data):
        w = member.weights
        return member._replace(weights=w - learning_rate * 2 * jnp.stack([hypers["h0"], hypers["h1"]]) * w)

    return Trainer(
        init=lambda key, hypers: Member(jnp.full([2], start)),
        step=step,
        score=lambda member, data: 1.2 - jnp.sum(jnp.square(member.weights)),
        hypers=("h0", "h1"),
        required=("h0", "h1"),
    )


def noisy_quadratic(
    searched: tuple[str, ...] = (),
    *,
    dim: Annotated[int, Ge(1)] = 32,
    curvature: Annotated[float, Gt(0)] = 1e-3,
    noise: Annotated[float, Gt(0)] = 8.0,
) -> Trainer:
    """SGD on a quadratic that is a trap for the short-sighted: fitness is -log of the exact loss.

    Half of the weights are stiff (curvature 1) and have noisy gradients; they begin at their optimum and
    only cost: 4 lr / (2 - lr) at the default noise. The others are flat and hold a loss of 1, which decays as
    exp(-2 lr curvature t). A lower learning rate pays at once, but never gets rid of that loss.

    Args:
      searched: names of the hyperparameters that the population searches.
      dim: weights in each half.
      curvature: of the flat half.
      noise: total variance of the stiff half's gradient.
    """
    curvatures = jnp.concatenate([jnp.ones(dim), jnp.full([dim], curvature)])
    std = (noise / dim) ** 0.5

    def init(key, hypers):
        return Member(jnp.concatenate([jnp.zeros(dim), jnp.full([dim], (2 / (curvature * dim)) ** 0.5)]))

    def step(member, hypers, key, data):
        gradient = curvatures * member.weights
        gradient = gradient.at[:dim].add(std * jax.random.normal(key, (dim,)))
        return member._replace(weights=member.weights - hypers["learning_rate"] * gradient)

    def score(member, data):
        return -jnp.log(0.5 * jnp.sum(curvatures * jnp.square(member.weights)))

    return Trainer(init, step, score, hypers=("learning_rate",), required=("learning_rate",), static=("dim",))
