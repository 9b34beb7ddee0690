"""What learned optimizers look at: accumulators of the gradient, and features of one tensor made from them.

Shape letters: P is the shape of a parameter tensor (a scalar counts as a tensor of shape [1]), n the
number of decays. Accumulators and features carry their channels in the last axis.

A feature need not be as large as the tensor, only broadcastable to it: that of a factored
accumulator varies along the rows or the columns, and is kept at that size until it has passed the
first layer of the network.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import rsqrt

from learned_opt.architectures.options import StateDtype
from learned_opt.architectures.rounding import stochastic_bfloat16

TIMESCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)  # in steps
FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)  # of the inner training

LARGE = 2**16  # elements of a tensor that is worth treating in a way that compiles more slowly


class Decays(NamedTuple):
    """Decays of the accumulators per step, each a sequence of n numbers or f32[n]; () for none."""

    momentum: Any = ()
    rms: Any = ()
    factored: Any = ()


class Accumulators(NamedTuple):
    """Running means of one tensor's gradient, without bias correction; None where there is no decay.

    Attributes:
      momentum: f32[*P, n] (or bf16, in a state), of g.
      rms: f32[*P, n] (or bf16), of g^2.
      row: f32[*P, n] but of size 1 along the largest axis, over which g^2 is averaged. For a
        vector, f32[*P, n]: nothing is factored.
      col: as `row`, along the second largest axis; None for a vector.
    """

    momentum: Any
    rms: Any
    row: Any
    col: Any


class Tensor(NamedTuple):
    """What the features of one tensor are computed from.

    Attributes:
      grad: f32[*P].
      param: f32[*P], before the update.
      acc: accumulators that have seen `grad`.
      factors: Adafactor's 1 / sqrt(v), f32[*P, n], as the product of two arrays, each of size 1 along an
        axis; None for a vector.
      rms_eps: added to g^2's running mean before its root.
      diag_eps: the same for the unfactored accumulator of a vector.
    """

    grad: jax.Array
    param: jax.Array
    acc: Accumulators
    factors: Any
    rms_eps: float = 1e-6
    diag_eps: float = 1e-6


class State(NamedTuple):
    """State of an optimizer that looks at nothing else.

    Attributes:
      count: i32[], the number of updates so far.
      acc: for each leaf of the parameters, its Accumulators.
    """

    count: jax.Array
    acc: Any


class Feature(NamedTuple):
    """`of(tensor) -> f32[..., channels]`.

    Attributes:
      of: the function.
      like: the accumulator that it has the channels of; "grad" for a single channel.
      varies: along which axes of a matrix; what does not vary everywhere is of size 1 along the others.
    """

    of: Callable[[Tensor], jax.Array]
    like: Literal["grad", "momentum", "rms", "row"] = "grad"
    varies: Literal["everywhere", "by row", "by col"] = "everywhere"


def init_state(params: Any, decays: Decays | Sequence[Decays], dtype: StateDtype = "float32") -> State:
    """The state before the first update; `decays` are of all leaves, or of each in JAX's flatten order."""
    leaves, tree = jax.tree.flatten(params)
    acc = [init_accumulators(p, d) for p, d in zip(leaves, _for_each(decays, leaves), strict=True)]
    return State(jnp.zeros([], jnp.int32), tree.unflatten([_narrow(a, dtype) for a in acc]))


def observe(
    grads: Any, state: State, params: Any, decays: Decays | Sequence[Decays], **eps: float
) -> tuple[list[Tensor], State]:
    """The tensors of `params` in JAX's flatten order, seen with `grads`, and the state after that.

    `eps` may be `rms_eps` and `diag_eps` of `Tensor`.
    """
    leaves, tree = jax.tree.flatten(params)
    tensors, accs = [], []
    each = (jax.tree.leaves(grads), leaves, tree.flatten_up_to(state.acc), _for_each(decays, leaves))
    for g, p, old, decay in zip(*each, strict=True):
        acc = _narrow(accumulate(widened(old), g, decay), _dtype_of(old), state.count)
        if g.size >= LARGE:
            acc = jax.lax.optimization_barrier(acc)  # else the old one stays too, and all is computed twice
        accs.append(acc)
        tensors.append(make_tensor(g, p, widened(acc))._replace(**eps))
    return tensors, State(state.count + 1, tree.unflatten(accs))


