"""Hand-written outer steps: the floor that the framework is measured against.

Each floor is one jitted function that takes some outer steps (perturb, two unrolls, estimator, Adam) in a
loop, with everything inline, on the task and the optimizer of the workload. It does what one would do by
hand: both halves of a pair in one batch, with the same keys and minibatches; one matrix product for the rows
of all tensors; inputs of the network that are the same for many parameters multiplied at their own size.
Nothing here imports meta_train or learned_opt.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def time_features(t: jax.Array) -> jax.Array:
    """f32[11]: the tanh features of the step count, the same for every parameter."""
    return jnp.tanh(t / jnp.asarray(TIME_SCALES) - 1.0)


def network(weights: list[tuple[jax.Array, jax.Array]], first: list[jax.Array]) -> list[jax.Array]:
    """Dense layers with relu between, on the rows of several tensors; `first` is before the first relu."""
    x = jnp.concatenate([y.reshape(-1, y.shape[-1]) for y in first])
    for w, b in weights[1:]:
        x = jax.nn.relu(x) @ w + b
    ends = np.cumsum([math.prod(y.shape[:-1]) for y in first])[:-1]
    return [part.reshape(*y.shape[:-1], -1) for part, y in zip(jnp.split(x, ends), first, strict=True)]


def moved(params: list[jax.Array], outputs: list[jax.Array]) -> list[jax.Array]:
    """The parameters after the steps that a network's two outputs mean."""
    return [
        p - out[..., 0] * jnp.exp(out[..., 1] * 0.001) * 0.001 for p, out in zip(params, outputs, strict=True)
    ]


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

        (w, b), *_ = theta
        shared = time_features(t) @ w[8:] + b

        def leaf(p, g, m):
            return normalise(jnp.concatenate([g[..., None], p[..., None], m], -1)) @ w[:8] + shared

        leaves, tree = jax.tree.flatten(params)
        first = [leaf(*x) for x in zip(leaves, *map(tree.flatten_up_to, (grads, momenta)), strict=True)]
        return tree.unflatten(moved(leaves, network(theta, first))), (momenta, t + 1)

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

        (w, b), *_ = weights
        # Rows of w: g, p, m, v, m r, r, fac_g | rows, cols, their roots | m by row and column | time.
        own, by_row, by_col, roots_row, roots_col, last, times = jnp.split(w, (13, 16, 19, 22, 25, 28))
        shared = time_features(t) @ times + b

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
                rows, cols = jnp.expand_dims(row, large), jnp.expand_dims(col, small)
                factored, fac_g, m_rc = (row, col), g1 * rc, m * rc
            else:
                (diag,) = factored
                diag = bf * diag + (1 - bf) * q
                fac_g = g1 * jax.lax.rsqrt(jnp.maximum(diag + 1e-9, 1e-9))
                factored, rows, cols, m_rc = (diag,), diag, diag, m * (diag + 1e-6) ** -0.5
            x = normalise(jnp.concatenate([g1, p1, m, v, m * r, r, fac_g, m_rc], -1))
            first = x @ jnp.concatenate([own, last]) + shared
            for y, plain, root in ((rows, by_row, roots_row), (cols, by_col, roots_col)):
                both = jnp.concatenate([y, jax.lax.rsqrt(y + 1e-8)], -1)
                first += normalise(both) @ jnp.concatenate([plain, root])
            return first, (m, v, factored)

        leaves, tree = jax.tree.flatten(params)
        others = map(tree.flatten_up_to, (grads, accumulators))
        pairs = [leaf(*x) for x in zip(leaves, *others, strict=True)]
        outputs = network(weights, [first for first, _ in pairs])
        return tree.unflatten(moved(leaves, outputs)), (tree.unflatten([a for _, a in pairs]), t + 1)

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


