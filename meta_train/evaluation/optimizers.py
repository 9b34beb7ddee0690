"""What tasks are trained with: the optimizer under test and its rivals, each with all of its settings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import LearnedOptimizer
from meta_train.evaluation import baselines as optax_baselines
from meta_train.evaluation.curves import Build, EvalParams
from meta_train.evaluation.protocol import parse_rival

TOLD = 0.5, 2.0  # wrong horizons: what a learned optimizer is told, over the length of the training


class Contestant(NamedTuple):
    """An optimizer with L settings.

    Attributes:
      name: its key in the results.
      program: contestants with the same one are run by the same compiled program.
      build: `(setting, num_steps)`, or `((setting, shared), num_steps)` where `shared` is given.
      settings: pytree with a leading axis of L, then one row for each of `told`.
      values: what tells the L settings apart: learning rates, or factors on the step.
      default: the setting that it has without any tuning; None for the best single one.
      shared: theta, which all settings share; None for a hand-designed optimizer.
      eval_params: see `curves.trainer`.
      constant: whether it takes no notice of the number of steps: one run serves all horizons.
      told: wrong horizons that the default is also run with, over the right one.
      learned: whether it was meta-trained.
    """

    name: str
    program: str
    build: Build
    settings: Any
    values: tuple[float, ...]
    default: int | None = None
    shared: Any = None
    eval_params: EvalParams | None = None
    constant: bool = False
    told: tuple[float, ...] = ()
    learned: bool = False


def learned(name: str, lopt: LearnedOptimizer, theta: Any, trials: int = 1) -> Contestant:
    """A learned optimizer whose step is scaled by powers of two around 1; the default is 1.

    Args:
      name: its key in the results.
      lopt: the architecture.
      theta: meta-parameters.
      trials: number of factors. A contestant of 1 has the default only.
    """
    horizon = "num_steps" in lopt.needs
    told = TOLD if horizon else ()
    factors = 2.0 ** (np.arange(trials) - trials // 2)

    def build(setting, num_steps):
        row, meta = setting
        if horizon:
            num_steps = jnp.maximum(jnp.round(num_steps * row["told"]), 1).astype(jnp.int32)
        inner = lopt.build(meta, num_steps if horizon else None)

        def update(updates, state, params=None, **extra):
            updates, state = inner.update(updates, state, params, **extra)
            return jax.tree.map(lambda u: (u * row["factor"]).astype(u.dtype), updates), state

        return optax.GradientTransformationExtraArgs(inner.init, update)

    settings = {
        "factor": np.array([*factors, *(1.0 for _ in told)], np.float32),
        "told": np.array([*np.ones(trials), *told], np.float32),
    }
    return Contestant(
        name,
        f"learned:{name}",  # not that of a rival, whatever its name is
        build,
        settings,
        tuple(float(x) for x in factors),
        default=trials // 2,
        shared=jax.device_get(theta),
        constant=not horizon,
        told=told,
        learned=True,
    )


def hand_designed(text: str, learning_rate: float | None = None, name: str | None = None) -> Contestant:
    """An optimizer of optax over its grid of learning rates.

    Args:
      text: NAME or NAME_SCHEDULE, see `settings.parse_rival`.
      learning_rate: its default, which takes the place of the nearest in the grid; None for the
        best single one over all tasks and horizons.
      name: key in the results; None for `text`.

    Raises:
      ValueError: no such optimizer, or schedule.
    """
    optimizer, schedule = parse_rival(text)
    baseline = optax_baselines.BASELINES[optimizer]
    rates = np.array(baseline.learning_rates)
    default = None
    if learning_rate is not None:
        default = int(np.abs(np.log(rates / learning_rate)).argmin())
        rates[default] = learning_rate
    return Contestant(
        name or text,
        optimizer,
        optax_baselines.build(baseline),
        optax_baselines.theta(rates, schedule),
        tuple(float(x) for x in rates),
        default=default,
        eval_params=baseline.eval_params,
        constant=schedule == "constant",
    )


def rivals(names: Sequence[str]) -> list[Contestant]:
    """The rivals of these names."""
    return [hand_designed(name) for name in names]
