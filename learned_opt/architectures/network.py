"""The per-parameter network: a small MLP applied to the features of every parameter of every tensor."""

import functools
from collections.abc import Callable, Sequence
from itertools import accumulate as running_sum
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from learned_opt.architectures.features import (
    LARGE,
    OVER_ALL,
    Decays,
    Norm,
    Tensor,
    channels,
    init_accumulators,
    make_tensor,
)
from learned_opt.architectures.rows import Layer, by_size, fused_mlp, normalised, numbers_of, weight_rows


def per_parameter_mlp(
    features: Sequence[str],
    tensors: Sequence[Tensor],
    layers: Sequence[Layer],
    shared: jax.Array | None = None,
    norm: Norm = OVER_ALL,
    fused_from: int = LARGE,
) -> list[jax.Array]:
    """One MLP (relu) on every parameter of `tensors`.

    Small tensors go through it all at once, as one array of features; large ones one by one, without such
    an array (`rows.fused_mlp`).

    Args:
      features: names in FEATURES, in the order of the first layer's weights; normalised tensor by tensor.
      tensors: M tensors, of shapes P_1 ... P_M.
      layers: the first takes the features, then `shared`.
      shared: f32[S], inputs equal for all parameters, or f32[M, S], for those of a tensor; they cost
        nothing, as they only move the first bias.
      norm: how each feature of each tensor is normalised.
      fused_from: from how many elements on a tensor is large.

    Returns:
      f32[*P_1, outputs] ... f32[*P_M, outputs].
    """
    (w, b), *layers = layers
    size = fan_in(features, tensors)
    if shared is not None:
        b = b + shared @ w[size:]
    layers, of_tensor = [(w[:size], b), *layers], b.ndim == 2
    large = [t.grad.size >= fused_from for t in tensors]

    def with_bias(b):
        return [(layers[0][0], b), *layers[1:]]

    numbers = functools.cache(lambda: numbers_of(layers))
    outputs = {
        i: fused_mlp(features, tensors[i], with_bias(b[i] if of_tensor else b), norm, numbers)
        for i in range(len(tensors))
        if large[i]
    }
    small = [i for i in range(len(tensors)) if not large[i]]
    if small:
        some = with_bias(b[jnp.array(small)]) if of_tensor and len(small) < len(tensors) else layers
        flat = _flat_mlp(features, [tensors[i] for i in small], some, norm)
        outputs |= dict(zip(small, split_like(flat, [tensors[i].param for i in small]), strict=True))
    return [outputs[i] for i in range(len(tensors))]


def _flat_mlp(
    features: Sequence[str], tensors: Sequence[Tensor], layers: Sequence[Layer], norm: Norm
) -> jax.Array:
    """f32[n_1 + ... + n_M, outputs], tensor after tensor; the first bias may be f32[M, outputs]."""
    (w, b), *layers = layers
    if b.ndim == 2:
        b = jnp.concatenate(
            [jnp.broadcast_to(b[i], (t.grad.size, w.shape[1])) for i, t in enumerate(tensors)]
        )
    changing = tensors[0].grad.reshape(-1)[0]
    x = first_layer(features, tensors, w, norm) + _computed(b, changing)
    for w, b in layers:
        x = jax.nn.relu(x) @ w + _computed(b, changing)
    return x


def _computed(bias: jax.Array, changing: jax.Array) -> jax.Array:
    """The bias itself, made by a computation in every step.

    XLA's CPU compiler vectorises the addition of a row to all rows only where the row is computed in the same
    loop. Where it is read, the addition and the relu after it take five times as long (32 hidden units).

    Args:
      bias: f32[outputs] or f32[rows, outputs].
      changing: f32[], any number that is another one in every step; else the compiler computes it once.
    """
    return bias + ((changing < 0) & (changing > 0)).astype(bias.dtype) * bias


def first_layer(
    features: Sequence[str], tensors: Sequence[Tensor], w: jax.Array, norm: Norm = OVER_ALL
) -> jax.Array:
    """`normalise(features) @ w`, f32[parameters, outputs].

    One matrix product for all tensors where a feature varies everywhere; what varies by row or by
    column only is multiplied at that size and broadcast after.
    """
    everywhere, *narrow = by_size(features)
    rows = weight_rows(features, w, tensors[0])

    def weights(names):
        return jnp.concatenate([rows[name] for name in names])

    x = [normalised(t, everywhere, norm) for t in tensors]
    y = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in x]) @ weights(everywhere)
    if not narrow:
        return y
    z = [sum(normalised(t, names, norm) @ weights(names) for names in narrow) for t in tensors]
    z = [jnp.broadcast_to(z, (*t.grad.shape, w.shape[1])) for z, t in zip(z, tensors, strict=True)]
    return y + jnp.concatenate([z.reshape(-1, w.shape[1]) for z in z])


def transformed(function: Callable[..., Any]) -> hk.Transformed:
    """The functions `init(key, ...)` and `apply(theta, ...)` of a Haiku function without randomness."""
    return hk.without_apply_rng(hk.transform(function))


