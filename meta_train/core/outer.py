"""The outer step: everything a run is, and the one jit that moves it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from meta_train.core import perturb
from meta_train.core.estimator import GradientEstimator, summarise


class OuterState(NamedTuple):
    """Everything a run is; saving it *is* the checkpoint.

    Attributes:
      theta: meta-parameters.
      theta_ema: their exponential moving average over outer steps (theta itself where decay is 0).
      opt_state: of the outer optax optimizer.
      estimator_state: every particle's inner states, accumulators and keys.
      key: key[], never consumed; outer step i uses `fold_in(key, i)`.
      outer_step: i32[], outer steps done.
    """

    theta: Any
    theta_ema: Any
    opt_state: Any
    estimator_state: Any
    key: jax.Array
    outer_step: jax.Array


class OuterStep(NamedTuple):
    """The two jitted functions of a run.

    Attributes:
      init: `(key) -> OuterState`; the key is consumed.
      step: `(OuterState, data) -> (OuterState, metrics)`, several outer steps; the state is donated.
        Metrics are f32[] means over those steps.
    """

    init: Callable[[jax.Array], OuterState]
    step: Callable[[OuterState, Any], tuple[OuterState, dict[str, jax.Array]]]


def make_outer_step(
    init_theta: Callable[[jax.Array], Any],
    estimator: GradientEstimator,
    optimizer: optax.GradientTransformation,
    *,
    steps_per_call: int = 1,
    ema: float = 0.0,
    trained: tuple[str, ...] = (),
) -> OuterStep:
    """Compiles the outer loop's body: estimate, update, average.

    Args:
      init_theta: `(key) -> theta`, a learned optimizer's `init`.
      estimator: of the outer gradient.
      optimizer: outer optimizer, updates to be added to theta.
      steps_per_call: outer steps of one call; nothing returns to the host between them.
      ema: decay of theta's moving average over outer steps, in [0, 1); 0 for none.
      trained: the keys of theta that are moved; () for all. The others have gradient 0 and are left alone
        by the optimizer (by its weight decay too).
    """

    def init(key):
        key_theta, key_estimator, key = jax.random.split(key, 3)
        theta = init_theta(key_theta)
        estimator_state = estimator.init(theta, key_estimator)
        state = OuterState(
            theta, theta, optimizer.init(theta), estimator_state, key, jnp.zeros([], jnp.int32)
        )
        return jax.tree.map(_strong, state)

    def one_step(state, data):
        key = jax.random.fold_in(state.key, state.outer_step)
        estimate, estimator_state = estimator.estimate(state.theta, state.estimator_state, key, data)
        estimate = estimate._replace(grad=only(trained, estimate.grad))
        theta, theta_ema, opt_state, update_norm = update_theta(
            state, estimate.grad, optimizer, ema=ema, trained=trained
        )
        numbers = estimate._replace(
            grad=jnp.sqrt(perturb.sq_norm(estimate.grad)),  # its norm is all that the metrics need
            metrics=estimate.metrics | {"update_norm": update_norm},
        )
        step = state.outer_step + 1
        return OuterState(theta, theta_ema, opt_state, estimator_state, state.key, step), numbers

    def step(state, data):
        state, numbers = jax.lax.scan(lambda s, _: one_step(s, data), state, None, length=steps_per_call)
        # After the loop, for all its steps at once: many small operations cost more than small inner steps.
        metrics = jax.vmap(summarise)(numbers).metrics
        return state, jax.tree.map(lambda m: m.mean(0), metrics)

    return OuterStep(jax.jit(init), jax.jit(step, donate_argnums=0))


def only(trained: tuple[str, ...], tree: Any) -> Any:
    """A tree like theta with zeros under all keys but those that are trained; () for all of it."""
    if not trained:
        return tree
    return {k: x if k in trained else jax.tree.map(jnp.zeros_like, x) for k, x in tree.items()}


def update_theta(
    state: OuterState,
    grad: Any,
    optimizer: optax.GradientTransformation,
    *,
    ema: float,
    trained: tuple[str, ...],
) -> tuple[Any, Any, Any, jax.Array]:
    """One step of the outer optimizer: theta, its moving average, the optimizer's state, |update|.

    Args:
      state: before the step.
      grad: like theta, 0 where theta is frozen.
      optimizer: as in `make_outer_step`.
      ema: as there.
      trained: as there.
    """
    updates, opt_state = optimizer.update(grad, state.opt_state, state.theta)
    updates = only(trained, updates)  # an optimizer's weight decay moves what has no gradient too
    theta = optax.apply_updates(state.theta, updates)
    return theta, perturb.mix(ema, state.theta_ema, theta), opt_state, jnp.sqrt(perturb.sq_norm(updates))


def _strong(x):
    """Drops the weak type that would make the second step compile again."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, x.dtype)
