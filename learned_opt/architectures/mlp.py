"""The per-parameter MLP: one small network that sees the gradient, the parameter and six momenta."""

from functools import partial
from typing import Annotated

import haiku as hk
import jax.numpy as jnp
from annotated_types import Ge, Gt

from learned_opt.architectures.features import LARGE, Decays, StateDtype, init_state, observe, time_embedding
from learned_opt.architectures.network import HaikuMLP, direction, dummy_tensor, tree_like
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

FEATURES = ("grad", "param", "momentum")
DECAYS = Decays(momentum=(0.1, 0.5, 0.9, 0.99, 0.999, 0.9999))


def per_param_mlp(
    *,
    hidden: Annotated[int, Ge(1)] = 32,
    num_hidden: Annotated[int, Ge(1)] = 2,
    step_mult: Annotated[float, Gt(0)] = 1e-3,
    exp_mult: Annotated[float, Ge(0)] = 1e-3,
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """Per-parameter MLP (Metz et al. 2019, 2020): `p <- p - step_mult * o_0 * exp(exp_mult * o_1)`.

    o is the output, for this parameter, of an MLP whose 19 inputs are g, p and the gradient's running
    means of decays .1, .5, .9, .99, .999, .9999 (each normalised over the tensor), and the time on
    11 scales.
    theta (1,762 meta-parameters at the defaults): `mlp/~/linear_{0,1,2}` with `w` [inputs, outputs] and `b`.

    Args:
      hidden: width of the hidden layers.
      num_hidden: number of hidden layers.
      step_mult: scale of the step; > 0.
      exp_mult: scale of the second output; >= 0.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.

    Returns:
      The learned optimizer; it needs neither the horizon nor the loss. State: 24 bytes a parameter.

    Inputs: g, p, 6 momenta: 8 features a parameter; the time on 11 scales.
    Outputs: a direction and the logarithm of its size, for each parameter.
    Source: MLPLOpt of google/learned_optimization. Differs from it in: nothing.
    """
    sizes = [hidden] * num_hidden + [2]
    net = hk.without_apply_rng(hk.transform(lambda *inputs: HaikuMLP(FEATURES, sizes, fused_from)(*inputs)))

    def init(key):
        return net.init(key, [dummy_tensor(DECAYS)], time_embedding(jnp.zeros([])))

    def build(theta, num_steps=None):
        del num_steps

        def update(grads, state, params, value):
            del value
            shared = time_embedding(state.count)
            tensors, state = observe(grads, state, params, DECAYS)
            outputs = net.apply(theta, tensors, shared)
            return tree_like([-step_mult * direction(o, exp_mult) for o in outputs], params), state

        init_fn = partial(init_state, decays=DECAYS, dtype=state_dtype)
        return transformation("per_param_mlp", init_fn, update, needs=("params",))

    return LearnedOptimizer(init, build)