def _for_each(decays: Decays | Sequence[Decays], leaves: Sequence[Any]) -> Sequence[Any]:
    return [decays] * len(leaves) if isinstance(decays, Decays) else decays


def make_tensor(grad: jax.Array, param: jax.Array, acc: Accumulators) -> Tensor:
    """What the features of a tensor are computed from; a scalar becomes a vector."""
    return Tensor(jnp.atleast_1d(grad), jnp.atleast_1d(param), acc, _factors(acc))


def init_accumulators(param: jax.Array, decays: Decays) -> Accumulators:
    """Zero accumulators of one tensor."""
    shape = param.shape or (1,)
    axes = factored_axes(shape)

    def zeros(decay, collapsed=None):
        kept = tuple(1 if i == collapsed else size for i, size in enumerate(shape))
        return jnp.zeros((*kept, len(decay)), jnp.float32) if len(decay) else None

    momentum, rms = zeros(decays.momentum), zeros(decays.rms)
    if axes is None:
        return Accumulators(momentum, rms, zeros(decays.factored), None)
    return Accumulators(momentum, rms, zeros(decays.factored, axes[1]), zeros(decays.factored, axes[0]))


def widened(acc: Accumulators) -> Accumulators:
    """As float32, in which all is computed."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), acc)


def _dtype_of(acc: Accumulators) -> StateDtype:
    stored = [x.dtype for x in (acc.momentum, acc.rms) if x is not None]
    return "bfloat16" if jnp.bfloat16 in stored else "float32"


def _narrow(acc: Accumulators, dtype: StateDtype, count: Any = 0) -> Accumulators:
    if dtype == "float32":
        return acc
    momentum, rms = (
        None if x is None else stochastic_bfloat16(x, 2 * count + i)
        for i, x in enumerate((acc.momentum, acc.rms))
    )
    return acc._replace(momentum=momentum, rms=rms)


def accumulate(acc: Accumulators, grad: jax.Array, decays: Decays) -> Accumulators:
    """The accumulators after `grad` (f32[*P]): `a <- decay a + (1 - decay) x`."""
    g = grad.reshape(grad.shape or (1,))[..., None]
    squared = jnp.square(g)
    factored = squared + 1e-30
    axes = factored_axes(g.shape[:-1])

    def mean(acc, x, decay):
        decay = jnp.asarray(decay, jnp.float32)
        return None if acc is None else decay * acc + (1 - decay) * x

    rms, factor = jnp.clip(jnp.asarray(decays.rms), 0, 1), jnp.clip(jnp.asarray(decays.factored), 0, 1)
    momentum, rms = mean(acc.momentum, g, decays.momentum), mean(acc.rms, squared, rms)
    if axes is None:
        return Accumulators(momentum, rms, mean(acc.row, factored, factor), None)
    second, largest = axes
    row = mean(acc.row, jnp.mean(factored, largest, keepdims=True), factor)
    col = mean(acc.col, jnp.mean(factored, second, keepdims=True), factor)
    return Accumulators(momentum, rms, row, col)


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """The second largest and the largest axis (of equal ones, the later is the larger); None for a vector."""
    if len(shape) < 2:
        return None
    order = np.argsort(shape, kind="stable")
    return int(order[-2]), int(order[-1])


def preconditioner(tensor: Tensor) -> jax.Array:
    """Adafactor's 1 / sqrt(v) from the row and column means, f32[*P, n]. The tensor is not a vector."""
    row, col = tensor.factors
    return row * col


def _factors(acc: Accumulators) -> tuple[jax.Array, jax.Array] | None:
    if acc.row is None or acc.col is None:
        return None
    axes = factored_axes([max(sizes) for sizes in zip(acc.row.shape, acc.col.shape, strict=True)][:-1])
    assert axes is not None
    row = acc.row / (jnp.mean(acc.row, axes[0], keepdims=True) + 1e-9)
    return _safe_rsqrt(row), _safe_rsqrt(acc.col)


