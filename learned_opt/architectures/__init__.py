"""Learned optimizers, one architecture a file; the literal dict `LEARNED_OPTIMIZERS` names them all."""

from learned_opt.architectures.adafac_mlp import adafac_mlp
from learned_opt.architectures.celo import celo, celo_adam
from learned_opt.architectures.celo2 import celo2
from learned_opt.architectures.hparam import learnable_adam, learnable_sgd, learnable_sgdm
from learned_opt.architectures.mlp import per_param_mlp
from learned_opt.architectures.mlp_nominal import mlp_nominal
from learned_opt.architectures.mulo import elo, mulo
from learned_opt.architectures.nn_adam import nn_adam
from learned_opt.architectures.residual import residual
from learned_opt.architectures.rnn_mlp import rnn_mlp
from learned_opt.architectures.spectral import spectral
from learned_opt.architectures.velo import velo

LEARNED_OPTIMIZERS = {
    "learnable_sgd": learnable_sgd,
    "learnable_sgdm": learnable_sgdm,
    "learnable_adam": learnable_adam,
    "per_param_mlp": per_param_mlp,
    "adafac_mlp": adafac_mlp,
    "residual": residual,
    "spectral": spectral,
    "mlp_nominal": mlp_nominal,
    "mulo": mulo,
    "elo": elo,
    "nn_adam": nn_adam,
    "rnn_mlp": rnn_mlp,
    "velo": velo,
    "celo": celo,
    "celo_adam": celo_adam,
    "celo2": celo2,
}
