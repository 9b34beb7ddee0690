"""Warnings of a use far outside what an optimizer was trained and tested on."""

import warnings
from typing import Any

import jax
import optax

FAR_IN_STEPS = 5  # times shorter or longer than the inner trainings of meta-training
FAR_IN_PARAMETERS = 100  # times as many as in the largest model that it was trained or tested on
_WARNED: set[tuple[str, str]] = set()


def warn_of_horizon(name: str, horizon: int | list[int] | None, num_steps: Any) -> None:
    """Warns, once for each name, if `num_steps` is far from the horizon that was trained on.

    Args:
      name: of the artefact.
      horizon: T of meta-training, a number or (shortest, longest), or None: then nothing is known.
      num_steps: of the training to come; a traced one is not looked at.
    """
    if horizon is None or not isinstance(num_steps, int):
        return
    shortest, longest = (horizon, horizon) if isinstance(horizon, int) else (horizon[0], horizon[-1])
    if not shortest / FAR_IN_STEPS <= num_steps <= longest * FAR_IN_STEPS:
        trained = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
        _warn_once(
            (name, "steps"),
            f"{name} was meta-trained on trainings of {trained} steps; {num_steps} is far outside, and what "
            "it does there was not measured: compare it with a baseline",
        )


def warning_of_size(
    tx: optax.GradientTransformationExtraArgs, name: str, parameters: int | None
) -> optax.GradientTransformationExtraArgs:
    """`tx`, whose `init` warns, once for each name, of a model far larger than any that it was tried on.

    Args:
      tx: the optimizer.
      name: of the artefact.
      parameters: of the largest model that it was trained or tested on; None for not known.
    """
    if parameters is None:
        return tx

    def init(params):
        size = sum(getattr(p, "size", 1) for p in jax.tree.leaves(params))
        if size > FAR_IN_PARAMETERS * parameters:
            _warn_once(
                (name, "parameters"),
                f"{name} was tried on models of at most {parameters:,} parameters; this one has {size:,}, "
                "and what it does there was not measured: compare it with a baseline",
            )
        return tx.init(params)

    return optax.GradientTransformationExtraArgs(init, tx.update)


def _warn_once(key: tuple[str, str], message: str) -> None:
    if key not in _WARNED:
        _WARNED.add(key)
        warnings.warn(message, UserWarning, stacklevel=4)
