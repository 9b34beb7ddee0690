"""Refuses parts of a population that do not fit together before anything compiles, in configs and calls."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.errors import Problem, nearest
from meta_train.population.base import Member, Rhythm, Trainer
from meta_train.population.space import Space


def problems_of(trainer: Trainer | None, space: Any, rhythm: Rhythm, name: str = "trainer") -> list[Problem]:
    """Everything that is wrong with a trainer in a space, by abstract evaluation; keys are those of a config.

    Args:
      trainer: what is trained; None where it could not be built.
      space: what is searched: name -> `Hyperparameter`, None for one that could not be built.
      rhythm: of the rounds.
      name: of the trainer, for the messages.
    """
    found = _rhythm(rhythm)
    if trainer is None:
        return found
    found += _names(trainer, tuple(space), name) + _bounds(trainer, space)
    found += _streams(trainer, rhythm.round_steps)
    if not found and None not in space.values():
        try:
            check_trainer(trainer, space)
        except ValueError as error:
            found.append(Problem("", str(error)))
    return found


def _rhythm(rhythm: Rhythm) -> list[Problem]:
    for name in Rhythm._fields:
        if getattr(rhythm, name) < 1:
            return [Problem(name, "must be >= 1", getattr(rhythm, name))]
    if rhythm.round_steps % rhythm.eval_every:
        return [Problem("eval_every", f"must divide round_steps ({rhythm.round_steps})", rhythm.eval_every)]
    if rhythm.average > rhythm.evaluations:
        message = f"must be at most the {rhythm.evaluations} evaluations of a round"
        return [Problem("average", message, rhythm.average)]
    return []


def _names(trainer: Trainer, searched: tuple[str, ...], name: str) -> list[Problem]:
    """Refuses hyperparameters that the trainer does not have, or that change shapes, or that it lacks."""
    problems = []
    can = f"can be searched with {name}: {', '.join(trainer.hypers)}"
    for key in searched:
        if key in trainer.hypers:
            continue
        if key in trainer.static:
            message = f"changes shapes or the program, so members cannot differ in it; {can}"
            problems.append(Problem(f"hypers.{key}", message))
        else:
            message = f"is no hyperparameter of the trainer {name}"
            problems.append(Problem(f"hypers.{key}", message, suggestion=nearest(key, trainer.hypers)))
    missing = [key for key in trainer.required if key not in searched]
    return problems + [Problem(f"hypers.{key}", f"is required by the trainer {name}") for key in missing]


def _streams(trainer: Trainer, round_steps: int) -> list[Problem]:
    """Refuses streams that would have to be refreshed while a round runs."""
    message = f"must be a multiple of round_steps ({round_steps}): members run a round in one call"
    return [
        Problem(f"trainer.config.tasks: stream.every of {label}", message, one.every)
        for label, one in trainer.streams.items()
        if one.every % round_steps
    ]


def _bounds(trainer: Trainer, space: Space) -> list[Problem]:
    """Refuses hyperparameters that could get below the least value that the trainer knows for them."""
    problems = []
    for name, h in space.items():
        if h is None or name not in trainer.least:
            continue
        lowest = min(h.values) if h.values else float(h.legal(np.array([-np.inf]))[0])
        if lowest < trainer.least[name]:
            key = f"hypers.{name}.{'values' if h.values else 'bounds'}"
            problems.append(Problem(key, f"must not get below {trainer.least[name]:g}", lowest))
    return problems


def check_trainer(trainer: Trainer, space: Space) -> None:
    """Checks a trainer by abstract evaluation.

    Raises:
      ValueError: something else than a `Member`; a step that changes a shape or a type; a fitness that is not
        one float; a hyperparameter that is not searched, or whose value the program needs to know (a Python
        `if` on it).
    """
    key = jax.random.key(0)
    hypers = {name: jnp.zeros([], jnp.int32 if h.whole else jnp.float32) for name, h in space.items()}
    try:
        member = jax.eval_shape(trainer.init, key, hypers)
        if not isinstance(member, Member):
            raise ValueError(f"trainer.init must return a Member, got a {type(member).__name__}")
        after = jax.eval_shape(trainer.step, member, hypers, key, trainer.data)
        score = jax.eval_shape(trainer.score, member, trainer.data)
    except KeyError as error:
        raise ValueError(f"trainer needs the hyperparameter {error}, which is not searched") from error
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerBoolConversionError) as error:
        message = f"trainer needs the value of a hyperparameter while it is compiled ({', '.join(space)})"
        raise ValueError(f"{message}: that one cannot be searched") from error
    _same(member, after)
    if not hasattr(score, "shape") or score.shape != () or not jnp.issubdtype(score.dtype, jnp.floating):
        raise ValueError(f"trainer.score must return one float, got {_kind(score)}")


def _same(before: Any, after: Any) -> None:
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError("trainer.step must return a Member like the one it was given, got another structure")
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, a), b in pairs:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            where = jax.tree_util.keystr(path)
            raise ValueError(f"trainer.step must keep member{where} {_kind(a)}, got {_kind(b)}")


def _kind(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else type(x).__name__
