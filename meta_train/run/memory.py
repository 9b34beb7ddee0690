"""How much memory a jitted function will take, from its jaxpr alone: nothing is compiled.

Walks the operations in order, those of calls in their place, and adds up what is alive. Element-wise
operations with one reader are taken to be fused into it; everything else is taken to be stored. A loop's
carry lives where its result will be; a turn makes the new one next to the old one, whose place is free for
other things once it was read for the last time.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

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

# What may write where it read.
IN_PLACE = FUSED - {"concatenate", "pad"}

# What only calls another jaxpr.
CALLS = {
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat",
    "remat2",
}  # fmt: skip


class Value:
    """A variable of one call of a jaxpr."""

    def __init__(self, aval: Any) -> None:
        self.aval = aval


class Operation(NamedTuple):
    """What is computed at one place."""

    name: str
    reads: list[Value]
    writes: list[Value]
    eqn: Any


def forecast_bytes(function: Callable, *args: Any) -> int:
    """Peak bytes of `function(*args)`, its arguments and results not counted.

    Args:
      function: pure; traced, never run.
      *args: concrete or abstract.
    """
    return peak(jax.make_jaxpr(function)(*args))


def size_of(aval: Any) -> int:
    """Bytes of one abstract value; a PRNG key counts 8 for each."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return 0
    extended = jax.numpy.issubdtype(dtype, jax.dtypes.extended)
    return math.prod(aval.shape) * (8 if extended else dtype.itemsize)


def peak(jaxpr: core.Jaxpr | core.ClosedJaxpr, carried: slice = slice(0), kept: slice = slice(0)) -> int:
    """Peak bytes of what a jaxpr makes, in addition to its inputs and outputs.

    Args:
      jaxpr: what is computed.
      carried: inputs that count all the same, until they are read for the last time.
      kept: outputs that count all the same, from when they are made.
    """
    values: dict[Any, Value] = {}
    operations = _operations(jaxpr, values)
    results = [_value(atom, values) for atom in jaxpr.outvars]
    outputs, counted = set(results), set(results[kept])
    readers: dict[Value, list[str]] = {}
    last: dict[Value, int] = {}
    for i, one in enumerate(operations):
        for value in one.reads:
            readers.setdefault(value, []).append(one.name)
            last[value] = i
    for one in reversed(operations):  # what is fused reads when its reader is computed
        until = [last[value] for value in one.writes if value in last and _fused(one, readers[value])]
        for value in one.reads if until else ():
            last[value] = max(last[value], *until)
    alive = {value: size_of(value.aval) for value in (values[var] for var in jaxpr.invars[carried])}
    ends: dict[int, list[Value]] = {}
    for value in last.keys() - outputs:
        ends.setdefault(last[value], []).append(value)
    most = 0
    for i, one in enumerate(operations):
        done = ends.get(i, [])
        for value in _overwritten(one):
            if value in done:
                alive.pop(value, None)
        for value in one.writes:
            stored = value in last and value not in outputs and not _fused(one, readers[value])
            if stored or value in counted:
                alive[value] = size_of(value.aval)
        most = max(most, sum(alive.values()) + _inside(one.eqn))
        for value in done:
            alive.pop(value, None)
    return most


def _operations(jaxpr: core.Jaxpr | core.ClosedJaxpr, values: dict[Any, Value]) -> list[Operation]:
    """What a jaxpr computes, calls inlined; `values` is filled with its variables'."""
    for var in (*jaxpr.invars, *jaxpr.constvars):
        values.setdefault(var, Value(var.aval))
    found = []
    for eqn in jaxpr.eqns:
        reads, inner = [_value(atom, values) for atom in eqn.invars], _inner(eqn)
        if eqn.primitive.name in CALLS and len(inner) == 1:
            called = dict(zip(inner[0].invars, reads, strict=True))
            found += _operations(inner[0], called)
            values |= zip(eqn.outvars, (_value(atom, called) for atom in inner[0].outvars), strict=True)
        else:
            values |= {var: Value(var.aval) for var in eqn.outvars}
            found.append(Operation(eqn.primitive.name, reads, [values[var] for var in eqn.outvars], eqn))
    return found


def _value(atom: Any, values: dict[Any, Value]) -> Value:
    return values[atom] if isinstance(atom, core.Var) else Value(atom.aval)


def _fused(one: Operation, readers: list[str]) -> bool:
    return one.name in FUSED and len(readers) <= 1 and all(name in IN_PLACE for name in readers)


def _overwritten(one: Operation) -> list[Value]:
    """What may be written over, where nothing else reads it: for a loop, what its carry starts from."""
    if one.name == "scan":
        consts, carries = _loop(one.eqn)
        return one.reads[consts : consts + carries]
    return one.reads if one.name in IN_PLACE else []


def _loop(eqn: Any) -> tuple[int, int]:
    """How many constants and carries a scan has; what it stacks has one more axis outside than in a turn.

    Read from the shapes: the parameters that tell it have other names in other versions of JAX.
    """
    (turn,) = _inner(eqn)

    def alike(outer, inner):
        return [len(o.aval.shape) == len(i.aval.shape) for o, i in zip(outer, inner, strict=True)]

    carries, kept = sum(alike(eqn.outvars, turn.outvars)), sum(alike(eqn.invars, turn.invars))
    return kept - carries, carries


def _inside(eqn: Any) -> int:
    """Peak bytes of what an operation with jaxprs of its own makes, what it reads and writes not counted."""
    if eqn.primitive.name != "scan":
        return max((peak(inner) for inner in _inner(eqn)), default=0)
    (turn,) = _inner(eqn)
    consts, carries = _loop(eqn)
    carry = sum(size_of(var.aval) for var in turn.outvars[:carries])  # already counted: the result's place
    return max(0, peak(turn, slice(consts, consts + carries), slice(carries)) - carry)


def _inner(eqn: Any) -> list[core.Jaxpr | core.ClosedJaxpr]:
    values = (value if isinstance(value, tuple | list) else (value,) for value in eqn.params.values())
    return [one for several in values for one in several if isinstance(one, core.Jaxpr | core.ClosedJaxpr)]
