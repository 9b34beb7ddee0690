"""What a PyTorch optimizer runs: a trained optimizer by its name, a pair (lopt, theta), or optax's."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from learned_opt.artefact.load import load, read
from learned_opt.base import LearnedOptimizer


class Rule(NamedTuple):
    """How to build the transformation.

    Attributes:
      build: `(num_steps, weight_decay) -> transformation`; None for a weight decay stands for its own.
      name: for error messages.
      num_steps: of the training, None if it does not matter.
      value: whether `update` needs the loss, ignores it, or may look at it.
    """

    build: Callable[[int | None, float | None], optax.GradientTransformationExtraArgs]
    name: str
    num_steps: int | None
    value: str


def rule(optimizer: Any, num_steps: int | None, schedule: Any) -> Rule:
    """The rule of what a user names.

    Args:
      optimizer: an artefact by its name; a pair (LearnedOptimizer, theta); or an optax transformation.
      num_steps: length of the training; refused for optax's, which do not know it.
      schedule: as of `load`; of artefacts only.

    Raises:
      TypeError: the optimizer is something else.
      ValueError: an option that the optimizer does not have.
    """
    if isinstance(optimizer, str | os.PathLike):
        artefact = read(optimizer)
        build = _once(
            lambda steps, decay: load(optimizer, num_steps=steps, weight_decay=decay, schedule=schedule)
        )
        return Rule(build, artefact.name, num_steps, _value(artefact.lopt))
    if schedule != "learned":
        raise ValueError("schedule is an option of trained optimizers that are named; chain optax's instead")
    if isinstance(optimizer, optax.GradientTransformation):
        if num_steps is not None:
            raise ValueError(f"num_steps is {num_steps}, but an optax transformation does not look at it")
        tx = optax.with_extra_args_support(optimizer)
        return Rule(_without_decay(lambda steps: tx), "the transformation", None, "optional")
    if isinstance(optimizer, tuple) and len(optimizer) == 2 and isinstance(optimizer[0], LearnedOptimizer):
        lopt, theta = optimizer
        build = _without_decay(lambda steps: lopt.build(theta, steps))
        return Rule(build, "the optimizer", num_steps, _value(lopt))
    raise TypeError(
        f"optimizer is a {type(optimizer).__name__}, must be the name of a trained optimizer, "
        "a pair (LearnedOptimizer, theta), or an optax transformation"
    )


def _value(lopt: LearnedOptimizer) -> str:
    return "needed" if "value" in lopt.needs else "ignored"


def _once(build: Callable[[int | None, float | None], Any]) -> Callable[[int | None, float | None], Any]:
    """`build`, called once for the same arguments, and outside of any trace: its arrays are kept."""

    @functools.cache
    def build_once(num_steps, weight_decay):
        with jax.ensure_compile_time_eval():
            return build(num_steps, weight_decay)

    return build_once


def _without_decay(build: Callable[[int | None], Any]) -> Callable[[int | None, float | None], Any]:
    def with_own_decay(num_steps, weight_decay):
        if weight_decay is not None:
            raise ValueError(
                f"weight_decay is {weight_decay}, an option of trained optimizers that are named: "
                "give it to the LearnedOptimizer or to the optax transformation itself"
            )
        return build(num_steps)

    return _once(with_own_decay)
