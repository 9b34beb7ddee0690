"""optax optimizers whose numbers are hyperparameters: traced values in the place of options."""

from collections.abc import Callable
from typing import Any

import optax

from meta_train.config import outer_optimizer
from meta_train.config.registry import Checked, OneOf, Spec, option_parameters
from meta_train.config.validation import members
from meta_train.errors import ConfigError, Problem

PLACEHOLDER = 0.5  # stands for a searched number while the rest of a spec is validated


def numbers_of(name: str) -> tuple[str, ...]:
    """The options of an optax optimizer that are real numbers: they can be traced, and so searched."""
    options = option_parameters(outer_optimizer.optimizers()[name])
    return tuple(option.name for option in options if float in members(option.annotation))


def others_of(name: str) -> tuple[str, ...]:
    """Its other options: they change the program."""
    numbers = numbers_of(name)
    options = option_parameters(outer_optimizer.optimizers()[name])
    return tuple(option.name for option in options if option.name not in numbers)


def searched_optimizer(
    spec: Spec, searched: tuple[str, ...], num_steps: int, where: str = "optimizer"
) -> Callable[[dict[str, Any]], optax.GradientTransformationExtraArgs]:
    """`(hypers) -> optimizer`, to be called inside a traced function.

    Args:
      spec: `{name: NAME, and options}` as of an outer optimizer; searched ones may be left out.
      searched: names of the population's hyperparameters; others than the optimizer's are ignored.
      num_steps: what a schedule's length is by default.
      where: dotted path of the spec, for the problems' keys.

    Raises:
      ConfigError: what is wrong with the spec.
    """
    known = outer_optimizer.optimizers()
    name = spec.get("name") if isinstance(spec, dict) else None
    mine = [key for key in searched if name in known and key in numbers_of(str(name))]
    for key in mine:
        if isinstance(spec.get(key), dict):
            raise ConfigError([Problem(f"{where}.{key}", "is searched, so it cannot have a schedule")])
    if not isinstance(spec, Checked):
        spec, problems = OneOf(lambda _: known).examine(
            {**spec, **dict.fromkeys(mine, PLACEHOLDER)}, where=where
        )
        if problems:
            raise ConfigError(problems)
    fixed = {key: value for key, value in spec.items() if key != "name"}
    fixed |= dict.fromkeys(mine, PLACEHOLDER)
    factory = known[spec["name"]]
    factory(num_steps, **fixed)  # what optax itself refuses comes out here

    def make(hypers):
        made = factory(num_steps, **(fixed | {key: hypers[key] for key in mine}))
        return optax.with_extra_args_support(made)

    return make
