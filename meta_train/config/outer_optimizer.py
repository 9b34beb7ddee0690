"""The outer optimizer: any of optax's, by name, with any of its schedules, from plain options.

optax's own signatures are the schema. What a config cannot express (masks, callables) is no option.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union

import optax
import optax.contrib
from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import TypeAdapter, ValidationError

from meta_train.config import registry
from meta_train.config.registry import Registry, Spec
from meta_train.errors import ConfigError, Problem, join

# optax has more functions with a learning rate than optimizers that need nothing but a gradient.
NOT_OFFERED = {
    "scale_by_learning_rate": "is a part of an optimizer",
    "scale_by_rprop": "is a part of an optimizer",
    "scale_by_madgrad": "is a part of an optimizer",
    "lbfgs": "needs the objective",
    "polyak_sgd": "needs the loss",
    "momo": "needs the loss",
    "momo_adam": "needs the loss",
    "sophia": "needs the objective",
    "dpsgd": "needs a gradient for each example",
    "schedule_free": "wraps another optimizer",
    "optimistic_adam": "is deprecated, optimistic_adam_v2 has replaced it",
}
_NOT_SCHEDULES = ("inject_hyperparams", "inject_stateful_hyperparams", "join_schedules")
_SHORT = ("", "_schedule", "_decay_schedule", "_decay", "_schedules")  # what a schedule's name may omit


class Cycle(NamedTuple):
    """One cycle of `sgdr_schedule`: the options of `warmup_cosine_decay_schedule`."""

    init_value: float
    peak_value: float
    warmup_steps: int
    decay_steps: int
    end_value: float = 0.0


Schedule = dict[str, Any]
Size = Annotated[float, Ge(0)]
Decay = Annotated[float, Interval(ge=0, lt=1)]
Rate = Union[Size, Schedule]  # noqa: UP007 (pyright takes `|` of an Annotated for an operation)
Clip = Union[Annotated[float, Gt(0)], None]  # noqa: UP007
_TYPES: dict[str, Any] = {  # of parameters that mean the same wherever optax has them
    "b1": Decay,
    "b2": Decay,
    "b3": Decay,
    "eps": Size,
    "eps_root": Size,
    "weight_decay": Size,
    "value": Size,
    "init_value": Size,
    "peak_value": Size,
    "end_value": Size,
    "decay_rate": Annotated[float, Gt(0)],
    "transition_steps": Annotated[int, Gt(0)],
    "decay_steps": Annotated[int, Gt(0)],
    "transition_begin": Annotated[int, Ge(0)],
    "warmup_steps": Annotated[int, Ge(0)],
    "interpolate_type": Literal["linear", "cosine"],
    "cosine_kwargs": Annotated[tuple[Cycle, ...], MinLen(1)],
}
_LENGTHS = ("decay_steps", "transition_steps")  # default to the whole run
_HELP = {
    "clip_norm": "clips the global norm of the gradient to this before anything else; null for never.",
    "learning_rate": "a number, or {schedule: NAME, and options} with any schedule of optax.",
    **dict.fromkeys(_LENGTHS, "in outer steps; null for the whole run."),
}


def outer_optimizer(
    spec: Spec, outer_steps: int, where: str = "outer_optimizer"
) -> optax.GradientTransformationExtraArgs:
    """The optax optimizer that a spec names.

    Args:
      spec: `{"name": NAME, "learning_rate": RATE, **options}`: NAME a key of `optimizers()`, RATE a
        number or `{"schedule": NAME, **options}` with NAME a key of `schedules()`; `clip_norm`
        clips the gradient's global norm before anything else.
      outer_steps: length of the run; what a schedule's `decay_steps` or `transition_steps` is by
        default. A schedule counts the optimizer's own updates.
      where: dotted path of the spec in its config, for the problems' keys.

    Raises:
      ConfigError: with every problem of the spec, or with what optax refused.
    """
    filled, problems = fill(spec, where)
    if problems:
        raise ConfigError(problems)
    return registry.build(optimizers(), filled, outer_steps, where=where)


def fill(spec: Any, where: str = "outer_optimizer") -> tuple[Spec, list[Problem]]:
    """The spec with every default filled in, also its schedule's; and everything that is wrong with it."""
    filled, problems = registry.fill(optimizers(), spec, where)
    rate = spec.get("learning_rate") if isinstance(spec, dict) else None
    if isinstance(rate, dict):
        rate, more = _fill_schedule(rate, join(where, "learning_rate"))
        filled, problems = {**filled, "learning_rate": rate}, problems + more
    return filled, problems


