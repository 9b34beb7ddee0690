"""What every learned optimizer promises, whoever wrote it: a function each, which raises AssertionError.

Compiling is nearly all of the time: an optimizer is compiled a few times, on a small tree and without
optimization.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from learned_opt.base import LearnedOptimizer

T = 20
jit = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


class Made(NamedTuple):
    """A learned optimizer, and a training with it that the checks compare with.

    Attributes:
      lopt: the optimizer.
      theta: its initial one, slightly perturbed: it moves every parameter.
      tx: built of that theta.
      trained: `params()` after three steps.
      traces: how often these steps were traced.
    """

    lopt: LearnedOptimizer
    theta: Any
    tx: optax.GradientTransformationExtraArgs
    trained: Any
    traces: int


def params() -> dict[str, Any]:
    """Parameters to train: a matrix f32[3, 4], and a vector f32[2] whose gradient is exactly zero."""
    dead = jnp.zeros(2)  # like the bias of units that are never active
    return {"dead": dead, "layer": {"w": jnp.cos(jnp.arange(12.0)).reshape(3, 4)}}


def loss(params: Any) -> jax.Array:
    """f32[]: a quadratic of all parameters but those that are dead."""
    leaves = jax.tree.leaves({k: v for k, v in params.items() if k != "dead"})
    return jnp.asarray(sum(jnp.sum(jnp.square(p - 0.3)) for p in leaves if p.dtype == jnp.float32))


def step(tx: Any, params: Any, state: Any, loss: Callable[[Any], jax.Array] = loss) -> tuple[Any, Any]:
    """One step of a training with an optax optimizer: the parameters and the state after it."""
    value, grads = jax.value_and_grad(loss, allow_int=True)(params)
    updates, state = tx.update(grads, state, params, value=value)
    return optax.apply_updates(params, updates), state


def made(lopt: LearnedOptimizer) -> Made:
    """The reference of the checks: two thetas under vmap, the second being `theta`; a traced horizon."""
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
    moved = [float(jnp.abs(x[0] - x[1]).max()) for x in jax.tree.leaves(both)]
    _promise(max(moved) > 0, "two thetas give the same steps")
    return Made(lopt, theta, tx, jax.tree.map(lambda x: x[1], both), len(traces))


def theta_is_float32(made: Made) -> None:
    """theta is a tree of float32 arrays, and `needs` and `trained` name what there is."""
    theta = jax.eval_shape(made.lopt.init, jax.random.key(0))
    kinds = {(x.dtype.name, x.weak_type) for x in jax.tree.leaves(theta)}
    _promise(kinds == {("float32", False)}, f"theta has (dtype, weak type) {sorted(kinds)}")
    unknown = set(made.lopt.needs) - {"num_steps", "value"}
    _promise(not unknown, f"needs may name num_steps and value, not {sorted(unknown)}")
    _promise(set(made.lopt.trained) <= set(theta), f"theta has not all of {made.lopt.trained}")


def compiles_once(made: Made) -> None:
    """Under vmap over theta, with a donated state and a traced horizon, its update is compiled once."""
    _promise(made.traces == 1, f"its update was traced {made.traces} times in three steps")


def every_parameter_moves(made: Made) -> None:
    """Every parameter moves, stays finite and keeps its type."""
    before, after = params()["layer"]["w"], made.trained["layer"]["w"]
    _promise(after.dtype == before.dtype, f"parameters are {after.dtype} after a step")
    _promise(bool((after != before).all()), f"{int((after == before).sum())} of 12 parameters do not move")
    _promise(all(np.isfinite(x).all() for x in jax.tree.leaves(made.trained)), "parameters are not finite")


def state_keeps_its_types(made: Made) -> None:
    """An update keeps the shapes and types of the state, and returns updates like the parameters."""
    tx, value, like = made.tx, jnp.float32(1), params()
    state = jax.eval_shape(tx.init, like)
    updates, after = jax.eval_shape(lambda s: tx.update(like, s, like, value=value), state)
    typed = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)  # noqa: E731
    _promise(typed(after) == typed(state), "the state has other types after an update")
    _promise(typed(updates) == typed(jax.eval_shape(lambda: like)), "updates are not like the parameters")


def composes(made: Made) -> None:
    """It works inside of chain, masked, multi_transform, apply_if_finite and MultiSteps."""

    def everything(tree):
        return jax.tree.map(lambda _: True, tree)

    labels = {"dead": "learned", "layer": "learned", "more": "sgd"}
    learned = optax.masked(made.tx, everything)
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
    _close({k: got[k] for k in params()}, made.trained)
    _close(got["more"], jnp.full(2, 0.7))


def masked_leaves_are_left_alone(made: Made) -> None:
    """Leaves that are masked have no accumulators."""
    like = {**params(), "scalar": jnp.float32(1)}
    mask = {"dead": True, "layer": {"w": False}, "scalar": True}
    tx = optax.masked(made.tx, mask)
    updates, _ = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p, value=1.0), like)
    _promise(jax.tree.structure(updates) == jax.tree.structure(like), "updates have another structure")
    state = jax.eval_shape(tx.init, like)
    only = jax.eval_shape(made.tx.init, {k: like[k] for k in ("dead", "scalar")})
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, only)]
    _promise(sizes[0] == sizes[1], f"the state has {sizes[0]} numbers, without what is masked {sizes[1]}")


def differentiable(made: Made) -> None:
    """The loss after three steps has a finite gradient in theta, even where the gradient is zero."""

    def meta_loss(theta):
        tx = made.lopt.build(theta, T)
        carry, _ = jax.lax.scan(lambda c, _: (step(tx, *c), None), (params(), tx.init(params())), length=3)
        return loss(carry[0])

    grads = jax.tree.leaves(jit(jax.grad(meta_loss))(made.theta))
    _promise(all(bool(jnp.isfinite(g).all()) for g in grads), "the gradient in theta is not finite")
    _promise(any(float(jnp.abs(g).max()) > 0 for g in grads), "the gradient in theta is zero")


def several_devices(made: Made) -> None:
    """A matrix on several devices trains as on one; integers, booleans and empty arrays are skipped."""
    odd = {"empty": jnp.zeros((0, 3)), "flag": jnp.array(True), "ids": jnp.arange(3)}
    start, tx = {**params(), **odd}, made.tx
    mesh = jax.make_mesh((_devices(),), ("devices",), axis_types=(AxisType.Auto,))
    columns = NamedSharding(mesh, PartitionSpec(None, "devices"))
    start["layer"]["w"] = jax.device_put(start["layer"]["w"], columns)

    @jit
    def run(p):
        return jax.lax.scan(lambda c, _: (step(tx, *c), None), (p, tx.init(p)), length=3)[0][0]

    got = run(start)
    found = len(got["layer"]["w"].sharding.device_set)
    _promise(found == _devices(), f"the matrix is on {found} devices in the end")
    _close({k: got[k] for k in params()}, made.trained)
    for k in odd:
        np.testing.assert_array_equal(got[k], odd[k], strict=True)


def explicit_axes(made: Made) -> None:
    """On a mesh with explicit axes, updates and state are sharded as the parameters."""
    mesh = jax.make_mesh((_devices(),), ("devices",), axis_types=(AxisType.Explicit,))
    specs = {"dead": PartitionSpec(), "layer": {"w": PartitionSpec(None, "devices")}}
    like = jax.tree.map(lambda p, spec: jax.device_put(p, NamedSharding(mesh, spec)), params(), specs)
    sharding = lambda tree: jax.tree.map(lambda x: jax.typeof(x).sharding, tree)  # noqa: E731

    def check(p):
        state = made.tx.init(p)
        updates, after = made.tx.update(p, state, p, value=1.0)
        _promise(sharding(updates) == sharding(p), "updates are sharded otherwise than the parameters")
        _promise(sharding(after) == sharding(state), "an update changes how the state is sharded")
        return updates

    jax.eval_shape(check, like)


def bfloat16(made: Made) -> None:
    """Parameters in bfloat16 have updates in bfloat16, and accumulators in float32."""
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), {**params(), "scalar": jnp.float32(0.5)})
    full = lambda tree: jax.tree.map(lambda p: p.astype(jnp.float32), tree)  # noqa: E731
    tx, value = made.tx, jnp.float32(1)
    got, state = jit(lambda p: tx.update(p, tx.init(p), p, value=value))(half)
    kinds = {u.dtype.name for u in jax.tree.leaves(got)}
    _promise(kinds == {"bfloat16"}, f"updates are {sorted(kinds)}")
    narrow = [x for x in jax.tree.leaves(state) if x.dtype == jnp.bfloat16]
    _promise(not narrow, f"{len(narrow)} arrays of the state are bfloat16")
    expected, _ = jit(lambda p: tx.update(p, tx.init(p), p, value=value))(full(half))
    _close(full(got), expected, rtol=1e-2, atol=1e-7)  # bfloat16 has 8 bits


def nothing_to_optimize(made: Made) -> None:
    """A tree without anything to optimize is left alone."""
    for tree in ({}, {"ids": jnp.arange(2)}):
        updates, _ = made.tx.update(tree, made.tx.init(tree), tree, value=1.0)
        _close(optax.apply_updates(tree, updates), tree)


def refuses_complex(made: Made) -> None:
    """Complex parameters are refused with a ValueError that says so."""
    message = _refusal(lambda: made.tx.init({"z": jnp.zeros(2, jnp.complex64)}))
    _promise("complex" in message, f"complex parameters are not refused{f' so: {message}' * bool(message)}")


def asks_for_what_it_needs(made: Made) -> None:
    """What its `needs` name it asks for, with a ValueError; it works without anything else."""
    lopt = made.lopt
    if "num_steps" in lopt.needs:
        message = _refusal(lambda: lopt.build(made.theta, None))
        _promise("num_steps" in message, f"without num_steps: {message or 'no ValueError'}")
    chained, like = optax.chain(optax.clip(1.0), made.tx), params()
    update = lambda: jax.eval_shape(lambda p: chained.update(p, chained.init(p), p), like)  # noqa: E731
    if "value" in lopt.needs:
        message = _refusal(update)
        _promise("value=" in message, f"without value=loss: {message or 'no ValueError'}")
    else:
        update()


def _promise(kept: bool, otherwise: str) -> None:
    if not kept:
        raise AssertionError(otherwise)


def _refusal(function: Callable[[], Any]) -> str:
    """The message of the ValueError that a function raises; "" if it raises none."""
    try:
        function()
    except ValueError as error:
        return str(error)
    return ""


def _close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    _promise(jax.tree.structure(a) == jax.tree.structure(b), "the result has another structure")
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def _devices() -> int:
    """As many as there are, of those that divide a matrix of four columns."""
    return max(n for n in (1, 2, 4) if n <= jax.device_count())
