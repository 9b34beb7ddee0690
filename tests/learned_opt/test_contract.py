"""What every learned optimizer promises, whoever adds it: one table, no special cases.

Compiling is nearly all of the time: each architecture is compiled a few times, on a small tree and
without optimization. (The trajectories of test_parity.py have scalars and kernels of three axes too.)
"""

import functools
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer

T = 20
SMALL = {"velo": {"lstm_hidden": 8, "bank": 2}, "celo": {"lstm_hidden": 8}, "rnn_mlp": {"lstm_hidden": 8}}
EVERY = pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)
jit = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


def params():
    dead = jnp.zeros(2)  # like the bias of units that are never active: its gradient is exactly zero
    return {"dead": dead, "layer": {"w": jnp.cos(jnp.arange(12.0)).reshape(3, 4)}}


def loss(params):
    leaves = jax.tree.leaves({k: v for k, v in params.items() if k != "dead"})
    return sum(jnp.sum(jnp.square(p - 0.3)) for p in leaves if p.dtype == jnp.float32)


def step(tx, params, state, loss=loss):
    value, grads = jax.value_and_grad(loss, allow_int=True)(params)
    updates, state = tx.update(grads, state, params, value=value)
    return optax.apply_updates(params, updates), state


class Made(NamedTuple):
    lopt: LearnedOptimizer
    theta: Any  # the init, slightly perturbed: it moves every parameter
    tx: optax.GradientTransformationExtraArgs
    trained: Any  # params() after three steps
    update: Any  # jitted: grads, state, params, value, T, two thetas
    traces: int


@functools.cache
def made(name):
    """The reference of the other tests: two thetas under vmap, the second being `theta`; a traced horizon."""
    lopt = LEARNED_OPTIMIZERS[name](**SMALL.get(name, {}))
    leaves, tree = jax.tree.flatten(jit(lopt.init)(jax.random.key(0)))
    offsets = [0.01 * jnp.cos(jnp.arange(x.size) + i).reshape(x.shape) for i, x in enumerate(leaves)]
    theta = tree.unflatten([x + y for x, y in zip(leaves, offsets, strict=True)])
    thetas = jax.tree.map(lambda x: jnp.stack([x + 0.01, x]), theta)
    tx, traces = lopt.build(theta, T if "num_steps" in lopt.needs else None), []

    def update(grads, state, params, value, num_steps, thetas):
        traces.append(1)
        one = lambda theta, *args: lopt.build(theta, num_steps).update(*args[:3], value=args[3])  # noqa: E731
        return jax.vmap(one)(thetas, grads, state, params, value)

    update = jit(update, donate_argnums=1)
    both = jax.tree.map(lambda p: jnp.stack([p, p]), params())
    state = jit(jax.vmap(lambda theta, p: lopt.build(theta, T).init(p)))(thetas, both)
    value_and_grad = jit(jax.vmap(jax.value_and_grad(loss)))
    for _ in range(3):
        value, grads = value_and_grad(both)
        updates, state = update(grads, state, both, value, jnp.int32(T), thetas)
        both = jax.tree.map(jnp.add, both, updates)
    trained = jax.tree.map(lambda x: x[1], both)
    assert any(float(jnp.abs(x[0] - x[1]).max()) > 0 for x in jax.tree.leaves(both))
    return Made(lopt, theta, tx, trained, update, len(traces))


def assert_close(a, b, rtol=1e-5, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@EVERY
def test_theta_is_a_float32_tree_and_needs_are_known_words(name):
    lopt = made(name).lopt
    theta = jax.eval_shape(lopt.init, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(theta)} == {jnp.dtype("float32")}
    assert not any(x.weak_type for x in jax.tree.leaves(theta))
    assert set(lopt.needs) <= {"num_steps", "value"}


@EVERY
def test_every_parameter_moves_and_a_donated_state_under_vmap_compiles_once(name):
    assert made(name).traces == 1
    before, after = params()["layer"]["w"], made(name).trained["layer"]["w"]
    assert (after != before).all() and after.dtype == before.dtype
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(made(name).trained))


@EVERY
def test_the_state_keeps_its_types(name):
    tx, value, like = made(name).tx, jnp.float32(1), params()
    state = jax.eval_shape(tx.init, like)
    updates, after = jax.eval_shape(lambda s: tx.update(like, s, like, value=value), state)
    typed = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)  # noqa: E731
    assert typed(after) == typed(state) and typed(updates) == typed(jax.eval_shape(lambda: like))


@EVERY
def test_it_composes_with_chain_masked_multi_transform_apply_if_finite_and_multi_steps(name):
    def everything(tree):
        return jax.tree.map(lambda _: True, tree)

    labels = {"dead": "learned", "layer": "learned", "more": "sgd"}
    learned = optax.masked(made(name).tx, everything)
    tx = optax.multi_transform({"learned": learned, "sgd": optax.sgd(0.1)}, labels)
    tx = optax.apply_if_finite(optax.chain(optax.clip(1e9), tx, optax.scale(1.0)), 3)
    tx = optax.MultiSteps(tx, every_k_schedule=2).gradient_transformation()

    def with_more(p):  # the same loss, and gradient 1 for `more`
        more = p.pop("more")
        return loss(p) + jnp.sum(more - jax.lax.stop_gradient(more))

    def body(carry, _):
        return step(tx, *carry, loss=lambda p: with_more(dict(p))), None

    start = {**params(), "more": jnp.ones(2)}
    got, _ = jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), length=6)[0])(start)
    assert_close({k: got[k] for k in params()}, made(name).trained)
    assert_close(got["more"], jnp.full(2, 0.7))


