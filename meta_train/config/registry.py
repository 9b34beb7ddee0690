"""Literal dicts of factories: a factory's keyword-only signature is its config schema.

A *registry* is a dict, name -> factory. A *spec* is what a config says about one component:
`{"name": NAME, **options}`. Parameters that are not keyword-only (`system`) are handed over by
the program; they are no options. `OneOf` marks the place of a spec in a schema: a union of a
registry's factories, discriminated by the name. A spec is validated once: what comes out is
`Checked`, which `build` takes as it is.
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import PydanticCustomError, core_schema

from meta_train.config.validation import NESTED, annotation_of, from_validation, from_value_error, members
from meta_train.errors import ConfigError, PieceError, Problem, join, nearest

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


class Checked(dict[str, Any]):
    """A validated spec: every option is there, as the value that the factory takes."""


class Component(BaseModel):
    """A spec with keys of the config's own in addition to the options of the factory that `name` picks."""

    model_config = STRICT | ConfigDict(use_attribute_docstrings=True)

    name: str
    """Name in the registry."""

    options: ClassVar[tuple[str, ...]] = ()  # of the factory

    @property
    def spec(self) -> Checked:
        """`{"name": NAME, **options}`, for `build`."""
        return Checked({"name": self.name} | {option: getattr(self, option) for option in self.options})


class OneOf(NamedTuple):
    """Annotates the type of a spec in a schema, `Spec` or a `Component`.

    Attributes:
      registry: `(validation context) -> registry` that the spec's name is looked up in.
      base: the `Component` with the keys that are not options; None where there are none.
      default: the name where none is given; None where one must be.
      key: the key that holds the name.
    """

    registry: Callable[[Any], Registry]
    base: type[Component] | None = None
    default: str | None = None
    key: str = "name"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """A validator that looks the name up, and validates the options as the factory's signature says."""
        as_spec = self.base is not None and source is not self.base

        def validate(spec, info):
            if not isinstance(spec, dict):
                raise PydanticCustomError("spec_type", "", {"key": self.key})
            found, problems = self.examine(spec, info.context)
            if found is None:
                raise PydanticCustomError(NESTED, "", {"problems": problems})
            return found.spec if as_spec else found

        return core_schema.with_info_plain_validator_function(validate)

    def examine(self, spec: Any, context: Any = None, where: str = "") -> tuple[Any, list[Problem]]:
        """The `Checked` spec or the `Component`, None where something is wrong with it; and what is wrong."""
        known, key = self.registry(context), self.key
        if not isinstance(spec, dict):
            hint = f"write {{{key}: {spec}}}" if isinstance(spec, str) and len(spec) < 60 else ""
            return None, [Problem(where, f"must be a mapping {{{key}: ..., and options}}", spec, hint)]
        if self.default is not None:
            spec = {key: self.default} | spec
        if key not in spec:
            message = "is required, but not given"
            return None, [Problem(join(where, key), message, suggestion=nearest("", known))]
        name = spec[key]
        try:
            factory = known[name] if isinstance(name, str) else None
        except KeyError:
            factory = None
        except PieceError as error:
            return None, [Problem(join(where, key), str(error))]
        if factory is None:
            return None, [Problem(join(where, key), "unknown name", name, nearest(name, known))]
        model = options_model(factory, self.base)
        text = as_json(spec if self.base else {k: value for k, value in spec.items() if k != key})
        try:
            options = model.model_validate_json(text, context=context)
        except ValidationError as error:
            return None, from_validation(error, json.loads(text), model, where)
        if self.base:
            return options, []
        return Checked({key: name} | {field: getattr(options, field) for field in model.model_fields}), []

    def model_of(self, spec: Any, context: Any) -> type[BaseModel] | None:
        """The model of what a spec names; None where it names nothing."""
        name = spec.get(self.key, self.default) if isinstance(spec, dict) else None
        known = self.registry(context)
        return options_model(known[name], self.base) if isinstance(name, str) and name in known else None


