"""The JSON schema of config files, made of the same models and signatures that validate them.

An editor that knows it completes names and keys, shows their documentation, and marks what is wrong.
"""

import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, TypeAdapter

from meta_train.cli.describe import split_docstring
from meta_train.config.checks import Registries, default_registries
from meta_train.config.outer_optimizer import short_names
from meta_train.config.registry import OneOf, options_model, plain
from meta_train.config.schema import RunConfig
from meta_train.config.validation import annotation_of
from meta_train.errors import show
from meta_train.population.config import PopulationConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def config_schema() -> Schema:
    """The schema of both kinds of config file: with the key `controller`, a population; without, a run."""
    defs: dict[str, Schema] = {}
    registries = default_registries()
    run, population = (_of_type(model, registries, defs) for model in (RunConfig, PopulationConfig))
    return {
        "$schema": DIALECT,
        "title": "A config of meta-train",
        "type": "object",
        "if": {"required": ["controller"]},
        "then": population,
        "else": run,
        "$defs": defs,
    }


def _of_type(kind: Any, known: Registries, defs: dict[str, Schema]) -> Schema:
    """The schema of a value of a type; what has a name of its own is put into `defs`, and referred to."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    inner: Callable[[Any], Schema] = lambda part: _of_type(part, known, defs)  # noqa: E731
    if origin is typing.Annotated:
        for note in args[1:]:
            if isinstance(note, OneOf):
                return _choice(note, known, defs)
        return inner(args[0]) | _bounds(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [inner(part) for part in args]}
    if origin is tuple and args[-1] is Ellipsis:
        return {"type": "array", "items": inner(args[0])}
    if origin is tuple:
        parts, count = [inner(part) for part in args], len(args)
        return {"type": "array", "prefixItems": parts, "minItems": count, "maxItems": count}
    if origin is dict:
        return {"type": "object", "additionalProperties": inner(args[1])}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _defined(kind.__name__, lambda: _object(kind, known, defs), defs)
    if hasattr(kind, "_fields"):
        return _named_tuple(kind, inner)
    return {} if kind is Any else TypeAdapter(kind).json_schema()


def _bounds(annotated: Any) -> Schema:
    """What the notes of an annotated type add to the schema of the type, as pydantic says it."""
    kind = typing.get_args(annotated)[0]
    origin = typing.get_origin(kind) or kind
    stand_in = {tuple: tuple[Any, ...], dict: dict[str, Any]}.get(origin, kind)
    if origin in (typing.Union, types.UnionType):
        return {}
    same: Any = typing.Annotated[(stand_in, *annotated.__metadata__)]
    found = TypeAdapter(same).json_schema()
    return {
        key: value for key, value in found.items() if key not in ("type", "items", "additionalProperties")
    }


def _defined(name: str, make: Callable[[], Schema], defs: dict[str, Schema]) -> Schema:
    if name not in defs:
        defs[name] = {}  # a type that contains itself refers to what is being made
        defs[name] = make()
    return {"$ref": f"#/$defs/{name}"}


def _object(
    model: type[BaseModel],
    known: Registries,
    defs: dict[str, Schema],
    *,
    helps: dict[str, str] | None = None,
    extra: Iterable[str] = (),
) -> Schema:
    """A mapping with the fields of a model and no others; `extra` keys are described elsewhere."""
    properties: dict[str, Schema] = {key: {} for key in extra}
    required = []
    for name, field in model.model_fields.items():
        if name in properties:
            continue
        found = _of_type(annotation_of(field), known, defs)
        text = field.description or (helps or {}).get(name)
        found = {"description": text, **found} if text else found
        if field.is_required():
            required.append(name)
        elif (default := plain(field.get_default())) is not None:
            found = {**found, "default": default}
        properties[name] = found
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _named_tuple(kind: Any, inner: Callable[[Any], Schema]) -> Schema:
    """Options that belong together: a mapping, or the values in order."""
    types_of = typing.get_type_hints(kind, include_extras=True)
    helps = split_docstring(kind, "Attributes")[2]
    properties = {
        name: ({"description": helps[name]} if name in helps else {}) | inner(one)
        for name, one in types_of.items()
    }
    required = [name for name in kind._fields if name not in kind._field_defaults]
    as_object = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    as_list = {"type": "array", "prefixItems": list(properties.values()), "maxItems": len(properties)}
    return {"anyOf": [as_object, as_list | {"minItems": len(required)}]}


def _choice(one_of: OneOf, known: Registries, defs: dict[str, Schema]) -> Schema:
    """A component: a name of the registry, and the options of what it names."""
    registry, key = one_of.registry(known), one_of.key
    summaries, options = {}, []
    for name in filter(registry.__contains__, sorted(registry)):  # an installed entry point may be broken
        factory = registry[name]
        model = options_model(factory, one_of.base)
        summary, _, helps = split_docstring(factory)
        aliases = _aliases(name, one_of, known)
        summaries |= {name: summary} | {
            alias: f"{name}: {show(text, 200)}" for alias, text in aliases.items()
        }
        place = f"{one_of.base.__name__ if one_of.base else factory.__module__}.{name}"

        def make(model=model, helps=helps):
            return _object(model, known, defs, helps=helps, extra=[key])

        then = _defined(place, make, defs)
        same = {"properties": {key: {"enum": [name, *aliases]}}, "required": [key]}
        options.append({"if": same, "then": then})
        if name == one_of.default:
            options.append({"if": {"not": {"required": [key]}}, "then": then})
    names: Schema = {"enum": list(summaries), "enumDescriptions": list(summaries.values())}
    if hasattr(registry, "kind"):  # it is open for factories of one's own
        names = {"anyOf": [names, {"type": "string", "pattern": ":"}]}
    required = [] if one_of.default else [key]
    return {"type": "object", "properties": {key: names}, "required": required, "allOf": options}


def _aliases(name: str, one_of: OneOf, known: Registries) -> dict[str, Any]:
    """What a config may also write for a name of a registry, and what that stands for."""
    if one_of.key == "schedule":
        return dict.fromkeys(short_names(name), name)
    if one_of.registry(known) is known.tasks:
        return {alias: spec for alias, spec in sorted(known.named.items()) if spec["name"] == name}
    return {}
