"""Hand-designed optimizers whose hyperparameters are the meta-parameters."""

from typing import Annotated

import jax.numpy as jnp
import optax
from annotated_types import Gt, Interval

from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

Rate = Annotated[float, Gt(0)]
Decay = Annotated[float, Interval(ge=0, lt=1)]


def learnable_sgd(*, initial_lr: Rate = 0.01) -> LearnedOptimizer:
    """Gradient descent with a learned learning rate: `p <- p - exp(log_lr) g`.

    theta (1 meta-parameter): `log_lr`, f32[].

    Args:
      initial_lr: exp(log_lr) at initialisation; > 0.

    Returns:
      The learned optimizer; it needs neither the horizon nor the loss.

    Inputs: g.
    Outputs: a step for each parameter.
    Source: LearnableSGD of google/learned_optimization. Differs from it in: nothing.
    """

    def init(key):
        del key
        return {"log_lr": jnp.log(jnp.float32(initial_lr))}

    def build(theta, num_steps=None):
        del num_steps
        return _as_transformation("learnable_sgd", optax.sgd(jnp.exp(theta["log_lr"])))

    return LearnedOptimizer(init, build)


def learnable_sgdm(*, initial_lr: Rate = 0.01, initial_momentum: Decay = 0.9) -> LearnedOptimizer:
    """Momentum (Polyak 1964) with learned hyperparameters: `m <- mu m + g; p <- p - lr m`.

    theta (2 meta-parameters, f32[]): `log_lr`; `one_minus_momentum`, the logarithm of 1 - mu.

    Args:
      initial_lr: lr at initialisation; > 0.
      initial_momentum: mu at initialisation; 0 <= mu < 1.

    Returns:
      The learned optimizer; it needs neither the horizon nor the loss.

    Inputs: g and its momentum.
    Outputs: a step for each parameter.
    Source: LearnableSGDM of google/learned_optimization. Differs from it in: nothing.
    """

    def init(key):
        del key
        return {
            "log_lr": jnp.log(jnp.float32(initial_lr)),
            "one_minus_momentum": jnp.log(jnp.float32(1 - initial_momentum)),
        }

    def build(theta, num_steps=None):
        del num_steps
        lr, momentum = jnp.exp(theta["log_lr"]), 1 - jnp.exp(theta["one_minus_momentum"])
        return _as_transformation("learnable_sgdm", optax.sgd(lr, momentum=momentum))

    return LearnedOptimizer(init, build)


def learnable_adam(
    *,
    initial_lr: Rate = 1e-3,
    initial_beta1: Decay = 0.9,
    initial_beta2: Decay = 0.999,
    initial_epsilon: Rate = 1e-8,
) -> LearnedOptimizer:
    """Adam (Kingma & Ba 2015) with learned hyperparameters.

    `p <- p - lr m_hat / (sqrt(v_hat + 1e-8) + epsilon)`, with bias-corrected moments.
    theta (4 meta-parameters, f32[]): `log_lr`; `one_minus_beta1`, `one_minus_beta2`, the
    logarithms of 1 - beta; `log_epsilon`.

    Args:
      initial_lr: lr at initialisation; > 0.
      initial_beta1: decay of the first moment at initialisation; 0 <= beta1 < 1.
      initial_beta2: decay of the second moment at initialisation; 0 <= beta2 < 1.
      initial_epsilon: epsilon at initialisation; > 0.

    Returns:
      The learned optimizer; it needs neither the horizon nor the loss.

    Inputs: g, its momentum and RMS.
    Outputs: a step for each parameter.
    Source: LearnableAdam of google/learned_optimization, which also has the 1e-8 under the root
    (it keeps the meta-gradient finite where v is zero). Differs from it in: nothing.
    """

    def init(key):
        del key
        return {
            "log_lr": jnp.log(jnp.float32(initial_lr)),
            "one_minus_beta1": jnp.log(jnp.float32(1 - initial_beta1)),
            "one_minus_beta2": jnp.log(jnp.float32(1 - initial_beta2)),
            "log_epsilon": jnp.log(jnp.float32(initial_epsilon)),
        }

    def build(theta, num_steps=None):
        del num_steps
        adam = optax.adam(
            jnp.exp(theta["log_lr"]),
            b1=1 - jnp.exp(theta["one_minus_beta1"]),
            b2=1 - jnp.exp(theta["one_minus_beta2"]),
            eps=jnp.exp(theta["log_epsilon"]),
            eps_root=1e-8,
        )
        return _as_transformation("learnable_adam", adam)

    return LearnedOptimizer(init, build)


def _as_transformation(name: str, tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    def update(grads, state, params, value):
        del value
        return tx.update(grads, state, params)

    return transformation(name, tx.init, update)
