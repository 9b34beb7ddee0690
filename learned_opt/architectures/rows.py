"""The per-parameter network on one large tensor, without ever holding an array of its features.

Normalised features need their mean squares first: the tensor is read twice. The first time block by block
(`sum_over_blocks`), so that what is squared stays in the cache. The second time

* a narrow network is written out, number by number of its weights, as elementwise operations on
  arrays of the tensor's shape, which XLA makes one loop of: nothing is stored but the result;
* a wide one is applied block by block, features first: [inputs, parameters of a block].
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from itertools import accumulate as running_sum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import rsqrt

from learned_opt.architectures.features import FEATURES, LARGE, Norm, Tensor, channels, normalise

Layer = tuple[jax.Array, jax.Array]  # weights [inputs, outputs], bias [outputs]
BLOCK = 2**16  # elements of a block: 16 features of it are in the order of a core's cache
# Elements of a block that is summed. XLA hands sums over more than about 5,000 elements to a library, which
# takes three times as long as the loops that XLA makes itself of smaller ones.
SUMMED = 2**12
WRITTEN_OUT = 320  # multiplications of a network that is written out; more cost seconds of compile time


def by_size(features: Sequence[str], vector: bool = False) -> list[list[str]]:
    """The features that vary everywhere, then those by row, if any, and those by column, if any.

    Of a vector (True) all vary everywhere.
    """
    varies = {name: "everywhere" if vector else FEATURES[name].varies for name in features}
    groups = [[n for n in features if varies[n] == v] for v in ("everywhere", "by row", "by col")]
    return [names for names in groups if names]


def weight_rows(features: Sequence[str], w: Any, tensor: Tensor) -> dict[str, Any]:
    """The rows of the first layer's weights, an array or a list of rows, that belong to each feature."""
    ends = list(running_sum(channels(name, tensor.acc) for name in features))
    return {name: w[start:end] for name, start, end in zip(features, [0, *ends], ends, strict=False)}


def normalised(tensor: Tensor, names: Sequence[str], norm: Norm) -> jax.Array:
    """Features of one tensor, normalised, f32[..., channels]."""
    return normalise(jnp.concatenate([FEATURES[name].of(tensor) for name in names], -1), norm)


class Numbers(NamedTuple):
    """The numbers of an MLP one by one, f32[] each.

    Attributes:
      weights: of each layer, `[i][j]` from input i to output j.
      biases: of each layer but the first.
    """

    weights: list[list[list[jax.Array]]]
    biases: list[list[jax.Array]]


def numbers_of(layers: Sequence[Layer]) -> Numbers:
    """Takes an MLP apart."""

    def parts(x):
        return [part.reshape(()) for part in jax.lax.split(x.reshape(-1), [1] * x.size)]

    def rows(w):
        flat, n = parts(w), w.shape[1]
        return [flat[i : i + n] for i in range(0, len(flat), n)]

    return Numbers([rows(w) for w, _ in layers], [parts(b) for _, b in layers[1:]])


