"""Task family + learned optimizer -> unrolled system. The only file that knows both packages."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.architectures.transformation import under_vmap
from learned_opt.base import LearnedOptimizer
from meta_train.core.system import UnrolledSystem
from tasks.base import TaskFamily


class Objective(NamedTuple):
    """What of an inner training is minimised.

    Attributes:
      loss: "train", the loss of the minibatch that the step trains on, before its update; or
        "valid", that of a minibatch of the validation split, after it.
      reduce: "mean" over the steps of the inner training, or "last", the last step alone.
      log: log(min(L, cap) + offset) instead of min(L, cap): scale-free across tasks, and still steep
        at low losses.
      cap: the loss that a step counts at most, and a diverged one counts.
      offset: added before the logarithm.
      late: step t of T weighs `(1 + late) (t / T)^late`: 0 for all alike, more where the end of a training
        matters more than its course.
      hold_diverged: every step after one whose loss is not finite counts as a diverged one, until T; False:
        the rollout restarts at its next window (`UnrolledSystem.hold_diverged`). Not where reduce is "last".
    """

    loss: Literal["train", "valid"] = "train"
    reduce: Literal["mean", "last"] = "mean"
    log: bool = True
    cap: float = 4.0
    offset: float = 0.02
    late: float = 0.0
    hold_diverged: bool = False


MEAN_LOG_LOSS = Objective()


class InnerState(NamedTuple):
    """State of one inner training: `t` and `length` are i32[], `cfg` names the task.

    `late` holds the delayed gradients, None where gradients are not delayed; `rate` is f32[], the
    factor on the steps of this inner problem, None where there is none.
    """

    params: Any
    opt_state: Any
    cfg: Any
    t: jax.Array
    length: jax.Array
    late: Any
    rate: Any = None


class DelayedGradients(NamedTuple):
    """The most recent gradients, leaves [most, ...], and by how many steps they are delayed, i32[]."""

    grads: Any
    delay: jax.Array


def no_gradients_yet(delay: tuple[int, int], params: Any, key: jax.Array) -> DelayedGradients | None:
    """An empty buffer, and the delay of this inner problem, drawn from `delay`. The key is consumed."""
    least, most = delay
    if most == 0:
        return None
    grads = jax.tree.map(lambda p: jnp.zeros((most, *p.shape), p.dtype), params)
    return DelayedGradients(grads, jax.random.randint(key, (), least, most + 1))


def delayed(late: DelayedGradients | None, grads: Any, t: jax.Array) -> tuple[Any, DelayedGradients | None]:
    """The gradient that the optimizer gets at step t, that of step max(t - delay, 0), and the buffer."""
    if late is None:
        return grads, None
    most = len(jax.tree.leaves(late.grads)[0])
    computed = jnp.maximum(t - late.delay, 0)
    received = jax.tree.map(
        lambda new, old: jnp.where(computed == t, new, old[computed % most]), grads, late.grads
    )
    kept = jax.tree.map(lambda new, old: old.at[t % most].set(new), grads, late.grads)
    return received, DelayedGradients(kept, late.delay)


def log_uniform(key: jax.Array, low: int, high: int, multiple: int) -> jax.Array:
    """i32[]: a log-uniform draw among the multiples of `multiple` in [low, high]. The key is consumed."""
    first, last = math.ceil(low / multiple), high // multiple
    u = jax.random.uniform(key, minval=math.log(first), maxval=math.log(last + 1))
    return multiple * jnp.clip(jnp.exp(u).astype(jnp.int32), first, last)


def inner_training(
    family: TaskFamily,
    lopt: LearnedOptimizer,
    *,
    unroll_length: int | tuple[int, int],
    multiple: int = 1,
    objective: Objective = MEAN_LOG_LOSS,
    learning_rate: tuple[float, float] | None = None,
) -> UnrolledSystem:
    """Trains tasks of a family with a learned optimizer: one step of the system is one step of training.

    Args:
      family: where inner problems come from; `data` of the system's step is `family.data`.
      lopt: the learned optimizer; `theta` of the system is its meta-parameters.
      unroll_length: T, a number of steps, or (low, high): log-uniform among the multiples of `multiple`.
      multiple: K of the estimator that will unroll this.
      objective: what is minimised.
      learning_rate: (low, high), of a factor on all steps of an inner problem, drawn log-uniformly for
        each: it stands for a user's rate that is off, so that the optimizer learns to bear it. None for 1.

    Returns:
      An `UnrolledSystem` with `InnerState`s.

    Raises:
      ValueError: an `unroll_length` that is not a multiple of `multiple`, or a range that holds none.
    """
    sample_length, shortest, longest = _lengths(unroll_length, multiple)

    def meta_loss(loss):
        # What is not finite stays so: the estimator counts it.
        loss = jnp.where(jnp.isposinf(loss), loss, jnp.minimum(loss, objective.cap))
        return jnp.log(loss + objective.offset) if objective.log else loss

    def init(theta, key):
        key_cfg, key_params, key_length = jax.random.split(key, 3)
        cfg, length = family.sample(key_cfg), sample_length(key_length)
        params = family.task(cfg).init(key_params)
        opt_state = lopt.build(theta, length).init(params)
        late = no_gradients_yet(family.delay, params, jax.random.fold_in(key_params, 0))
        rate = None
        if learning_rate is not None:
            low, high = (math.log(bound) for bound in learning_rate)
            rate = jnp.exp(jax.random.uniform(jax.random.fold_in(key_params, 1), (), minval=low, maxval=high))
        return InnerState(params, opt_state, cfg, jnp.zeros([], jnp.int32), length, late, rate), length

    def step(theta, state, key, data):
        task = family.task(state.cfg)
        with under_vmap():
            opt = lopt.build(theta, state.length)
        key_train, key_valid = jax.random.split(key)
        loss, grads = jax.value_and_grad(task.loss)(state.params, key_train, data["train"])
        grads, late = delayed(state.late, grads, state.t)
        updates, opt_state = opt.update(grads, state.opt_state, state.params, value=loss)
        if state.rate is not None:
            updates = jax.tree.map(lambda u: (state.rate * u).astype(u.dtype), updates)
        params = optax.apply_updates(state.params, updates)
        t = state.t + 1
        if objective.loss == "valid":
            loss = task.loss(params, key_valid, data["valid"])
        loss = meta_loss(loss)
        if objective.late:
            loss = loss * (1 + objective.late) * (t / state.length) ** objective.late
        if objective.reduce == "last":  # times T, as the mean over steps divides by it
            loss = jnp.where(t == state.length, state.length * loss, 0.0)
        return InnerState(params, opt_state, state.cfg, t, state.length, late, state.rate), loss

    worst = float(meta_loss(objective.cap)) * (longest if objective.reduce == "last" else 1)
    if worst > 0:
        worst *= 1 + objective.late
    every = multiple if shortest != longest else longest
    return UnrolledSystem(init, step, every, longest, worst, hold_diverged=objective.hold_diverged)


def _lengths(unroll_length, multiple):
    """The sampler of T, and its least and largest values."""
    if isinstance(unroll_length, int):
        if unroll_length < 1 or unroll_length % multiple:
            raise ValueError(
                f"unroll_length must be a multiple of truncation_length ({multiple}), got {unroll_length}"
            )
        return lambda key: jnp.full([], unroll_length, jnp.int32), unroll_length, unroll_length
    low, high = unroll_length
    first, last = math.ceil(low / multiple) * multiple, high // multiple * multiple
    if not 1 <= low <= high or first > last:
        raise ValueError(
            f"unroll_length must be a range with a multiple of truncation_length ({multiple}) in it, "
            f"got {low} to {high}"
        )
    return lambda key: log_uniform(key, low, high, multiple), first, last
