"""One window as a differentiable function of theta and of the float leaves of the state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from meta_train.core.system import Rollout, UnrolledSystem, restart_if, start, unroll


def floats_of(state: Any) -> list[jax.Array]:
    """The leaves that have derivatives: counters and keys have none."""
    return [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]


def with_floats(state: Any, floats: list[jax.Array]) -> Any:
    """`state` with its float leaves replaced."""
    leaves, treedef = jax.tree.flatten(state)
    new = iter(floats)
    return treedef.unflatten([next(new) if jnp.issubdtype(x.dtype, jnp.inexact) else x for x in leaves])


def window_function(
    system: UnrolledSystem,
    rollout: Rollout,
    restarted: jax.Array,
    key_restart: jax.Array,
    key_unroll: jax.Array,
    data: Any,
    num_steps: int,
) -> Callable[[Any, list[jax.Array]], tuple[tuple[list[jax.Array], jax.Array], Rollout]]:
    """`(theta, floats) -> ((floats, mean loss), rollout)`: a window, with its restart inside.

    What depended on the state of before a restart has no part in the derivatives; what theta does to a
    fresh state has. The keys are consumed.
    """

    def window(theta, floats):
        begin = rollout._replace(state=with_floats(rollout.state, floats))
        begin = restart_if(restarted, system, theta, begin, key_restart)
        end, losses = unroll(system, theta, begin, key_unroll, data, num_steps, remat=True)
        return (floats_of(end.state), losses.mean()), end

    return window


def start_function(
    system: UnrolledSystem, key: jax.Array, stagger: int | None
) -> Callable[[Any], tuple[list[jax.Array], Rollout]]:
    """`theta -> (floats, rollout)`: a first inner problem. The key is consumed."""

    def begin(theta):
        rollout = start(system, theta, key, stagger=stagger)
        return floats_of(rollout.state), rollout

    return begin