def dense(inputs: int, outputs: int, suffix: str = "", *, scale: float = 1.0) -> Layer:
    """Haiku parameters `w<suffix>` and `b<suffix>` of one layer, initialised as `hk.Linear` does.

    The weights are truncated normal with stddev `scale / sqrt(inputs)`, the bias is 0.
    """
    init = hk.initializers.TruncatedNormal(scale / inputs**0.5)
    w = hk.get_parameter(f"w{suffix}", (inputs, outputs), init=init)
    return w, hk.get_parameter(f"b{suffix}", (outputs,), init=jnp.zeros)


def mlp_network(
    features: Sequence[str], sizes: Sequence[int], fused_from: int, last_scale: float = 1.0
) -> hk.Transformed:
    """`apply(theta, tensors, shared)` as `per_parameter_mlp`; theta is `{"~": {w0, b0, w1, ...}}`.

    Args:
      features: names in FEATURES.
      sizes: of the layers, the last being the outputs.
      fused_from: see `FusedFrom`.
      last_scale: the last layer's initial weights, relative to the usual.
    """

    def network(tensors, shared):
        inputs = [fan_in(features, tensors, shared), *sizes]
        scales = [1.0] * (len(sizes) - 1) + [last_scale]
        layers = [dense(inputs[i], size, str(i), scale=scales[i]) for i, size in enumerate(sizes)]
        return per_parameter_mlp(features, tensors, layers, shared, fused_from=fused_from)

    return transformed(network)


def haiku_mlp(features: Sequence[str], sizes: Sequence[int], fused_from: int) -> hk.Transformed:
    """`mlp_network` with the parameter names of Haiku's MLP: `mlp/~/linear_0` with `w` and `b`, and so on."""
    net, names = mlp_network(features, sizes, fused_from), [f"mlp/~/linear_{i}" for i in range(len(sizes))]

    def init(key, *inputs) -> Any:
        flat = net.init(key, *inputs)["~"]
        return {name: {k: flat[f"{k}{i}"] for k in "wb"} for i, name in enumerate(names)}

    def apply(theta, *inputs):
        flat = {f"{k}{i}": theta[name][k] for i, name in enumerate(names) for k in "wb"}
        return net.apply({"~": flat}, *inputs)

    return hk.Transformed(init, apply)


# Inputs of VeLO's, Celo's and Celo2's networks.
HYPER_FEATURES = (
    "grad clipped_grad param momentum rms adam rsqrt_rms factored_grad rms_grad row col rsqrt_row rsqrt_col "
    "factored_momentum"
).split()


def hyper_mlp(
    tensor: Tensor,
    sizes: Sequence[int],
    features: Sequence[str] = HYPER_FEATURES,
    norm: Norm = OVER_ALL,
    fused_from: int = LARGE,
) -> jax.Array:
    """A Haiku function: an MLP on the HYPER_FEATURES (or the first few) of one tensor, f32[*P, sizes[-1]].

    Its parameters are `w0__0` ... `w0__13`, one for each feature, `b0`, and `w1`, `b1`, ...
    """
    init = hk.initializers.TruncatedNormal(1 / fan_in(HYPER_FEATURES, [tensor]) ** 0.5)
    rows = [channels(name, tensor.acc) for name in features]
    w = [hk.get_parameter(f"w0__{i}", (n, sizes[0]), init=init) for i, n in enumerate(rows)]
    layers = [(jnp.concatenate(w), hk.get_parameter("b0", (sizes[0],), init=jnp.zeros))]
    layers += [dense(sizes[i - 1], sizes[i], str(i)) for i in range(1, len(sizes))]
    return per_parameter_mlp(features, [tensor], layers, None, norm, fused_from)[0]


def fan_in(features: Sequence[str], tensors: Sequence[Tensor], shared: jax.Array | None = None) -> int:
    """The number of inputs of the first layer."""
    per_parameter = sum(channels(name, tensors[0].acc) for name in features)
    return per_parameter + (0 if shared is None else shared.shape[-1])


def dummy_tensor(decays: Decays, shape: tuple[int, ...] = (1,)) -> Tensor:
    """A tensor for the init of a Haiku function."""
    zeros = jnp.zeros(shape)
    return make_tensor(zeros, zeros, init_accumulators(zeros, decays))


def direction(outputs: jax.Array, exp_mult: float) -> jax.Array:
    """A direction and the logarithm of a magnitude made one number: `o_0 exp(exp_mult o_1)`, f32[...]."""
    return outputs[..., 0] * jnp.exp(outputs[..., 1] * exp_mult)


def split_like(x: jax.Array, params: Any) -> Any:
    """Cuts f32[n_1 + ... + n_M, ...] into a tree like `params`, whose M leaves have n_1 ... n_M elements."""
    leaves, tree = jax.tree.flatten(params)
    ends = list(running_sum(p.size for p in leaves))
    parts = [x[end - p.size : end] for p, end in zip(leaves, ends, strict=True)]
    return tree.unflatten(
        [part.reshape(p.shape + x.shape[1:]) for part, p in zip(parts, leaves, strict=True)]
    )


def tree_like(steps: Sequence[jax.Array], params: Any) -> Any:
    """One array for each leaf, in the shapes of the leaves: scalars were tensors of shape [1]."""
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten([step.reshape(p.shape) for step, p in zip(steps, leaves, strict=True)])
