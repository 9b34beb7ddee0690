"""Learned optimizers, and how to use a trained one as an optax transformation."""

from learned_opt.adafac_mlp import adafac_mlp
from learned_opt.artefact import Artefact, ArtefactError, load, read, save
from learned_opt.base import LearnedOptimizer
from learned_opt.celo import celo
from learned_opt.celo2 import celo2
from learned_opt.hparam import learnable_adam, learnable_sgd, learnable_sgdm
from learned_opt.hub import push_to_hub
from learned_opt.mlp import per_param_mlp
from learned_opt.mlp_nominal import mlp_nominal
from learned_opt.mulo import elo, mulo
from learned_opt.nn_adam import nn_adam
from learned_opt.residual import residual
from learned_opt.rnn_mlp import rnn_mlp
from learned_opt.velo import velo

LEARNED_OPTIMIZERS = {
    "learnable_sgd": learnable_sgd,
    "learnable_sgdm": learnable_sgdm,
    "learnable_adam": learnable_adam,
    "per_param_mlp": per_param_mlp,
    "adafac_mlp": adafac_mlp,
    "residual": residual,
    "mlp_nominal": mlp_nominal,
    "mulo": mulo,
    "elo": elo,
    "nn_adam": nn_adam,
    "rnn_mlp": rnn_mlp,
    "velo": velo,
    "celo": celo,
    "celo2": celo2,
}

__all__ = [
    "LEARNED_OPTIMIZERS",
    "Artefact",
    "ArtefactError",
    "LearnedOptimizer",
    "adafac_mlp",
    "celo",
    "celo2",
    "elo",
    "learnable_adam",
    "learnable_sgd",
    "learnable_sgdm",
    "load",
    "mlp_nominal",
    "mulo",
    "nn_adam",
    "per_param_mlp",
    "push_to_hub",
    "read",
    "residual",
    "rnn_mlp",
    "save",
    "velo",
]
