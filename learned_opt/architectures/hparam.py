"""Hand-designed optimizers whose hyperparameters are the meta-parameters."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax

from learned_opt.architectures import options
from learned_opt.architectures.options import checked
from learned_opt.architectures.rounding import stored_in
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer


@checked
def learnable_sgd(*, initial_lr: options.Rate = 0.01) -> LearnedOptimizer:
    """Gradient descent with a learned learning rate: `p <- p - exp(log_lr) g`.

    theta (1 meta-parameter): `log_lr`, f32[].

    Args:
      initial_lr: exp(log_lr) at initialisation; > 0.

    Inputs: g.
    Outputs: a step for each parameter.
    Source: LearnableSGD of google/learned_optimization. Differs from it in: nothing.
    """
    return _hand_designed("learnable_sgd", {"log_lr": initial_lr}, lambda x: optax.sgd(x["log_lr"]))


@checked
def learnable_sgdm(
    *,
    initial_lr: options.Rate = 0.01,
    initial_momentum: options.Decay = 0.9,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """Momentum (Polyak 1964) with learned hyperparameters: `m <- mu m + g; p <- p - lr m`.

    theta (2 meta-parameters, f32[]): `log_lr`; `one_minus_momentum`, the logarithm of 1 - mu.

    Args:
      initial_lr: lr at initialisation; > 0.
      initial_momentum: mu at initialisation; 0 <= mu < 1.

    Inputs: g and its momentum.
    Outputs: a step for each parameter.
    Source: LearnableSGDM of google/learned_optimization. Differs from it in: nothing.
    """
    initial = {"log_lr": initial_lr, "one_minus_momentum": 1 - initial_momentum}

    def momentum(x):
        return optax.sgd(x["log_lr"], momentum=1 - x["one_minus_momentum"])

    return _hand_designed("learnable_sgdm", initial, momentum, state_dtype)


@checked
def learnable_adam(
    *,
    initial_lr: options.Rate = 1e-3,
    initial_beta1: options.Decay = 0.9,
    initial_beta2: options.Decay = 0.999,
    initial_epsilon: options.Rate = 1e-8,
    state_dtype: options.StateDtype = "float32",
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

    Inputs: g, its momentum and RMS.
    Outputs: a step for each parameter.
    Source: LearnableAdam of google/learned_optimization, which also has the 1e-8 under the root
    (it keeps the meta-gradient finite where v is zero). Differs from it in: nothing.
    """
    initial = {
        "log_lr": initial_lr,
        "one_minus_beta1": 1 - initial_beta1,
        "one_minus_beta2": 1 - initial_beta2,
        "log_epsilon": initial_epsilon,
    }

    def adam(x):
        b1, b2 = 1 - x["one_minus_beta1"], 1 - x["one_minus_beta2"]
        return optax.adam(x["log_lr"], b1=b1, b2=b2, eps=x["log_epsilon"], eps_root=1e-8)

    return _hand_designed("learnable_adam", initial, adam, state_dtype)


def _hand_designed(
    name: str,
    initial: Mapping[str, float],
    optimizer: Callable[[Mapping[str, jax.Array]], optax.GradientTransformation],
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """An optimizer of positive hyperparameters, of which theta holds the logarithms.

    Args:
      name: the architecture's.
      initial: key of theta -> the hyperparameter at initialisation.
      optimizer: the same hyperparameters, f32[] -> the transformation.
      state_dtype: of its accumulators.
    """

    def init(key):
        del key
        return {name: jnp.log(jnp.float32(value)) for name, value in initial.items()}

    def build(theta, num_steps=None):
        del num_steps
        tx = optimizer({name: jnp.exp(x) for name, x in theta.items()})

        def update(grads, state, params, value):
            del value
            return tx.update(grads, state, params)

        map_large = partial(optax.tree.map_params, tx)
        stored = stored_in(state_dtype, tx.init, update, map_large)
        return transformation(name, *stored)

    return LearnedOptimizer(init, build)
