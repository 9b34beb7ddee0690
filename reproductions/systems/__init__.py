"""Unrolled systems that are not the training of a task by a learned optimizer, in the literal dict `SYSTEMS`.

Each factory returns an `OuterProblem`; `toys` holds the ones whose gradient is known. Importing them needs
jax and numpy alone: what else a system needs (haiku, a task's data, scikit-learn), its factory imports.
"""

from reproductions.systems.character_lstm import character_lstm
from reproductions.systems.layer_hyperparameters import layer_hyperparameters
from reproductions.systems.linear_influence import linear_influence
from reproductions.systems.lorenz import lorenz
from reproductions.systems.mlp_schedule import mlp_schedule
from reproductions.systems.outer_problem import OuterProblem
from reproductions.systems.ridge import ridge
from reproductions.systems.swimmer import swimmer
from reproductions.systems.toy_regression import toy_regression

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