def _fill_schedule(spec: Any, where: str) -> tuple[Any, list[Problem]]:
    """`fill` for `{"schedule": NAME, **options}`: problems speak of `schedule`, not of `name`."""
    if not isinstance(spec, dict):
        return spec, [Problem(where, "must be a mapping {schedule: ..., and options}", spec)]
    named = {_OTHER.get(key, key): value for key, value in spec.items()}
    if "name" in named:
        names = (f"{named['name']}{ending}" for ending in _SHORT)
        named["name"] = next((name for name in names if name in schedules()), named["name"])
    filled, problems = registry.fill(schedules(), named, where)
    ours, theirs = join(where, "schedule"), join(where, "name")
    problems = [p._replace(key=ours) if p.key == theirs else p for p in problems]
    if filled.get("name") == "join_schedules" and isinstance(filled.get("schedules"), list):
        parts = enumerate(filled["schedules"])
        parts = [_fill_schedule(part, join(where, "schedules", i)) for i, part in parts]
        filled = {**filled, "schedules": [part for part, _ in parts]}
        problems = problems + [problem for _, more in parts for problem in more]
    return {_OTHER.get(key, key): value for key, value in filled.items()}, problems


_OTHER = {"schedule": "name", "name": "schedule"}


def _schedule(spec: Schedule, outer_steps: int, where: str) -> optax.Schedule:
    filled, problems = _fill_schedule(spec, where)
    if problems:
        raise ConfigError(problems)
    named = {_OTHER.get(key, key): value for key, value in filled.items()}
    return registry.build(schedules(), named, outer_steps, where=where)


@functools.cache
def optimizers() -> Registry:
    """optax's name -> `(outer_steps, *, learning_rate, **options, clip_norm) -> optimizer`."""
    return {
        name: _optimizer_factory(function)
        for module in (optax, optax.contrib)
        for name, function in _functions(module)
        if "learning_rate" in inspect.signature(function).parameters and name not in NOT_OFFERED
    }


@functools.cache
def schedules() -> Registry:
    """optax's name -> `(outer_steps, *, **options) -> schedule`.

    A config may shorten the names: `cosine_decay` or `cosine` is `cosine_decay_schedule`.
    """
    found = {
        name: _schedule_factory(function)
        for name, function in _functions(optax.schedules)
        if name not in _NOT_SCHEDULES
    }
    return found | {"join_schedules": join_schedules}


def _functions(module: types.ModuleType) -> list[tuple[str, Callable]]:
    members = inspect.getmembers(module, inspect.isfunction)
    return [(name, function) for name, function in members if not name.startswith("_")]


def _optimizer_factory(function: Callable) -> Callable:
    default = inspect.signature(function).parameters["learning_rate"].default
    rate = Rate | None if default is None else Rate
    options = [_option("learning_rate", rate, default), *_options(function)]
    options.append(_option("clip_norm", Clip, None))

    def factory(outer_steps, *, learning_rate, clip_norm, **given):
        if isinstance(learning_rate, dict):
            learning_rate = _schedule(learning_rate, outer_steps, "learning_rate")
        optimizer = function(learning_rate=learning_rate, **given)
        if clip_norm is not None:
            optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
        return optax.with_extra_args_support(optimizer)

    return _dressed(factory, function, options)


