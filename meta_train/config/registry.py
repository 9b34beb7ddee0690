"""Literal dicts of factories: a factory's keyword-only signature is its config schema.

A *registry* is a dict, name -> factory. A *spec* is what a config says about one component:
`{"name": NAME, **options}`. Parameters that are not keyword-only (`system`) are handed over by
the program; they are no options.
"""

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from meta_train.config.validation import from_validation, from_value_error
from meta_train.errors import ConfigError, Problem, join, nearest

Factory = Callable[..., Any]
Registry = dict[str, Factory]
Spec = dict[str, Any]

STRICT = ConfigDict(
    extra="forbid",
    frozen=True,
    strict=True,
    allow_inf_nan=False,
    validate_default=True,
    protected_namespaces=(),
)


@functools.cache
def options_model(factory: Factory) -> type[BaseModel]:
    """The keyword-only parameters of a factory as a pydantic model: strict, frozen, no other keys.

    Raises:
      TypeError: a keyword-only parameter without a type, or of a type that no config can give.
    """
    fields: dict[str, Any] = {}
    for option in option_parameters(factory):
        if option.annotation is option.empty:
            raise TypeError(f"{factory_name(factory)}: option {option.name} has no type")
        fields[option.name] = (option.annotation, ... if option.default is option.empty else option.default)
    return create_model(factory_name(factory), __config__=STRICT, **fields)


def option_parameters(factory: Factory) -> list[inspect.Parameter]:
    """The keyword-only parameters of a factory, their types evaluated."""
    parameters = inspect.signature(factory, eval_str=True).parameters.values()
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def factory_name(factory: Factory) -> str:
    """The factory's own name, also of a `functools.partial`."""
    return getattr(getattr(factory, "func", factory), "__name__", repr(factory))


def check(registry: Registry, spec: Any, where: str = "") -> list[Problem]:
    """Everything that is wrong with a spec as far as types and ranges tell; nothing is called.

    Args:
      registry: name -> factory.
      spec: `{"name": NAME, **options}`.
      where: dotted path of the spec in its config, for the problems' keys.
    """
    return _validate(registry, spec, where)[1]


def fill(registry: Registry, spec: Any, where: str = "") -> tuple[Any, list[Problem]]:
    """The spec with every default filled in, as plain JSON values; and what `check` says.

    Options that are wrong stay as they were.
    """
    options, problems = _validate(registry, spec, where)
    if options is not None:
        given = {name: getattr(options, name) for name in type(options).model_fields}
        return {"name": spec["name"], **json.loads(as_json(_plain(given)))}, problems
    if not isinstance(spec, dict) or str(spec.get("name")) not in registry:
        return spec, problems
    options = option_parameters(registry[spec["name"]])
    defaults = {option.name: option.default for option in options if option.default is not option.empty}
    return {"name": spec["name"]} | json.loads(as_json(_plain(defaults))) | spec, problems


def build(registry: Registry, spec: Any, *args: Any, where: str = "") -> Any:
    """Calls `registry[spec["name"]](*args, **options)`.

    Args:
      registry: name -> factory.
      spec: `{"name": NAME, **options}`.
      *args: the factory's other parameters.
      where: dotted path of the spec in its config, for the problems' keys.

    Raises:
      ConfigError: with every problem of the spec, or with the one that made the factory refuse it
        (a ValueError that begins with the option's name).
    """
    options, problems = _validate(registry, spec, where)
    if options is None:
        raise ConfigError(problems)
    given = {name: getattr(options, name) for name in type(options).model_fields}
    try:
        return registry[spec["name"]](*args, **given)
    except ConfigError as error:  # of a spec inside the spec
        raise ConfigError(p._replace(key=join(where, p.key)) for p in error.problems) from error
    except ValueError as error:
        raise ConfigError([from_value_error(error, where, given)]) from error


def _validate(registry: Registry, spec: Any, where: str) -> tuple[BaseModel | None, list[Problem]]:
    if not isinstance(spec, dict):
        hint = f"write {{name: {spec}}}" if isinstance(spec, str) else ""
        return None, [Problem(where, "must be a mapping {name: ..., and options}", spec, hint)]
    if "name" not in spec:
        where_name, suggestion = join(where, "name"), nearest("", registry)
        return None, [Problem(where_name, "is required, but not given", suggestion=suggestion)]
    name = spec["name"]
    if not isinstance(name, str) or name not in registry:
        return None, [Problem(join(where, "name"), "unknown name", name, nearest(name, registry))]
    model = options_model(registry[name])
    text = as_json({key: value for key, value in spec.items() if key != "name"})
    try:
        return model.model_validate_json(text), []
    except ValidationError as error:
        return None, from_validation(error, json.loads(text), model, where)


def _plain(value: Any) -> Any:
    """Mappings instead of NamedTuples, which JSON would make lists of, all the way down."""
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def as_json(value: Any) -> str:
    """A value as JSON; what JSON does not know (a date, a set) becomes text.

    Strict validation of JSON, unlike that of Python values, takes a list for a tuple.
    """
    return json.dumps(value, default=str)
