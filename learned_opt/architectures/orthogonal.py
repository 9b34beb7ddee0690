"""Orthogonalised steps of matrices, as Muon takes them: which tensors are matrices, and how far they step."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from learned_opt.architectures.blocks import newton_schulz

Kind = Literal["matrix", "embedding", "vector"]


def kinds(params: Any, embeddings: str) -> list[Kind]:
    """What each leaf is, in JAX's flatten order.

    Tensors of rank 0 and 1 are vectors, and so are those with a single row or column; a tensor of higher rank
    is an embedding if its path has a match of `embeddings`, and a matrix otherwise.

    Args:
      params: tree of arrays.
      embeddings: regular expression, searched in the leaf's path, case ignored ("block_0/linear/w").
    """

    def kind(path, p) -> Kind:
        if p.ndim < 2 or p.size in (p.shape[-1], p.size // p.shape[-1]):
            return "vector"
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return "embedding" if re.search(embeddings, name, re.IGNORECASE) else "matrix"

    return [kind(path, p) for path, p in jax.tree_util.tree_leaves_with_path(params)]


def as_matrix(x: jax.Array) -> jax.Array:
    """f32[inputs, outputs]: the last axis is the output; all others together, a kernel's too, the input."""
    return x.reshape(-1, x.shape[-1])


def spectral_scale(shape: Sequence[int]) -> float:
    """`sqrt(max(1, outputs / inputs))`: such a step changes a layer's output by as much at any width."""
    outputs = shape[-1]
    return math.sqrt(max(1.0, outputs * outputs / math.prod(shape)))


def orthogonalised(tensors: Sequence[jax.Array], steps: int = 5) -> list[jax.Array]:
    """Each tensor, seen as a matrix, nearly the closest semi-orthogonal one, in the shape of the tensor.

    Tensors whose matrices have the same shape, transposed or not, are stacked: one program for all of them.
    """
    wide, shapes = {}, defaultdict(list)
    for i, x in enumerate(tensors):
        matrix = as_matrix(x)
        wide[i] = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        shapes[wide[i].shape].append(i)
    done: dict[int, jax.Array] = {}
    for members in shapes.values():
        found = newton_schulz(jnp.stack([wide[i] for i in members]), steps)
        done |= {i: found[j] for j, i in enumerate(members)}
    return [
        (done[i] if as_matrix(x).shape == done[i].shape else done[i].T).reshape(x.shape)
        for i, x in enumerate(tensors)
    ]


def equalised(step: jax.Array, mean_square: jax.Array) -> jax.Array:
    """The step, each output divided by the root of its mean square, its norm kept (NorMuon, Li 2025).

    Args:
      step: orthogonalised, f32[..., outputs].
      mean_square: f32[outputs], of earlier steps and this one.
    """
    scaled = step * jax.lax.rsqrt(mean_square + 1e-12)
    return scaled * (jnp.linalg.norm(step.reshape(-1)) / (jnp.linalg.norm(scaled.reshape(-1)) + 1e-12))


def mean_square_of_outputs(step: jax.Array) -> jax.Array:
    """f32[outputs]."""
    return jnp.mean(jnp.square(as_matrix(step)), 0)
