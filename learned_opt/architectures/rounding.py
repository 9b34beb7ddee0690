"""Storing running means in fewer bits."""

from typing import Any

import jax
import jax.numpy as jnp


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
