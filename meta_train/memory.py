"""How much memory a jitted function will take, from its jaxpr alone: nothing is compiled.

Walks the operations in order and adds up what is alive. Element-wise operations with one reader are taken to
be fused into it; everything else is taken to be stored. Loops hold their carry once and what one turn needs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# What XLA computes where it is read, rather than storing it.
FUSED = {
    "abs", "add", "add_any", "and", "atan2", "bitcast_convert_type", "broadcast_in_dim", "ceil", "clamp",
    "convert_element_type", "cos", "div", "eq", "erf", "erf_inv", "exp", "exp2", "expand_dims", "expm1",
    "floor", "ge", "gt", "integer_pow", "iota", "is_finite", "le", "log", "log1p", "logistic", "lt", "max",
    "min", "mul", "ne", "neg", "not", "or", "pad", "pow", "random_bits", "random_unwrap", "random_wrap",
    "rem", "reshape", "rev", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sign", "sin", "slice", "sqrt", "square", "squeeze", "stop_gradient", "sub",
    "tan", "tanh", "transpose", "xor", "copy", "copy_p", "concatenate", "split", "random_seed",
    "random_fold_in", "random_split", "reduce_precision", "optimization_barrier", "name", "gather",
    "dynamic_slice", "reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax",
}  # fmt: skip


def forecast_bytes(function: Callable, *args: Any) -> int:
    """Peak bytes beside the arguments and the results of `function(*args)`.

    Args:
      function: pure; traced, never run.
      *args: concrete or abstract.
    """
    return peak(jax.make_jaxpr(function)(*args).jaxpr)


def size_of(aval: Any) -> int:
    """Bytes of one abstract value; a PRNG key counts 8 for each."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return 0
    extended = jax.numpy.issubdtype(dtype, jax.dtypes.extended)
    return math.prod(aval.shape) * (8 if extended else dtype.itemsize)


def peak(jaxpr: core.Jaxpr) -> int:
    """Peak bytes of what a jaxpr makes, beside its inputs and outputs."""
    readers: dict[Any, list[str]] = {}
    last: dict[Any, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        for var in _variables(eqn.invars):
            readers.setdefault(var, []).append(eqn.primitive.name)
            last[var] = i
    outputs = set(_variables(jaxpr.outvars))
    alive: dict[Any, int] = {}
    most = 0
    for i, eqn in enumerate(jaxpr.eqns):
        inside = max((_inside(eqn, inner) for inner in _inner(eqn)), default=0)
        done = [var for var in _variables(eqn.invars) if last[var] == i]
        if eqn.primitive.name in FUSED:  # may write where it read
            for var in done:
                alive.pop(var, None)
        for var in eqn.outvars:
            if var in last and var not in outputs and not _fused(eqn, readers.get(var, [])):
                alive[var] = size_of(var.aval)
        most = max(most, sum(alive.values()) + inside)
        for var in done:
            alive.pop(var, None)
    return most


def _fused(eqn: Any, readers: list[str]) -> bool:
    return eqn.primitive.name in FUSED and len(readers) <= 1 and all(name in FUSED for name in readers)


def _inside(eqn: Any, inner: core.Jaxpr) -> int:
    found = peak(inner)
    if eqn.primitive.name == "scan":  # a turn writes its new carry beside the old one
        pairs = zip(inner.outvars, eqn.outvars, strict=True)  # what is stacked has one more axis outside
        found += sum(size_of(one.aval) for one, out in pairs if _shape(one) == _shape(out))
    return found


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape


def _inner(eqn: Any) -> list[core.Jaxpr]:
    found = []
    for value in eqn.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, core.Jaxpr):
                found.append(one)
    return found


def _variables(atoms: Any) -> list[Any]:
    return [atom for atom in atoms if isinstance(atom, core.Var)]