def _schedule_factory(function: Callable) -> Callable:
    def factory(outer_steps, **given):
        for name in _LENGTHS:
            if name in given and given[name] is None:
                given[name] = outer_steps
        if "cosine_kwargs" in given:
            given["cosine_kwargs"] = [cycle._asdict() for cycle in given["cosine_kwargs"]]
        return function(**given)

    return _dressed(factory, function, _options(function))


def join_schedules(
    outer_steps: int,
    *,
    schedules: Annotated[tuple[Schedule, ...], MinLen(1)],
    boundaries: tuple[Annotated[int, Gt(0)], ...],
) -> optax.Schedule:
    """Several schedules, one after another.

    Args:
      outer_steps: length of the run.
      schedules: each `{schedule: NAME, and options}`; each counts from where it begins.
      boundaries: the outer steps at which the second, the third, ... begins; ascending.

    Raises:
      ValueError: another number of boundaries than one less than of schedules, or unsorted ones.
    """
    if len(boundaries) != len(schedules) - 1 or list(boundaries) != sorted(set(boundaries)):
        needed = len(schedules) - 1
        raise ValueError(
            f"boundaries must be {needed} ascending steps for {needed + 1} schedules, got {list(boundaries)}"
        )
    parts = [_schedule(spec, outer_steps, f"schedules.{i}") for i, spec in enumerate(schedules)]
    return optax.join_schedules(parts, list(boundaries))


def _options(function: Callable) -> list[inspect.Parameter]:
    """The parameters of an optax function that plain values can give, as keyword-only ones."""
    found = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if name in ("learning_rate", "seed"):  # `seed` is the deprecated name of `key`
            continue
        kind, default = _plain(name, parameter.annotation, parameter.default), parameter.default
        if name in _LENGTHS and default is parameter.empty:
            kind, default = kind | None, None
        elif name == "key":
            kind, default = int, 0
        if kind is not None and _fits(kind, default):
            found.append(_option(name, kind, default))
        elif default is parameter.empty:
            raise TypeError(f"{function.__name__}: {name} is required, but no config can give it")
    return found


def _option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _fits(kind: Any, default: Any) -> bool:
    if default is inspect.Parameter.empty:
        return True
    try:
        TypeAdapter(kind).validate_python(default, strict=True)
    except ValidationError:
        return False
    return True


def _plain(name: str, annotation: Any, default: Any = None) -> Any:
    """The type of the plain values that an optax annotation covers; None where it covers none.

    optax writes a number as a union of everything that jax takes for one, and a pytree as a union
    of those, iterables and mappings.
    """
    name = name.removeprefix("adam_")
    parts, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if "dtype" in name:
        return Literal["float32", "bfloat16", "float16"] | None
    if origin in (typing.Union, types.UnionType):
        if any(typing.get_origin(part) in (Iterable, Mapping) for part in parts):
            return None
        if float in parts:
            kind = _TYPES.get(name, int if type(default) is int else float)
        else:
            kind = next(filter(None, (_plain(name, part) for part in parts)), None)
        return kind | None if kind is not None and type(None) in parts else kind
    if name in _TYPES:
        return _TYPES[name]
    if annotation in (bool, int, float, str) or origin is Literal:
        return annotation
    if origin is tuple and Ellipsis not in parts:
        return tuple[tuple(_plain("", part) for part in parts)]
    return dict[_plain("", parts[0]), _plain("", parts[1])] if origin is dict else None


def _dressed(factory: Callable, function: Callable, options: list[inspect.Parameter]) -> Callable:
    """`factory` with the name, the documentation and the options of an optax function."""
    outer_steps = inspect.Parameter("outer_steps", inspect.Parameter.POSITIONAL_ONLY, annotation=int)
    factory.__signature__ = inspect.Signature([outer_steps, *options])  # type: ignore[attr-defined]
    factory.__name__ = factory.__qualname__ = function.__name__
    doc = inspect.getdoc(function) or ""
    ours = "".join(f"\n  {option.name}: {_HELP[option.name]}" for option in options if option.name in _HELP)
    factory.__doc__ = doc.replace("\nArgs:", f"\nArgs:{ours}", 1)
    return factory