def fused_mlp(
    features: Sequence[str],
    tensor: Tensor,
    layers: Sequence[Layer],
    norm: Norm,
    numbers: Callable[[], Numbers] | None = None,
) -> jax.Array:
    """An MLP (relu) on the normalised features of every parameter of one tensor, f32[*P, outputs].

    Args:
      features: names in FEATURES, in the order of the first layer's weights.
      tensor: of shape P.
      layers: of the MLP.
      norm: how each feature is normalised.
      numbers: gives `numbers_of(layers)`, where other tensors have the same weights; the first bias may
        differ. Half of a program is otherwise made of taking the weights apart.
    """
    (w, b), *layers = layers
    shape = tensor.grad.shape
    axes = norm.axes(len(shape))
    everywhere, *narrow = by_size(features, vector=tensor.acc.col is None)
    rows = weight_rows(features, w, tensor)

    squares = sum_over_blocks(
        lambda t: [jnp.sum(x * x, axes[:-1], keepdims=True) for x in planes(t, everywhere)],
        lambda sums: jnp.concatenate([jnp.sum(x, axes[-1], keepdims=True) for x in sums], -1),
        tensor,
        shape,
        axes,
    )
    count = math.prod(shape[axis] for axis in axes)
    scales = rsqrt(norm.eps + squares / count)  # f32[..., channels], where ... is of size 1 along the axes
    # Not yet their sum, which is as large as the tensor.
    biases = [normalised(tensor, names, norm) @ jnp.concatenate([rows[n] for n in names]) for names in narrow]
    biases += [b.reshape(*(1,) * len(shape), -1)]

    multiplications = scales.shape[-1] * w.shape[-1] + sum(w.size for w, _ in layers)
    if multiplications <= WRITTEN_OUT:
        found = numbers_of([(w, b), *layers]) if numbers is None else numbers()
        return _written_out(features, tensor, everywhere, scales, biases, found)

    # The scales move into the weights.
    w = scales[..., None] * jnp.concatenate([rows[n] for n in everywhere])

    def of_block(block):
        t, w, biases = block
        return _by_products(planes(t, everywhere), w, biases, layers)

    return map_over_blocks(of_block, (tensor, w, biases), shape, layers[-1][0].shape[1], axes)


def planes(tensor: Tensor, names: Sequence[str]) -> list[jax.Array]:
    """The channels of features one by one, f32[*P, 1] each."""
    counts = [channels(name, tensor.acc) for name in names]

    def channel(c):  # alone, or of accumulators with a single channel that one
        acc, factors = jax.tree.map(lambda a: a[..., min(c, a.shape[-1] - 1), None], whole)
        return tensor._replace(acc=acc, factors=factors)

    whole = tensor.acc, tensor.factors
    of_channel = [channel(c) for c in range(max(counts))]
    return [
        FEATURES[n].of(of_channel[c]) for n, count in zip(names, counts, strict=True) for c in range(count)
    ]


def _written_out(features, tensor, everywhere, scales, biases, numbers):
    """Every array keeps a last axis of length 1, because XLA splits a loop that has many reshapes."""

    def total(terms):
        return functools.reduce(operator.add, terms)

    def apart(x):
        return jax.lax.split(x, [1] * x.shape[-1], x.ndim - 1)

    x = [x * scale for x, scale in zip(planes(tensor, everywhere), apart(scales), strict=True)]
    rows = weight_rows(features, numbers.weights[0], tensor)
    weights = [row for name in everywhere for row in rows[name]]
    biases = [total(b) for b in zip(*map(apart, biases), strict=True)]
    x = [total(x * row[j] for x, row in zip(x, weights, strict=True)) + b for j, b in enumerate(biases)]
    for w, b in zip(numbers.weights[1:], numbers.biases, strict=True):
        x = [jax.nn.relu(x) for x in x]
        x = [total(x * row[j] for x, row in zip(x, w, strict=True)) + b for j, b in enumerate(b)]
    return jnp.concatenate(x, -1)


def _by_products(x, w, biases, layers):
    x = jnp.stack([x[..., 0] for x in x])  # [channels, *block]: long rows, which matrix products like
    x = jnp.einsum("c...,...ch->h...", x, w) + sum(jnp.moveaxis(b, -1, 0) for b in biases)
    for w, b in layers:
        x = jnp.tensordot(w, jax.nn.relu(x), ((0,), (0,))) + b.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.moveaxis(x, 0, -1)


