"""The outer optimizer: any of optax's, by name, with any of its schedules, from plain options."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Union

import optax
import optax.contrib
from annotated_types import Gt, MaxLen, MinLen
from pydantic import BeforeValidator

from meta_train.config import optax_options, registry
from meta_train.config.optax_options import NOT_OFFERED, Size
from meta_train.config.own import Kind, Open
from meta_train.config.registry import Checked, OneOf, Registry, Spec
from meta_train.errors import Problem

__all__ = ["NOT_OFFERED", "fill", "optimizers", "outer_optimizer", "schedules"]
_ENDINGS = ("", "_schedule", "_decay_schedule", "_decay", "_schedules")  # what a schedule's name may omit
_LENGTHS = ("decay_steps", "transition_steps")  # default to the whole run
_HELP = {
    "clip_norm": "clips the global norm of the gradient to this before anything else; null for never.",
    "learning_rate": "a number, or {schedule: NAME, and options} with any schedule of optax.",
    **dict.fromkeys(_LENGTHS, "in outer steps; null for the whole run."),
}


def _full_name(spec: Any) -> Any:
    """A schedule's spec with the full name: `cosine_decay` or `cosine` is `cosine_decay_schedule`."""
    given = spec.get("schedule") if isinstance(spec, dict) else None
    names = (f"{given}{ending}" for ending in _ENDINGS)
    name = next((name for name in names if name in schedules()), None)
    return spec if given is None or name is None else spec | {"schedule": name}


def short_names(name: str) -> list[str]:
    """Shorter names of a schedule: `cosine` and `cosine_decay` for `cosine_decay_schedule`."""
    cut = {name.removesuffix(ending) for ending in _ENDINGS if ending and name.endswith(ending)}
    return sorted(short for short in cut if _full_name({"schedule": short})["schedule"] == name)


Schedule = Annotated[Spec, OneOf(lambda _: schedules(), key="schedule"), BeforeValidator(_full_name)]
Rate = Union[Size, Schedule]  # noqa: UP007 (pyright takes `|` of an Annotated for an operation)
Clip = Union[Annotated[float, Gt(0)], None]  # noqa: UP007


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
    return optax.with_extra_args_support(registry.build(optimizers(), spec, outer_steps, where=where))


def fill(spec: Any, where: str = "outer_optimizer") -> tuple[Spec, list[Problem]]:
    """The spec with every default filled in, also its schedule's; and everything that is wrong with it."""
    return registry.fill(optimizers(), spec, where)


@functools.cache
def optimizers() -> Open:
    """optax's name -> `(outer_steps, *, learning_rate, **options, clip_norm) -> optimizer`.

    One of a person's own, `(outer_steps, *, options) -> optimizer`, has the options of its signature alone.
    """
    found = {}
    for name, table in optax_options.OPTIMIZERS.items():
        given = dict(table)
        default = given.pop("learning_rate", inspect.Parameter.empty)
        rate = _option("learning_rate", Rate if default is not None else Union[Rate, None], default)  # noqa: UP007
        options = [rate, *_options(given), _option("clip_norm", Clip, None)]
        function = getattr(optax, name, None) or getattr(optax.contrib, name)
        found[name] = _dressed(functools.partial(_optimizer, function), function, options)
    return Open(Kind("outer_optimizers", optax.GradientTransformation, ("outer_steps",)), found)


@functools.cache
def schedules() -> Registry:
    """optax's name -> `(outer_steps, *, **options) -> schedule`."""
    found: Registry = {"join_schedules": join_schedules}
    for name, table in optax_options.SCHEDULES.items():
        function = getattr(optax.schedules, name)
        found[name] = _dressed(functools.partial(_schedule, function), function, _options(table))
    return found


def _optimizer(function: Callable, outer_steps: int, *, learning_rate, clip_norm, **given):
    if isinstance(learning_rate, dict):
        learning_rate = _built(learning_rate, outer_steps, "learning_rate")
    optimizer = function(learning_rate=learning_rate, **given)
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return optimizer


def _schedule(function: Callable, outer_steps: int, **given) -> optax.Schedule:
    given |= {name: outer_steps for name in _LENGTHS if name in given and given[name] is None}
    if "cosine_kwargs" in given:
        given["cosine_kwargs"] = [cycle._asdict() for cycle in given["cosine_kwargs"]]
    return function(**given)


def _built(spec: Spec, outer_steps: int, where: str) -> optax.Schedule:
    spec = spec if isinstance(spec, Checked) else _full_name(spec)
    return registry.build(schedules(), spec, outer_steps, where=where, key="schedule")


def join_schedules(
    outer_steps: int,
    *,
    schedules: Annotated[tuple[Schedule, ...], MinLen(1), MaxLen(100)],
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
    parts = [_built(spec, outer_steps, f"schedules.{i}") for i, spec in enumerate(schedules)]
    return optax.join_schedules(parts, list(boundaries))


def _options(table: dict[str, Any]) -> list[inspect.Parameter]:
    """The options of a table as keyword-only parameters."""
    found = []
    for name, default in table.items():
        kind = optax_options.TYPES.get(name, float if default in (None, ...) else type(default))
        kind = Union[kind, None] if default is None else kind  # noqa: UP007
        found.append(_option(name, kind, inspect.Parameter.empty if default is ... else default))
    return found


def _option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _dressed(factory: Any, function: Callable, options: list[inspect.Parameter]) -> Callable:
    """`factory` with the name, the documentation and the options of an optax function."""

    def dressed(outer_steps, **given):
        return factory(outer_steps, **given)

    outer_steps = inspect.Parameter("outer_steps", inspect.Parameter.POSITIONAL_ONLY, annotation=int)
    dressed.__signature__ = inspect.Signature([outer_steps, *options])  # type: ignore[attr-defined]
    dressed.__name__ = dressed.__qualname__ = function.__name__
    doc = inspect.getdoc(function) or ""
    ours = "".join(f"\n  {option.name}: {_HELP[option.name]}" for option in options if option.name in _HELP)
    dressed.__doc__ = doc.replace("\nArgs:", f"\nArgs:{ours}", 1)
    return dressed
