"""A learned optimizer: `name: my_optimizer.py:my_optimizer` under `learned_optimizer` in a config."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Gt, Lt

from learned_opt import LearnedOptimizer
from learned_opt.architectures.transformation import transformation


def my_optimizer(
    *,
    initial_lr: Annotated[float, Gt(0)] = 0.01,
    initial_momentum: Annotated[float, Gt(0), Lt(1)] = 0.9,
) -> LearnedOptimizer:
    """Descends along the sign of the momentum, at a learned rate: `p <- p - lr m / sqrt(m^2 + 1e-12)`.

    theta (2 meta-parameters, f32[]): `log_lr`; `logit_momentum`.

    Args:
      initial_lr: lr at initialisation.
      initial_momentum: decay of the momentum at initialisation.
    """

    def init(key):
        del key
        odds = initial_momentum / (1 - initial_momentum)
        return {"log_lr": jnp.log(jnp.float32(initial_lr)), "logit_momentum": jnp.log(jnp.float32(odds))}

    def build(theta, num_steps=None):
        del num_steps  # named in `needs` where it is used
        lr, decay = jnp.exp(theta["log_lr"]), jax.nn.sigmoid(theta["logit_momentum"])

        def init_state(params):
            return jax.tree.map(jnp.zeros_like, params)

        def update(grads, momentum, params, value):
            del params, value
            momentum = jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, momentum, grads)
            return jax.tree.map(lambda m: -lr * m / jnp.sqrt(m**2 + 1e-12), momentum), momentum

        # It sees to data types, masks, skipped leaves and gradients that are not finite.
        return transformation("my_optimizer", init_state, update)

    return LearnedOptimizer(init, build)
