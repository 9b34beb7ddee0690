"""Whether values lie in the ranges that a factory's signature declares."""

import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import annotated_types

_LIMITS = {
    annotated_types.Gt: ("gt", ">", lambda x, limit: x > limit),
    annotated_types.Ge: ("ge", ">=", lambda x, limit: x >= limit),
    annotated_types.Lt: ("lt", "<", lambda x, limit: x < limit),
    annotated_types.Le: ("le", "<=", lambda x, limit: x <= limit),
}


def out_of_range(factory: Callable[..., Any], options: Mapping[str, Any]) -> str:
    """What is wrong with the first option that the signature does not allow; "" if nothing is."""
    hints = typing.get_type_hints(factory, include_extras=True)
    for name, value in options.items():
        must_be = _violated(hints[name], value)
        if must_be:
            return f"{name} is {value!r}, must be {must_be}"
    return ""


def _violated(hint: Any, value: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "" if value in args else f"one of {', '.join(map(str, args))}"
    if origin in (typing.Union, types.UnionType):
        return "" if value is None else _violated(args[0], value)
    if origin is tuple:
        if Ellipsis not in args and len(args) != len(value):
            return f"{len(args)} numbers"
        return next(filter(None, (_violated(args[0], x) for x in value)), "")
    if origin is typing.Annotated:
        limits = [limit for entry in args[1:] for limit in _single(entry)]
        wrong = [
            f"{sign} {getattr(limit, field):g}"
            for limit in limits
            for field, sign, holds in [_LIMITS[type(limit)]]
            if not holds(value, getattr(limit, field))
        ]
        return " and ".join(wrong)
    return ""


def _single(entry: Any) -> list[Any]:
    """An Interval is several limits."""
    return list(entry) if isinstance(entry, annotated_types.GroupedMetadata) else [entry]
