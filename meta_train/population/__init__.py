"""Populations: random search, PBT, FIRE PBT and MF-PBT over any pure trainer.

These names are the Python API of the package; each is imported when it is first used.

  Trainer, Member                     what is trained: three pure functions, and the state of one member
  Rhythm, Setting                     when things happen; what a controller is made for
  CONTROLLERS, SCALES                 name -> factory of a controller, of a hyperparameter
  TRAINERS                            name -> factory of a trainer; a config names your own by its file
  population(trainer, controller, space, rhythm)    the parts, checked and compiled
  evolve(population, rounds)          a whole run in memory: the last stage, and a record of every round
  winner(controller, records)         the schedule that the best member was trained with
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meta_train.population.base import Member, Rhythm, Setting, Trainer
    from meta_train.population.controllers import CONTROLLERS
    from meta_train.population.lineage import winner
    from meta_train.population.rounds import evolve, population
    from meta_train.population.space import SCALES
    from meta_train.population.trainers import TRAINERS

_PLACES = {
    "base": ("Member", "Rhythm", "Setting", "Trainer"),
    "controllers": ("CONTROLLERS",),
    "lineage": ("winner",),
    "rounds": ("evolve", "population"),
    "space": ("SCALES",),
    "trainers": ("TRAINERS",),
}
__all__ = [
    "CONTROLLERS",
    "SCALES",
    "TRAINERS",
    "Member",
    "Rhythm",
    "Setting",
    "Trainer",
    "evolve",
    "population",
    "winner",
]


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
