"""Storing running means in fewer bits."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from learned_opt.architectures.options import StateDtype


def stochastic_bfloat16(x: jax.Array, salt: Any) -> jax.Array:
    """f32[*P] rounded up or down at random, right on average: else decays above 1 - 2^-9 move nothing.

    The noise is a hash of the index and the salt (i32[]); derivatives pass through.
    """
    index = jnp.uint32(salt) * jnp.uint32(0x9E3779B9)
    for axis, size in enumerate(x.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    for factor in (0x85EBCA6B, 0xC2B2AE35):  # of MurmurHash3
        index = (index ^ (index >> 16)) * jnp.uint32(factor)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (index >> 16)
    rounded = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    change = jnp.where(jnp.isfinite(x), rounded - x, 0.0)
    return (x + jax.lax.stop_gradient(change)).astype(jnp.bfloat16)


class Rounded(NamedTuple):
    """A state of which some leaves are stored in bfloat16, and the number of updates so far, i32[]."""

    count: jax.Array
    state: Any


def stored_in(
    dtype: StateDtype,
    init: Callable[[Any], Any],
    update: Callable[..., tuple[Any, Any]],
    map_large: Callable[[Callable[[jax.Array], jax.Array], Any], Any],
) -> tuple[Callable[[Any], Any], Callable[..., tuple[Any, Any]]]:
    """`init` and `update` as `transformation` takes them, with the large leaves of the state in a dtype.

    Args:
      dtype: of these leaves; with float32 the two functions and the state stay as they are.
      init: params -> state, all float32.
      update: `(grads, state, params, value) -> (steps, state)`.
      map_large: `(f, state)` -> the state with f applied to the leaves that are as large as the parameters.
    """
    if dtype == "float32":
        return init, update

    def narrowed(count, state):
        salts = itertools.count()
        return Rounded(count, map_large(lambda x: stochastic_bfloat16(x, 1000 * count + next(salts)), state))

    def init_rounded(params):
        return narrowed(jnp.zeros([], jnp.int32), init(params))

    def update_rounded(grads, state, params, value):
        wide = map_large(lambda x: x.astype(jnp.float32), state.state)
        steps, after = update(grads, wide, params, value)
        return steps, narrowed(state.count + 1, after)

    return init_rounded, update_rounded
