"""The hand-designed optimizers of optax that a learned one is measured against: `optax:NAME`.

Each is here what a learned optimizer is: `build(baseline)` gives `(theta, num_steps) -> optimizer`, where
theta is a learning rate and a schedule, both arrays. So one compiled program serves all rates and schedules.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

SCHEDULES = ("constant", "cosine", "warmup", "warmup_cosine")
WARMUP = 0.05  # of the training


class Baseline(NamedTuple):
    """One optimizer of optax.

    Attributes:
      make: `(schedule) -> optimizer`; the schedule is `(count) -> learning rate`.
      learning_rates: what to choose from, ascending: 12, a third to half a decade apart, so wide that the
        best of a sane task lies inside.
      schedules: those of SCHEDULES that make sense for it.
      eval_params: `(params, opt_state) -> params` that validation losses are read at.
    """

    make: Callable[[optax.Schedule], optax.GradientTransformation]
    learning_rates: tuple[float, ...]
    schedules: tuple[str, ...] = SCHEDULES
    eval_params: Callable[[Any, Any], Any] = lambda params, opt_state: params


def _grid(low: float, high: float) -> tuple[float, ...]:
    return tuple(float(f"{x:.3g}") for x in np.geomspace(low, high, 12))


# Betas are optax's defaults. So are the weight decays of those whose name does not promise one (zero); the
# others have what their papers recommend for small models.
BASELINES: dict[str, Baseline] = {
    "sgdm": Baseline(partial(optax.sgd, momentum=0.9), _grid(1e-4, 10)),
    "adam": Baseline(optax.adam, _grid(1e-4, 1)),
    "adamw": Baseline(partial(optax.adamw, weight_decay=1e-2), _grid(1e-4, 1)),
    "nadamw": Baseline(partial(optax.nadamw, weight_decay=1e-2), _grid(1e-4, 1)),
    "lion": Baseline(partial(optax.lion, weight_decay=3e-2), _grid(1e-5, 0.1)),
    "adafactor": Baseline(optax.adafactor, _grid(1e-3, 10)),  # relative to the size of each tensor
    "rmsprop": Baseline(optax.rmsprop, _grid(1e-5, 0.1)),
    "muon": Baseline(optax.contrib.muon, _grid(1e-4, 1)),  # with Adam for what is not a matrix
    "lamb": Baseline(optax.lamb, _grid(1e-4, 1)),
    "schedule_free": Baseline(
        optax.contrib.schedule_free_adamw,  # type: ignore[arg-type]  # its code takes schedules too
        _grid(1e-4, 1),
        ("constant", "warmup"),
        lambda params, opt_state: optax.contrib.schedule_free_eval_params(opt_state, params),
    ),
}


def build(baseline: Baseline) -> Callable[[Any, Any], optax.GradientTransformation]:
    """The baseline as the `build` of a learned optimizer, `(theta, num_steps) -> optimizer`.

    theta: {"learning_rate": f32[], "schedule": i32[], an index into SCHEDULES}; see `theta`. `num_steps`
    (int or i32[], may be traced) is the length that the schedule is made for.
    """

    def build_one(theta, num_steps):
        return baseline.make(
            lambda count: theta["learning_rate"] * relative_rate(theta["schedule"], count, num_steps)
        )

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
