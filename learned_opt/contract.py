"""`check_optimizer` certifies a learned optimizer, your own or one of this package, promise by promise."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from learned_opt import promises
from learned_opt.artefact.reading import one_line
from learned_opt.base import LearnedOptimizer
from learned_opt.promises import Made, made


class Check(NamedTuple):
    """What one check found: whether the optimizer keeps the promise, and the promise, or how it is broken."""

    passed: bool
    detail: str


CHECKS: dict[str, Callable[[Made], None]] = {
    check.__name__.replace("_", " "): check
    for check in (
        promises.theta_is_float32,
        promises.compiles_once,
        promises.every_parameter_moves,
        promises.state_keeps_its_types,
        promises.composes,
        promises.masked_leaves_are_left_alone,
        promises.differentiable,
        promises.several_devices,
        promises.explicit_axes,
        promises.bfloat16,
        promises.nothing_to_optimize,
        promises.refuses_complex,
        promises.asks_for_what_it_needs,
    )
}


def check_optimizer(lopt: LearnedOptimizer) -> dict[str, Check]:
    """Certifies a learned optimizer: every promise of `CHECKS`, name -> `Check`. It takes some seconds.

    `learned_opt.architectures.transformation.transformation` makes an optax transformation of two functions
    that keeps the promises about types, masks, devices and refusals.
    """
    return dict(checks(lopt))


def checks(lopt: LearnedOptimizer) -> Iterator[tuple[str, Check]]:
    """The checks of `check_optimizer`, one after the other."""
    found = _attempt(lambda: made(lopt))
    if isinstance(found, Check):
        yield "trains", found
        return
    for name, check in CHECKS.items():
        kept = Check(True, one_line((check.__doc__ or "").strip()))
        yield name, _attempt(lambda check=check: check(found)) or kept


def _attempt(function: Callable[[], Any]) -> Any:
    """What a function returns; a failed `Check` if it raises anything."""
    try:
        return function()
    except Exception as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return Check(False, kind + one_line(str(error)))
