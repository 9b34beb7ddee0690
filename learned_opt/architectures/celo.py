"""Celo: VeLO made cheap to meta-train, in two phases."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from learned_opt.architectures.features import LARGE, StateDtype
from learned_opt.architectures.hyper import hypernetwork_optimizer
from learned_opt.base import LearnedOptimizer


def celo(
    *,
    phase: Literal[1, 2] = 2,
    lstm_hidden: Annotated[int, Ge(1)] = 64,
    hidden: Annotated[int, Ge(1)] = 4,
    step_mult: Annotated[float, Gt(0)] = 1e-3,
    exp_mult: Annotated[float, Ge(0)] = 1e-3,
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """Celo (Moudgil et al. 2025): one per-parameter MLP, and an LSTM that schedules its step.

    `p <- p - step_mult * r * |p| * o_0 * exp(exp_mult * o_1)`

    o and |p| as VeLO's. In phase 1, r = 1: only the MLP, `ff_mod_stack`, is meta-trained. In phase 2,
    `r = 0.1 exp(h)` comes from an LSTM that sees the fraction of the training and the history of the
    loss: only `rnn_params` and `lstm_init_state` are meta-trained. As every tensor sees the same, r is one
    schedule for all.
    theta is the same in both phases (VeLO's tree with 18 LSTM inputs and a bank of one).

    Args:
      phase: 1 or 2.
      lstm_hidden: size of the LSTM.
      hidden: width of the MLP's two hidden layers.
      step_mult: scale of the step; > 0.
      exp_mult: scale of the second output; >= 0.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.

    Returns:
      The learned optimizer; it needs the horizon (num_steps) and the loss (value). State as VeLO's.

    Inputs: 30 features a parameter as AdafacMLP's; for a tensor's LSTM, the fraction of the training,
    the loss at 10 half-lives.
    Outputs: a direction and the logarithm of its size, for each parameter; one rate.
    Source: arXiv 2501.12670 and its code. Differs from it in: nothing.
    """
    lopt = hypernetwork_optimizer(
        "celo",
        lstm_hidden=lstm_hidden,
        bank=1,
        hidden=hidden,
        step_mult=step_mult,
        exp_mult=exp_mult,
        tensor_features=None,
        mix=jax.nn.softmax,
        rate=jnp.ones_like if phase == 1 else lambda rates: 0.1 * jnp.exp(rates),
        fused_from=fused_from,
        state_dtype=state_dtype,
    )
    return lopt._replace(trained=("ff_mod_stack",) if phase == 1 else ("rnn_params", "lstm_init_state"))
