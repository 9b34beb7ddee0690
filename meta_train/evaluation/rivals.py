"""Rivals that optax does not have as their authors use them: Muon, SOAP, ADOPT and cautious AdamW."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

MATCHED_RMS = 0.2  # RMS of an Adam update of rate 1, roughly
EMBEDDING = re.compile(r"embed|\bpos(ition\w*)?\b", re.IGNORECASE)
OUTPUT = re.compile(r"\b(\w+_)?(head|output|readout|classifier|logits?)(_layer)?\b", re.IGNORECASE)
INSIDE = re.compile(r"attention|attn|block", re.IGNORECASE)  # the output of a part is a hidden layer


def muon_labels(params: Any) -> Any:
    """Which leaves Muon orthogonalises: "muon" or "adam" for each.

    "muon" are the leaves of two and more axes, except embeddings, positions and output layers. These are
    known by a word of the leaf's path: "embed..." or "position" for the former; "head", "output", "readout",
    "classifier" or "logits", outside of what is called attention or block, for the latter. If no path names
    an output layer, the last matrix of two axes is taken to be it, the paths being in natural order
    (`linear_10` after `linear_9`), unless it is the only one.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    axes = {jax.tree_util.keystr(path): leaf.ndim for path, leaf in leaves}
    outputs = {path for path in axes if OUTPUT.search(path) and not INSIDE.search(path)}
    adam = outputs | {path for path, ndim in axes.items() if ndim < 2 or EMBEDDING.search(path)}
    matrices = [path for path, ndim in axes.items() if ndim == 2 and path not in adam]
    if not outputs and len(matrices) > 1:
        adam.add(max(matrices, key=_natural))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: "adam" if jax.tree_util.keystr(path) in adam else "muon", params
    )


