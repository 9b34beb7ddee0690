"""Small pieces of several estimators: windows by the float leaves of a state, and differences of pairs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from meta_train.core.system import Rollout


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
