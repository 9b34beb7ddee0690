"""Options of the factories: shared types with their ranges and descriptions, and the check of every call.

A type is `Annotated[kind, range, description]`. The docstring of a factory that takes such an option need not
describe it again: `checked` adds the description to its `Args` section.
"""

import difflib
import functools
import inspect
import math
import numbers
import re
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import jax
import numpy as np
from annotated_types import Ge, GroupedMetadata, Gt, Interval

Factory = TypeVar("Factory", bound=Callable[..., Any])

Size = Annotated[int, Interval(ge=1, le=2**14)]
Rate = Annotated[float, Gt(0)]
Scale = Annotated[float, Ge(0)]
Decay = Annotated[float, Interval(ge=0, lt=1)]

Hidden = Annotated[Size, "width of the hidden layers; 1 to 16,384."]
NumHidden = Annotated[int, Interval(ge=1, le=64), "number of hidden layers; 1 to 64."]
LstmHidden = Annotated[Size, "size of the LSTM; 1 to 16,384."]
StepMult = Annotated[Rate, "scale of the step; > 0."]
ExpMult = Annotated[Scale, "scale of the second output; >= 0."]
MomentumDecays = Annotated[
    tuple[Decay, ...], "initial decays of the running means of g; at least one, each in [0, 1)."
]
RmsDecays = Annotated[
    tuple[Decay, ...], "initial decays of the running means of g^2: one, or as many as momentum_decays."
]
FactoredDecays = Annotated[
    tuple[Decay, ...], "initial decays of the factored running means of g^2: as many as momentum_decays."
]
ClipNorm = Annotated[Rate | None, "clip the gradients by their global norm first; > 0, None for no clipping."]
FusedFrom = Annotated[
    int, Ge(0), "tensors with at least this many elements are stepped without an array of their features."
]
StateDtype = Annotated[
    Literal["float32", "bfloat16"],
    "dtype of the accumulators that are as large as the parameters; bfloat16 halves them.",
]

_WORDS = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def checked(factory: Factory) -> Factory:
    """A factory that refuses options which its signature does not allow, and whose docstring describes all.

    Raises:
      TypeError: an option that the factory does not have.
      ValueError: a value of another type or out of range; the message names the option and what is allowed.
    """
    options = inspect.signature(factory).parameters

    @functools.wraps(factory)
    def call(*args, **given):
        for name, value in given.items():
            if name not in options:
                close = difflib.get_close_matches(name, options, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise TypeError(f"{factory.__name__} has no option {name}; {hint}it has {', '.join(options)}")
            allowed = violated(options[name].annotation, value)
            if allowed:
                raise ValueError(f"{factory.__name__}: {name} is {value!r}, must be {allowed}")
        return factory(*args, **given)

    call.__doc__ = _documented(factory, options)
    return typing.cast(Factory, call)


def check_num_steps(num_steps: Any) -> None:
    """Refuses (ValueError) a number of steps that is not a whole number of at least 1; arrays pass."""
    if isinstance(num_steps, numbers.Real | str) and violated(Annotated[int, Ge(1)], num_steps):
        raise ValueError(f"num_steps must be a whole number >= 1, got {num_steps!r}")


def path_matcher(option: str, pattern: str, separator: str) -> Callable[[Any], bool]:
    """Whether a regular expression is found in a leaf's path, its keys joined by the separator.

    Args:
      option: the option that holds the expression, for the error message.
      pattern: the expression.
      separator: between keys.

    Raises:
      ValueError: the pattern is not a regular expression.
    """
    try:
        found = re.compile(pattern).search
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{option} is {pattern!r}, must be a regular expression: {error}") from error
    return lambda path: bool(found(jax.tree_util.keystr(path, simple=True, separator=separator)))


def violated(kind: Any, value: Any) -> str:
    """What a value must be to be of a type, in words; "" if it is. A list will do for a tuple."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return violated(args[0], value) or " and ".join(_limits_violated(args[1:], value))
    if origin is Literal:
        allowed = any(type(value) is type(arg) and value == arg for arg in args)
        return "" if allowed else f"one of {', '.join(map(str, args))}"
    if origin in (typing.Union, types.UnionType):
        wrong = [violated(arg, value) for arg in args]
        return " or ".join(wrong) if all(wrong) else ""
    if origin is tuple:
        return _violated_items(args, value)
    if kind is type(None):
        return "" if value is None else "None"
    flag = isinstance(value, bool | np.bool_)
    holds = {
        bool: flag,
        int: isinstance(value, numbers.Integral) and not flag,
        float: isinstance(value, numbers.Real) and not flag and _is_finite(value),
        str: isinstance(value, str),
    }
    return "" if holds[kind] else _WORDS[kind]


def _is_finite(x: Any) -> bool:
    try:
        return math.isfinite(x)
    except OverflowError:  # a whole number beyond all floating-point numbers
        return False


def _violated_items(kinds: tuple[Any, ...], value: Any) -> str:
    """The same of a tuple, for which a list will do."""
    many = kinds[-1] is Ellipsis
    if not isinstance(value, tuple | list) or not (many or len(value) == len(kinds)):
        return "a list" if many else f"a list of {len(kinds)}"
    wrong = (violated(kinds[0], item) for item in value)
    return next((f"a list, each {words}" for words in wrong if words), "")


def _limits_violated(notes: tuple[Any, ...], value: Any) -> list[str]:
    singles = [one for note in notes for one in (note if isinstance(note, GroupedMetadata) else (note,))]
    limits = [
        (sign, getattr(one, key)) for one in singles for key, sign in _SIGNS.items() if hasattr(one, key)
    ]
    holds = {">": lambda x: value > x, ">=": lambda x: value >= x, "<": lambda x: value < x}
    holds["<="] = lambda x: value <= x
    return [f"{sign} {limit:g}" for sign, limit in limits if not holds[sign](limit)]


@functools.cache
def _wrapped(words: str) -> str:
    return textwrap.fill(words, 96, subsequent_indent="    ")


def _documented(factory: Callable[..., Any], options: typing.Mapping[str, inspect.Parameter]) -> str:
    """The docstring with the descriptions of types in its `Args`, options in the order of the signature."""
    before, _, after = (inspect.getdoc(factory) or "").partition("\n\nArgs:\n")
    block, _, rest = after.partition("\n\n")
    texts = dict(re.findall(r"^  (\w+): ((?:.*(?:\n    .*)*))", block, re.MULTILINE))
    for name, option in options.items():
        words = [note for note in getattr(option.annotation, "__metadata__", ()) if isinstance(note, str)]
        if words:
            texts.setdefault(name, _wrapped(words[-1]))
    args = "\n".join(["Args:", *(f"  {name}: {texts[name]}" for name in options if name in texts)])
    return "\n\n".join(filter(None, (before, args, rest)))