def outer_steps(particle: Callable, outer: Any, num_particles: int, steps: int) -> Callable:
    """The jitted `(state, key, data) -> (state, loss)` of some outer steps: gradients averaged, then Adam."""

    def step(state, key, data):
        keys = jax.random.split(jax.random.fold_in(key, state.t), num_particles)
        grads, losses, particles = jax.vmap(particle, (None, 0, 0, None))(
            state.theta, state.particles, keys, data
        )
        grad = jax.tree.map(lambda g: g.mean(0), grads)
        updates, adam = outer.update(grad, state.adam, state.theta)
        theta = optax.apply_updates(state.theta, updates)
        return FloorState(theta, adam, particles, state.t + 1), losses.mean()

    def several(state, key, data):
        return jax.lax.scan(lambda s, _: step(s, key, data), state, None, length=steps)

    return jax.jit(several, donate_argnums=0)


def es_floor(
    family: Any,
    opt: InnerOptimizer,
    *,
    method: str,
    num_particles: int,
    k: int,
    length: int,
    sigma: float,
    steps: int,
) -> tuple[Callable, Callable]:
    """(init, jitted outer steps) of PES or of truncated ES that carries the positive half's state."""
    outer = optax.adam(3e-4)
    fresh = fresh_problem(family, opt)

    def unroll(theta, cfg, inner, key, data):
        def step(carry, key):
            params, opt_state = carry
            loss, grads = jax.value_and_grad(family.task(cfg).loss)(params, key, data["train"])
            return opt.apply(theta, params, opt_state, grads), loss

        return jax.lax.scan(step, inner, jax.random.split(key, k))

    def particle(theta, state, key, data):
        cfg, inner, xi, t = state  # inner has leaves [2, ...]: the positive and the negative half
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        done = t >= length
        new_cfg, *new = fresh(key_restart)
        both = lambda a, b: jax.tree.map(lambda x, y: jnp.stack([x, y]), a, b)  # noqa: E731
        pick = lambda a, b: jax.tree.map(lambda x, y: jnp.where(done, x, y), a, b)  # noqa: E731
        if method != "pes":
            inner = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), inner)
        cfg, inner, t = pick(new_cfg, cfg), pick(both(tuple(new), tuple(new)), inner), jnp.where(done, 0, t)
        leaves, treedef = jax.tree.flatten(theta)
        keys = jax.random.split(key_eps, len(leaves))
        eps = treedef.unflatten(
            [sigma * jax.random.normal(e, x.shape) for e, x in zip(keys, leaves, strict=True)]
        )
        xi = jax.tree.map(lambda x, e: jnp.where(done, 0.0, x) + e, xi, eps) if method == "pes" else eps
        thetas = both(jax.tree.map(jnp.add, theta, eps), jax.tree.map(jnp.subtract, theta, eps))
        inner, losses = jax.vmap(unroll, (0, None, 0, None, None))(thetas, cfg, inner, key_unroll, data)
        delta = (losses[0] - losses[1]).mean() / (2 * sigma**2)
        return jax.tree.map(lambda x: delta * x, xi), losses.mean(), (cfg, inner, xi, t + k)

    def init(key):
        theta = opt.theta(key)
        cfg, *inner = jax.vmap(fresh)(jax.random.split(key, num_particles))
        inner = jax.tree.map(lambda x: jnp.stack([x, x], 1), tuple(inner))
        xi = jax.tree.map(lambda x: jnp.zeros((num_particles, *x.shape)), theta)
        t = (jnp.arange(num_particles) * k) % length
        return FloorState(theta, outer.init(theta), (cfg, inner, xi, t), jnp.zeros([], jnp.int32))

    return jax.jit(init), outer_steps(particle, outer, num_particles, steps)


def tbptt_floor(
    family: Any, opt: InnerOptimizer, *, num_particles: int, k: int, length: int, steps: int
) -> tuple[Callable, Callable]:
    """(init, jitted outer steps) of truncated backpropagation; only the carry of each step is stored."""
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

    return jax.jit(init), outer_steps(particle, outer, num_particles, steps)
