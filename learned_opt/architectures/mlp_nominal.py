"""AdafacMLP with a nominal term and weight decay, each with a learned magnitude (STAR)."""

from functools import partial
from typing import Annotated, Literal

import haiku as hk
import jax.numpy as jnp
from annotated_types import Ge, Gt, Interval

from learned_opt.architectures.adafac_mlp import check_decays, init_decay_offsets, learned_decays, network
from learned_opt.architectures.blocks import NOMINAL
from learned_opt.architectures.features import (
    LARGE,
    Decays,
    StateDtype,
    init_state,
    observe,
    rsqrt_rms,
    time_embedding,
)
from learned_opt.architectures.network import dummy_tensor, tree_like
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

Decay = Annotated[float, Interval(ge=0, lt=1)]
Mult = Annotated[float, Ge(0)]


def mlp_nominal(
    *,
    hidden: Annotated[int, Ge(1)] = 4,
    num_hidden: Annotated[int, Ge(1)] = 2,
    step_mult: Annotated[float, Gt(0)] = 1e-3,
    exp_mult: tuple[Mult, Mult, Mult] = (1e-3, 1e-3, 1e-3),
    nominal_estimator: Literal["SGD", "SGDM", "AggMo", "Adam", "AdamAggMo"] = "AdamAggMo",
    nominal_step: Annotated[float, Ge(0)] = 0.0,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
    nominal_controller: bool = False,
    regularization_controller: bool = False,
    normalize_blackbox: bool = False,
    selfnormalize_blackbox: bool = False,
    aggregate_magnitude: bool = False,
    aggregate_nominal_magnitude: bool = False,
    aggregate_reg_magnitude: bool = False,
    momentum_decays: tuple[Decay, ...] = (0.9, 0.99, 0.999),
    rms_decays: tuple[Decay, ...] = (0.999,),
    factored_decays: tuple[Decay, ...] = (0.9, 0.99, 0.999),
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """AdafacMLP with nominal terms, STAR (Harrison et al. 2022).

    `p <- (1 - weight_decay exp(e_2 o_3)) p - step_mult o_0 exp(e_0 o_1) - nominal_step exp(e_1 o_2) G`

    G is the direction of a hand-designed optimizer; o the four outputs, for this parameter, of AdafacMLP's
    network; e = exp_mult. The weight decay is not multiplied by any learning rate.
    theta (207 meta-parameters at the defaults) as AdafacMLP's, with four outputs.

    Args:
      hidden: width of the hidden layers.
      num_hidden: number of hidden layers.
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
      momentum_decays: initial decays of the running means of g; each in [0, 1).
      rms_decays: initial decays of those of g^2: one, or as many as momentum_decays.
      factored_decays: initial decays of the factored ones: as many as momentum_decays.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.

    Returns:
      The learned optimizer; it needs neither the horizon nor the loss. State as AdafacMLP's.

    Raises:
      ValueError: the numbers of decays do not fit.

    Inputs: as AdafacMLP's.
    Outputs: a direction and the logarithms of the sizes of its three terms, for each parameter.
    Source: MLPNomLOpt of google/learned_optimization. Differs from it in: aggregate_reg_magnitude works
    (there it stops with an error). STAR's published settings: step_mult 1e-3, nominal_step 1e-3,
    normalize_blackbox, the controllers, weight_decay from 0 to 1.
    """
    decays = Decays(tuple(momentum_decays), tuple(rms_decays), tuple(factored_decays))
    check_decays(decays)
    nominal = NOMINAL[nominal_estimator]
    sizes = [hidden] * num_hidden + [4]
    net = hk.without_apply_rng(hk.transform(partial(network, sizes=sizes, fused_from=fused_from)))

    def init(key):
        nn = net.init(key, [dummy_tensor(decays)], time_embedding(jnp.zeros([])))
        return {"nn": nn, **init_decay_offsets(decays)}

    def step(t, o):
        """The step of one tensor, f32[*P], from the network's outputs, f32[*P, 4]."""
        magnitude, nominal_magnitude, decay_magnitude = o[..., 1], jnp.ones([]), jnp.zeros([])
        if nominal_controller:
            nominal_magnitude = o[..., 2]
        if regularization_controller:
            decay_magnitude = o[..., 3]
        if aggregate_magnitude:
            magnitude = jnp.mean(magnitude)
        if aggregate_nominal_magnitude:
            nominal_magnitude = jnp.mean(nominal_magnitude)
        if aggregate_reg_magnitude:
            decay_magnitude = jnp.mean(decay_magnitude)
        blackbox = step_mult * o[..., 0] * jnp.exp(exp_mult[0] * magnitude)
        if normalize_blackbox:
            blackbox = blackbox * rsqrt_rms(t)[..., 0]
        if selfnormalize_blackbox:
            blackbox = blackbox * jnp.mean(t.grad)
        shrink = weight_decay * jnp.exp(exp_mult[2] * decay_magnitude) * t.param
        return blackbox + shrink + nominal_step * jnp.exp(exp_mult[1] * nominal_magnitude) * nominal(t)

    def build(theta, num_steps=None):
        del num_steps

        def update(grads, state, params, value):
            del value
            shared = time_embedding(state.count)
            tensors, state = observe(grads, state, params, learned_decays(theta, decays))
            outputs = net.apply(theta["nn"], tensors, shared)
            steps = [-step(t, o) for t, o in zip(tensors, outputs, strict=True)]
            return tree_like(steps, params), state

        init_fn = partial(init_state, decays=decays, dtype=state_dtype)
        return transformation("mlp_nominal", init_fn, update, needs=("params",))

    return LearnedOptimizer(init, build)
