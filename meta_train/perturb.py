"""Gaussian noise shaped like theta, and the little tree arithmetic that estimators need."""

import math
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def gaussian_like(key: jax.Array, tree: Tree) -> Tree:
    """Independent N(0, 1) noise in the shapes and dtypes of `tree`. The key is consumed.

    One draw for the whole tree, cut into leaves: the same key gives the same noise wherever it is
    called, so an estimator may keep the key instead of the noise.
    """
    leaves, treedef = jax.tree.flatten(tree)
    sizes = [math.prod(jnp.shape(x)) for x in leaves]
    flat = jax.random.normal(key, (sum(sizes),))
    parts, offset = [], 0
    for x, size in zip(leaves, sizes, strict=True):
        parts.append(flat[offset : offset + size].reshape(jnp.shape(x)).astype(jnp.result_type(x)))
        offset += size
    return treedef.unflatten(parts)


def add(a: Tree, b: Tree) -> Tree:
    """`a + b`, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)


def scale(c: Any, a: Tree) -> Tree:
    """`c * a` in the dtypes of `a`, leaf by leaf. `c` is a scalar."""
    return jax.tree.map(lambda x: jnp.asarray(c, x.dtype) * x, a)


def add_scaled(a: Tree, c: Any, b: Tree) -> Tree:
    """`a + c * b` in the dtypes of `a`, leaf by leaf. `c` is a scalar."""
    return jax.tree.map(lambda x, y: x + jnp.asarray(c, x.dtype) * y, a, b)


def where(condition: jax.Array, a: Tree, b: Tree) -> Tree:
    """`a` if `condition` (bool[]) else `b`, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def zeros_like(a: Tree) -> Tree:
    """Zeros in the shapes and dtypes of `a`."""
    return jax.tree.map(jnp.zeros_like, a)


def stack(*trees: Tree) -> Tree:
    """Trees of equal structure, stacked on a new leading axis."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def sq_norm(a: Tree) -> jax.Array:
    """f32[]: the sum of squares of all leaves."""
    return sum((jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(a)), jnp.zeros([]))


SKETCH = 32


def sketch(tree: Tree) -> jax.Array:
    """f32[32]: a linear count sketch, whose squared distances estimate those of the trees.

    E |sketch(a) - sketch(b)|^2 = |a - b|^2, with a relative standard deviation of at most
    sqrt(2 / 32) = 25 %, for the price of 32 numbers instead of a copy of the tree.
    """
    flat = jnp.concatenate([x.astype(jnp.float32).reshape(-1) for x in jax.tree.leaves(tree)])
    signs = jax.random.rademacher(jax.random.key(0), flat.shape, jnp.float32)
    padded = jnp.pad(flat * signs, (0, -flat.size % SKETCH))
    return padded.reshape(-1, SKETCH).sum(0)
