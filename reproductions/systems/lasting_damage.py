"""A hyperparameter that speeds training up at once and lowers what it can ever reach, for good."""

import jax.numpy as jnp

from meta_train.population.base import Member, Trainer


def lasting_damage(
    *, harm: float = 4e-3, speed: float = 0.03, base: float = 0.02, decay: float = 2.0, width: float = 0.3
) -> Trainer:
    """Skill w and shortcut m of a model: m makes w grow faster, and 1 - m is all that w can reach.

    In each step m grows by harm `shortcut` (1 - m), and it never falls; w grows by
    speed (base + m) f max(1 - m - w, 0). f is a bell curve in log10 `learning_rate` around -decay w with the
    standard deviation `width`: the best rate falls as skill grows. Fitness is w. Both m and w are weights: a
    copy has those of its source.

    Args:
      harm: growth of m per step at shortcut 1.
      speed: of learning.
      base: share of the speed that needs no shortcut.
      decay: orders of magnitude that the best learning rate falls as w grows from 0 to 1.
      width: of the bell, in orders of magnitude.
    """

    def step(member, hypers, key, data):
        w, m = member.weights
        m = m + harm * hypers["shortcut"] * (1 - m)
        f = jnp.exp(-0.5 * jnp.square((jnp.log10(hypers["learning_rate"]) + decay * w) / width))
        return Member(jnp.stack([w + speed * (base + m) * f * jnp.maximum(1 - m - w, 0), m]))

    names = ("shortcut", "learning_rate")
    return Trainer(
        init=lambda key, hypers: Member(jnp.zeros([2])),
        step=step,
        score=lambda member, data: member.weights[0],
        hypers=names,
        required=names,
    )
