"""What every learned optimizer promises, whoever adds it: one table, no special cases."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer

T = 20
EVERY = pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)


def params():
    key = jax.random.key(7)
    return {
        "kernel": jax.random.normal(key, (2, 3, 4)),
        "layer": {"w": jax.random.normal(key, (3, 4)), "b": jnp.linspace(-1.0, 1.0, 4)},
        "scalar": jnp.float32(0.7),
    }


def loss(params):
    return sum(jnp.sum(jnp.square(p.astype(jnp.float32) - 0.3)) for p in jax.tree.leaves(params))


_made = {}


def made(name):
    """The learned optimizer, and a theta that moves: its init, slightly perturbed. Made once."""
    if name not in _made:
        lopt = LEARNED_OPTIMIZERS[name]()
        leaves, tree = jax.tree.flatten(jax.jit(lopt.init)(jax.random.key(0)))
        keys = jax.random.split(jax.random.key(1), len(leaves))
        leaves = [x + 0.01 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        _made[name] = lopt, tree.unflatten(leaves)
    return _made[name]


def transformation(name):
    lopt, theta = made(name)
    return lopt.build(theta, T if "num_steps" in lopt.needs else None)


def train(tx, params, steps=3, loss=loss):
    """Parameters and state after a few jitted steps."""
    tx = optax.with_extra_args_support(tx)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps)[0])((params, tx.init(params)))


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@EVERY
def test_theta_is_float32_and_depends_on_nothing_but_the_key(name):
    lopt = LEARNED_OPTIMIZERS[name]()
    assert isinstance(lopt, LearnedOptimizer) and set(lopt.needs) <= {"num_steps", "value"}
    a, b = jax.jit(lopt.init)(jax.random.key(0)), LEARNED_OPTIMIZERS[name]().init(jax.random.key(0))
    assert_close(a, b)
    assert {x.dtype for x in jax.tree.leaves(a)} == {jnp.dtype("float32")}


@EVERY
def test_an_update_moves_every_leaf_and_keeps_its_dtype_and_the_states_types(name):
    tx, start = transformation(name), params()
    state = tx.init(start)
    updates, after = tx.update(jax.grad(loss)(start), state, start, value=loss(start))
    for p, u in zip(jax.tree.leaves(start), jax.tree.leaves(updates), strict=True):
        assert u.shape == p.shape and u.dtype == p.dtype and float(jnp.abs(u).max()) > 0
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)


@EVERY
def test_it_composes_with_chain_and_apply_if_finite(name):
    expected, _ = train(transformation(name), params())
    chained = optax.chain(optax.clip(1e9), transformation(name), optax.scale(1.0))
    assert_close(train(chained, params())[0], expected)
    assert_close(train(optax.apply_if_finite(transformation(name), 3), params())[0], expected)


@EVERY
def test_masked_leaves_are_left_alone_and_do_not_disturb_the_others(name):
    mask = {"kernel": False, "layer": True, "scalar": True}
    start = params()
    both = optax.chain(
        optax.masked(transformation(name), mask),
        optax.masked(optax.set_to_zero(), {**mask, "kernel": True, "layer": False, "scalar": False}),
    )
    got, _ = train(both, start)
    np.testing.assert_array_equal(got["kernel"], start["kernel"])
    kept = {k: start[k] for k in ("layer", "scalar")}
    kernel = lambda rest: loss({"kernel": start["kernel"], **rest})  # noqa: E731
    expected, _ = train(transformation(name), kept, loss=kernel)
    assert_close({k: got[k] for k in kept}, expected)


@EVERY
def test_multi_transform_gives_each_group_its_own_optimizer(name):
    labels = {"kernel": "learned", "layer": "sgd", "scalar": "learned"}
    tx = optax.multi_transform({"learned": transformation(name), "sgd": optax.sgd(0.1)}, labels)
    got, _ = train(tx, params(), steps=1)
    expected, _ = train(optax.sgd(0.1), params(), steps=1)
    assert_close(got["layer"], expected["layer"])
    assert float(jnp.abs(got["kernel"] - params()["kernel"]).max()) > 0


@EVERY
def test_multi_steps_accumulates_gradients(name):
    expected, _ = train(transformation(name), params(), steps=1)
    got, _ = train(optax.MultiSteps(transformation(name), 2).gradient_transformation(), params(), steps=2)
    assert_close(got, expected)


@EVERY
def test_theta_can_be_vmapped_and_the_horizon_traced(name):
    lopt, theta = made(name)
    steps = T if "num_steps" in lopt.needs else None
    thetas = jax.tree.map(lambda x: jnp.stack([x, x + 0.01]), theta)

    def trained(theta, num_steps):
        tx, carry = lopt.build(theta, num_steps), params()
        state = tx.init(carry)
        for _ in range(2):
            value, grads = jax.value_and_grad(loss)(carry)
            updates, state = tx.update(grads, state, carry, value=value)
            carry = optax.apply_updates(carry, updates)
        return carry

    got = jax.jit(jax.vmap(trained, in_axes=(0, None)))(thetas, steps)
    for i in range(2):
        theta = jax.tree.map(lambda x, i=i: x[i], thetas)
        assert_close(jax.tree.map(lambda x, i=i: x[i], got), jax.jit(trained)(theta, steps), atol=1e-5)


@EVERY
def test_it_is_differentiable_in_theta(name):
    lopt, theta = made(name)

    def meta_loss(theta):
        return loss(train(lopt.build(theta, T), params())[0])

    grads = jax.jit(jax.grad(meta_loss))(theta)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


@EVERY
def test_a_donated_state_and_parameters_compile_once(name):
    tx, traces = transformation(name), []

    def step(params, state):
        traces.append(1)
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    carry = jax.jit(lambda p: (p, tx.init(p)))(params())
    for _ in range(3):
        carry = step(*carry)
    assert len(traces) == 1 and step._cache_size() == 1
    assert np.isfinite(loss(carry[0]))


@EVERY
def test_integer_and_empty_leaves_are_skipped_and_do_not_disturb_the_others(name):
    start = params()
    more = {**start, "empty": jnp.zeros((0, 3)), "ids": jnp.arange(3), "flag": jnp.array(True)}
    tx = transformation(name)
    grads = jax.grad(loss)(start)
    expected, _ = tx.update(grads, tx.init(start), start, value=1.0)
    odd = {
        "empty": more["empty"],
        "ids": np.zeros(3, jax.dtypes.float0),
        "flag": np.zeros((), jax.dtypes.float0),
    }
    got, _ = tx.update({**grads, **odd}, tx.init(more), more, value=1.0)
    assert_close({k: got[k] for k in start}, expected)
    after = optax.apply_updates(more, got)
    for k in odd:
        np.testing.assert_array_equal(after[k], more[k], strict=True)


@EVERY
def test_a_tree_without_anything_to_optimize_is_left_alone(name):
    tx = transformation(name)
    for tree in ({}, {"ids": jnp.arange(2)}):
        updates, _ = tx.update(tree, tx.init(tree), tree, value=1.0)
        assert_close(optax.apply_updates(tree, updates), tree)


@EVERY
def test_complex_parameters_are_refused(name):
    with pytest.raises(ValueError, match="complex parameters .complex64.2.. are not supported"):
        transformation(name).init({"z": jnp.zeros(2, jnp.complex64)})


@EVERY
def test_bfloat16_parameters_have_float32_accumulators(name):
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params())
    tx = transformation(name)
    state = tx.init(half)
    assert jnp.dtype("bfloat16") not in {x.dtype for x in jax.tree.leaves(state)}
    grads = jax.grad(loss)(half)
    got, after = tx.update(grads, state, half, value=1.0)
    assert {u.dtype for u in jax.tree.leaves(got)} == {jnp.dtype("bfloat16")}
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    full = lambda tree: jax.tree.map(lambda p: p.astype(jnp.float32), tree)  # noqa: E731
    expected, _ = tx.update(full(grads), tx.init(full(half)), full(half), value=1.0)
    assert_close(full(got), expected, rtol=1e-2)  # bfloat16 has 8 bits


@EVERY
def test_what_it_needs_is_asked_for_by_name(name):
    lopt, theta = made(name)
    if "num_steps" in lopt.needs:
        with pytest.raises(ValueError, match=f"{name} needs num_steps"):
            lopt.build(theta, None)
    tx = optax.chain(optax.clip(1.0), transformation(name))
    start = params()
    state = tx.init(start)
    if "value" in lopt.needs:
        with pytest.raises(ValueError, match=f"{name} needs the training loss.*value=loss"):
            tx.update(start, state, start)
    else:
        without, _ = tx.update(start, state, start)
        given, _ = tx.update(start, state, start, value=2.0)
        assert_close(without, given)


def test_importing_learned_opt_loads_nothing_heavy():
    code = "import sys, learned_opt; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "tasks",
        "meta_train",
        "orbax",
        "matplotlib",
        "pydantic",
        "sklearn",
        "wandb",
        "tensorflow_datasets",
    }
    assert "learned_opt" in out and heavy & {module.split(".")[0] for module in out} == set()