def matched_muon(rate: optax.Schedule, hyper: Any, num_steps: Any = None) -> optax.GradientTransformation:
    """Muon with matched RMS, and AdamW for everything that is not a hidden matrix.

    Hidden matrices: Nesterov momentum of .95, orthogonalised by five Newton-Schulz steps, times
    `.2 sqrt(max(rows, columns))`, so that the update has the RMS of Adam's. A convolution's kernel is the
    matrix of all its inputs by its outputs. See `muon_labels` for what is a hidden matrix.

    Args:
      rate: `(count) -> learning rate` of the matrices.
      hyper: "weight_decay", decoupled, of all leaves; "adam_rate", AdamW's rate over that of the matrices.
      num_steps: ignored.

    Source: Jordan 2024; the scaling of Liu et al. 2025.
    """
    del num_steps

    def axes(params):
        last = jax.tree.map(lambda p: (tuple(range(p.ndim - 1)), p.ndim - 1), params)
        return jax.tree.map(
            lambda pair: contrib.MuonDimensionNumbers(*pair), last, is_leaf=lambda x: type(x) is tuple
        )

    def scaled(update):
        columns = update.shape[-1]
        return MATCHED_RMS * max(update.size // columns, columns) ** 0.5 * update

    matrices = optax.chain(
        contrib.scale_by_muon(weight_dimension_numbers=axes),
        optax.stateless(lambda updates, params: jax.tree.map(scaled, updates)),
        optax.add_decayed_weights(hyper["weight_decay"]),
        optax.scale_by_learning_rate(rate),
    )
    others = optax.adamw(lambda count: hyper["adam_rate"] * rate(count), weight_decay=hyper["weight_decay"])
    return optax.partition({"muon": matrices, "adam": others}, muon_labels)


class SoapLeaf(NamedTuple):
    """State of one leaf: momentum, second moment in the eigenbasis, and for each axis `outer` [d, d], the
    average of G G^T over that axis, with its eigenbasis `basis` [d, d]; None for an axis without one."""

    momentum: jax.Array
    second: jax.Array
    outer: tuple[jax.Array | None, ...]
    basis: tuple[jax.Array | None, ...]


def scale_by_soap(
    *, beta: float = 0.95, every: int = 10, eps: float = 1e-8, limit: int = 10_000
) -> optax.GradientTransformation:
    """SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's preconditioner.

    Per axis of a leaf of two and more axes, L is the moving average of G G^T (the other axes flattened), Q
    its
    eigenvectors: by an eigendecomposition at the first step, which updates nothing else, and then every
    `every` steps by one power iteration and a QR decomposition, columns in descending order of Q^T L Q.
    Adam's second moment is kept in that basis, its momentum in the parameters' own. Leaves of one axis have
    plain Adam. The state is f32.

    Args:
      beta: of the momentum, the second moment and the preconditioner.
      every: steps between two refreshes of the bases.
      eps: added to Adam's denominator.
      limit: axes longer than this are not preconditioned.
    """

    def init(params):
        def one(p):
            zeros = jnp.zeros(p.shape, jnp.float32)
            sizes = [n if p.ndim > 1 and n <= limit else 0 for n in p.shape]
            outer = tuple(jnp.zeros((n, n), jnp.float32) if n else None for n in sizes)
            return SoapLeaf(zeros, zeros, outer, tuple(jnp.eye(n) if n else None for n in sizes))

        return jnp.zeros([], jnp.int32), jax.tree.map(one, params)

    def update(updates, state, params=None):
        del params
        count, leaves = state

        def one(g, leaf):
            return _soap_leaf(g.astype(jnp.float32), leaf, count, beta, every, eps)

        pairs = jax.tree.map(one, updates, leaves)
        steps, leaves = (jax.tree.map(lambda g, pair, i=i: pair[i], updates, pairs) for i in (0, 1))
        return jax.tree.map(lambda s, g: s.astype(g.dtype), steps, updates), (count + 1, leaves)

    return optax.GradientTransformation(init, update)


def _soap_leaf(g, leaf: SoapLeaf, count, beta, every, eps):
    """The step of one leaf, f32 of its shape, and its new state."""
    plain = all(q is None for q in leaf.basis)
    done = count + 1 if plain else jnp.maximum(count, 1)  # the first step of the others only fills the bases
    correction = 1 - beta**done
    momentum = beta * leaf.momentum + (1 - beta) * g
    second = beta * leaf.second + (1 - beta) * _rotate(g, leaf.basis) ** 2
    step = _rotate(momentum, leaf.basis) / correction / (jnp.sqrt(second / correction) + eps)
    if plain:
        return step, SoapLeaf(momentum, second, leaf.outer, leaf.basis)
    step = _rotate(step, [None if q is None else q.T for q in leaf.basis])
    step, momentum, second = (
        jnp.where(count == 0, old, new)
        for old, new in ((0.0, step), (leaf.momentum, momentum), (leaf.second, second))
    )
    outer = tuple(
        None if m is None else beta * m + (1 - beta) * _outer(g, axis) for axis, m in enumerate(leaf.outer)
    )
    second, basis = jax.lax.switch(
        jnp.where(count == 0, 1, jnp.where(count % every == 0, 2, 0)),
        (lambda s, q: (s, q), lambda s, q: (s, _eigenbases(outer)), lambda s, q: _power_step(outer, q, s)),
        second,
        leaf.basis,
    )
    return step, SoapLeaf(momentum, second, outer, basis)


def _rotate(x, basis):
    """x with each axis multiplied by its basis transposed: Q_L^T x Q_R for a matrix."""
    for axis, q in enumerate(basis):
        if q is not None:
            x = jnp.moveaxis(jnp.tensordot(x, q, (axis, 0)), -1, axis)
    return x


def _outer(g, axis):
    rows = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return rows @ rows.T


# One matrix at a time: batches of them wait for each other for ever in the threads of a CPU (jaxlib 0.10.2).
_eigenvectors = jax.custom_batching.sequential_vmap(lambda m: jnp.linalg.eigh(m)[1][:, ::-1])
_orthonormal = jax.custom_batching.sequential_vmap(lambda m: jnp.linalg.qr(m)[0])


def _eigenbases(outer):
    return tuple(None if m is None else _eigenvectors(m) for m in outer)


def _power_step(outer, basis, second):
    """The second moment in the new order of the columns, and the new bases."""
    new = []
    for axis, (m, q) in enumerate(zip(outer, basis, strict=True)):
        if m is not None:
            order = jnp.argsort(-jnp.einsum("ij,ik,kj->j", q, m, q))
            second = jnp.take(second, order, axis)
            q = _orthonormal(m @ q[:, order])
        new.append(q)
    return second, tuple(new)


def soap(rate: optax.Schedule, weight_decay: Any = 0.01, **options: Any) -> optax.GradientTransformation:
    """`scale_by_soap` with a rate and decoupled weight decay."""
    return _with_rate(scale_by_soap(**options), rate, weight_decay)


def adopt(rate: optax.Schedule, weight_decay: Any = 0.0) -> optax.GradientTransformation:
    """ADOPT (Taniguchi et al. 2024) of optax, with decoupled weight decay."""
    return _with_rate(contrib.scale_by_adopt(), rate, weight_decay)


def cautious_adamw(rate: optax.Schedule, weight_decay: Any = 0.01) -> optax.GradientTransformation:
    """AdamW that leaves out the elements whose step has not the sign of the gradient (Liang et al. 2024).

    The elements that are left are scaled up by the share of elements that were, per leaf.
    """
    adam = optax.scale_by_adam()

    def masked(update, gradient):
        keep = (update * gradient > 0).astype(update.dtype)
        return update * keep / jnp.maximum(keep.mean(), 1e-3)

    def update(updates, state, params=None):
        steps, state = adam.update(updates, state, params)
        return jax.tree.map(masked, steps, updates), state

    return _with_rate(optax.GradientTransformation(adam.init, update), rate, weight_decay)


def _with_rate(direction: optax.GradientTransformation, rate: optax.Schedule, weight_decay: Any):
    decayed = optax.add_decayed_weights(weight_decay)
    return optax.chain(direction, decayed, optax.scale_by_learning_rate(rate))


def _natural(path: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]
