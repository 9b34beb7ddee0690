"""What the factories of estimators have in common: their options' types and texts, and the checks of both."""

import functools
import inspect
import operator
import re
import typing
from collections.abc import Callable
from numbers import Integral, Real
from typing import Annotated, Any, ParamSpec

from annotated_types import Ge, Gt, Le, Lt

from meta_train.core.estimator import GradientEstimator, check_differentiable
from meta_train.core.system import check_truncation

P = ParamSpec("P")
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]

# The text of an option that a factory's docstring does not describe itself.
TEXTS = {
    "num_particles": "N, antithetic pairs.",
    "truncation_length": "K, steps of one window.",
    "noise_period": "steps that one perturbation lasts, a multiple of K; None for the whole inner problem.",
    "sigma": "std of the perturbation, in units of theta.",
    "delta_clip": "clips each pair's difference of mean losses to +- this; a bias against heavy tails.",
    "remat": "recompute each step in the backward pass instead of storing its residuals (on a CPU this is\n"
    '    faster too); "sqrt" keeps about 2 sqrt(K) states instead of K, for K more steps.',
    "stagger": "draws every particle's first length short, so that particles (cohorts, where they are\n"
    "    orthogonal) are out of phase.",
    "noise": "orthogonal pairs, common random numbers, a schedule of sigma, sigma of single leaves.",
}
RETURNS = "A `GradientEstimator`."
PATHWISE = RETURNS + (
    " A particle whose gradient is not finite counts 0 in the mean, is reported as diverged, and restarts."
)


def factory(
    *, differentiates: bool = False, returns: str = RETURNS
) -> Callable[[Callable[P, GradientEstimator]], Callable[P, GradientEstimator]]:
    """Decorates `(system, *, options) -> GradientEstimator`: checks its options, completes its docstring.

    Before the factory runs, a ValueError that begins with the option's name refuses a number out of the range
    of its annotated type, a `truncation_length` that does not divide the lengths of the system, a
    `noise_period` that is not a multiple of it, and, if the factory `differentiates`, a system without
    gradients. The docstring gets `Args`, `Returns` and `Raises`, with `TEXTS` for the options that it does
    not describe.
    """

    def decorate(make: Callable[P, GradientEstimator]) -> Callable[P, GradientEstimator]:
        signature = inspect.signature(make, eval_str=True)

        @functools.wraps(make)
        def checked(*args: P.args, **kwargs: P.kwargs) -> GradientEstimator:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            _check(make.__name__, signature, given.arguments, differentiates)
            return make(*args, **kwargs)

        checked.__doc__ = _complete(inspect.cleandoc(make.__doc__ or ""), signature, returns)
        return checked

    return decorate


def _check(name: str, signature: inspect.Signature, given: dict[str, Any], differentiates: bool) -> None:
    """Refuses (ValueError) what `factory` says."""
    if differentiates:
        check_differentiable(given["system"], name)
    for option, parameter in signature.parameters.items():
        check_range(option, parameter.annotation, given[option])
    window, period = given.get("truncation_length"), given.get("noise_period")
    if window is not None:
        check_truncation(given["system"], window)
        if period is not None and period % window:
            raise ValueError(
                f"noise_period must be a multiple of truncation_length ({window}) or None, got {period}"
            )


def check_range(name: str, kind: Any, value: Any) -> None:
    """Refuses (ValueError) a value out of the range of its type: `Annotated` with bounds, or None."""
    members = [kind] if hasattr(kind, "__metadata__") else typing.get_args(kind)
    bounds = [bound for member in members for bound in getattr(member, "__metadata__", ())]
    if not bounds or value is None:
        return
    whole = any(typing.get_args(member)[:1] == (int,) for member in members)
    if not isinstance(value, Integral if whole else Real):
        raise ValueError(f"{name} must be a {'whole ' * whole}number, got {value!r}")
    if all(_TESTS[type(bound)][0](value, _limit(bound)) for bound in bounds):
        return
    text = " and ".join(f"{_TESTS[type(bound)][1]} {_limit(bound)}" for bound in bounds)
    if len(bounds) == 2:
        low, high = bounds
        ends = "[" if isinstance(low, Ge) else "(", "]" if isinstance(high, Le) else ")"
        text = f"in {ends[0]}{_limit(low)}, {_limit(high)}{ends[1]}"
    raise ValueError(f"{name} must be {text}, got {value}")


_TESTS: dict[type, tuple[Callable[[Any, Any], bool], str]] = {
    Ge: (operator.ge, ">="),
    Gt: (operator.gt, ">"),
    Le: (operator.le, "<="),
    Lt: (operator.lt, "<"),
}


def _limit(bound: Any) -> Any:
    return getattr(bound, type(bound).__name__.lower())


def _complete(doc: str, signature: inspect.Signature, returns: str) -> str:
    """The docstring with its sections Args, Returns and Raises, placed before Source."""
    own = re.search(r"^Args:\n((?:  .*\n)+)\n?", doc, re.MULTILINE)
    helps = dict(re.findall(r"^  (\w+): (.*(?:\n    .*)*)", own[1], re.MULTILINE)) if own else {}
    doc = doc.replace(own[0], "") if own else doc
    windows = "truncation_length" in signature.parameters
    lengths = "must be multiples of `truncation_length`" if windows else "must be constant"
    texts = {"system": f"what is unrolled; its lengths {lengths}."} | TEXTS | helps
    args = "".join(f"  {name}: {texts[name]}\n" for name in signature.parameters if name in texts)
    wrong = (
        "`truncation_length` that does not divide the lengths" if windows else "lengths that are not constant"
    )
    sections = (
        f"Args:\n{args}\nReturns:\n  {returns}\n\nRaises:\n  ValueError: an option out of range, {wrong}.\n\n"
    )
    head, source, tail = doc.partition("Source:")
    return f"{head}{sections}{source}{tail}"
