"""Learned optimizers, and how to use a trained one as an optax transformation."""

from importlib import metadata

from learned_opt.architectures import LEARNED_OPTIMIZERS
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
from learned_opt.artefact.format import Artefact, ArtefactError, save
from learned_opt.artefact.hub import push_to_hub
from learned_opt.artefact.load import load, read
from learned_opt.base import LearnedOptimizer

try:
    __version__ = metadata.version("learned-opt")
except metadata.PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "unknown"

__all__ = [
    "LEARNED_OPTIMIZERS",
    "Artefact",
    "ArtefactError",
    "LearnedOptimizer",
    "adafac_mlp",
    "celo",
    "celo2",
    "celo_adam",
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
    "spectral",
    "velo",
]
