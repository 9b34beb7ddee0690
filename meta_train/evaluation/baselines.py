"""The hand-designed optimizers that a learned one is measured against: `optax:NAME`.

Each has the interface of a learned optimizer: `build(baseline)` gives `(theta, num_steps) -> optimizer`,
where theta holds the learning rate, the schedule and the other hyperparameters as arrays, so that one
compiled program serves all settings.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from meta_train.evaluation.rivals import adopt, cautious_adamw, matched_muon, soap

SCHEDULES = ("constant", "cosine", "warmup", "warmup_cosine")
WARMUP = 0.05  # of the training

Hyper = Mapping[str, Any]  # name -> f32[], the hyperparameters besides the learning rate


class Baseline(NamedTuple):
    """One hand-designed optimizer."""

    # `(schedule, hyper, num_steps) -> optimizer`; the schedule is `(count) -> learning rate`
    make: Callable[[optax.Schedule, Hyper, Any], optax.GradientTransformation]
    # those to choose from, ascending: 12, a third to half a decade apart, so wide that the best one of an
    # ordinary task lies inside; a single 1 for an optimizer that finds its rate itself
    learning_rates: tuple[float, ...]
    # name -> the values to choose from besides the rate; the first one is the default
    hyper: Mapping[str, tuple[float, ...]] = MappingProxyType({})
    schedules: tuple[str, ...] = SCHEDULES  # those of SCHEDULES that make sense for it
    # `(params, opt_state) -> params` at which validation losses are read
    eval_params: Callable[[Any, Any], Any] = lambda params, opt_state: params
    horizon: bool = False  # whether it depends on the number of steps even at a constant rate


def _grid(low: float, high: float) -> tuple[float, ...]:
    return tuple(float(f"{x:.3g}") for x in np.geomspace(low, high, 12))


def _plain(factory: Callable[..., optax.GradientTransformation]):
    """`make` of a factory of optax whose only tuned argument is its rate."""
    return lambda rate, hyper, num_steps: factory(rate)


def _decayed(factory: Callable[..., optax.GradientTransformation]):
    """`make` of a factory with a rate and decoupled weight decay."""
    return lambda rate, hyper, num_steps: factory(rate, weight_decay=hyper["weight_decay"])


def _ademamix(rate, hyper, num_steps):
    """With the paper's warm-up of alpha and of beta_3, both over the whole training."""
    b1, b3, alpha = 0.9, 0.999, 5.0
    share = lambda count: jnp.clip(count / jnp.maximum(num_steps, 1), 0.0, 1.0)  # noqa: E731

    def half_life(count):
        inverse = (1 - share(count)) / jnp.log(b1) + share(count) / jnp.log(b3)
        return jnp.exp(1 / inverse)

    return contrib.ademamix(
        rate,
        b1=b1,
        b3=lambda count: jnp.minimum(half_life(count), b3),
        alpha=lambda count: alpha * share(count),
        weight_decay=hyper["weight_decay"],
    )


SCHEDULE_FREE: dict[str, Any] = {
    "schedules": ("constant", "warmup"),
    "eval_params": lambda params, opt_state: contrib.schedule_free_eval_params(opt_state, params),
}
DECAY = MappingProxyType({"weight_decay": (0.01, 0.0, 0.1)})
FREE = (1.0,)  # no learning rate to tune