@EVERY
def test_masked_leaves_are_left_alone(name):
    like = {**params(), "scalar": jnp.float32(1)}
    mask = {"dead": True, "layer": {"w": False}, "scalar": True}
    tx = optax.masked(made(name).tx, mask)
    updates, _ = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p, value=1.0), like)
    assert jax.tree.structure(updates) == jax.tree.structure(like)
    state = jax.eval_shape(tx.init, like)
    only = jax.eval_shape(made(name).tx.init, {k: like[k] for k in ("dead", "scalar")})
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, only)]
    assert sizes[0] == sizes[1]  # no accumulators for what is masked


@pytest.mark.slow
@EVERY
def test_it_is_differentiable_in_theta_even_where_a_gradient_is_zero(name):
    lopt, theta, *_ = made(name)

    def meta_loss(theta):
        tx = lopt.build(theta, T)
        carry, _ = jax.lax.scan(lambda c, _: (step(tx, *c), None), (params(), tx.init(params())), length=3)
        return loss(carry[0])

    grads = jit(jax.grad(meta_loss))(theta)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))


@EVERY
def test_on_four_devices_and_beside_leaves_that_are_skipped_the_parameters_are_the_same(name):
    """Integers, booleans and leaves without elements are skipped; the matrix lies on four devices."""
    odd = {"empty": jnp.zeros((0, 3)), "flag": jnp.array(True), "ids": jnp.arange(3)}
    start, tx = {**params(), **odd}, made(name).tx
    mesh = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Auto,))
    columns = NamedSharding(mesh, PartitionSpec(None, "devices"))
    start["layer"]["w"] = jax.device_put(start["layer"]["w"], columns)

    @jit
    def run(p):
        return jax.lax.scan(lambda c, _: (step(tx, *c), None), (p, tx.init(p)), length=3)[0][0]

    got = run(start)
    assert len(got["layer"]["w"].sharding.device_set) == 4
    assert_close({k: got[k] for k in params()}, made(name).trained)
    for k in odd:
        np.testing.assert_array_equal(got[k], odd[k], strict=True)


@EVERY
def test_on_a_mesh_with_explicit_axes_updates_are_sharded_as_the_parameters(name):
    mesh, tx = jax.make_mesh((4,), ("devices",), axis_types=(AxisType.Explicit,)), made(name).tx
    specs = {"dead": PartitionSpec(), "layer": {"w": PartitionSpec(None, "devices")}}
    like = jax.tree.map(lambda p, spec: jax.device_put(p, NamedSharding(mesh, spec)), params(), specs)
    sharding = lambda tree: jax.tree.map(lambda x: jax.typeof(x).sharding, tree)  # noqa: E731

    def check(p):
        state = tx.init(p)
        updates, after = tx.update(p, state, p, value=1.0)
        assert sharding(updates) == sharding(p) and sharding(after) == sharding(state)
        return updates

    assert jax.tree.structure(jax.eval_shape(check, like)) == jax.tree.structure(like)


@EVERY
def test_bfloat16_parameters_have_float32_accumulators(name):
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), {**params(), "scalar": jnp.float32(0.5)})
    full = lambda tree: jax.tree.map(lambda p: p.astype(jnp.float32), tree)  # noqa: E731
    tx, value = made(name).tx, jnp.float32(1)
    got, state = jit(lambda p: tx.update(p, tx.init(p), p, value=value))(half)
    assert {u.dtype for u in jax.tree.leaves(got)} == {jnp.dtype("bfloat16")}
    assert jnp.dtype("bfloat16") not in {x.dtype for x in jax.tree.leaves(state)}
    expected, _ = jit(lambda p: tx.update(p, tx.init(p), p, value=value))(full(half))
    assert_close(full(got), expected, rtol=1e-2, atol=1e-7)  # bfloat16 has 8 bits


@EVERY
def test_a_tree_without_anything_to_optimize_is_left_alone(name):
    tx = made(name).tx
    for tree in ({}, {"ids": jnp.arange(2)}):
        updates, _ = tx.update(tree, tx.init(tree), tree, value=1.0)
        assert_close(optax.apply_updates(tree, updates), tree)


@EVERY
def test_complex_parameters_are_refused(name):
    with pytest.raises(ValueError, match="complex parameters .complex64.2.. are not supported"):
        made(name).tx.init({"z": jnp.zeros(2, jnp.complex64)})


@EVERY
def test_what_it_needs_is_asked_for_by_name(name):
    lopt, theta, tx, *_ = made(name)
    if "num_steps" in lopt.needs:
        with pytest.raises(ValueError, match=f"{name} needs num_steps"):
            lopt.build(theta, None)
    chained, like = optax.chain(optax.clip(1.0), tx), params()
    update = lambda p: chained.update(p, chained.init(p), p)  # noqa: E731
    if "value" in lopt.needs:
        with pytest.raises(ValueError, match=f"{name} needs the training loss.*value=loss"):
            jax.eval_shape(update, like)
    else:
        jax.eval_shape(update, like)


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
