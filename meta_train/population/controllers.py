"""The algorithms that decide for a population, in the literal dict `CONTROLLERS`."""

from meta_train.config.own import Kind, Open
from meta_train.population.base import Controller
from meta_train.population.fire import fire_pbt
from meta_train.population.mf_pbt import mf_pbt
from meta_train.population.pbt import pbt, random_search

CONTROLLERS = Open(
    Kind("controllers", Controller, ("setting",)),
    {
        "random_search": random_search,
        "pbt": pbt,
        "fire_pbt": fire_pbt,
        "mf_pbt": mf_pbt,
    },
)
