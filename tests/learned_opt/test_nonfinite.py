"""Gradients that are not finite cost a step, not the run."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import LEARNED_OPTIMIZERS
from learned_opt.architectures.transformation import (
    non_finite_steps,
    skipping_nonfinite,
    transformation,
    under_vmap,
)

SMALL = {"velo": {"lstm_hidden": 8, "bank": 2}, "celo": {"lstm_hidden": 8}, "rnn_mlp": {"lstm_hidden": 8}}
EVERY = pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
PARAMS = {"b": jnp.array([0.5, -1.0]), "w": jnp.cos(jnp.arange(6.0)).reshape(2, 3)}


def optimizer(name):
    lopt = LEARNED_OPTIMIZERS[name](**SMALL.get(name, {}))
    return lopt, lopt.build(lopt.init(jax.random.key(0)), 20)


@EVERY
def test_a_step_with_one_nan_changes_neither_the_parameters_nor_the_state(name):
    lopt, tx = optimizer(name)
    update = jit(lambda g, s, value: tx.update(g, s, PARAMS, value=value))
    _, state = update(PARAMS, tx.init(PARAMS), 1.0)
    for bad in (jnp.nan, jnp.inf):
        broken = {**PARAMS, "w": PARAMS["w"].at[0, 0].set(bad)}
        updates, after = update(broken, state, 1.0)
        assert not any(np.any(u) for u in jax.tree.leaves(updates))
        jax.tree.map(np.testing.assert_array_equal, after, state)
    if "value" in lopt.needs:
        updates, after = update(PARAMS, state, jnp.nan)
        assert not any(np.any(u) for u in jax.tree.leaves(updates))
        jax.tree.map(np.testing.assert_array_equal, after, state)
    updates, _ = update(PARAMS, state, 1.0)
    assert all(np.isfinite(u).all() and np.any(u) for u in jax.tree.leaves(updates))


def test_without_the_guard_an_optimizer_does_with_nan_what_its_model_did():
    with non_finite_steps(skipped=False):
        _, tx = optimizer("learnable_adam")
    updates, _ = tx.update({"b": jnp.array([jnp.nan, 1.0])}, tx.init({"b": PARAMS["b"]}), {"b": PARAMS["b"]})
    assert np.isnan(updates["b"][0]) and np.isfinite(updates["b"][1])


def test_a_value_that_the_architecture_does_not_look_at_may_be_nan():
    def update(grads, state, params, value):
        del params, value
        return jax.tree.map(jnp.negative, grads), state

    tx = transformation("descent", lambda params: (), update)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.nan)
    np.testing.assert_array_equal(updates["b"], -PARAMS["b"])


@pytest.mark.parametrize("branch", [True, False])
def test_the_derivative_by_theta_of_a_skipped_step_is_zero_and_finite(branch):
    def loss(theta, first):
        update = skipping_nonfinite(lambda g, s, p, v: (theta * jnp.sqrt(g), s + theta), branch=branch)
        steps, state = update(jnp.stack([first, 4.0]), jnp.zeros([]), None, None)
        return steps.sum() + state

    assert jax.grad(loss)(1.0, jnp.nan) == 0
    firsts = jnp.array([jnp.nan, 9.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(loss), (None, 0))(1.0, firsts), [0, 3 + 2 + 1])


@pytest.mark.parametrize("branch", [True, False])
def test_a_guarded_step_is_the_step_in_all_bits(branch):
    def update(grads, state, params, value):
        return jax.tree.map(lambda g: jnp.sin(g) * state, grads), state + value

    guarded = skipping_nonfinite(update, branch=branch)
    args = PARAMS, jnp.float32(0.3), PARAMS, jnp.float32(0.7)
    jax.tree.map(np.testing.assert_array_equal, jit(guarded)(*args), jit(update)(*args))


def test_without_jit_nothing_is_compiled_again_in_the_next_step():
    _, tx = optimizer("learnable_adam")
    state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)[1]
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr(logging.Logger, "handle", lambda self, record: compiled.append(record.getMessage()))
        jax.jit(lambda x: x + 2)(1.0)
        assert any("ompil" in message for message in compiled)
        compiled.clear()
        tx.update(PARAMS, state, PARAMS)
    assert not compiled


def test_optimizers_that_run_under_vmap_do_not_branch():
    def primitives(tx):
        jaxpr = jax.make_jaxpr(lambda g: tx.update(g, tx.init(PARAMS), PARAMS, value=1.0))(PARAMS)
        return {str(equation.primitive) for equation in jaxpr.eqns}

    lopt, alone = optimizer("learnable_adam")
    with under_vmap():
        one_of_many = lopt.build(lopt.init(jax.random.key(0)), 20)
    assert "cond" in primitives(alone) and "cond" not in primitives(one_of_many)
