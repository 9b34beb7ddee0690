"""What a factory does and takes, read from its signature and its docstring."""

import inspect
import re
import types
import typing
from typing import Any, Literal, NamedTuple

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from meta_train.config.registry import Component, Factory, Registry, option_parameters
from meta_train.config.validation import annotation_of, members
from meta_train.errors import NO_VALUE, ConfigError, Problem, nearest, show


class Option(NamedTuple):
    """One option, in words.

    Attributes:
      name: its key in a config.
      type: in plain words, "number or null".
      allowed: the range, "> 0"; "" where every value of the type is allowed.
      default: as a config would write it, or "required".
      help: what the docstring says; "" where it says nothing.
    """

    name: str
    type: str
    allowed: str
    default: str
    help: str


class Description(NamedTuple):
    """One entry of a registry.

    Attributes:
      name: its name in the registry.
      summary: the first line of the docstring.
      text: the rest of it, without the part that documents the options.
      options: in the order of the signature.
    """

    name: str
    summary: str
    text: str
    options: tuple[Option, ...]


def describe(registry: Registry, name: str) -> Description:
    """The description of one entry.

    Raises:
      ConfigError: an unknown name; says the nearest one.
    """
    if name not in registry:
        raise ConfigError([Problem("", "unknown name", name, nearest(name, registry))])
    factory = registry[name]
    summary, text, helps = split_docstring(factory)
    options = tuple(
        option
        for parameter in option_parameters(factory)
        for option in _option(parameter.name, parameter.annotation, parameter.default, helps)
    )
    return Description(name, summary, text, options)


def _option(name: str, kind: Any, default: Any, helps: dict[str, str]) -> typing.Iterator[Option]:
    """One option; one that is a NamedTuple of options also with each of these, dotted."""
    fields = getattr(default, "_asdict", None)
    words = "" if fields else default_in_words(NO_VALUE if default is inspect.Parameter.empty else default)
    last = name.rpartition(".")[2]
    yield Option(name, type_in_words(kind), range_in_words(kind), words, helps.get(last, ""))
    if fields is not None:
        kinds = typing.get_type_hints(type(default), include_extras=True)
        inner = split_docstring(type(default), "Attributes")[2]
        for field, value in fields().items():
            yield from _option(f"{name}.{field}", kinds[field], value, inner)


def describe_model(model: type[BaseModel], name: str) -> Description:
    """The description of a pydantic model, with the keys of the models in it, dotted."""
    summary, _, text = inspect.cleandoc(model.__doc__ or "").partition("\n")
    return Description(name, summary.strip(), text.strip(), tuple(_fields(model, "")))


def _fields(model: type[BaseModel], prefix: str) -> typing.Iterator[Option]:
    for name, field in model.model_fields.items():
        kind = annotation_of(field)
        default = _field_default(field)
        yield Option(
            prefix + name, type_in_words(kind), range_in_words(kind), default, field.description or ""
        )
        for member in members(kind):
            items = typing.get_origin(member) is tuple  # a list of mappings: its keys follow a number
            inner = members(typing.get_args(member)[0])[0] if items else member
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _fields(inner, f"{prefix}{name}.{'N.' if items else ''}")


def _field_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if isinstance(default, BaseModel) else default_in_words(default)


def render(description: Description, width: int = 100) -> str:
    """A description as plain text."""
    import textwrap

    lines = [f"{description.name}: {description.summary}" if description.summary else description.name]
    if description.text:
        lines += ["", description.text]
    if description.options:
        lines += ["", "Options:"]
    for option in description.options:
        allowed = f", {option.allowed}" if option.allowed else ""
        default = {"": "", "required": ", required"}.get(option.default, f", default {option.default}")
        lines.append(f"  {option.name}: {option.type}{allowed}{default}")
        lines += textwrap.wrap(option.help, width, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"


def split_docstring(factory: Factory, section: str = "Args") -> tuple[str, str, dict[str, str]]:
    """The summary, the text without its Args section, and what that section says of each parameter."""
    doc = inspect.getdoc(getattr(factory, "func", factory)) or ""
    summary, _, rest = doc.partition("\n")
    match = re.search(rf"^{section}:\s*$", rest, re.MULTILINE)
    if match is None:
        return summary, rest.strip(), {}
    before, lines = rest[: match.start()], rest[match.end() :].strip("\n").split("\n")
    end = next((i for i, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    text = f"{before.strip()}\n\n{chr(10).join(lines[end:]).strip()}".strip()
    return summary, text, _arguments(lines[:end])


def _arguments(lines: list[str]) -> dict[str, str]:
    """Parameter -> its text; `a, b: text` documents both."""
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        head, colon, text = line.strip().partition(":")
        if line[indent : indent + 1].strip() and colon:
            names = [name.strip(" *`").split(" ")[0] for name in head.split(",")]
            current = [name for name in names if name not in found]
            found |= {name: [text.strip()] for name in current}
        elif line.strip():
            for name in current:
                found[name].append(line.strip())
    return {name: " ".join(text) for name, text in found.items()}


_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}


def type_in_words(annotation: Any) -> str:
    """A type in plain words: "number", "one of a, b", "list of whole numbers", "number or null"."""
    kind, *others = members(annotation)
    if others:
        return " or ".join(dict.fromkeys(type_in_words(kind) for kind in (kind, *others)))
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind]
    if origin is Literal:
        return f"one of {', '.join(str(arg) for arg in args)}"
    if origin in (tuple, list):
        if origin is tuple and args[-1] is not Ellipsis:
            return f"list of {len(args)}: {', '.join(type_in_words(arg) for arg in args)}"
        return f"list, each {type_in_words(args[0])}"
    if origin is dict and args[1] is not Any:
        return f"mapping of {type_in_words(args[0])} to {type_in_words(args[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        more = ["and options"] if issubclass(kind, Component) else []
        return f"mapping {{{', '.join([*kind.model_fields, *more])}}}"
    if hasattr(kind, "_fields"):
        return f"mapping {{{', '.join(kind._fields)}}}"
    return "mapping" if dict in (kind, origin) else "anything" if kind is Any else str(kind)


def range_in_words(annotation: Any) -> str:
    """The bounds anywhere in a type: "> 0", ">= 0 and < 1", "each >= 1"; "" without any."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        inner = range_in_words(args[0])
        bounds = [word for note in args[1:] for word in _bounds(note)]
        return " and ".join(bounds + ([inner] if inner else []))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, map(range_in_words, args))))
    if origin in (tuple, list):
        inner = dict.fromkeys(filter(None, map(range_in_words, args)))
        return f"each {', '.join(inner)}" if inner else ""
    return ""


def _bounds(note: Any) -> typing.Iterator[str]:
    """The words of one piece of `annotated_types` metadata."""
    if isinstance(note, annotated_types.GroupedMetadata):
        for part in note:
            yield from _bounds(part)
    symbols = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}
    symbols |= {"min_length": "length >=", "max_length": "length <="}
    for attribute, symbol in symbols.items():
        bound = getattr(note, attribute, None)
        if bound is not None and not isinstance(note, annotated_types.GroupedMetadata):
            yield f"{symbol} {bound}"


def default_in_words(default: Any) -> str:
    """A default as a config would write it; "required" for `NO_VALUE`."""
    return "required" if default is NO_VALUE else show(default)
