"""Pieces of Haiku networks that several families share."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import annotated_types as at
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

Activation = Literal["relu", "tanh", "gelu", "silu", "elu", "sigmoid", "softplus", "sin"]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "sin": jnp.sin,
}
Positive = Annotated[float, at.Gt(0)]
PositiveInt = Annotated[int, at.Ge(1)]
Widths = tuple[PositiveInt, ...]
Range = Positive | tuple[Positive, Positive]  # a number, or (low, high) drawn log-uniformly per task


def sample_range(key: jax.Array, value: Any) -> jax.Array:
    """f32[]: the number itself, or one drawn log-uniformly from (low, high). The key is consumed."""
    if not isinstance(value, (tuple, list)):
        return jnp.asarray(value, jnp.float32)
    low, high = (jnp.log(jnp.asarray(bound, jnp.float32)) for bound in value)
    return jnp.exp(jax.random.uniform(key, (), jnp.float32, low, high))


def check_range(option: str, value: Any) -> None:
    """Refuses (ValueError) a range whose ends are not in order."""
    if isinstance(value, (tuple, list)) and not 0 < value[0] <= value[1]:
        raise ValueError(f"{option}: {value} must be a positive number or (low, high) with 0 < low <= high")


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """f32[shape] of N(0, 1) draws. The key is consumed.

    The same numbers as `jax.random.normal(key, shape)`; drawn flat, because draws of rank 2 and
    more take XLA five times longer to compile under vmap.
    """
    return jax.random.normal(key, (int(np.prod(shape)),), jnp.float32).reshape(shape)


def fan_in(shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Haiku's default initialiser (truncated normal, variance about 1 / fan-in), drawn flat like `normal`."""
    draws = jax.random.truncated_normal(hk.next_rng_key(), -2.0, 2.0, (int(np.prod(shape)),), dtype)
    return draws.reshape(shape) / np.sqrt(np.prod(shape[:-1])).astype(dtype)


def linear(x: jax.Array, outputs: int, name: str | None = None, with_bias: bool = True) -> jax.Array:
    """A dense layer: [..., features] -> [..., outputs]."""
    return hk.Linear(outputs, with_bias=with_bias, w_init=fan_in, name=name)(x)


def layer_norm(x: jax.Array) -> jax.Array:
    """Normalises the last axis, with learnt scale and offset."""
    return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(x)


def mlp(
    x: jax.Array, hidden: Widths, outputs: int, activation: str, norm: str = "none", name: str | None = None
) -> jax.Array:
    """[..., features] -> [..., outputs]: dense layers, an activation after all but the last.

    `norm="layer"` normalises what each hidden layer puts into its activation.
    """
    prefix = f"{name}_" if name else ""
    for i, width in enumerate(hidden):
        x = linear(x, width, f"{prefix}linear_{i}")
        x = ACTIVATIONS[activation](layer_norm(x) if norm == "layer" else x)
    return linear(x, outputs, f"{prefix}linear_{len(hidden)}")


def scaled(params: Any, scale: jax.Array) -> Any:
    """Initial parameters whose matrices (rank 2 and more) are multiplied by `scale`."""
    return jax.tree.map(lambda p: p * scale.astype(p.dtype) if p.ndim >= 2 else p, params)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats: logits f32[..., classes], labels i32[...] -> f32[]."""
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)
