"""What tasks are trained with: the optimizer under test and its rivals, each with all of its settings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import LearnedOptimizer
from learned_opt.architectures.transformation import under_vmap
from meta_train.evaluation import baselines
from meta_train.evaluation.curves import Build, EvalParams
from meta_train.evaluation.protocol import Settings, parse_rival

TOLD = 0.5, 2.0  # wrong horizons: what a learned optimizer is given, over the length of the training


class Contestant(NamedTuple):
    """An optimizer with L settings."""

    name: str  # its key in the results
    program: str  # contestants with the same one are run by the same compiled program
    build: Build  # `(setting, num_steps)`, or `((setting, shared), num_steps)` where `shared` is given
    settings: Any  # pytree with a leading axis of L, then one row for each of `told`
    values: tuple[float, ...]  # learning rates of the L settings, or factors on the step
    hyper: tuple[dict[str, float], ...] = ()  # the other hyperparameters of each setting; () for none
    default: int | None = None  # the setting that it has without any tuning; None for the best single one
    shared: Any = None  # theta, which all settings share; None for a hand-designed optimizer
    eval_params: EvalParams | None = None  # see `curves.trainer`
    constant: bool = False  # whether it does not depend on the number of steps: one run serves all horizons
    told: tuple[float, ...] = ()  # wrong horizons that the default is also run with, over the right one
    learned: bool = False  # whether it was meta-trained

    @property
    def rows(self) -> int:
        """Settings, and wrong horizons."""
        return len(self.values) + len(self.told)


def learned(
    name: str, lopt: LearnedOptimizer, theta: Any, trials: int = 1, told: tuple[float, ...] = TOLD
) -> Contestant:
    """A learned optimizer whose step is scaled by powers of two around 1; the default is 1.

    Args:
      name: its key in the results.
      lopt: the architecture.
      theta: meta-parameters.
      trials: number of factors. A contestant of 1 has the default only.
      told: wrong horizons, where the architecture depends on the number of steps.
    """
    horizon = "num_steps" in lopt.needs
    told = told if horizon else ()
    factors = 2.0 ** (np.arange(trials) - trials // 2)

    def build(setting, num_steps):
        row, meta = setting
        if horizon:
            num_steps = jnp.maximum(jnp.round(num_steps * row["told"]), 1).astype(jnp.int32)
        with under_vmap():
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


def hand_designed(
    text: str, name: str | None = None, *, settings: Settings | None = None, untuned: bool = False
) -> Contestant:
    """A hand-designed optimizer with the settings that it is tuned over.

    Args:
      text: NAME, NAME_SCHEDULE, either with @RATE, see `protocol.parse_rival`. The rate is the default
        setting, in place of the nearest one in the grid; without it the default is the best single setting
        over all tasks and horizons.
      name: key in the results; None for `text`.
      settings: how many rates, and whether the other hyperparameters are tuned; None for the defaults.
      untuned: with @RATE, that rate alone, and the defaults of the others.

    Raises:
      ValueError: no such optimizer, or schedule.
    """
    settings = Settings() if settings is None else settings
    optimizer, schedule, rate = parse_rival(text)
    baseline = baselines.BASELINES[optimizer]
    rates, default = _thinned(baseline.learning_rates, settings.rates), None
    if rate is not None:
        default = int(np.abs(np.log(np.array(rates) / rate)).argmin())
        rates = (*rates[:default], rate, *rates[default + 1 :])
        if untuned:
            rates, default = (rate,), 0
    hyper = settings.tune_decay and not untuned
    rows, options = baselines.settings(baseline, rates, schedule, hyper=hyper)
    return Contestant(
        name or text,
        optimizer,
        baselines.build(baseline),
        rows,
        tuple(float(x) for x in np.tile(rates, len(options) // len(rates))),
        tuple(options),
        default=default,
        eval_params=baseline.eval_params,
        constant=schedule == "constant" and not baseline.horizon,
    )


def rivals(settings: Settings) -> list[Contestant]:
    """The hand-designed rivals; a rival with a rate of its own, "adam@0.001", is untuned."""
    return [hand_designed(name, settings=settings, untuned="@" in name) for name in settings.rivals]


def _thinned(rates: Sequence[float], most: int) -> tuple[float, ...]:
    """At most so many of the rates, evenly spread; the ends are kept."""
    if len(rates) <= most:
        return tuple(rates)
    return tuple(rates[round(i)] for i in np.linspace(0, len(rates) - 1, most))
