"""Hand-written outer steps: the floor that the framework is measured against.

Each floor is one jitted function that holds a whole outer step (perturb, two unrolls, estimator,
Adam) with everything inline, on the task and the optimizer of the workload, the optimizer applied
tensor by tensor. Nothing here imports meta_train or learned_opt.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)


class InnerOptimizer(NamedTuple):
    """`init(params) -> state`, `apply(theta, params, state, grads) -> (params, state)`, `theta(key)`."""

    init: Callable
    apply: Callable
    theta: Callable


def normalise(x: jax.Array) -> jax.Array:
    """Unit mean square over all axes but the last."""
    return x * jax.lax.rsqrt(1e-5 + jnp.mean(jnp.square(x), axis=tuple(range(x.ndim - 1)), keepdims=True))


def time_features(t: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The 11 tanh features of the step count, repeated for every parameter of a tensor."""
    features = jnp.tanh(t / jnp.asarray(TIME_SCALES) - 1.0)
    return jnp.broadcast_to(features, (*shape, len(TIME_SCALES)))


def network(weights: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """Dense layers with relu between."""
    for i, (w, b) in enumerate(weights):
        x = (jax.nn.relu(x) if i else x) @ w + b
    return x


def random_weights(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    """Truncated normal weights, zero biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.truncated_normal(k, -2.0, 2.0, (m, n)) / m**0.5, jnp.zeros(n))
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def per_param_mlp() -> InnerOptimizer:
    """19 features, 19-32-32-2: 1,762 weights."""
    decays = jnp.asarray([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])

    def init(params):
        return jax.tree.map(lambda p: jnp.zeros((*p.shape, 6)), params), jnp.zeros([], jnp.int32)

    def apply(theta, params, state, grads):
        momenta, t = state
        momenta = jax.tree.map(lambda m, g: decays * m + (1 - decays) * g[..., None], momenta, grads)

        def leaf(p, g, m):
            x = normalise(jnp.concatenate([g[..., None], p[..., None], m], -1))
            out = network(theta, jnp.concatenate([x, time_features(t, p.shape)], -1))
            return p - out[..., 0] * jnp.exp(out[..., 1] * 0.001) * 0.001

        return jax.tree.map(leaf, params, grads, momenta), (momenta, t + 1)

    return InnerOptimizer(init, apply, lambda key: random_weights(key, (19, 32, 32, 2)))


def adafac_mlp(hidden: int = 4) -> InnerOptimizer:
    """39 features, 39-h-h-2 and 7 decay offsets: 197 weights at h = 4. Tensors of rank 1 and 2."""
    m_decays, v_decays, f_decays = (
        jnp.asarray([0.9, 0.99, 0.999]),
        jnp.asarray([0.999]),
        jnp.asarray([0.9, 0.99, 0.999]),
    )

    def theta(key):
        offsets = jnp.zeros(3), jnp.zeros(1), jnp.zeros(3)
        return random_weights(key, (39, hidden, hidden, 2)), offsets

    def init(params):
        def leaf(p):
            factored = (
                (jnp.zeros((min(p.shape), 3)), jnp.zeros((max(p.shape), 3)))
                if p.ndim == 2
                else (jnp.zeros((*p.shape, 3)),)
            )
            return jnp.zeros((*p.shape, 3)), jnp.zeros((*p.shape, 1)), factored

        return jax.tree.map(leaf, params), jnp.zeros([], jnp.int32)

    def apply(theta, params, state, grads):
        weights, offsets = theta
        accumulators, t = state
        bm, bv, bf = (
            1 - (1 - d) * jnp.exp(10 * o)
            for d, o in zip((m_decays, v_decays, f_decays), offsets, strict=True)
        )
        bv, bf = jnp.clip(bv, 0, 1), jnp.clip(bf, 0, 1)

        def leaf(p, g, accumulator):
            m, v, factored = accumulator
            g1, p1 = g[..., None], p[..., None]
            m, v, q = bm * m + (1 - bm) * g1, bv * v + (1 - bv) * g1**2, g1**2 + 1e-30
            r = jax.lax.rsqrt(v + 1e-6)
            if p.ndim == 2:
                # The smaller axis is d1, the larger d0; a square's later axis is d0.
                d0 = 0 if p.shape[0] > p.shape[1] else 1
                small, large = 1 - d0, d0
                row, col = factored
                row = bf * row + (1 - bf) * q.mean(large)
                col = bf * col + (1 - bf) * q.mean(small)
                inverse = lambda x: jax.lax.rsqrt(jnp.maximum(x, 1e-9))  # noqa: E731
                row_factor = jnp.expand_dims(inverse(row / (row.mean(0, keepdims=True) + 1e-9)), large)
                rc = row_factor * jnp.expand_dims(inverse(col), small)
                rows = jnp.broadcast_to(jnp.expand_dims(row, large), (*p.shape, 3))
                cols = jnp.broadcast_to(jnp.expand_dims(col, small), (*p.shape, 3))
                factored, fac_g, last = (row, col), g1 * rc, m * rc
            else:
                (diag,) = factored
                diag = bf * diag + (1 - bf) * q
                fac_g = g1 * jax.lax.rsqrt(jnp.maximum(diag + 1e-9, 1e-9))
                factored, rows, cols, last = (diag,), diag, diag, m * (diag + 1e-6) ** -0.5
            groups = [g1, p1, m, v, m * r, r, fac_g, rows, cols]
            groups += [jax.lax.rsqrt(rows + 1e-8), jax.lax.rsqrt(cols + 1e-8), last]
            x = jnp.concatenate([normalise(jnp.concatenate(groups, -1)), time_features(t, p.shape)], -1)
            out = network(weights, x)
            return p - out[..., 0] * jnp.exp(out[..., 1] * 0.001) * 0.001, (m, v, factored)

        leaves, treedef = jax.tree.flatten(params)
        pairs = [
            leaf(p, g, a)
            for p, g, a in zip(
                leaves, jax.tree.leaves(grads), treedef.flatten_up_to(accumulators), strict=True
            )
        ]
        return treedef.unflatten([p for p, _ in pairs]), (treedef.unflatten([a for _, a in pairs]), t + 1)

    return InnerOptimizer(init, apply, theta)


def learnable_adam() -> InnerOptimizer:
    """Adam whose four constants are meta-parameters."""

    def theta(key):
        del key
        values = {"lr": 1e-3, "beta1": 0.1, "beta2": 0.001, "epsilon": 1e-8}
        return {name: jnp.log(jnp.full([], value)) for name, value in values.items()}

    def init(params):
        return (
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(jnp.zeros_like, params),
            jnp.zeros([], jnp.int32),
        )

    def apply(theta, params, state, grads):
        m, v, t = state
        lr, b1, b2 = jnp.exp(theta["lr"]), 1 - jnp.exp(theta["beta1"]), 1 - jnp.exp(theta["beta2"])
        t = t + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, grads)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, v, grads)
        c1, c2, eps = 1 - b1**t, 1 - b2**t, jnp.exp(theta["epsilon"])
        params = jax.tree.map(
            lambda p, m, v: p - lr * (m / c1) / (jnp.sqrt(v / c2 + 1e-8) + eps), params, m, v
        )
        return params, (m, v, t)

    return InnerOptimizer(init, apply, theta)


class FloorState(NamedTuple):
    """Everything that one floor's step carries."""

    theta: Any
    adam: Any
    particles: Any
    t: jax.Array


def fresh_problem(family: Any, opt: InnerOptimizer) -> Callable:
    """`(key) -> (cfg, params, state of the optimizer)` of a new inner problem."""

    def fresh(key):
        key_cfg, key_params = jax.random.split(key)
        cfg = family.sample(key_cfg)
        params = family.task(cfg).init(key_params)
        return cfg, params, opt.init(params)

    return fresh


def outer_step(particle: Callable, outer: Any, num_particles: int) -> Callable:
    """The jitted `(state, key, data) -> (state, loss)`: all particles, the mean of their gradients, Adam."""

    def step(state, key, data):
        keys = jax.random.split(jax.random.fold_in(key, state.t), num_particles)
        grads, losses, particles = jax.vmap(particle, (None, 0, 0, None))(
            state.theta, state.particles, keys, data
        )
        grad = jax.tree.map(lambda g: g.mean(0), grads)
        updates, adam = outer.update(grad, state.adam, state.theta)
        return FloorState(
            optax.apply_updates(state.theta, updates), adam, particles, state.t + 1
        ), losses.mean()

    return jax.jit(step, donate_argnums=0)


def es_floor(
    family: Any, opt: InnerOptimizer, *, method: str, num_particles: int, k: int, length: int, sigma: float
) -> tuple[Callable, Callable]:
    """(init, jitted outer step) of PES or of truncated ES that carries the positive half's state."""
    outer = optax.adam(3e-4)

    fresh = fresh_problem(family, opt)

    def unroll(theta, inner, key, data):
        cfg, params, opt_state = inner

        def step(carry, key):
            params, opt_state = carry
            loss, grads = jax.value_and_grad(family.task(cfg).loss)(params, key, data["train"])
            return opt.apply(theta, params, opt_state, grads), loss

        (params, opt_state), losses = jax.lax.scan(step, (params, opt_state), jax.random.split(key, k))
        return (cfg, params, opt_state), losses

    def particle(theta, state, key, data):
        pos, neg, xi, t = state
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        done = t >= length
        start = fresh(key_restart)
        pick = lambda a, b: jax.tree.map(lambda x, y: jnp.where(done, x, y), a, b)  # noqa: E731
        pos, t = pick(start, pos), jnp.where(done, 0, t)
        neg = pick(start, neg) if method == "pes" else pos
        leaves, treedef = jax.tree.flatten(theta)
        keys = jax.random.split(key_eps, len(leaves))
        eps = treedef.unflatten(
            [sigma * jax.random.normal(e, x.shape) for e, x in zip(keys, leaves, strict=True)]
        )
        if method == "pes":
            xi = jax.tree.map(lambda x, e: jnp.where(done, 0.0, x) + e, xi, eps)
        else:
            xi = eps
        pos, l_pos = unroll(jax.tree.map(jnp.add, theta, eps), pos, key_unroll, data)
        neg, l_neg = unroll(jax.tree.map(jnp.subtract, theta, eps), neg, key_unroll, data)
        delta = (l_pos - l_neg).mean() / (2 * sigma**2)
        loss = (l_pos.mean() + l_neg.mean()) / 2
        return jax.tree.map(lambda x: delta * x, xi), loss, (pos, neg, xi, t + k)

    def init(key):
        theta = opt.theta(key)
        inner = jax.vmap(fresh)(jax.random.split(key, num_particles))
        xi = jax.tree.map(lambda x: jnp.zeros((num_particles, *x.shape)), theta)
        t = (jnp.arange(num_particles) * k) % length
        return FloorState(
            theta, outer.init(theta), jax.tree.map(jnp.copy, (inner, inner, xi, t)), jnp.zeros([], jnp.int32)
        )

    return jax.jit(init), outer_step(particle, outer, num_particles)


def tbptt_floor(
    family: Any, opt: InnerOptimizer, *, num_particles: int, k: int, length: int
) -> tuple[Callable, Callable]:
    """(init, jitted outer step) of truncated backpropagation, each step rematerialised."""
    outer = optax.adam(3e-4)

    fresh = fresh_problem(family, opt)

    def particle(theta, state, key, data):
        inner, t = state
        key_restart, key_unroll = jax.random.split(key)
        done = t >= length
        cfg, params, opt_state = jax.tree.map(lambda x, y: jnp.where(done, x, y), fresh(key_restart), inner)

        def mean_loss(theta):
            @jax.checkpoint
            def step(carry, key):
                params, opt_state = carry
                loss, grads = jax.value_and_grad(family.task(cfg).loss)(params, key, data["train"])
                return opt.apply(theta, params, opt_state, grads), loss

            carry, losses = jax.lax.scan(step, (params, opt_state), jax.random.split(key_unroll, k))
            return losses.mean(), carry

        (loss, (params_, opt_state_)), grad = jax.value_and_grad(mean_loss, has_aux=True)(theta)
        return grad, loss, ((cfg, params_, opt_state_), jnp.where(done, 0, t) + k)

    def init(key):
        theta = opt.theta(key)
        inner = jax.vmap(fresh)(jax.random.split(key, num_particles))
        t = (jnp.arange(num_particles) * k) % length
        return FloorState(theta, outer.init(theta), (inner, t), jnp.zeros([], jnp.int32))

    return jax.jit(init), outer_step(particle, outer, num_particles)
