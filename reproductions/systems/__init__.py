"""Unrolled systems that are not the training of a task by a learned optimizer, in the literal dict `SYSTEMS`.

Each factory returns an `OuterProblem`; `toys` holds the ones whose gradient is known. Importing them needs
jax and numpy alone: what else a system needs (haiku, a task's data, scikit-learn), its factory imports.
"""

from meta_train.systems.character_lstm import character_lstm
from meta_train.systems.layer_hyperparameters import layer_hyperparameters
from meta_train.systems.linear_influence import linear_influence
from meta_train.systems.lorenz import lorenz
from meta_train.systems.mlp_schedule import mlp_schedule
from meta_train.systems.outer_problem import OuterProblem
from meta_train.systems.ridge import ridge
from meta_train.systems.swimmer import swimmer
from meta_train.systems.toy_regression import toy_regression

SYSTEMS = {
    "character_lstm": character_lstm,
    "layer_hyperparameters": layer_hyperparameters,
    "linear_influence": linear_influence,
    "lorenz": lorenz,
    "mlp_schedule": mlp_schedule,
    "ridge": ridge,
    "swimmer": swimmer,
    "toy_regression": toy_regression,
}

__all__ = ["SYSTEMS", "OuterProblem"]
