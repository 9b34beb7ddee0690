"""Populations: random search, PBT, FIRE PBT and MF-PBT over any pure trainer."""

from meta_train.population.base import Controller, Decision, Member, Outcome, Rhythm, Setting, Trainer
from meta_train.population.fire import fire_pbt
from meta_train.population.mf_pbt import mf_pbt
from meta_train.population.pbt import pbt
from meta_train.population.random_search import random_search
from meta_train.registry import Registry

CONTROLLERS: Registry = {
    "random_search": random_search,
    "pbt": pbt,
    "fire_pbt": fire_pbt,
    "mf_pbt": mf_pbt,
}

__all__ = [
    "CONTROLLERS",
    "Controller",
    "Decision",
    "Member",
    "Outcome",
    "Rhythm",
    "Setting",
    "Trainer",
    "fire_pbt",
    "mf_pbt",
    "pbt",
    "random_search",
]
