"""Learned optimizers, and how to use a trained one as an optax transformation."""

from learned_opt.base import LearnedOptimizer
from learned_opt.hparam import learnable_adam, learnable_sgd, learnable_sgdm

LEARNED_OPTIMIZERS = {
    "learnable_sgd": learnable_sgd,
    "learnable_sgdm": learnable_sgdm,
    "learnable_adam": learnable_adam,
}

__all__ = ["LEARNED_OPTIMIZERS", "LearnedOptimizer", "learnable_adam", "learnable_sgd", "learnable_sgdm"]
