"""Operations, memory and processor time of one gradient, against T, K, |s|, |theta| and N.

Operations are counted in the program, memory is the compiler's own account of it: both are exact. Time is
that of the process, and noisy.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.core.estimator import GradientEstimator
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS
from meta_train.testing.subject import build
from reproductions.operations import count


class Size(NamedTuple):
    """T, K, |s|, |theta| and N of one measurement."""

    T: int = 64
    K: int = 16
    S: int = 1024
    P: int = 32
    N: int = 4


class Cost(NamedTuple):
    """Of one estimate: operations, bytes (the particles' state and temporaries), the compiled program."""

    operations: float
    bytes: float
    program: Any


# An estimator with a window that stands in its paper's table for whole inner problems: K = T.
WHOLE = ("reparam",)


def value(formula: str, size: Size) -> float:
    """A formula at a size: a step of `recurrent` costs F = 2 S^2 + 2 P, its derivative B = 2 F."""
    cost = 2 * size.S**2 + 2 * size.P
    return eval(formula, {"F": cost, "B": 2 * cost}, size._asdict())


def recurrent(size: Size) -> UnrolledSystem:
    """`s <- tanh(W s + (b . theta) c)`, loss |s|^2 / S: a recurrent network; a step costs 2 S^2 + 2 P."""

    def step(theta, s, key, data):
        s = jnp.tanh(data["w"] @ s + (data["b"] @ theta) * data["c"])
        return s, jnp.square(s).mean()

    init = lambda theta, key: (jnp.full(size.S, 0.1), jnp.int32(size.T))  # noqa: E731
    return UnrolledSystem(init, step, size.T, size.T)


def estimator_at(name: str, size: Size) -> GradientEstimator:
    """The estimator on `recurrent`, all its particles at the start of an inner problem."""
    window = size.T if name in WHOLE else size.K
    return build(
        ESTIMATORS[name], recurrent(size), num_particles=size.N, truncation_length=window, stagger=False
    )


def program(name: str, size: Size) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`estimate` and the shapes of its arguments."""
    estimator = estimator_at(name, size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    data = {"w": of(size.S, size.S), "b": of(size.P), "c": of(size.S)}
    state = jax.eval_shape(estimator.init, of(size.P), key)
    return estimator.estimate, (of(size.P), state, key, data)


def cost(name: str, size: Size) -> Cost:
    """What one estimate costs, and its compiled program."""
    estimate, shapes = program(name, size)
    traced = jax.jit(estimate, donate_argnums=1).trace(*shapes)
    compiled = traced.lower().compile()
    used: Any = compiled.memory_analysis()
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes[1]))
    return Cost(count(traced.jaxpr), used.temp_size_in_bytes + state, compiled)


@functools.lru_cache(maxsize=1)
def arrays(s: int, p: int) -> dict[str, jax.Array]:
    """The data of `recurrent`."""
    w = np.random.default_rng(0).standard_normal((s, s), np.float32) / s**0.5
    return {"w": jnp.asarray(w), "b": jnp.ones(p) / p, "c": jnp.ones(s)}


def times(name: str, programs: dict[Size, Any], rounds: int) -> dict[Size, list[float]]:
    """Processor milliseconds of one estimate in every round; a first call at each size is not counted."""
    taken: dict[Size, list[float]] = {}
    for size, compiled in programs.items():
        theta, data, key = jnp.zeros(size.P), arrays(size.S, size.P), jax.random.key(2)
        init = jax.jit(estimator_at(name, size).init).lower(theta, key)
        first = init.compile({"xla_backend_optimization_level": "0"})(theta, key)
        taken[size] = []
        for i in range(rounds + 1):
            state = jax.block_until_ready(jax.tree.map(jnp.copy, first))  # it is donated
            began = time.process_time()
            jax.block_until_ready(compiled(theta, state, key, data))
            if i:
                taken[size].append(1000 * (time.process_time() - began))
    return taken


def slope(sizes: list[Size], axis: str, values: list[float]) -> tuple[float, float]:
    """Exponent of `values` in a size, and its standard error (0 for two sizes)."""
    x, y = np.log([getattr(size, axis) for size in sizes]), np.log(values)
    x, y = x - x.mean(), y - y.mean()
    found = x @ y / (x @ x)
    left = np.square(y - found * x).sum() / max(len(x) - 2, 1)
    return float(found), float(np.sqrt(left / (x @ x)))
