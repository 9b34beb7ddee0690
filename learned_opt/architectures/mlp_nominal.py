"""AdafacMLP with a nominal term and weight decay, each with a learned magnitude (STAR)."""

from typing import Literal

import jax.numpy as jnp

from learned_opt.architectures import options
from learned_opt.architectures.adafac_mlp import DECAYS, adafac_optimizer
from learned_opt.architectures.blocks import NOMINAL
from learned_opt.architectures.features import LARGE, Decays, rsqrt_rms
from learned_opt.architectures.options import checked
from learned_opt.architectures.rows import array_mean
from learned_opt.base import LearnedOptimizer


@checked
def mlp_nominal(
    *,
    hidden: options.Hidden = 4,
    num_hidden: options.NumHidden = 2,
    step_mult: options.StepMult = 1e-3,
    exp_mult: tuple[options.Scale, options.Scale, options.Scale] = (1e-3, 1e-3, 1e-3),
    nominal_estimator: Literal["SGD", "SGDM", "AggMo", "Adam", "AdamAggMo"] = "AdamAggMo",
    nominal_step: options.Scale = 0.0,
    weight_decay: options.Scale = 0.0,
    nominal_controller: bool = False,
    regularization_controller: bool = False,
    normalize_blackbox: bool = False,
    selfnormalize_blackbox: bool = False,
    aggregate_magnitude: bool = False,
    aggregate_nominal_magnitude: bool = False,
    aggregate_reg_magnitude: bool = False,
    momentum_decays: options.MomentumDecays = DECAYS.momentum,
    rms_decays: options.RmsDecays = DECAYS.rms,
    factored_decays: options.FactoredDecays = DECAYS.factored,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """AdafacMLP with nominal terms, STAR (Harrison et al. 2022).

    `p <- (1 - weight_decay exp(e_2 o_3)) p - step_mult o_0 exp(e_0 o_1) - nominal_step exp(e_1 o_2) G`

    G is the direction of a hand-designed optimizer; o the four outputs, for this parameter, of AdafacMLP's
    network; e = exp_mult. The weight decay is not multiplied by any learning rate.
    theta (207 meta-parameters at the defaults) as AdafacMLP's, with four outputs.

    Args:
      step_mult: scale of the learned step; > 0.
      exp_mult: scales of the three magnitudes: learned step, nominal step, weight decay; >= 0.
      nominal_estimator: G: the gradient, its longest momentum, the mean of the momenta, or these over
        RMSProp's root.
      nominal_step: learning rate of the nominal term; >= 0.
      weight_decay: >= 0.
      nominal_controller: learn the nominal term's magnitude; if not, o_2 counts as 1.
      regularization_controller: learn the weight decay's magnitude; if not, o_3 counts as 0.
      normalize_blackbox: divide the learned step by RMSProp's root.
      selfnormalize_blackbox: multiply the learned step by the mean gradient of the tensor.
      aggregate_magnitude: use o_1's mean over the tensor.
      aggregate_nominal_magnitude: use o_2's mean over the tensor.
      aggregate_reg_magnitude: use o_3's mean over the tensor.

    Raises:
      ValueError: the numbers of decays do not fit.

    State: as AdafacMLP's.
    Inputs: as AdafacMLP's.
    Outputs: a direction and the logarithms of the sizes of its three terms, for each parameter.
    Source: MLPNomLOpt of google/learned_optimization. Differs from it in: aggregate_reg_magnitude works
    (there it stops with an error). STAR's published settings: step_mult 1e-3, nominal_step 1e-3,
    normalize_blackbox, the controllers, weight_decay from 0 to 1.
    """
    nominal = NOMINAL[nominal_estimator]
    aggregated = (aggregate_magnitude, aggregate_nominal_magnitude, aggregate_reg_magnitude)

    def step(t, o):
        """What is subtracted from one tensor, f32[*P], from the network's outputs, f32[*P, 4]."""
        magnitudes = [
            o[..., 1],
            o[..., 2] if nominal_controller else jnp.ones([]),
            o[..., 3] if regularization_controller else jnp.zeros([]),
        ]
        magnitudes = [array_mean(m) if mean else m for m, mean in zip(magnitudes, aggregated, strict=True)]
        factors = [jnp.exp(e * m) for e, m in zip(exp_mult, magnitudes, strict=True)]
        blackbox = step_mult * o[..., 0] * factors[0]
        if normalize_blackbox:
            blackbox = blackbox * rsqrt_rms(t)[..., 0]
        if selfnormalize_blackbox:
            blackbox = blackbox * jnp.mean(t.grad)
        return blackbox + weight_decay * factors[2] * t.param + nominal_step * factors[1] * nominal(t)

    def steps(theta, seen, outputs):
        del theta
        return [-step(t, o) for t, o in zip(seen.tensors, outputs, strict=True)]

    return adafac_optimizer(
        "mlp_nominal",
        steps,
        sizes=[hidden] * num_hidden + [4],
        learned_decays=Decays(tuple(momentum_decays), tuple(rms_decays), tuple(factored_decays)),
        fused_from=fused_from,
        state_dtype=state_dtype,
    )
