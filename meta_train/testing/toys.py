"""Toy systems whose outer gradient is known in closed form: the ground truth of every estimator."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from meta_train.core.system import ENDLESS, UnrolledSystem


class Toy(NamedTuple):
    """A system, a theta, and the truth about both."""

    system: UnrolledSystem  # what is unrolled; it takes no data
    theta: Any  # where the truths hold
    # `(sigma, period) -> like theta`: exact gradient of the mean loss per step, expected over independent
    # N(0, sigma^2) noise on theta in every `period` steps. sigma = 0: the true gradient
    gradient: Callable[[float, int], Any]
    # `(K) -> like theta`: the mean over windows of K steps of the gradient that holds the state at the
    # window's start fixed (TBPTT; truncated ES too where the loss is quadratic)
    truncated: Callable[[int], Any]


class ToyState(NamedTuple):
    """s: f32[...], the state proper; t: i32[], steps taken."""

    s: jax.Array
    t: jax.Array


def recurrence(update, loss, s0, unroll_length, *, loss_period=1) -> UnrolledSystem:
    """`s <- update(theta, s, key)`, with `loss(s)` every `loss_period` steps; the first s is s0, or theta."""

    def init(theta, key):
        length = jnp.full([], ENDLESS if unroll_length is None else unroll_length, jnp.int32)
        s = jnp.asarray(theta if s0 is None else s0, jnp.float32)
        return ToyState(s, jnp.zeros([], jnp.int32)), length

    def step(theta, state, key, data):
        s, t = update(theta, state.s, key), state.t + 1
        counted = loss(s) if loss_period == 1 else jnp.where(t % loss_period == 0, loss_period * loss(s), 0.0)
        return ToyState(s, t), counted

    return UnrolledSystem(init, step, unroll_length or 0, unroll_length, worst_loss=1e30)


def accumulator(*, unroll_length: Annotated[int, Ge(1)] = 20, terminal: bool = False) -> Toy:
    """`s <- s + theta`, loss s: the gradient is (T + 1) / 2, and (K + 1) / 2 when truncated.

    Args:
      unroll_length: T.
      terminal: the first state is theta, not 0, and only the last loss counts (times T, so that the mean is
        it): the gradient is T + 1, and K when truncated.
    """
    length = unroll_length
    system = recurrence(
        lambda theta, s, key: s + theta,
        lambda s: s,
        None if terminal else 0.0,
        length,
        loss_period=length if terminal else 1,
    )
    if terminal:
        truncated: Callable[[int], float] = lambda k: k + float(k == length)  # noqa: E731
        return Toy(system, jnp.float32(0.3), lambda sigma, period: length + 1.0, truncated)
    return Toy(system, jnp.float32(0.3), lambda sigma, period: (length + 1) / 2, lambda k: (k + 1) / 2)


def linear_quadratic(*, unroll_length: Annotated[int, Ge(1)] = 50) -> Toy:
    """`s <- 0.9 s + theta`, loss (s - 1)^2 / 2, theta = 0.2. Smoothing does not move the gradient.

    Args:
      unroll_length: T; the sum of the gradient is 316.6524 at T = 50.
    """
    system = recurrence(
        lambda theta, s, key: 0.9 * s + theta, lambda s: 0.5 * jnp.square(s - 1), 0.0, unroll_length
    )
    t = np.arange(1, unroll_length + 1)
    influence = (1 - 0.9**t) / 0.1  # ds_t / dtheta

    def truncated(k):
        return float(np.mean((0.2 * influence - 1) * influence[(t - 1) % k]))

    return Toy(system, jnp.float32(0.2), lambda sigma, period: truncated(unroll_length), truncated)


def vector_linear_quadratic(
    *, unroll_length: Annotated[int, Ge(1)] = 20, noise: Annotated[float, Ge(0)] = 0.3
) -> Toy:
    """`s <- A s + B theta + c_t`, loss s'Qs / 2 + q's; 5 states, theta a tree of 8 numbers, c_t random.

    Args:
      unroll_length: T.
      noise: std of c_t, drawn from the step's key: it does not move the expected gradient.
    """
    rng = np.random.default_rng(0)
    a = rng.normal(size=(5, 5))
    a *= 0.95 / np.abs(np.linalg.eigvals(a)).max()
    b, root, q = rng.normal(size=(5, 8)) / 3, rng.normal(size=(5, 5)) / 3, rng.normal(size=5)
    cost = root @ root.T
    a, b, cost, q = (jnp.asarray(x, jnp.float32) for x in (a, b, cost, q))
    theta = {
        "w": jnp.asarray(rng.normal(size=(2, 3)) / 3, jnp.float32),
        "b": (jnp.float32(0.2), jnp.float32(-0.4)),
    }

    def update(theta, s, key, noise=noise):
        flat = jnp.concatenate([theta["w"].reshape(-1), jnp.stack(theta["b"])])
        return a @ s + b @ flat + noise * jax.random.normal(key, (5,))

    def loss(s):
        return 0.5 * s @ cost @ s + q @ s

    quiet = recurrence(lambda theta, s, key: update(theta, s, key, 0.0), loss, np.zeros(5), unroll_length)
    return Toy(
        recurrence(update, loss, np.zeros(5), unroll_length),
        theta,
        lambda sigma, period: truncated_gradient(quiet, theta, unroll_length, unroll_length),
        lambda k: truncated_gradient(quiet, theta, unroll_length, k),
    )


def product(*, unroll_length: Annotated[int, Ge(1)] = 4) -> Toy:
    """`s <- theta s`, s_0 = 1, theta = 0.8; the last s is the loss: tells one smoothing from another.

    Args:
      unroll_length: T. At T = 4 and sigma = 0.3 the gradient is 2.048 / 2.336 / 2.912 for noise
        periods 1 / 2 / 4.
    """
    length, theta = unroll_length, 0.8
    system = recurrence(lambda theta, s, key: theta * s, lambda s: s, 1.0, length, loss_period=length)

    def gradient(sigma, period):
        moments = [1.0, theta]  # E (theta + noise)^k
        for k in range(2, period + 1):
            moments.append(theta * moments[k - 1] + (k - 1) * sigma**2 * moments[k - 2])
        return length * moments[period] ** (length // period - 1) * moments[period - 1]

    return Toy(system, jnp.float32(theta), gradient, lambda k: k * theta ** (length - 1))


def truncated_gradient(system: UnrolledSystem, theta: Any, unroll_length: int, truncation_length: int) -> Any:
    """Gradient of the mean loss per step with the state cut every `truncation_length` steps, by autodiff.

    Exact for a system that draws nothing; `truncation_length = unroll_length` is the true gradient.
    """

    def mean_loss(theta):
        def body(state, t):
            cuts = (t % truncation_length == 0) & (t > 0)
            state = jax.tree.map(lambda x: jnp.where(cuts, jax.lax.stop_gradient(x), x), state)
            return system.step(theta, state, jax.random.key(0), ())

        state, _ = system.init(theta, jax.random.key(0))
        return jax.lax.scan(body, state, jnp.arange(unroll_length))[1].mean()

    return jax.grad(mean_loss)(theta)
