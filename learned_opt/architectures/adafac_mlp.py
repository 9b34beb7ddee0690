"""AdafacMLP (small_fc_lopt): a tiny network that also sees Adam's and Adafactor's directions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.architectures import options
from learned_opt.architectures.features import LARGE, Decays, time_embedding
from learned_opt.architectures.network import direction, dummy_tensor, mlp_network
from learned_opt.architectures.options import checked
from learned_opt.architectures.skeleton import Seen, feature_optimizer
from learned_opt.base import LearnedOptimizer, Theta

FEATURES = (
    "grad param momentum rms adam rsqrt_rms factored_grad row col rsqrt_row rsqrt_col factored_momentum"
).split()
DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))


@checked
def adafac_mlp(
    *,
    hidden: options.Hidden = 4,
    num_hidden: options.NumHidden = 2,
    step_mult: options.StepMult = 1e-3,
    exp_mult: options.ExpMult = 1e-3,
    momentum_decays: options.MomentumDecays = DECAYS.momentum,
    rms_decays: options.RmsDecays = DECAYS.rms,
    factored_decays: options.FactoredDecays = DECAYS.factored,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """AdafacMLP, "small_fc_lopt" (Metz et al. 2022): `p <- p - step_mult * o_0 * exp(exp_mult * o_1)`.

    o is the output, for this parameter, of an MLP whose 39 inputs are 28 features of g, p, momenta,
    RMSProp's and Adafactor's second moments (each normalised over the tensor), and the time on 11 scales.
    theta (197 meta-parameters at hidden = 4, 2,409 at 32): `nn/~/{w,b}{0,1,2}`, and the decays as
    offsets, `{momentum,rms,adafactor}_decays`.

    Raises:
      ValueError: the numbers of decays do not fit.

    State: 16 bytes a parameter, and 12 for each row and column of a matrix (28 a parameter for vectors).
    Inputs: g, p, 3 momenta, RMS, Adam's and Adafactor's directions: 28 features a parameter; the time on
    11 scales.
    Outputs: a direction and the logarithm of its size, for each parameter.
    Source: AdafacMLPLOpt of google/learned_optimization. Differs from it in: it does not ask for the
    horizon, which the original never uses; where axes are equally long, the later is the largest.
    """

    def steps(theta, seen, outputs):
        del theta, seen
        return [-step_mult * direction(o, exp_mult) for o in outputs]

    return adafac_optimizer(
        "adafac_mlp",
        steps,
        sizes=[hidden] * num_hidden + [2],
        learned_decays=Decays(tuple(momentum_decays), tuple(rms_decays), tuple(factored_decays)),
        fused_from=fused_from,
        state_dtype=state_dtype,
    )


def adafac_optimizer(
    name: str,
    steps: Callable[[Theta, Seen, list[jax.Array]], Sequence[jax.Array]],
    *,
    sizes: Sequence[int],
    last_scale: float = 1.0,
    learned_decays: Decays | None = None,
    more: Callable[[jax.Array], dict[str, Any]] = lambda key: {},
    fused_from: int,
    **options: Any,
) -> LearnedOptimizer:
    """An optimizer around AdafacMLP's network.

    Args:
      name: the architecture's.
      steps: `(theta, seen, outputs) -> steps`, where outputs are the network's, f32[*P, sizes[-1]] a tensor.
      sizes: of the network's layers, the last being its outputs.
      last_scale: the last layer's initial weights, relative to the usual.
      learned_decays: initial decays, of which theta holds offsets; None for DECAYS, not learned.
      more: key -> what theta holds in addition to `nn` and the offsets.
      fused_from: see `FusedFrom`.
      **options: of `feature_optimizer`.

    Raises:
      ValueError: the features cannot be made from these numbers of decays.
    """
    initial = DECAYS if learned_decays is None else learned_decays
    check_decays(initial)
    net = mlp_network(FEATURES, sizes, fused_from, last_scale)

    def init(key):
        nn = net.init(key, [dummy_tensor(initial)], time_embedding(jnp.zeros([])))
        offsets = {} if learned_decays is None else {k: jnp.zeros(len(d)) for k, d in _named(initial)}
        return {"nn": nn, **offsets, **more(key)}

    def decays(theta, params):
        del params
        if learned_decays is None:
            return initial
        return Decays(*(_effective(decay, theta[key]) for key, decay in _named(initial)))

    def all_steps(theta, seen):
        return steps(theta, seen, net.apply(theta["nn"], seen.tensors, time_embedding(seen.count)))

    return feature_optimizer(name, init, all_steps, decays=decays, **options)


def _named(decays: Decays) -> list[tuple[str, Any]]:
    return [(f"{name}_decays", d) for name, d in zip(("momentum", "rms", "adafactor"), decays, strict=True)]


def _effective(decay: Sequence[float], offset: jax.Array) -> jax.Array:
    """`1 - (1 - decay) exp(10 offset)`, of each decay."""
    return 1 - jnp.exp(10 * (jnp.log(1 - jnp.asarray(decay, jnp.float32)) / 10 + offset))


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
