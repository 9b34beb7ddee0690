"""One window as a function to be differentiated: of theta, of a rollout, of the float leaves of its state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from meta_train.core.system import Remat, Rollout, UnrolledSystem, begin_window, unroll


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


def of_floats(
    window: Callable[[Any, Rollout], Any], rollout: Rollout
) -> Callable[[Any, list[jax.Array]], tuple[tuple[list[jax.Array], jax.Array], Rollout]]:
    """`(theta, floats) -> ((floats, mean loss), rollout)`: a window from the float leaves of a state."""

    def function(theta, floats):
        loss, (_, end) = window(theta, rollout._replace(state=with_floats(rollout.state, floats)))
        return (floats_of(end.state), loss), end

    return function


def difference(losses: jax.Array, clip: float | None = None) -> jax.Array:
    """f32[]: mean(L+ - L-) of losses f32[2 or more, K], clipped to +- `clip`.

    The difference comes first, so that equal losses cancel exactly.
    """
    delta = (losses[0] - losses[1]).mean()
    return delta if clip is None else jnp.clip(delta, -clip, clip)


def floats_of(state: Any) -> list[jax.Array]:
    """The leaves that have derivatives: counters and keys have none."""
    return [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact)]


def with_floats(state: Any, floats: list[jax.Array]) -> Any:
    """`state` with its float leaves replaced."""
    leaves, treedef = jax.tree.flatten(state)
    new = iter(floats)
    return treedef.unflatten([next(new) if jnp.issubdtype(x.dtype, jnp.inexact) else x for x in leaves])
