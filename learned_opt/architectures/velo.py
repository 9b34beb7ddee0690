"""VeLO: the hypernetwork optimizer that was meta-trained on thousands of tasks."""

from typing import Annotated

from annotated_types import Ge, Gt

from learned_opt.architectures.features import LARGE, StateDtype
from learned_opt.architectures.hyper import hypernetwork_optimizer, tensor_statistics
from learned_opt.base import LearnedOptimizer


def velo(
    *,
    lstm_hidden: Annotated[int, Ge(1)] = 512,
    bank: Annotated[int, Ge(1)] = 256,
    hidden: Annotated[int, Ge(1)] = 4,
    step_mult: Annotated[float, Gt(0)] = 1e-3,
    exp_mult: Annotated[float, Ge(0)] = 1e-3,
    bank_mult: Annotated[float, Gt(0)] = 100.0,
    bugged_loss_features: bool = False,
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
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
      lstm_hidden: size of the LSTM.
      bank: number of MLPs that are mixed.
      hidden: width of the MLPs' two hidden layers.
      step_mult: scale of the step; > 0.
      exp_mult: scale of the second output; >= 0.
      bank_mult: scale of the mixture; > 0. With 100, meta-training by PES on small tasks was found
        unstable; Celo's authors use 1.
      bugged_loss_features: half-lives of the loss features as if the horizon were 10, for some
        published weights.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.

    Returns:
      The learned optimizer; it needs the horizon (num_steps) and the loss (value). State: 16 bytes a
      parameter, 12 for each row and column of a matrix (28 a parameter for vectors), 8 lstm_hidden a tensor.

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
