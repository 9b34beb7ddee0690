"""What pydantic finds wrong with a config, in this project's words: one `Problem` for each wrong value."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from meta_train.errors import Problem, join, nearest

NESTED = "problems"  # type of an error that holds the problems of a spec, keyed from the spec on


def from_value_error(error: ValueError, where: str, options: Iterable[str]) -> Problem:
    """What a factory refused; its message begins with the name of the option."""
    message = str(error)
    option, _, rest = message.partition(" ")
    known = option.partition(".")[0] in options
    return Problem(join(where, option), rest) if known else Problem(where, message)


def from_validation(
    error: ValidationError, data: dict[str, Any], model: type[BaseModel], where: str = ""
) -> list[Problem]:
    """Pydantic's errors about `data`, one problem for each value that is wrong.

    Args:
      error: what validation raised.
      data: what was validated, as JSON would give it.
      model: what it should have been; for suggestions.
      where: dotted path of `data` itself.
    """
    groups: dict[tuple, list[tuple[tuple, Any]]] = {}
    for item in error.errors(include_url=False):
        path, union = _locate(item["loc"], data)
        groups.setdefault(path if union is None else union, []).append((path, item))
    for path in list(groups):  # pydantic also calls a list too short whose entries are wrong
        inside = any(other[: len(path)] == path for other in groups if len(other) > len(path))
        if inside and all(item["type"] == "too_short" for _, item in groups[path]):
            del groups[path]
    return [problem for root, group in groups.items() for problem in _problems(root, group, model, where)]


def _locate(loc: tuple, data: Any) -> tuple[tuple, tuple | None]:
    """Pydantic's location as a path into the data, and the path of the first union on the way.

    Where a type is a union, pydantic reports every member that did not fit, and puts the
    member's name, which is no key of the data, into the location.
    """
    path, union, node = (), None, data
    for i, part in enumerate(loc):
        if isinstance(node, dict) and part in node or isinstance(node, list) and part in range(len(node)):
            path, node = (*path, part), node[part]
        elif i == len(loc) - 1 and isinstance(node, dict | list) and not _is_tag(part):
            path = (*path, part)  # a key that is missing
        elif part != "[key]":
            union = path if union is None else union
    return path, union


def _is_tag(part: Any) -> bool:
    """Whether part of a location names a union's member: a type's name, not an option's."""
    return isinstance(part, str) and (not part.isidentifier() or part in _TAGS or part[:1].isupper())


_TAGS = {"int", "float", "str", "bool", "none", "dict", "list", "tuple"}


def _problems(root, group, model, where) -> Iterator[Problem]:
    """The problems of one value: of the union's member that was meant, or of the whole value."""
    deeper = [(path, item) for path, item in group if len(path) > len(root) or item["type"] == NESTED]
    for path, item in deeper:  # a mapping or list was given, so its own member of the union was meant
        if item["type"] == NESTED:
            yield from (p._replace(key=join(where, *path, p.key)) for p in item["ctx"]["problems"])
        else:
            yield _problem(path, [item], model, where)
    if deeper:
        return
    items = [item for _, item in group]
    exact = [item for item in items if not _wrong_kind(item)]  # the right member, but not its range
    yield _problem(root, exact or items, model, where)


def _problem(path, items, model, where) -> Problem:
    key, first = join(where, *path), items[0]
    value, kind = first["input"], first["type"]
    if kind in ("missing", "missing_argument"):
        return Problem(key, "is required, but not given")
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = [name for mapping in types_at(model, path[:-1]) for name in _fields_of(mapping)]
        return Problem(key, "unknown option", value, nearest(path[-1], allowed))
    if kind == "value_error":
        return from_value_error(first["ctx"]["error"], key, value if isinstance(value, dict) else ())
    words = [_must_be(item) for item in items]
    if _wrong_kind(first) and type(None) in types_at(model, path):
        words.append("null")
    return Problem(key, "must be " + " or ".join(dict.fromkeys(words)), value, _hint(items, value))


def _wrong_kind(item: Any) -> bool:
    return item["type"].endswith("_type") or item["type"] == "literal_error"


def _must_be(item: Any) -> str:
    ctx = item.get("ctx", {})
    match item["type"]:
        case "int_type" | "int_parsing" | "int_from_float":
            return "a whole number"
        case "float_type" | "float_parsing":
            return "a number"
        case "finite_number":
            return "a finite number"
        case "bool_type" | "bool_parsing":
            return "true or false"
        case "string_type":
            return "text"
        case "spec_type":
            return f"a mapping {{{ctx['key']}: ..., and options}}"
        case "none_required":
            return "null"
        case "list_type" | "tuple_type":
            return "a list"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "a mapping"
        case "named_tuple_type" | "arguments_type":
            return "a list or a mapping"
        case "literal_error":
            choices = _choices(item)
            return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        case "greater_than":
            return f"> {ctx['gt']:.12g}"
        case "greater_than_equal":
            return f">= {ctx['ge']:.12g}"
        case "less_than":
            return f"< {ctx['lt']:.12g}"
        case "less_than_equal":
            return f"<= {ctx['le']:.12g}"
        case "multiple_of":
            return f"a multiple of {ctx['multiple_of']:.12g}"
        case "too_short":
            return f"a list of at least {ctx['min_length']}"
        case "too_long":
            return f"a list of at most {ctx['max_length']}"
        case _:
            return item["msg"].removeprefix("Input should be ")


def _hint(items: list[Any], value: Any) -> str:
    if items[0]["type"] == "spec_type" and isinstance(value, str) and len(value) < 60:
        return f"write {{{items[0]['ctx']['key']}: {value}}}"
    choices = [choice for item in items if item["type"] == "literal_error" for choice in _choices(item)]
    close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    if isinstance(value, float) and value.is_integer() and any(i["type"] == "int_type" for i in items):
        return f"write {int(value)}"
    return ""


def _choices(item: Any) -> list[str]:
    return re.findall(r"'([^']*)'", item["ctx"]["expected"]) or [item["ctx"]["expected"]]


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone; `Annotated` is taken off."""
    if typing.get_origin(annotation) is typing.Annotated:
        return members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(annotation) for member in members(part))
    return (annotation,)


def annotations_at(annotation: Any, path: tuple) -> Iterator[Any]:
    """The types, as they are annotated, that a value at `path` inside a value of a type may have."""
    if not path:
        yield annotation
        return
    for kind in members(annotation):
        fields, args = _fields_of(kind), typing.get_args(kind)
        if path[0] in fields:
            yield from annotations_at(fields[path[0]], path[1:])
        elif args and not fields:
            yield from annotations_at(args[-1 if typing.get_origin(kind) is dict else 0], path[1:])


def types_at(annotation: Any, path: tuple) -> list[Any]:
    """The types that a value at `path` inside a value of a type may have; none if they are free."""
    return [kind for found in annotations_at(annotation, path) for kind in members(found)]


def annotation_of(field: FieldInfo) -> Any:
    """A field's type with its notes, which pydantic takes off an Annotated type."""
    return typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _fields_of(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: annotation_of(field) for name, field in kind.model_fields.items()}
    return typing.get_type_hints(kind) if hasattr(kind, "_fields") else {}
