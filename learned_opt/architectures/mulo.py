"""muLO and ELO: AdafacMLP networks meta-trained to work at other widths, and on large models."""

from functools import partial

import jax

from learned_opt.architectures import options
from learned_opt.architectures.adafac_mlp import DECAYS, adafac_optimizer
from learned_opt.architectures.blocks import clip_gradients
from learned_opt.architectures.features import LARGE
from learned_opt.architectures.network import direction
from learned_opt.architectures.options import checked, path_matcher
from learned_opt.base import LearnedOptimizer


@checked
def mulo(
    *,
    hidden: options.Hidden = 32,
    step_mult: options.StepMult = 0.01,
    exp_mult: options.ExpMult = 1e-3,
    hidden_weights: str = r"^$",
    hidden_lr_mult: options.Rate = 1.0,
    clip_norm: options.ClipNorm = None,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """muLO (Therien et al. 2024): AdafacMLP under the maximal-update parameterisation.

    `p <- p - mu * step_mult * o_0 * exp(exp_mult * o_1)`

    mu is hidden_lr_mult / fan-in for hidden weights and 1 for input and output weights and biases; the fan-in
    is the size of all axes but the last. The task must be mu-parameterised too: that is what makes the step
    of a small width right at a large one.
    theta (2,409 meta-parameters) as AdafacMLP's, with the decays as learned offsets.

    Args:
      hidden_weights: regular expression that is found in the path of a hidden weight, and in no other:
        only names tell them apart. A path is the keys joined by dots: "mlp/~/linear_1.w". The default
        finds none. Leaves with fewer than two axes never count.
      hidden_lr_mult: mu of a hidden weight of fan-in 1; to keep the step at a base width, that width; > 0.

    Raises:
      ValueError: hidden_weights is not a regular expression.

    State: as AdafacMLP's.
    Inputs: as AdafacMLP's; by name, which matrices are hidden ones.
    Outputs: a direction and the logarithm of its size, for each parameter.
    Source: arXiv 2406.00153 and PyLO's AdafacLO. Differs from it in: hidden weights are found by name
    (PyLO: by marks on the tensors).
    """
    is_hidden = path_matcher("hidden_weights", hidden_weights, ".")

    def multiplier(path, p):
        return hidden_lr_mult / (p.size // p.shape[-1]) if p.ndim >= 2 and is_hidden(path) else 1.0

    def steps(theta, seen, outputs):
        del theta
        mu = [multiplier(path, p) for path, p in jax.tree_util.tree_leaves_with_path(seen.params)]
        return [m * (-step_mult * direction(o, exp_mult)) for m, o in zip(mu, outputs, strict=True)]

    return adafac_optimizer(
        "mulo",
        steps,
        sizes=[hidden, hidden, 2],
        learned_decays=DECAYS,
        clip=partial(clip_gradients, max_norm=clip_norm),
        fused_from=fused_from,
        state_dtype=state_dtype,
    )


@checked
def elo(
    *,
    hidden: options.Hidden = 32,
    learning_rate: options.Rate = 1e-3,
    weight_decay: options.Scale = 0.0,
    exp_mult: options.ExpMult = 1e-3,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """ELO: AdafacMLP with fixed decays, `p <- p - learning_rate * (o_0 exp(exp_mult o_1) + weight_decay p)`.

    theta (2,402 meta-parameters): `nn/~/{w,b}{0,1,2}`, AdafacMLP's network.

    Args:
      learning_rate: > 0. For a schedule, chain optax's `scale_by_schedule` after this.
      weight_decay: decoupled, multiplied by the learning rate; >= 0.

    State: as AdafacMLP's.
    Inputs: as AdafacMLP's.
    Outputs: a direction and the logarithm of its size, for each parameter.
    Source: PyLO's ELO. Differs from it in: nothing.
    """

    def steps(theta, seen, outputs):
        del theta
        pairs = zip(seen.tensors, outputs, strict=True)
        return [-learning_rate * (direction(o, exp_mult) + weight_decay * t.param) for t, o in pairs]

    return adafac_optimizer(
        "elo",
        steps,
        sizes=[hidden, hidden, 2],
        clip=partial(clip_gradients, max_norm=None),
        fused_from=fused_from,
        state_dtype=state_dtype,
    )
