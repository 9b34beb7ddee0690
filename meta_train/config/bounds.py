"""Upper bounds of sizes whose types state none, so that nothing accepted can take forever or all memory."""

import types
import typing
from typing import Annotated, Any

from annotated_types import Ge, Le, MaxLen

MOST_COUNTED = 10**9  # steps and seeds: numbers that are only counted to
MOST = 10**6  # any other whole number: a size of arrays
MOST_LAYERS = 200  # what is a Python loop while a program is traced
LAYERS = ("blocks", "depth", "layers", "num_hidden")
COUNTED = ("steps", "seed", "key", "begin", "fused_from")


def bounded(kind: Any, name: str = "") -> Any:
    """The type of an option with an upper bound on its whole numbers, and on the lengths of its lists.

    Args:
      kind: the type; bounds that it states itself stay as they are.
      name: of the option, as counted numbers and layers have bounds of their own.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is int:
        most = MOST_LAYERS if name in LAYERS else MOST_COUNTED if name.endswith(COUNTED) else MOST
        return Annotated[int, Ge(-most), Le(most)]
    if origin is Annotated:
        inner, notes = args[0], args[1:]
        if inner is not int:
            return Annotated[(bounded(inner, name), *notes)]
        sides = [_sides(note) for note in notes]
        most = bounded(int, name).__metadata__
        has_low, has_high = any(low for low, _ in sides), any(high for _, high in sides)
        return Annotated[(int, *notes, *(() if has_low else most[:1]), *(() if has_high else most[1:]))]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(bounded(part, name) for part in args)]  # noqa: UP007
    if origin is tuple and args[-1:] == (Ellipsis,):
        most = MOST_LAYERS if name in ("hidden", "channels") else 1000
        return Annotated[tuple[bounded(args[0], name), ...], MaxLen(most)]
    if origin is tuple:
        return tuple[tuple(bounded(part, name) for part in args)]  # type: ignore[misc]
    return kind


def _sides(note: Any) -> tuple[bool, bool]:
    """Whether a note of `Annotated` is a lower bound, and whether it is an upper one."""
    return tuple(  # type: ignore[return-value]
        any(getattr(note, side, None) is not None for side in sides) for sides in (("gt", "ge"), ("lt", "le"))
    )
