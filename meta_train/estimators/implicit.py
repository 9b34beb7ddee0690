"""Hypergradients of inner problems that settle: the implicit function theorem, and one step of it."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg, gmres

from meta_train.core.estimator import GradientEstimator, from_particle, pathwise
from meta_train.core.system import UnrolledSystem, begin_window, finished, start, unroll
from meta_train.estimators.factory import PATHWISE, Count, factory
from meta_train.estimators.window import floats_of, of_floats

Solver = Literal["neumann", "cg", "gmres"]
TOLERANCE = 1e-6  # of the residual, relative: float32


@factory(differentiates=True, returns=PATHWISE)
def implicit(
    system: UnrolledSystem,
    *,
    num_particles: Count = 1,
    truncation_length: Count = 10,
    solver: Solver = "neumann",
    terms: Count = 20,
    stagger: bool = True,
) -> GradientEstimator:
    """Implicit differentiation of the state at which a system settles (Bengio 2000).

    `s = step(theta, s)`: `grad = dL/dtheta + dL/ds (I - ds'/ds)^-1 ds'/dtheta`, linearised at the last step
    of the window. Neumann: `(I - A)^-1 = I + A + A^2 + ...`, as if the last `terms` steps were differentiated
    at the last state. `terms` = 1 is the one-step gradient dL/dtheta (Luketina et al. 2016).

    Bias: that of a state which has not settled, and of the terms left out. A step that draws something has
      no state to settle at; what moves only the way there (a learning rate) has gradient 0.
    Variance: only that of the tasks and minibatches: 0 where nothing is random.
    Cost: K steps and about 2 for each term (4 with "cg"); memory |inner state|, `terms` times with "gmres".
    Needs: a system that is differentiable in theta and state, forward mode too with "cg".
    Reduces to: TBPTT with windows of one step where K = `terms` = 1; where the state rests, the derivative
      of the last loss through the last `terms` steps.

    Args:
      num_particles: N rollouts; 1 is enough where nothing is random.
      truncation_length: K, steps between one estimate and the next. The state is kept, so that it settles
        over many windows while theta moves slowly.
      solver: "neumann", the series; "cg", conjugate gradients on the normal equations; "gmres". The last two
        need no contraction, and are exact after as many terms as the state has numbers.
      terms: 1, and how often the solver applies the derivative of a step at most.

    Source: Bengio, "Gradient-Based Optimization of Hyperparameters", 2000; Pedregosa, "Hyperparameter
      optimization with approximate gradient", 2016; Lorraine, Vicol & Duvenaud, "Optimizing Millions of
      Hyperparameters by Implicit Differentiation", 2020.
    Differs from it in: the fixed point is that of any step, not a minimum whose Hessian is inverted; the loss
      is that of a step, so a loss of the state before the step needs `terms` = 2 for the one-step gradient.
    """

    def init_one(theta, key):
        return start(system, theta, key, stagger=truncation_length if stagger else None)

    def estimate_one(theta, rollout, key, data):
        key_restart, key_unroll, key_last = jax.random.split(key, 3)
        restarted = finished(rollout)
        begin = begin_window(system, theta, rollout, restarted, key_restart)
        settled, before = unroll(system, theta, begin, key_unroll, data, truncation_length - 1)

        def last(theta, rollout):
            end, losses = unroll(system, theta, rollout, key_last, data, 1)
            return losses[0], (losses, end)

        step, floats = of_floats(last, settled), floats_of(settled.state)
        (after, loss), pull, end = jax.vjp(step, theta, floats, has_aux=True)
        grad, slope = pull((_zeros(after), jnp.ones_like(loss)))
        if terms > 1:
            transposed = lambda v: pull((v, jnp.zeros_like(loss)))  # noqa: E731
            push = jax.linearize(lambda x: step(theta, x)[0][0], floats)[1]
            grad = _add(grad, solve(solver, transposed, push, slope, terms - 1))
        one, end = pathwise(
            grad,
            jnp.append(before, loss).mean(),
            restarted,
            end._replace(diverged=end.diverged | settled.diverged),
        )
        return one, end

    return from_particle(init_one, estimate_one, num_particles, truncation_length)


def solve(
    solver: Solver,
    pull: Callable[[list[jax.Array]], tuple[jax.Array, list[jax.Array]]],
    push: Callable[[list[jax.Array]], list[jax.Array]],
    slope: list[jax.Array],
    terms: int,
) -> jax.Array:
    """`B' (I - A')^-1 slope`, like theta: the part of the gradient that goes through the state.

    Args:
      solver: how.
      pull: `v -> (B' v, A' v)`, B the derivative of a step by theta, A by the state.
      push: `v -> A v`.
      slope: derivative of the loss by the state.
      terms: of the series, or iterations at most.
    """
    if solver == "neumann":

        def term(carry, _):
            total, v = carry
            grad, v = pull(v)
            return (_add(total, grad), v), None

        zero = _zeros(jax.eval_shape(pull, slope)[0])
        return jax.lax.scan(term, (zero, slope), None, terms)[0][0]

    def rest(v):
        return _subtract(v, pull(v)[1])

    if solver == "cg":
        adjoint = lambda v: _subtract(v, push(v))  # noqa: E731
        v, _ = cg(lambda v: adjoint(rest(v)), adjoint(slope), tol=TOLERANCE, maxiter=terms)
    else:
        v, _ = gmres(rest, slope, tol=TOLERANCE, restart=terms, maxiter=1)
    return pull(v)[0]


def _zeros(tree):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def _add(a, b):
    return jax.tree.map(jnp.add, a, b)


def _subtract(a, b):
    return jax.tree.map(jnp.subtract, a, b)