def _safe_rsqrt(x):
    return rsqrt(jnp.maximum(x, 1e-9))


def _is_vector(t: Tensor) -> bool:
    return t.acc.col is None


def _col(t: Tensor) -> jax.Array:
    return t.acc.row if _is_vector(t) else t.acc.col


def _factored_grad(t: Tensor) -> jax.Array:
    return t.grad[..., None] * (_safe_rsqrt(t.acc.row + 1e-9) if _is_vector(t) else preconditioner(t))


def _factored_momentum(t: Tensor) -> jax.Array:
    if not _is_vector(t):
        return t.acc.momentum * preconditioner(t)
    # The floor keeps the meta-gradient finite where g is 0 and diag_eps too.
    return t.acc.momentum * rsqrt(jnp.maximum(t.acc.row, 1e-24) + t.diag_eps)


def rsqrt_rms(t: Tensor) -> jax.Array:
    """RMSProp's 1 / sqrt(v), f32[*P, n]."""
    return rsqrt(t.acc.rms + t.rms_eps)


FEATURES = {
    "grad": Feature(lambda t: t.grad[..., None]),
    "clipped_grad": Feature(lambda t: jnp.clip(t.grad, -0.1, 0.1)[..., None]),
    "param": Feature(lambda t: t.param[..., None]),
    "log_abs_param": Feature(lambda t: jnp.log(jnp.abs(t.param) + 1e-8)[..., None]),
    "momentum": Feature(lambda t: t.acc.momentum, "momentum"),
    "rms": Feature(lambda t: t.acc.rms, "rms"),
    "adam": Feature(lambda t: t.acc.momentum * rsqrt_rms(t), "momentum"),
    "rsqrt_rms": Feature(rsqrt_rms, "rms"),
    "rms_grad": Feature(lambda t: t.grad[..., None] * rsqrt_rms(t), "rms"),
    "factored_grad": Feature(_factored_grad, "row"),
    "row": Feature(lambda t: t.acc.row, "row", "by row"),
    "col": Feature(_col, "row", "by col"),
    "rsqrt_row": Feature(lambda t: rsqrt(t.acc.row + 1e-8), "row", "by row"),
    "rsqrt_col": Feature(lambda t: rsqrt(_col(t) + 1e-8), "row", "by col"),
    "factored_momentum": Feature(_factored_momentum, "row"),
}


def channels(name: str, acc: Accumulators) -> int:
    """The number of channels of a feature."""
    like = FEATURES[name].like
    return 1 if like == "grad" else getattr(acc, like).shape[-1]


class Norm(NamedTuple):
    """How features are normalised: by their root mean square.

    Attributes:
      eps: added to the mean square.
      last: over how many last axes of a tensor the mean is taken; None for all.
    """

    eps: float = 1e-5
    last: int | None = None

    def axes(self, ndim: int) -> tuple[int, ...]:
        """The axes of a tensor of `ndim` axes that the mean is over."""
        return tuple(range(0 if self.last is None else max(0, ndim - self.last), ndim))


OVER_ALL = Norm()


def normalise(x: jax.Array, norm: Norm = OVER_ALL) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps)` of f32[*P, channels], channel by channel."""
    return x * rsqrt(norm.eps + jnp.mean(jnp.square(x), norm.axes(x.ndim - 1), keepdims=True))


def time_embedding(count: jax.Array) -> jax.Array:
    """f32[11]: the number of updates so far (0 at the first) on 11 timescales, `tanh(t / s - 1)`."""
    return jnp.tanh(count.astype(jnp.float32) / jnp.asarray(TIMESCALES, jnp.float32) - 1)


def fraction_embedding(count: jax.Array, num_steps: Any) -> jax.Array:
    """f32[9]: how far the training is, `tanh(10 (t / T - a))` for 9 fractions a."""
    return jnp.tanh(10 * (count / num_steps - jnp.asarray(FRACTIONS, jnp.float32)))