def tensor_means(of: Callable[[Tensor], Sequence[jax.Array]], tensor: Tensor) -> jax.Array:
    """The means over one tensor of the channels of some arrays; those of a large one are made block by block.

    Args:
      of: a block of the tensor -> its part of the arrays f32[*P, n_1], f32[*P, n_2], ...
      tensor: of shape P.

    Returns:
      f32[n_1 + n_2 + ...].
    """
    shape = tensor.grad.shape
    axes = tuple(range(len(shape)))
    if tensor.grad.size < LARGE:
        return jnp.concatenate([jnp.mean(x, axes) for x in of(tensor)])

    def of_block(t):
        channels = [x[..., c] for x in of(t) for c in range(x.shape[-1])]
        return [jnp.sum(x, axes[:-1], keepdims=True) for x in channels]

    def finish(sums):
        return jnp.stack([jnp.sum(x) for x in sums])

    return sum_over_blocks(of_block, finish, tensor, shape, axes) / tensor.grad.size


def array_mean(x: jax.Array) -> jax.Array:
    """The mean of an array; block by block of a large one.

    XLA's library for sums would take in everything that makes the array, at which it is much slower.
    """
    if x.size < LARGE:
        return jnp.mean(x)
    axes = tuple(range(x.ndim))
    leading = functools.partial(jnp.sum, axis=axes[:-1], keepdims=True)
    return sum_over_blocks(leading, jnp.sum, x, x.shape, axes) / x.size


def sum_over_blocks(
    of_block: Callable[[Any], Any], finish: Callable[[Any], jax.Array], whole: Any, shape: Sequence[int], axes
) -> jax.Array:
    """The sum of `finish(of_block(block))` over blocks of `whole`, which differ along one of `axes`.

    On a GPU or TPU, which has no cache to keep blocks in, `whole` is the only block.

    Args:
      of_block: a block of `whole` -> a pytree of arrays. The blocks are as in `whole`, but shorter along one
        axis.
      finish: what is still to be done, a linear function; it is called on sums over blocks of one size.
      whole: a pytree. Arrays whose axis is as long as `shape` says are cut, all else is in every block.
      shape: of the tensor.
      axes: which axes may be cut.
    """
    axis, size = _cut(shape, axes, SUMMED)
    count, rest = divmod(shape[axis], size)

    def in_blocks(whole):
        def at(start, size):
            return of_block(_block(whole, shape, axis, start, size))

        def body(total, i):
            return jax.tree.map(jnp.add, total, at(rest + i * size, size)), None

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: at(0, size)))
        total = finish(jax.lax.scan(body, zeros, jnp.arange(count))[0])
        return total + finish(at(0, rest)) if rest else total

    return jax.lax.platform_dependent(whole, cpu=in_blocks, default=lambda whole: finish(of_block(whole)))


def map_over_blocks(
    of_block: Callable[[Any], jax.Array], whole: Any, shape: Sequence[int], outputs: int, axes
) -> jax.Array:
    """f32[*shape, outputs], put together from `of_block(block)` of the blocks as in `sum_over_blocks`."""
    axis, size = _cut(shape, axes, BLOCK)

    def put(out, start, size):
        return jax.lax.dynamic_update_slice_in_dim(
            out, of_block(_block(whole, shape, axis, start, size)), start, axis
        )

    out, rest = jnp.zeros((*shape, outputs), jnp.float32), shape[axis] % size
    if rest:
        out = put(out, 0, rest)
    count = shape[axis] // size
    return jax.lax.scan(lambda out, i: (put(out, rest + i * size, size), None), out, jnp.arange(count))[0]


def _cut(shape: Sequence[int], axes: Sequence[int], elements: int) -> tuple[int, int]:
    """The axis to cut, and how long the pieces are: about so many elements, if possible without a rest."""
    slices = {axis: math.prod(shape) // shape[axis] for axis in axes}  # elements of a slice
    axis = next((a for a in axes if slices[a] <= elements), min(slices, key=lambda axis: slices[axis]))
    most = min(shape[axis], max(1, elements // slices[axis]))
    return axis, next((n for n in range(most, most // 2, -1) if shape[axis] % n == 0), most)


def _block(whole: Any, shape: Sequence[int], axis: int, start: Any, size: int) -> Any:
    def cut(x):
        if jnp.ndim(x) <= axis or jnp.shape(x)[axis] != shape[axis]:
            return x
        return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

    return jax.tree.map(cut, whole)
