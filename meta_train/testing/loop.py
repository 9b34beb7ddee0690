"""What the outer loop needs of an estimator, checked on a system with every difficulty at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.core.devices import particle_mesh, shard
from meta_train.core.outer import make_outer_step
from meta_train.core.system import UnrolledSystem
from meta_train.testing.subject import Check, Subject, build, truncates

PARTICLES = 32


class ProbeState(NamedTuple):
    """State of `probe`: every kind of leaf that a system may have."""

    x: jax.Array
    count: jax.Array
    key: jax.Array
    luck: jax.Array


PROBE_THETA = {
    "w": np.array([0.3, -0.2, 0.1], np.float32),
    "b": (np.float32(0.4), np.ones((2, 2), np.float32)),
}


def probe(*, constant_length: bool = False, traces: list | None = None) -> UnrolledSystem:
    """A system with every difficulty at once; its `data` is `probe_data(...)`.

    theta is a tree (`PROBE_THETA`) and moves the fresh state; the state has integer and key leaves;
    lengths are 2, 4 or 6 at random (6 with `constant_length`); the loss is noisy.

    Args:
      constant_length: for estimators that take whole inner problems.
      traces: every tracing of `step` appends to it.
    """

    def init(theta, key):
        key_x, key_state, key_length, key_luck = jax.random.split(key, 4)
        x = jax.random.normal(key_x, (3,)) + theta["w"]
        length = 6 if constant_length else 2 * jax.random.randint(key_length, (), 1, 4)
        state = ProbeState(x, jnp.zeros([], jnp.int32), key_state, jax.random.uniform(key_luck))
        return state, jnp.asarray(length, jnp.int32)

    def step(theta, state, key, data):
        if traces is not None:
            traces.append(1)
        key_own, key_next = jax.random.split(state.key)
        push = 0.1 * theta["w"] * jax.random.normal(key_own, (3,)) + theta["b"][0]
        x = 0.9 * state.x + push + 0.01 * theta["b"][1].sum()
        loss = data["scale"] * jnp.tanh(jnp.square(x).mean()) + data["noise"] * jax.random.normal(key)
        loss = jnp.where(state.luck < data["unlucky"], jnp.nan, loss)
        loss = jnp.where(theta["w"][0] > data["limit"], jnp.inf, loss)
        return ProbeState(x, state.count + 1, key_next, state.luck), loss

    return UnrolledSystem(init, step, 6 if constant_length else 2, 6, worst_loss=10.0)


def probe_data(
    *, scale: float = 1.0, noise: float = 0.5, unlucky: float = -1.0, limit: float = 1e9
) -> dict[str, jax.Array]:
    """Data of `probe`.

    Args:
      scale: of the part of the loss that depends on theta.
      noise: std of the part that does not.
      unlucky: this share of the inner problems has losses that are not a number.
      limit: the loss is infinite where theta["w"][0] is above this.
    """
    return {
        k: jnp.float32(v) for k, v in dict(scale=scale, noise=noise, unlucky=unlucky, limit=limit).items()
    }


def to_host(tree: Any) -> Any:
    """A copy on the host, keys as their data: what a checkpoint keeps."""
    return jax.tree.map(
        lambda x: np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x),
        tree,
    )


def from_host(copy: Any, like: Any) -> Any:
    """The inverse of `to_host`; `like` tells which leaves are keys."""
    return jax.tree.map(
        lambda x, y: (
            jax.random.wrap_key_data(jnp.asarray(x))
            if jnp.issubdtype(y.dtype, jax.dtypes.prng_key)
            else jnp.asarray(x)
        ),
        copy,
        like,
    )


def check_loop(subject: Subject) -> dict[str, Check]:
    """What the outer loop needs of an estimator, on `probe`, with two compiled programs.

    "state": every leaf of the state is [N, ...] and keeps its shape and dtype, and the gradient has those of
    theta. "compiles once": 20 outer steps trace the system no more often than the first. "resumes": bit by
    bit the same from a host copy. "zero": a loss that theta does not move has gradient exactly 0. "fresh
    keys": that loss is another one in the next window. "diverges": particles whose loss is not finite leave
    the gradient finite, are reported one by one, restart as a new inner problem in the next window, and push
    theta away from where the loss is infinite. "devices" (where there are several): one device, same theta.
    """
    traces, data = [], probe_data()
    estimator, loop = _probe_run(subject, traces=traces)
    state = loop.init(jax.random.key(subject.seed))
    kinds = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    axes = {x.shape[:1] for x in jax.tree.leaves(state.estimator_state)}

    state, _ = loop.step(state, data)
    first, copy = len(traces), to_host(state)
    state, _ = loop.step(state, data)
    second = to_host(state)
    for _ in range(18):
        state, _ = loop.step(state, data)
    again, _ = loop.step(from_host(copy, state), data)
    stable = kinds == [(x.shape, x.dtype) for x in jax.tree.leaves(again)]
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), second, to_host(again))
    state, _ = loop.step(state, probe_data(scale=0.0))
    state, before = loop.step(state, probe_data(scale=0.0))
    state, metrics = loop.step(state, probe_data(scale=0.0))
    size, losses = float(metrics["grad_norm"]), (float(before["loss"]), float(metrics["loss"]))
    found = {
        "state": Check(stable and axes == {(estimator.num_particles,)}, f"leading axes {axes}"),
        "resumes": Check(jax.tree.all(same), "bit by bit from a host copy"),
        "zero": Check(size == 0.0, f"|grad| = {size} of a loss that theta does not move"),
        "fresh keys": Check(losses[0] != losses[1], f"losses of two windows, noise alone: {losses}"),
        "compiles once": Check(len(traces) == first, f"{first} traces at step 1, {len(traces)} in all"),
    }
    found["diverges"] = _check_divergence(subject, estimator, loop, state)
    if jax.device_count() > 1:
        found["devices"] = _check_devices(subject, second)
    return found


def _probe_run(subject, *, mesh=None, traces=None):
    """32 particles of the estimator on `probe`, and its outer loop."""
    system = probe(constant_length=not truncates(subject.factory), traces=traces)
    options = {"num_particles": PARTICLES, "truncation_length": 2, "sigma": 0.1, "stagger": True}
    estimator = build(subject.factory, system, **options)
    if mesh is not None:
        estimator = shard(estimator, mesh)
    return estimator, make_outer_step(
        lambda key: jax.tree.map(jnp.asarray, PROBE_THETA), estimator, optax.sgd(0.01)
    )


def _check_divergence(subject, estimator, loop, state) -> Check:
    """Half of the inner problems, then all on one side of theta, have losses that are not finite.

    With 32 particles a right estimator fails in one of 60,000 draws.
    """
    theta, unlucky, window = jax.tree.map(jnp.asarray, PROBE_THETA), probe_data(unlucky=0.5), []
    step, keys = jax.jit(estimator.estimate), jax.random.split(jax.random.key(subject.seed), 4)
    particles = estimator.init(theta, keys[0])
    for key in keys[1:]:
        estimate, particles = step(theta, particles, key, unlucky)
        window.append(estimate)
    kinds = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (window[0].grad, theta)]
    finite = all(np.isfinite(x).all() for one in window for x in jax.tree.leaves((one.grad, one.loss)))
    bad, again, _ = (np.asarray(one.particles["diverged"]) > 0 for one in window)
    matched = all(
        (np.asarray(b.particles["restarted"]) >= np.asarray(a.particles["diverged"])).all()
        for a, b in zip(window, window[1:], strict=False)
    )
    renewed = 0 < bad.sum() < len(bad) and not again[bad].all()  # a new inner problem has luck of its own
    edge = float(state.theta["w"][0])
    state, _ = loop.step(state, probe_data(limit=edge, scale=0.0))
    moved = float(state.theta["w"][0]) - edge
    passed = finite and matched and renewed and moved <= 0 and kinds[0] == kinds[1]
    return Check(
        bool(passed),
        f"{bad.mean():.0%} diverged; each restarted: {matched}, as a new problem: {bool(renewed)}; "
        f"all finite: {finite}; gradient like theta: {kinds[0] == kinds[1]}; theta moved by {moved:.2g}",
    )


def _check_devices(subject, reference):
    """Two outer steps with the particles split over two or more devices, against those on one."""
    devices = max(n for n in (1, 2, 4, 8) if n <= jax.device_count())
    _, loop = _probe_run(subject, mesh=particle_mesh(devices))
    state = loop.init(jax.random.key(subject.seed))
    for _ in range(2):
        state, _ = loop.step(state, probe_data())
    used = {len(x.sharding.device_set) for x in jax.tree.leaves(state.estimator_state)}
    near = jax.tree.map(
        lambda a, b: np.allclose(a, b, rtol=1e-5, atol=1e-6), to_host(state.theta), reference.theta
    )
    return Check(jax.tree.all(near) and used == {devices}, f"{devices} devices, state on {used}")
