"""The per-parameter MLP: one small network that sees the gradient, the parameter and six momenta."""

import jax.numpy as jnp

from learned_opt.architectures import options
from learned_opt.architectures.features import LARGE, Decays, time_embedding
from learned_opt.architectures.network import direction, dummy_tensor, haiku_mlp
from learned_opt.architectures.options import checked
from learned_opt.architectures.skeleton import feature_optimizer
from learned_opt.base import LearnedOptimizer

FEATURES = ("grad", "param", "momentum")
DECAYS = Decays(momentum=(0.1, 0.5, 0.9, 0.99, 0.999, 0.9999))


@checked
def per_param_mlp(
    *,
    hidden: options.Hidden = 32,
    num_hidden: options.NumHidden = 2,
    step_mult: options.StepMult = 1e-3,
    exp_mult: options.ExpMult = 1e-3,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """Per-parameter MLP (Metz et al. 2019, 2020): `p <- p - step_mult * o_0 * exp(exp_mult * o_1)`.

    o is the output, for this parameter, of an MLP whose 19 inputs are g, p and the gradient's running
    means of decays .1, .5, .9, .99, .999, .9999 (each normalised over the tensor), and the time on
    11 scales.
    theta (1,762 meta-parameters at the defaults): `mlp/~/linear_{0,1,2}` with `w` [inputs, outputs] and `b`.

    State: 24 bytes a parameter.
    Inputs: g, p, 6 momenta: 8 features a parameter; the time on 11 scales.
    Outputs: a direction and the logarithm of its size, for each parameter.
    Source: MLPLOpt of google/learned_optimization. Differs from it in: nothing.
    """
    sizes = [hidden] * num_hidden + [2]
    net = haiku_mlp(FEATURES, sizes, fused_from)

    def init(key):
        return net.init(key, [dummy_tensor(DECAYS)], time_embedding(jnp.zeros([])))

    def steps(theta, seen):
        outputs = net.apply(theta, seen.tensors, time_embedding(seen.count))
        return [-step_mult * direction(o, exp_mult) for o in outputs]

    return feature_optimizer("per_param_mlp", init, steps, decays=lambda *_: DECAYS, state_dtype=state_dtype)
