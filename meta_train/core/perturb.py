"""Gaussian noise shaped like theta, and the little tree arithmetic that estimators need."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def gaussian_like(key: jax.Array, tree: Tree) -> Tree:
    """Independent N(0, 1) noise in the shapes and dtypes of `tree`. The key is consumed.

    One draw for the whole tree, cut into leaves: the same key gives the same noise wherever it is
    called, so an estimator may keep the key instead of the noise.
    """
    return unflatten(jax.random.normal(key, (size(tree),)), tree)


def unflatten(flat: jax.Array, tree: Tree) -> Tree:
    """f32[P] cut into the shapes and dtypes of `tree`, which holds P numbers.

    Raises:
      ValueError: a leaf that cannot hold a small perturbation: not a float, or narrower than float32.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        kind = jnp.result_type(x)
        if not jnp.issubdtype(kind, jnp.floating) or jnp.finfo(kind).nmant < 23:
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "theta itself"
            raise ValueError(f"theta must be float32 or wider to be perturbed, got {kind} at {name}")
    leaves, treedef = jax.tree.flatten(tree)
    parts, offset = [], 0
    for x in leaves:
        end = offset + math.prod(jnp.shape(x))
        parts.append(flat[offset:end].reshape(jnp.shape(x)).astype(jnp.result_type(x)))
        offset = end
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


def mix(decay: float, a: Tree, b: Tree) -> Tree:
    """`decay * a + (1 - decay) * b` in the dtypes of `a`, leaf by leaf."""
    return jax.tree.map(lambda x, y: (decay * x + (1 - decay) * y).astype(x.dtype), a, b)


def where(condition: jax.Array, a: Tree, b: Tree) -> Tree:
    """`a` if `condition` (bool[]) else `b`, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def zeros_like(a: Tree) -> Tree:
    """Zeros in the shapes and dtypes of `a`."""
    return jax.tree.map(jnp.zeros_like, a)


def stack(*trees: Tree) -> Tree:
    """Trees of equal structure, stacked on a new leading axis."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def dot(a: Tree, b: Tree) -> jax.Array:
    """f32[]: the sum of products of all leaves."""
    products = jax.tree.map(lambda x, y: jnp.vdot(x.astype(jnp.float32), y.astype(jnp.float32)), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros([]))


def sq_norm(a: Tree) -> jax.Array:
    """f32[]: the sum of squares of all leaves."""
    return sum((jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(a)), jnp.zeros([]))


SKETCH = 31  # a prime number: the columns of a matrix do not fall into one bucket


def sketch(tree: Tree) -> jax.Array:
    """f32[31]: a linear count sketch, whose squared distances estimate those of the trees.

    E |sketch(a) - sketch(b)|^2 = |a - b|^2, with a relative standard deviation of about
    sqrt(2 / 31) = 25 %, for the price of 31 numbers instead of a copy of the tree. Exact for
    trees of up to 31 numbers.
    """
    flat = jnp.concatenate([x.astype(jnp.float32).reshape(-1) for x in jax.tree.leaves(tree)])
    signs = jax.random.rademacher(jax.random.key(0), flat.shape, jnp.float32)
    padded = jnp.pad(flat * signs, (0, -flat.size % SKETCH))
    return padded.reshape(-1, SKETCH).sum(0)


GROUP = 2**17


def in_groups(fn: Callable[..., tuple[Tree, Tree]], size: int) -> Callable[..., tuple[Tree, Tree]]:
    """`fn(kept, *args) -> (kept, out)`, whose vmap works through a large batch group by group.

    Drawing random numbers takes several times the memory of the numbers. With groups of about
    `GROUP` numbers that is spent for one group at a time, and `kept` is updated in place.

    Args:
      fn: for one member of the batch; drawing is its work.
      size: how many numbers one call draws.
    """
    grouped = jax.custom_batching.custom_vmap(fn)

    @grouped.def_vmap
    def rule(axis_size, in_batched, kept, *args):
        leaves, treedef = jax.tree.flatten(args)
        kept_batched, *args_batched = in_batched
        batched = jax.tree.leaves(args_batched)
        kept = jax.tree.map(
            lambda x, b: x if b else jnp.broadcast_to(x, (axis_size, *x.shape)), kept, kept_batched
        )
        call = jax.vmap(
            lambda kept, *xs: fn(kept, *treedef.unflatten(xs)), (0, *(0 if b else None for b in batched))
        )
        group = max(
            g for g in range(1, axis_size + 1) if axis_size % g == 0 and (g == 1 or g * size <= GROUP)
        )

        def rows(tree, i):
            return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * group, group), tree)

        def one_group(i, kept, *xs):
            return call(rows(kept, i), *(rows(x, i) if b else x for x, b in zip(xs, batched, strict=True)))

        def body(i, whole):
            kept, _ = whole
            part = one_group(i, kept, *leaves)
            return jax.tree.map(
                lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, i * group, 0), whole, part
            )

        if group == axis_size:
            result = call(kept, *leaves)
        else:
            _, out = jax.eval_shape(call, kept, *leaves)
            empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out)
            result = jax.lax.fori_loop(0, axis_size // group, body, (kept, empty))
        return result, jax.tree.map(lambda _: True, result)

    return grouped


def size(tree: Tree) -> int:
    """How many numbers a tree holds."""
    return sum(math.prod(jnp.shape(x)) for x in jax.tree.leaves(tree))


def antithetic(theta: Tree, eps: Tree) -> Tree:
    """theta + eps and theta - eps, stacked on a new leading axis of 2."""
    return jax.tree.map(lambda x, e: jnp.stack([x + e, x - e]), theta, eps)
