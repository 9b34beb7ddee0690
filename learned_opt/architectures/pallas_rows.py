"""The per-parameter network on a large matrix as two Pallas kernels: statistics, then outputs.

`fused_mlp` stands in for `rows.fused_mlp`, which is its reference and takes over what is not a matrix, is
normalised over something else than all of it, or has a wide network. Chosen by `adafac_mlp(kernel="pallas")`.
Tested in interpret mode only: it has not run on a GPU or a TPU yet, so it is not the default on any.
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.lax import rsqrt

from learned_opt.architectures import rows
from learned_opt.architectures.features import FEATURES, Norm, Tensor, channels
from learned_opt.architectures.rows import Layer, by_size, normalised, weight_rows

TILE = (64, 128)  # of the matrix, for each program; powers of two


def fused_mlp(
    features: Sequence[str],
    tensor: Tensor,
    layers: Sequence[Layer],
    norm: Norm,
    interpret: bool | None = None,
) -> jax.Array:
    """As `rows.fused_mlp`, f32[*P, outputs].

    Args:
      features: names in FEATURES, in the order of the first layer's weights.
      tensor: of shape P.
      layers: of the MLP.
      norm: how each feature is normalised.
      interpret: run the kernels as plain JAX; None: where there is no GPU or TPU.
    """
    (w, b), *rest = layers
    everywhere, *narrow = by_size(features, vector=tensor.acc.col is None)
    multiplications = w.size + sum(w.size for w, _ in rest)
    if tensor.grad.ndim != 2 or norm.axes(2) != (0, 1) or multiplications > rows.WRITTEN_OUT:
        return rows.fused_mlp(features, tensor, layers, norm)
    interpret = jax.default_backend() == "cpu" if interpret is None else interpret
    of = weight_rows(features, w, tensor)
    names = [(name, c) for name in everywhere for c in range(channels(name, tensor.acc))]
    read, inputs = _inputs(tensor)
    shape = tensor.grad.shape

    squares = _call(
        partial(_squares, read, names, shape),
        inputs,
        shape,
        (len(names),),
        per_tile=True,
        interpret=interpret,
    )
    scale = rsqrt(norm.eps + squares.sum((1, 2)) / math.prod(shape))
    first = scale[:, None] * jnp.concatenate([of[n] for n in everywhere])
    biases = [normalised(tensor, ns, norm) @ jnp.concatenate([of[n] for n in ns]) for ns in narrow]
    biases = [jnp.moveaxis(x, -1, 0) for x in (*biases, b.reshape(1, 1, -1))]  # f32[hidden, rows, cols]
    weights = [first, *(x for layer in rest for x in (layer[0], layer[1].reshape(1, -1)))]
    kernel = partial(_outputs, read, names, len(inputs), len(biases))
    out = _call(
        kernel, [*inputs, *biases], shape, (rest[-1][0].shape[1],), weights=weights, interpret=interpret
    )
    return jnp.moveaxis(out, 0, -1)


def _inputs(t: Tensor) -> tuple[Any, list[jax.Array]]:
    """A function from blocks to the Tensor of one channel, and the arrays, by channel, that are cut."""
    parts = {"momentum": t.acc.momentum, "rms": t.acc.rms, "row": t.factors[0], "col": t.factors[1]}
    counts = {name: 0 if x is None else x.shape[-1] for name, x in parts.items()}
    arrays = [t.grad, t.param]
    arrays += [parts[name][..., c] for name, n in counts.items() for c in range(n)]
    starts = dict(zip(counts, accumulate([2, *counts.values()]), strict=False))

    def read(blocks, c):
        def part(name):
            n = counts[name]
            return blocks[starts[name] + min(c, n - 1)][..., None] if n else None

        row, col = part("row"), part("col")  # in `acc` they only say that this is not a vector
        acc = t.acc._replace(momentum=part("momentum"), rms=part("rms"), row=row, col=col)
        return t._replace(grad=blocks[0], param=blocks[1], acc=acc, factors=(row, col))

    return read, arrays


def _planes(read, names, refs):
    blocks = [ref[...] for ref in refs]
    return [FEATURES[name].of(read(blocks, c))[..., 0] for name, c in names]


def _squares(read, names, shape, *refs):
    *refs, out = refs
    position = [
        pl.program_id(axis) * TILE[axis] + jax.lax.broadcasted_iota(jnp.int32, TILE, axis) for axis in (0, 1)
    ]
    inside = (position[0] < shape[0]) & (position[1] < shape[1])  # a tile may hang over the edge
    for i, x in enumerate(_planes(read, names, refs)):
        out[i, 0, 0] = jnp.sum(jnp.where(inside, x * x, 0.0))


def _outputs(read, names, num_inputs, num_biases, *refs):
    *refs, out = refs
    biases, (w, *rest) = refs[num_inputs : num_inputs + num_biases], refs[num_inputs + num_biases :]
    x = _planes(read, names, refs[:num_inputs])
    x = [
        sum(x * w[i, j] for i, x in enumerate(x)) + sum(b[j, :, :] for b in biases) for j in range(w.shape[1])
    ]
    for w, b in zip(rest[::2], rest[1::2], strict=True):
        x = [jnp.maximum(x, 0.0) for x in x]
        x = [sum(x * w[i, j] for i, x in enumerate(x)) + b[0, j] for j in range(w.shape[1])]
    for j, unit in enumerate(x):
        out[j, :, :] = unit


def _call(kernel, tiled, shape, leading, *, weights=(), per_tile=False, interpret):
    """One program for each tile: of arrays [rows, cols] or [n, rows, cols], either of which may be 1."""
    grid = tuple(-(-size // tile) for size, tile in zip(shape, TILE, strict=True))

    def spec(x):
        *lead, r, c = x.shape
        block = (*lead, *(1 if n == 1 else tile for n, tile in zip((r, c), TILE, strict=True)))
        moves = r != 1, c != 1
        return pl.BlockSpec(block, lambda i, j: (*(0 for _ in lead), i * moves[0], j * moves[1]))

    whole = [pl.BlockSpec(x.shape, lambda i, j, n=x.ndim: (0,) * n) for x in weights]
    tile = (1, 1) if per_tile else TILE
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[*map(spec, tiled), *whole],
        out_specs=pl.BlockSpec((*leading, *tile), lambda i, j: (0, i, j)),
        out_shape=jax.ShapeDtypeStruct((*leading, *(grid if per_tile else shape)), jnp.float32),
        interpret=interpret,
    )(*tiled, *weights)
