"""Celo: VeLO made cheap to meta-train, in two phases; and Celo-Adam, its schedule on Adam's direction."""

from typing import Literal

import jax
import jax.numpy as jnp

from learned_opt.architectures import options
from learned_opt.architectures.features import LARGE, Decays
from learned_opt.architectures.hyper import hypernetwork_optimizer, lstm_optimizer
from learned_opt.architectures.options import checked
from learned_opt.base import LearnedOptimizer


@checked
def celo(
    *,
    phase: Literal[1, 2] = 2,
    lstm_hidden: options.LstmHidden = 64,
    hidden: options.Hidden = 4,
    step_mult: options.StepMult = 1e-3,
    exp_mult: options.ExpMult = 1e-3,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
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

    State: as VeLO's.
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
        mix=jax.nn.softmax,
        rate=jnp.ones_like if phase == 1 else lambda rates: 0.1 * jnp.exp(rates),
        fused_from=fused_from,
        state_dtype=state_dtype,
    )
    return lopt._replace(trained=("ff_mod_stack",) if phase == 1 else ("rnn_params", "lstm_init_state"))


@checked
def celo_adam(
    *,
    lstm_hidden: options.LstmHidden = 64,
    step_mult: options.StepMult = 1e-3,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """Celo-Adam (Moudgil et al. 2025): Adam with a learned schedule, `p <- p - step_mult * r * A`.

    A is Adam's bias-corrected direction, `m_hat / (1e-8 + sqrt(v_hat + 1e-10))` with decays .9 and .999;
    `r = 0.1 exp(h)` comes from Celo's LSTM, which sees the fraction of the training and the history of the
    loss. As every tensor sees the same, r is one schedule for all.
    theta (36,865 meta-parameters): Celo's `lstm_init_state` and `rnn_params`, without `rnn_to_controls`.

    State: 8 bytes a parameter, and 8 lstm_hidden a tensor.
    Inputs: g, its momentum and RMS; for the LSTM, the fraction of the training, the loss at 10 half-lives.
    Outputs: one rate.
    Source: celo_adam of the code of arXiv 2501.12670. Differs from it in: Adafactor's accumulators, which
    the original keeps and never uses, are left out.
    """
    decays = Decays(momentum=(0.9,), rms=(0.999,))

    def steps(theta, tensors, count, controls, rates):
        del theta, controls
        rates, found = 0.1 * jnp.exp(rates), []
        for rate, t in zip(rates, tensors, strict=True):
            m = t.acc.momentum[..., 0] / (1 - decays.momentum[0] ** (count + 1))
            v = t.acc.rms[..., 0] / (1 - decays.rms[0] ** (count + 1))
            found.append(-step_mult * rate * m / (1e-8 + jnp.sqrt(v + 1e-10)))
        return found

    return lstm_optimizer(
        "celo_adam", lambda key: {}, steps, decays=decays, lstm_hidden=lstm_hidden, state_dtype=state_dtype
    )
