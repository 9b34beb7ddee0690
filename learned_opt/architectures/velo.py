"""VeLO: the hypernetwork optimizer that was meta-trained on thousands of tasks."""

from learned_opt.architectures import options
from learned_opt.architectures.features import LARGE
from learned_opt.architectures.hyper import hypernetwork_optimizer, tensor_statistics
from learned_opt.architectures.options import checked
from learned_opt.base import LearnedOptimizer


@checked
def velo(
    *,
    lstm_hidden: options.LstmHidden = 512,
    bank: options.Size = 256,
    hidden: options.Hidden = 4,
    step_mult: options.StepMult = 1e-3,
    exp_mult: options.ExpMult = 1e-3,
    bank_mult: options.Rate = 100.0,
    bugged_loss_features: bool = False,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """VeLO (Metz et al. 2022): an LSTM for each tensor mixes the weights of its per-parameter MLP.

    `p <- p - step_mult * r * |p| * o_0 * exp(exp_mult * o_1)`

    o is the output, for this parameter, of an MLP on 30 normalised features; |p| the root mean square of
    the tensor; r and the MLP's weights, `bank_mult * mean_j c_j W_j` over a bank of MLPs, come from the
    tensor's LSTM, which sees the fraction of the training, the history of the loss and statistics of the
    tensor, and the largest value of the other tensors.
    theta (2,320,385 meta-parameters at the defaults): `ff_mod_stack/~/...` (leading axis: the bank),
    `lstm_init_state`, `rnn_params`.

    Args:
      bank: number of MLPs that are mixed.
      bank_mult: scale of the mixture; > 0. With 100, meta-training by PES on small tasks was found
        unstable; Celo's authors use 1.
      bugged_loss_features: half-lives of the loss features as if the horizon were 10, for some
        published weights.

    State: as AdafacMLP's, and 8 lstm_hidden bytes a tensor.
    Inputs: 30 features a parameter as AdafacMLP's; for a tensor's LSTM, the fraction of the training,
    the loss at 10 half-lives, and statistics of the tensor.
    Outputs: a direction and the logarithm of its size, for each parameter; for each tensor a rate and
    the network itself.
    Source: arXiv 2211.09760, HyperV2 of google/learned_optimization. Differs from it in: nothing; the
    original's variance of v about the mean of m is kept.
    """
    return hypernetwork_optimizer(
        "velo",
        lstm_hidden=lstm_hidden,
        bank=bank,
        hidden=hidden,
        step_mult=step_mult,
        exp_mult=exp_mult,
        tensor_features=tensor_statistics,
        mix=lambda controls: controls * (bank_mult / bank),
        rate=lambda rates: rates,
        loss_steps=10 if bugged_loss_features else None,
        fused_from=fused_from,
        state_dtype=state_dtype,
    )
