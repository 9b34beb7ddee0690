"""The algorithms that decide for a population, in the literal dict `CONTROLLERS`."""

from meta_train.config.registry import Registry
from meta_train.population.fire import fire_pbt
from meta_train.population.mf_pbt import mf_pbt
from meta_train.population.pbt import pbt, random_search

CONTROLLERS: Registry = {
    "random_search": random_search,
    "pbt": pbt,
    "fire_pbt": fire_pbt,
    "mf_pbt": mf_pbt,
}
