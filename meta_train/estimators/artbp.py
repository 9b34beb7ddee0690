"""Anticipated reweighted truncated backpropagation."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Gt

from meta_train.core.estimator import GradientEstimator, whole_length
from meta_train.core.system import Remat, UnrolledSystem
from meta_train.estimators.factory import PATHWISE, Count, factory
from meta_train.estimators.tbptt import tbptt


class CutState(NamedTuple):
    """The system's state, and i32[] steps since the last cut."""

    state: object
    age: jax.Array


@factory(differentiates=True, returns=PATHWISE)
def artbp(
    system: UnrolledSystem,
    *,
    num_particles: Count = 16,
    mean_length: Annotated[float, Gt(1)] = 10.0,
    lengths: Literal["constant", "lomax"] = "lomax",
    exponent: Annotated[float, Gt(2)] = 6.0,
    max_window: Count | None = None,
    remat: Remat = True,
) -> GradientEstimator:
    """Backpropagation cut at random, and reweighted (Tallec & Ollivier 2017).

    Going back from step t + 1 to t the gradient is multiplied by 0 with probability c_t, else by
    1 / (1 - c_t): one on average.

    Bias: none, unless `max_window` cuts it where the draw did not.
    Variance: `sum (q^n - 1) g . g' / T^2` for constant c, q = 1 / (1 - c), over all pairs of influences g, g'
      of a step on a loss, n the steps that both pass. There is no closed form for "lomax".
    Cost: about 4 T steps for one outer step; memory T |inner state| (`max_window` in place of T).
    Needs: a system that is differentiable in theta and state.
    Reduces to: BPTT as `mean_length` goes to infinity.

    Args:
      system: what is unrolled; its length must be constant unless `max_window` is given.
      num_particles: N rollouts.
      mean_length: mean steps from one cut to the next.
      lengths: c_t = 1 / `mean_length` ("constant": geometric lengths), or (a - 1) / ((a - 2)
        `mean_length` + steps since the last cut) ("lomax": a heavy tail, a = `exponent`).
      exponent: a of "lomax"; moments of the lengths are finite up to a - 1.
      max_window: cuts at the latest here, a number of steps that divides every length; None for whole inner
        problems.

    Source: Tallec & Ollivier, "Unbiasing Truncated Backpropagation Through Time", 2017.
    Differs from it in: the window that is held in memory is fixed; cuts fall inside it.
    """
    window = whole_length(system, "artbp without max_window") if max_window is None else max_window

    def cut_probability(age):
        if lengths == "constant":
            return jnp.full([], 1 / mean_length)
        return (exponent - 1) / ((exponent - 2) * mean_length + age)

    def init(theta, key):
        state, length = system.init(theta, key)
        return CutState(state, jnp.zeros([], jnp.int32)), length

    def step(theta, state, key, data):
        key_cut, key = jax.random.split(key)
        chance = jnp.where(state.age > 0, cut_probability(state.age), 0.0)  # theta's part in a start stays
        cut = jax.random.bernoulli(key_cut, chance)
        factor = jnp.where(cut, 0.0, 1 / (1 - chance))
        inner, loss = system.step(theta, _scale_gradient(state.state, factor), key, data)
        return CutState(inner, jnp.where(cut, 0, state.age) + 1), loss

    return tbptt(
        system._replace(init=init, step=step),
        num_particles=num_particles,
        truncation_length=window,
        remat=remat,
        stagger=max_window is not None,
    )


def _scale_gradient(state, factor):
    """`state` itself, whose gradient is multiplied by `factor` on its way back."""

    def one(x):
        return scaled(x, factor.astype(x.dtype)) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(one, state)


@jax.custom_vjp
def scaled(x: jax.Array, factor: jax.Array) -> jax.Array:
    """x, whose gradient is multiplied by `factor`."""
    del factor
    return x


scaled.defvjp(lambda x, factor: (x, factor), lambda factor, g: (factor * g, jnp.zeros_like(factor)))
