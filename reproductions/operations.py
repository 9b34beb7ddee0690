"""Floating-point operations of a function, counted in its jaxpr: loops count as often as they run."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

# What moves or chooses numbers, and what draws them: not counted.
MOVES = frozenset(
    "reshape broadcast_in_dim squeeze slice dynamic_slice dynamic_update_slice concatenate transpose copy "
    "convert_element_type pad iota select_n gather scatter rev stop_gradient split copy_p name".split()
)


def operations(function: Callable[..., Any], *args: Any) -> float:
    """Operations of one call, as `count` counts them; the arguments may be shapes."""
    return count(jax.make_jaxpr(function)(*args))


def count(jaxpr: Any) -> float:
    """Operations of a jaxpr.

    A product of matrices counts two for each multiplication, a reduction one for each number that it reads,
    any other operation one for each number that it makes. Of a condition the most expensive branch counts.
    Raises ValueError for a loop whose length is not known.
    """
    return sum(_one(equation) for equation in jaxpr.eqns)


def _one(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "while":
        raise ValueError("a while loop has no known length")
    inner = [count(jaxpr) for jaxpr in _inside(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if inner:
        return max(inner) if name == "cond" else sum(inner)
    out = equation.outvars[0].aval
    if name in MOVES or name.startswith("random_") or not jnp.issubdtype(out.dtype, jnp.inexact):
        return 0.0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2.0 * out.size * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    if name in ("qr", "geqrf", "householder_product"):
        *_, rows, columns = shape = equation.invars[0].aval.shape
        return 2.0 * math.prod(shape) * min(rows, columns)
    if name.startswith(("reduce_", "cum", "arg")):
        return float(equation.invars[0].aval.size)
    return float(out.size)


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs in the parameters of an equation."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part
