"""Unrolled systems and the whole theory of truncation.

Glossary (one word per thing, throughout the project):

* `theta`: meta-parameters. `params`: the inner parameters that the learned optimizer trains.
* T, `unroll_length`: steps of one inner problem. K, `truncation_length`: steps of one window.
* N, `num_particles`: antithetic pairs (or single rollouts, for estimators that do not perturb).
* `rollout`: one particle's place in its inner problem. `window`: K consecutive steps of it.
* `restart`: replacing a finished rollout by a fresh inner problem. It happens once, *between*
  windows, and every T is a multiple of K: so a window never crosses a restart, and no estimator
  needs a mask.
* `eps`: one perturbation of theta, std `sigma`. `xi`: the running sum of eps / sigma^2 over an inner problem.
* `pos` / `neg`: the two halves of an antithetic pair; they always see the same keys.
* `key`: a jax key, consumed by the callee.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

Theta = Any
State = Any
Data = Any
Remat = bool | Literal["sqrt"]


class UnrolledSystem(NamedTuple):
    """`s_{t+1}, L_t = step(theta, s_t, key, data)`: all that an estimator sees. Pure and unbatched.

    Attributes:
      init: `(theta, key) -> (state, length i32[])`. `length` is T of this inner problem; it may
        depend on the key, never on theta, so that both halves of a pair end together.
      step: `(theta, state, key, data) -> (state, loss f32[])`. Lower loss is better. The
        meta-objective is E[sum of the losses of an inner problem] / E[T]: the mean loss per step. Where T is
        random this is not the mean over inner problems of their own mean losses, as longer problems count
        more.
      length_multiple: every length that `init` returns is a multiple of this (T itself where T is
        constant; 0 for an endless problem, whose length is `ENDLESS`). K must divide it.
      max_length: the longest T; None for an endless problem. Equal to `length_multiple` where T is constant.
      worst_loss: finite ceiling of a step's loss. A larger one, and one that is not finite, counts as
        this, so that a diverged half of a pair keeps the sign of its badness and spoils no mean.
      no_gradient: what in it has no useful gradient, in words ("objective accuracy"); "" where losses and
        states are differentiable in theta. Estimators that differentiate refuse such a system.
      hold_diverged: what follows a loss that is not finite. False: the rollout (and the other half of its
        pair) restarts before its next window, so that no step is wasted; the steps that the inner problem
        would still have had are dropped, which biases a gradient with K < T where theta decides which inner
        problems diverge. True: every later loss of the inner problem counts as `worst_loss`.
    """

    init: Callable[[Theta, jax.Array], tuple[State, jax.Array]]
    step: Callable[[Theta, State, jax.Array, Data], tuple[State, jax.Array]]
    length_multiple: int = 1
    max_length: int | None = None
    worst_loss: float = 1e6
    no_gradient: str = ""
    hold_diverged: bool = False


class Rollout(NamedTuple):
    """One particle's place in its inner problem.

    Attributes:
      state: the system's state.
      t: i32[], steps taken since the restart.
      length: i32[], T of this inner problem (shorter for a staggered first one).
      diverged: bool[], whether a loss of the last window was not finite.
      held: bool[], whether the rest of its inner problem counts as `worst_loss`; None for a system that
        restarts diverged rollouts (`UnrolledSystem.hold_diverged`).
    """

    state: State
    t: jax.Array
    length: jax.Array
    diverged: jax.Array
    held: jax.Array | None = None


# Steps of a state of so few numbers cost less than the loop around them: several are written out.
SMALL, UNROLL = 256, 5
ENDLESS = 2**31 - 1  # the length of an inner problem that never restarts


def start(
    system: UnrolledSystem,
    theta: Theta,
    key: jax.Array,
    *,
    stagger: int | None = None,
    key_stagger: jax.Array | None = None,
) -> Rollout:
    """A fresh inner problem. The key is consumed.

    With `stagger=K` its length is drawn among K, 2K, ..., T: given to every particle's *first*
    problem, it keeps the particles out of phase for good. Particles that are to stay in phase get the
    same `key_stagger`.
    """
    key_state, key_length = jax.random.split(key)
    key_length = key_length if key_stagger is None else key_stagger
    state, length = system.init(theta, key_state)
    length = jnp.asarray(length, jnp.int32)
    if stagger is not None:
        shorter = stagger * jax.random.randint(key_length, (), 1, length // stagger + 1)
        length = jnp.where(length == ENDLESS, length, shorter)
    held = jnp.zeros([], bool) if system.hold_diverged else None
    return Rollout(state, jnp.zeros([], jnp.int32), length, jnp.zeros([], bool), held)


def finished(rollout: Rollout) -> jax.Array:
    """bool[...]: whether the rollout must restart before its next window."""
    over = rollout.t >= rollout.length
    return over | rollout.diverged if rollout.held is None else over


def restart_if(
    done: jax.Array, system: UnrolledSystem, theta: Theta, rollout: Rollout, key: jax.Array
) -> Rollout:
    """`rollout`, or a fresh inner problem where `done` (bool[]). The key is consumed."""
    fresh = start(system, theta, key)
    return jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, rollout)


def begin_window(
    system: UnrolledSystem, theta: Theta, rollout: Rollout, restarted: jax.Array, key: jax.Array
) -> Rollout:
    """The rollout at the start of a window: a fresh inner problem if `restarted` (bool[]). The key is
    consumed.

    The first window of a run starts its inner problem here too, at the theta of the window, so that what
    theta does to a fresh state is part of every window's gradient. Its staggered length stays.
    """
    begun = restart_if(restarted | (rollout.t == 0), system, theta, rollout, key)
    return begun._replace(
        length=jnp.where(restarted, begun.length, jnp.minimum(begun.length, rollout.length))
    )


def unroll(
    system: UnrolledSystem,
    theta: Theta,
    rollout: Rollout,
    key: jax.Array,
    data: Data,
    num_steps: int,
    *,
    remat: Remat = False,
) -> tuple[Rollout, jax.Array]:
    """One window: `num_steps` steps of a rollout that does not restart inside it.

    Args:
      system: what is unrolled.
      theta: meta-parameters of every step.
      rollout: where to begin.
      key: consumed; step i of the window uses the i-th key split from it.
      data: passed on to `system.step`.
      num_steps: K.
      remat: recompute each step's residuals in the backward pass instead of storing them (the K states
        are kept); "sqrt" keeps only about 2 sqrt(K) states, for one more forward pass.

    Returns:
      The rollout after the window, and the losses, f32[K], capped at `system.worst_loss`. This is the only
      place that handles a loss that is not finite: `Rollout.diverged` reports it, and `finished` makes the
      particle restart before its next window (unless the system holds diverged rollouts).
    """

    def body(state, key):
        return system.step(theta, state, key, data)

    if remat:
        body = jax.checkpoint(body, prevent_cse=False)
    keys = jax.random.split(key, num_steps)
    if remat == "sqrt":
        keys = keys.reshape(-1, max(i for i in range(1, math.isqrt(num_steps) + 1) if num_steps % i == 0))
        segment = jax.checkpoint(lambda state, keys: jax.lax.scan(body, state, keys), prevent_cse=False)
        state, losses = jax.lax.scan(segment, rollout.state, keys)
        losses = losses.reshape(-1)
    else:
        size = sum(math.prod(jnp.shape(x)) for x in jax.tree.leaves(rollout.state))
        state, losses = jax.lax.scan(body, rollout.state, keys, unroll=UNROLL if size <= SMALL else 1)
    bad, held = ~jnp.isfinite(losses), rollout.held
    if held is not None:
        bad = jax.lax.associative_scan(jnp.logical_or, bad) | held
        held = bad[-1]
    losses = jnp.where(bad, system.worst_loss, jnp.minimum(losses, system.worst_loss))
    return Rollout(state, rollout.t + num_steps, rollout.length, bad.any(), held), losses


def window_loss(
    system: UnrolledSystem,
    restarted: jax.Array,
    key_restart: jax.Array,
    key_unroll: jax.Array,
    data: Any,
    num_steps: int,
    *,
    remat: Remat = True,
) -> Callable[[Any, Rollout], tuple[jax.Array, tuple[jax.Array, Rollout]]]:
    """`(theta, rollout) -> (mean loss, (losses f32[K], rollout))`: a window, with its restart inside.

    What depended on the state before a restart has no part in the derivatives; what theta does to a
    fresh state has. The keys are consumed; several calls (both halves of a pair) share them.
    """

    def window(theta, rollout):
        begin = begin_window(system, theta, rollout, restarted, key_restart)
        end, losses = unroll(system, theta, begin, key_unroll, data, num_steps, remat=remat)
        return losses.mean(), (losses, end)

    return window


def check_truncation(system: UnrolledSystem, truncation_length: int) -> None:
    """Refuses a K that does not divide every length of the system (ValueError)."""
    if truncation_length < 1:
        raise ValueError(f"truncation_length must be >= 1, got {truncation_length}")
    if system.length_multiple % truncation_length:
        raise ValueError(
            f"truncation_length must divide every inner length (a multiple of {system.length_multiple}), "
            f"got {truncation_length}"
        )