# Betas are optax's defaults. Optimizers whose name or paper promises a weight decay are tuned over three
# decays; the others have none.
BASELINES: dict[str, Baseline] = {
    "sgdm": Baseline(_plain(partial(optax.sgd, momentum=0.9)), _grid(1e-4, 10)),
    "adam": Baseline(_plain(optax.adam), _grid(1e-4, 1)),
    "adamw": Baseline(_decayed(optax.adamw), _grid(1e-4, 1), DECAY),
    "nadamw": Baseline(_decayed(optax.nadamw), _grid(1e-4, 1), DECAY),
    "lion": Baseline(_decayed(optax.lion), _grid(1e-5, 0.1), {"weight_decay": (0.03, 0.0, 0.3)}),
    "adafactor": Baseline(_plain(optax.adafactor), _grid(1e-3, 10)),  # relative to the size of each tensor
    "rmsprop": Baseline(_plain(optax.rmsprop), _grid(1e-5, 0.1)),
    "muon": Baseline(matched_muon, _grid(1e-4, 1), {**DECAY, "adam_rate": (1.0, 0.3)}),
    "soap": Baseline(_decayed(soap), _grid(1e-4, 1), DECAY),
    "ademamix": Baseline(_ademamix, _grid(1e-4, 1), DECAY, horizon=True),
    "adopt": Baseline(_decayed(adopt), _grid(1e-4, 1), DECAY),
    "cautious_adamw": Baseline(_decayed(cautious_adamw), _grid(1e-4, 1), DECAY),
    "lamb": Baseline(_plain(optax.lamb), _grid(1e-4, 1)),
    "schedule_free": Baseline(
        _decayed(contrib.schedule_free_adamw),
        _grid(1e-4, 1),
        {"weight_decay": (0.0, 0.01, 0.1)},
        **SCHEDULE_FREE,
    ),
    "schedule_free_sgd": Baseline(
        _decayed(contrib.schedule_free_sgd),
        _grid(1e-3, 100),
        {"weight_decay": (0.0, 1e-4, 1e-3)},
        **SCHEDULE_FREE,
    ),
    "prodigy": Baseline(_decayed(contrib.prodigy), FREE, {"weight_decay": (0.0, 0.01, 0.1)}),
    "dowg": Baseline(_plain(contrib.dowg), FREE),
}


def build(baseline: Baseline) -> Callable[[Any, Any], optax.GradientTransformation]:
    """The baseline as the `build` of a learned optimizer, `(theta, num_steps) -> optimizer`.

    theta: {"learning_rate": f32[], "schedule": i32[], an index into SCHEDULES, and each of `hyper`: f32[]};
    see `theta` and `settings`. What theta lacks has its default. `num_steps` (int or i32[], may be traced) is
    the length that the schedule is made for.
    """
    defaults = {name: np.float32(values[0]) for name, values in baseline.hyper.items()}

    def build_one(theta, num_steps):
        def rate(count):
            return theta["learning_rate"] * relative_rate(theta["schedule"], count, num_steps)

        return baseline.make(rate, {**defaults, **theta}, num_steps)

    return build_one


def theta(learning_rates: Any, schedule: str) -> dict[str, np.ndarray]:
    """theta of `build`, with the leading axis L of the learning rates (none for a single number).

    Raises:
      ValueError: a schedule that is not in SCHEDULES.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule}")
    rates = np.asarray(learning_rates, np.float32)
    return {"learning_rate": rates, "schedule": np.full(rates.shape, SCHEDULES.index(schedule), np.int32)}


def settings(
    baseline: Baseline, rates: tuple[float, ...], schedule: str, *, hyper: bool
) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    """theta of all settings to choose from, with a leading axis L; and the hyperparameters of each.

    Args:
      baseline: one of BASELINES.
      rates: the learning rates.
      schedule: one of SCHEDULES.
      hyper: whether the other hyperparameters are tuned too: every combination with every rate. The defaults
        come first, so that the first `len(rates)` settings are those of the rates alone.
    """
    values = [value if hyper else value[:1] for value in baseline.hyper.values()]
    rows = [dict(zip(baseline.hyper, row, strict=True)) for row in itertools.product(*values)]
    out = theta(np.tile(rates, len(rows)), schedule)
    names = {name: [row[name] for row in rows for _ in rates] for name in baseline.hyper}
    out |= {name: np.asarray(column, np.float32) for name, column in names.items()}
    return out, [row for row in rows for _ in rates]


def relative_rate(schedule: Any, count: Any, num_steps: Any) -> jax.Array:
    """f32[] in [0, 1]: the learning rate of update `count` (0 the first) over its largest value.

    Args:
      schedule: i32[], index into SCHEDULES. "cosine" decays to 0 at num_steps, as
        `optax.cosine_decay_schedule` does; "warmup" rises linearly over the first WARMUP of the steps, the
        first update being one step up; "warmup_cosine" does both: it decays after the warm-up.
      count: i32[], updates so far.
      num_steps: length of the training.
    """
    total = jnp.asarray(num_steps, jnp.float32)
    rise = jnp.maximum(1.0, jnp.round(WARMUP * total))
    warmup = jnp.minimum((count + 1) / rise, 1.0)

    def cosine(start):
        done = jnp.clip((count - start) / jnp.maximum(total - start, 1.0), 0.0, 1.0)
        return 0.5 * (1 + jnp.cos(jnp.pi * done))

    values = jnp.ones([]), cosine(0.0), warmup, warmup * cosine(rise - 1)
    return jnp.stack([jnp.broadcast_to(v, ()) for v in values])[schedule]