@functools.cache
def options_model(factory: Factory, base: type[Component] | None = None) -> type[BaseModel]:
    """The keyword-only parameters of a factory as a pydantic model: strict, frozen, no other keys.

    Raises:
      TypeError: a keyword-only parameter without a type, or of a type that no config can give.
    """
    from meta_train.config.bounds import bounded

    fields: dict[str, Any] = {}
    for option in option_parameters(factory):
        if option.annotation is option.empty:
            raise TypeError(f"{factory_name(factory)}: option {option.name} has no type")
        default = ... if option.default is option.empty else option.default
        fields[option.name] = (bounded(option.annotation, option.name), default)
    name = factory_name(factory)
    if base is None:
        return create_model(name, __config__=STRICT, **fields)
    undocumented = {"use_attribute_docstrings": False}
    model = create_model(name, __base__=base, __cls_kwargs__=undocumented, **fields)
    model.options = tuple(fields)
    return model


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
    return OneOf(lambda _: registry).examine(spec, where=where)[1]


def fill(registry: Registry, spec: Any, where: str = "") -> tuple[Any, list[Problem]]:
    """The spec with every default filled in, as plain JSON values; and what `check` says.

    Options that are wrong stay as they were.
    """
    one_of = OneOf(lambda _: registry)
    found, problems = one_of.examine(spec, where=where)
    return plain(found) if found is not None else with_defaults(one_of, spec), problems


def build(registry: Registry, spec: Any, *args: Any, where: str = "", key: str = "name") -> Any:
    """Calls `registry[spec["name"]](*args, **options)`.

    Args:
      registry: name -> factory.
      spec: `{"name": NAME, **options}`; validated unless it is `Checked`.
      *args: the factory's other parameters.
      where: dotted path of the spec in its config, for the problems' keys.
      key: the key that holds the name.

    Raises:
      ConfigError: with every problem of the spec, or with the one that made the factory refuse it
        (a ValueError that begins with the option's name).
    """
    problems: list[Problem] = []
    if not isinstance(spec, Checked):
        spec, problems = OneOf(lambda _: registry, key=key).examine(spec, where=where)
    if problems:
        raise ConfigError(problems)
    given = {name: value for name, value in spec.items() if name != key}
    try:
        return registry[spec[key]](*args, **given)
    except PieceError as error:  # it is gone since the spec was validated
        raise ConfigError([Problem(join(where, key), str(error))]) from error
    except ConfigError as error:  # of a spec inside the spec
        raise ConfigError(p._replace(key=join(where, p.key)) for p in error.problems) from error
    except ValueError as error:
        raise ConfigError([from_value_error(error, where, given)]) from error


def with_defaults(kind: Any, value: Any, context: Any = None) -> Any:
    """A value of a schema's type `kind` with every default filled in; what is wrong in it stays as it is."""
    notes = (kind,) if isinstance(kind, OneOf) else getattr(kind, "__metadata__", ())
    models = [note.model_of(value, context) for note in notes if isinstance(note, OneOf)]
    models += [one for one in members(kind) if isinstance(one, type) and issubclass(one, BaseModel)]
    model = next((model for model in models if model is not None), None)
    if isinstance(value, dict) and model is not None:
        filled = dict(value)
        for name, field in model.model_fields.items():
            if name in value:
                filled[name] = with_defaults(annotation_of(field), value[name], context)
            elif not field.is_required():
                filled[name] = plain(field.get_default())
        return filled
    lists = [one for one in members(kind) if getattr(one, "__origin__", None) is tuple]
    if isinstance(value, list) and lists:
        return [with_defaults(lists[0].__args__[0], entry, context) for entry in value]
    return value


def plain(value: Any) -> Any:
    """A value as JSON would give it, with mappings for models and NamedTuples, and lists for tuples."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def as_json(value: Any) -> str:
    """A value as JSON; what JSON does not know (a date, a set) becomes text.

    Strict validation of JSON, unlike that of Python values, takes a list for a tuple.
    """
    return json.dumps(value, default=str)


def different_options(factory: Factory, one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """`NAME VALUE, not VALUE` for each option in which two specs of a factory differ, defaults filled in."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(factory).parameters.items()}
    pairs = {key: (one.get(key, default), other.get(key, default)) for key, default in defaults.items()}
    return [f"{key} {a}, not {b}" for key, (a, b) in pairs.items() if a != b]
