"""AdafacMLP (small_fc_lopt): a tiny network that also sees Adam's and Adafactor's directions."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import haiku as hk
import jax.numpy as jnp
from annotated_types import Ge, Gt, Interval

from learned_opt.architectures.features import LARGE, Decays, StateDtype, init_state, observe, time_embedding
from learned_opt.architectures.network import (
    dense,
    direction,
    dummy_tensor,
    fan_in,
    per_parameter_mlp,
    tree_like,
)
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

Decay = Annotated[float, Interval(ge=0, lt=1)]

FEATURES = (
    "grad",
    "param",
    "momentum",
    "rms",
    "adam",
    "rsqrt_rms",
    "factored_grad",
    "row",
    "col",
    "rsqrt_row",
    "rsqrt_col",
    "factored_momentum",
)


def network(tensors, shared, *, sizes: Sequence[int], fused_from: int = LARGE, kernel: str = "xla"):
    """The MLP on the 28 features and the 11 of time, as a Haiku function; `sizes` ends with the outputs."""
    inputs = [fan_in(FEATURES, tensors, shared), *sizes]
    layers = [dense(inputs[i], size, str(i)) for i, size in enumerate(sizes)]
    if kernel == "xla":
        return per_parameter_mlp(FEATURES, tensors, layers, shared, fused_from=fused_from)
    from learned_opt.architectures import pallas_rows  # its import takes a while

    return per_parameter_mlp(
        FEATURES, tensors, layers, shared, fused_from=fused_from, fused=pallas_rows.fused_mlp
    )


def init_decay_offsets(decays: Decays) -> dict[str, Any]:
    """The part of theta that holds the decays: their offsets from `decays`, which are zero."""
    return {
        "momentum_decays": jnp.zeros(len(decays.momentum)),
        "rms_decays": jnp.zeros(len(decays.rms)),
        "adafactor_decays": jnp.zeros(len(decays.factored)),
    }


def learned_decays(theta: Any, decays: Decays) -> Decays:
    """`1 - (1 - decay) exp(10 offset)`, of each decay."""

    def effective(decay, offset):
        return 1 - jnp.exp(10 * (jnp.log(1 - jnp.asarray(decay, jnp.float32)) / 10 + offset))

    return Decays(
        effective(decays.momentum, theta["momentum_decays"]),
        effective(decays.rms, theta["rms_decays"]),
        effective(decays.factored, theta["adafactor_decays"]),
    )


def adafac_mlp(
    *,
    hidden: Annotated[int, Ge(1)] = 4,
    num_hidden: Annotated[int, Ge(1)] = 2,
    step_mult: Annotated[float, Gt(0)] = 1e-3,
    exp_mult: Annotated[float, Ge(0)] = 1e-3,
    momentum_decays: tuple[Decay, ...] = (0.9, 0.99, 0.999),
    rms_decays: tuple[Decay, ...] = (0.999,),
    factored_decays: tuple[Decay, ...] = (0.9, 0.99, 0.999),
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
    kernel: Literal["xla", "pallas"] = "xla",
) -> LearnedOptimizer:
    """AdafacMLP, "small_fc_lopt" (Metz et al. 2022): `p <- p - step_mult * o_0 * exp(exp_mult * o_1)`.

    o is the output, for this parameter, of an MLP whose 39 inputs are 28 features of g, p, momenta,
    RMSProp's and Adafactor's second moments (each normalised over the tensor), and the time on 11 scales.
    theta (197 meta-parameters at hidden = 4, 2,409 at 32): `nn/~/{w,b}{0,1,2}`, and the decays as
    offsets, `{momentum,rms,adafactor}_decays`.

    Args:
      hidden: width of the hidden layers.
      num_hidden: number of hidden layers.
      step_mult: scale of the step; > 0.
      exp_mult: scale of the second output; >= 0.
      momentum_decays: initial decays of the running means of g; each in [0, 1).
      rms_decays: initial decays of those of g^2: one, or as many as momentum_decays.
      factored_decays: initial decays of the factored ones: as many as momentum_decays.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.
      kernel: who fuses them, XLA or a kernel of ours for GPU and TPU (not run on one yet).

    Returns:
      The learned optimizer; it needs neither the horizon nor the loss. State: 16 bytes a parameter,
      and 12 for each row and column of a matrix (28 a parameter for vectors).

    Raises:
      ValueError: the numbers of decays do not fit.

    Inputs: g, p, 3 momenta, RMS, Adam's and Adafactor's directions: 28 features a parameter; the time on
    11 scales.
    Outputs: a direction and the logarithm of its size, for each parameter.
    Source: AdafacMLPLOpt of google/learned_optimization. Differs from it in: it does not ask for the
    horizon, which the original never uses; where axes are equally long, the later is the largest.
    """
    decays = Decays(tuple(momentum_decays), tuple(rms_decays), tuple(factored_decays))
    check_decays(decays)
    sizes = [hidden] * num_hidden + [2]
    net = hk.without_apply_rng(
        hk.transform(partial(network, sizes=sizes, fused_from=fused_from, kernel=kernel))
    )

    def init(key):
        nn = net.init(key, [dummy_tensor(decays)], time_embedding(jnp.zeros([])))
        return {"nn": nn, **init_decay_offsets(decays)}

    def build(theta, num_steps=None):
        del num_steps

        def update(grads, state, params, value):
            del value
            shared = time_embedding(state.count)
            tensors, state = observe(grads, state, params, learned_decays(theta, decays))
            outputs = net.apply(theta["nn"], tensors, shared)
            return tree_like([-step_mult * direction(o, exp_mult) for o in outputs], params), state

        init_fn = partial(init_state, decays=decays, dtype=state_dtype)
        return transformation("adafac_mlp", init_fn, update, needs=("params",))

    return LearnedOptimizer(init, build)


def check_decays(decays: Decays) -> None:
    """Refuses numbers of decays that the features cannot be made from (ValueError)."""
    n = len(decays.momentum)
    if n < 1:
        raise ValueError(f"momentum_decays must not be empty, got {decays.momentum}")
    if len(decays.rms) not in (1, n):
        raise ValueError(
            f"rms_decays must have 1 entry or as many as momentum_decays ({n}), got {decays.rms}"
        )
    if len(decays.factored) != n:
        raise ValueError(
            f"factored_decays must have as many entries as momentum_decays ({n}), got {decays.factored}"
        )
