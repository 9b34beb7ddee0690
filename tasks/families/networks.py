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
NonNegative = Annotated[float, at.Ge(0)]
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


def pure(function: Callable[[jax.Array], jax.Array], *shape: int) -> tuple[Callable, Callable]:
    """`(key) -> params` and `(params, x) -> y` of a Haiku function of f32[shape] that draws nothing."""
    net = hk.without_apply_rng(hk.transform(function))
    return lambda key: net.init(key, jnp.zeros(shape, jnp.float32)), net.apply


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


def conv(x: jax.Array, channels: int, kernel: int = 3, stride: int = 1, name: str = "conv") -> jax.Array:
    """A 2-D convolution with zero padding: [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), channels].

    Written as shifted slices and one matrix product, because XLA's CPU convolutions are eight times slower
    when vmap gives every particle its own kernel (measured: 8x8 images, 32 particles).
    """
    pad = kernel // 2
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (pad, kernel - 1 - pad), (pad, kernel - 1 - pad), (0, 0)))
    patches = [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]
    return _Conv(channels, kernel, name=name)(jnp.concatenate(patches, axis=-1))


class _Conv(hk.Module):
    """Holds parameters of the shapes that a convolution has, w [k, k, in, out] and b [out]."""

    def __init__(self, channels: int, kernel: int, name: str):
        super().__init__(name=name)
        self.channels, self.kernel = channels, kernel

    def __call__(self, patches: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, patches.shape[-1] // self.kernel**2, self.channels)
        w = hk.get_parameter("w", shape, patches.dtype, init=fan_in)
        b = hk.get_parameter("b", (self.channels,), patches.dtype, init=jnp.zeros)
        return patches @ w.reshape(-1, self.channels) + b


def attention(x: jax.Array, heads: int, causal: bool) -> jax.Array:
    """Multi-head self-attention over the second axis: [B, T, width] -> [B, T, width]."""
    batch, length, width = x.shape
    qkv = linear(x, 3 * width, "attention_qkv", with_bias=False).reshape(
        batch, length, 3, heads, width // heads
    )
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (width // heads) ** -0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return linear(mixed.reshape(batch, length, width), width, "attention_out", with_bias=False)


def transformer(x: jax.Array, depth: int, heads: int, causal: bool, expansion: int = 2) -> jax.Array:
    """Pre-norm transformer blocks: [B, T, width] -> [B, T, width], normalised at the end."""
    width = x.shape[-1]
    for i in range(depth):
        x = x + attention(layer_norm(x), heads, causal)
        x = x + mlp(layer_norm(x), (expansion * width,), width, "gelu", name=f"block_{i}")
    return layer_norm(x)


def check_heads(width: int, heads: int) -> None:
    """Refuses (ValueError) a width that the heads do not divide."""
    if width % heads:
        raise ValueError(f"heads: {heads} must divide width {width}")


Core = Literal["vanilla", "gru", "lstm"]


def recurrent(x: jax.Array, hidden: int, core: Core) -> jax.Array:
    """A recurrent layer from a zero state: [B, T, features] -> [B, T, hidden]."""
    gates = {"vanilla": 1, "gru": 3, "lstm": 4}[core]
    inputs = linear(x, gates * hidden, "recurrent_in").swapaxes(0, 1)
    w = hk.get_parameter("recurrent", (hidden, gates * hidden), init=fan_in)
    zeros = jnp.zeros((x.shape[0], hidden), x.dtype)

    def vanilla(h, i):
        h = jnp.tanh(i + h @ w)
        return h, h

    def gru(h, i):
        reset, update, _ = jnp.split(jax.nn.sigmoid(i + h @ w), 3, axis=-1)
        candidate = jnp.tanh(i[:, 2 * hidden :] + (reset * h) @ w[:, 2 * hidden :])
        h = (1 - update) * h + update * candidate
        return h, h

    def lstm(state, i):
        h, c = state
        pre = i + h @ w
        enter, forget, leave = jnp.split(jax.nn.sigmoid(pre[:, : 3 * hidden]), 3, axis=-1)
        c = forget * c + enter * jnp.tanh(pre[:, 3 * hidden :])
        h = leave * jnp.tanh(c)
        return (h, c), h

    step, state = {"vanilla": (vanilla, zeros), "gru": (gru, zeros), "lstm": (lstm, (zeros, zeros))}[core]
    return jax.lax.scan(step, state, inputs)[1].swapaxes(0, 1)
