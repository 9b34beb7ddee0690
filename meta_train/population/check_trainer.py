"""Refuses a trainer that cannot be vectorised or that breaks its contract, before anything compiles."""

from typing import Any

import jax
import jax.numpy as jnp

from meta_train.population.base import Member, Trainer
from meta_train.population.space import Space


def check_trainer(trainer: Trainer, space: Space) -> None:
    """Checks a trainer by abstract evaluation.

    Raises:
      ValueError: something else than a `Member`; a step that changes a shape or a type; a fitness that is not
        one float; a hyperparameter whose value the program needs to know (a Python `if` on it).
    """
    key = jax.random.key(0)
    hypers = {name: jnp.zeros([], jnp.int32 if h.whole else jnp.float32) for name, h in space.items()}
    try:
        member = jax.eval_shape(trainer.init, key, hypers)
        if not isinstance(member, Member):
            raise ValueError(f"trainer.init must return a Member, got a {type(member).__name__}")
        after = jax.eval_shape(trainer.step, member, hypers, key, trainer.data)
        score = jax.eval_shape(trainer.score, member, trainer.data)
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
