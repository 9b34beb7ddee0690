"""optax optimizers whose numbers are hyperparameters: traced values in the place of options."""

from collections.abc import Callable
from typing import Any

import optax
from pydantic import TypeAdapter, ValidationError

from meta_train.config import outer_optimizer
from meta_train.config.registry import Spec, as_json, option_parameters, options_model
from meta_train.errors import ConfigError, Problem

PLACEHOLDER = 0.5  # stands for a searched number while the rest of a spec is validated


def numbers_of(name: str) -> tuple[str, ...]:
    """The options of an optax optimizer that are real numbers: they can be traced, and so searched."""
    options = option_parameters(outer_optimizer.optimizers()[name])
    return tuple(option.name for option in options if _is_number(option.annotation))


def others_of(name: str) -> tuple[str, ...]:
    """Its other options: they change the program."""
    options = option_parameters(outer_optimizer.optimizers()[name])
    return tuple(option.name for option in options if not _is_number(option.annotation))


def _is_number(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(PLACEHOLDER, strict=True)
    except ValidationError:
        return False
    return annotation is not bool


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
    filled, problems = outer_optimizer.fill({**spec, **dict.fromkeys(mine, PLACEHOLDER)}, where)
    if problems:
        raise ConfigError(problems)
    factory = known[filled["name"]]
    text = as_json({key: value for key, value in filled.items() if key != "name"})
    options = options_model(factory).model_validate_json(text)
    fixed = {key: getattr(options, key) for key in type(options).model_fields}
    factory(num_steps, **fixed)  # what optax itself refuses comes out here
    return lambda hypers: factory(num_steps, **(fixed | {key: hypers[key] for key in mine}))
