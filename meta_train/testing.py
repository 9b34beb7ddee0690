"""The conformance suite of outer-gradient estimators: certify one's own with `check_estimator`.

An estimator is given as its factory, `(system, *, options) -> GradientEstimator`, as in `ESTIMATORS`. Of the
options that a check wants to set (`num_particles`, `truncation_length`, `sigma`, `stagger`) a
factory gets those that its signature names. One without `truncation_length` takes whole inner problems.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.combine import particle_mesh, shard
from meta_train.estimators.base import GradientEstimator
from meta_train.outer import make_outer_step
from meta_train.system import UnrolledSystem
from meta_train.systems import toys

Factory = Callable[..., GradientEstimator]


class Check(NamedTuple):
    """What one check found: whether it passed, and the figures in words."""

    passed: bool
    detail: str


class Subject(NamedTuple):
    """An estimator under test.

    Attributes:
      factory: `(system, *, options) -> GradientEstimator`.
      smoothing: what its gradient is smoothed by: noise new in every "window", one for the whole
        "episode", or "none".
      num_particles: N of one sample; more than 1 for estimators that couple particles.
      num_samples: independent samples of a statistical check.
      seed: of every key.
    """

    factory: Factory
    smoothing: Literal["window", "episode", "none"] = "episode"
    num_particles: int = 1
    num_samples: int = 50_000
    seed: int = 0


def build(factory: Factory, system: UnrolledSystem, **wanted: Any) -> GradientEstimator:
    """The estimator with those of the wanted options that the factory's signature names."""
    names = inspect.signature(factory).parameters
    return factory(system, **{name: value for name, value in wanted.items() if name in names})


def truncates(factory: Factory) -> bool:
    """Whether the estimator works window by window, rather than on whole inner problems."""
    return "truncation_length" in inspect.signature(factory).parameters


def sample_gradients(
    estimator: GradientEstimator,
    theta: Any,
    key: jax.Array,
    data: Any = (),
    *,
    num_samples: int,
    num_windows: int,
    burn_in: int = 0,
) -> np.ndarray:
    """Independent estimates at a fixed theta: f64[num_samples, |theta|], each a mean over windows.

    Args:
      estimator: with N particles; a sample is the mean over them.
      theta: held fixed.
      key: consumed.
      data: passed on to the system.
      num_samples: independent runs.
      num_windows: consecutive windows that a sample averages; T / K of them, or a multiple, for
        the gradient of the mean loss per step.
      burn_in: windows before those, T / K for a staggered start.
    """

    def one_sample(key):
        key_init, key_run = jax.random.split(key)

        def window(carry, key):
            state, total, i = carry
            estimate, state = estimator.estimate(theta, state, key, data)
            total = jax.tree.map(lambda a, b: a + jnp.where(i < burn_in, 0, b), total, estimate.grad)
            return (state, total, i + 1), None

        begin = (estimator.init(theta, key_init), jax.tree.map(jnp.zeros_like, theta), 0)
        keys = jax.random.split(key_run, burn_in + num_windows)
        (_, total, _), _ = jax.lax.scan(window, begin, keys)
        return jnp.concatenate([x.reshape(-1) / num_windows for x in jax.tree.leaves(total)])

    keys = jax.random.split(key, num_samples)
    # Nearly all of the time is compilation: the optimiser's passes cost more than they save.
    run = jax.jit(jax.vmap(one_sample)).lower(keys).compile({"xla_backend_optimization_level": "0"})
    return np.asarray(run(keys), np.float64)


def compare(samples: np.ndarray, truth: Any, *, z_limit: float = 4.0, precision: float = 0.01) -> Check:
    """Whether the mean of samples f64[M, P] is `truth` (like theta): every |z| < `z_limit`.

    False alarm 6e-5 per number of theta at z = 4. A standard error along the truth of more than
    `precision` of it fails as well: the test would see no bias. Samples that do not vary are held
    against the truth to 1e-5.
    """
    flat = np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in jax.tree.leaves(truth)])
    size = float(np.linalg.norm(flat))
    mean, error = samples.mean(0), samples.std(0, ddof=1) / math.sqrt(len(samples))
    along = float(np.std(samples @ flat / size, ddof=1)) / math.sqrt(len(samples)) / size
    z = np.abs(mean - flat) / np.maximum(error, 1e-5 * size / 4)
    detail = f"mean {mean.round(4)}, truth {flat.round(4)}, max |z| = {z.max():.2f}, s.e. {along:.2%}"
    return Check(bool(z.max() < z_limit and along < precision), detail)


def check_unbiased(
    subject: Subject, toy: toys.Toy, *, truncation_length: int, sigma: float, stagger: bool = False
) -> Check:
    """Whether the mean estimate is the toy's smoothed gradient, at the toy's theta."""
    length = toy.system.length_multiple  # T, as it is constant
    window = truncation_length if truncates(subject.factory) else length
    estimator = build(
        subject.factory,
        toy.system,
        num_particles=subject.num_particles,
        truncation_length=window,
        sigma=sigma,
        stagger=stagger,
    )
    samples = sample_gradients(
        estimator,
        toy.theta,
        jax.random.key(subject.seed),
        num_samples=subject.num_samples,
        num_windows=length // window,
        burn_in=length // window if stagger else 0,
    )
    noise = {"window": (sigma, window), "episode": (sigma, length), "none": (0.0, length)}
    return compare(samples, toy.gradient(*noise[subject.smoothing]))


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
    """What the outer loop needs of an estimator, on `probe`, with one compiled program.

    "state": every leaf of the state is [N, ...] and keeps its shape and dtype. "compiles once": 20
    outer steps trace the system no more often than the first. "resumes": bit by bit the same from a
    host copy. "zero": a loss that theta does not move has gradient exactly 0. "diverges": particles
    whose loss is not finite leave the gradient finite, are counted, restart, and push theta away
    from where the loss is infinite. "devices" (where there are several): one device, same theta.
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
    state, metrics = loop.step(state, probe_data(scale=0.0))
    size = float(metrics["grad_norm"])
    diverges = _check_divergence(loop, state)
    found = {
        "state": Check(stable and axes == {(estimator.num_particles,)}, f"leading axes {axes}"),
        "resumes": Check(jax.tree.all(same), "bit by bit from a host copy"),
        "zero": Check(size == 0.0, f"|grad| = {size} of a loss that theta does not move"),
        "diverges": diverges,
        "compiles once": Check(len(traces) == first, f"{first} traces at step 1, {len(traces)} in all"),
    }
    if jax.device_count() > 1:
        found["devices"] = _check_devices(subject, second)
    return found


def _probe_run(subject, *, mesh=None, traces=None):
    """Eight particles of the estimator on `probe`, and its outer loop."""
    system = probe(constant_length=not truncates(subject.factory), traces=traces)
    estimator = build(subject.factory, system, num_particles=8, truncation_length=2, sigma=0.1, stagger=True)
    if mesh is not None:
        estimator = shard(estimator, mesh)
    return estimator, make_outer_step(
        lambda key: jax.tree.map(jnp.asarray, PROBE_THETA), estimator, optax.sgd(0.01)
    )


def _check_divergence(loop, state):
    """Half of the inner problems, then all on one side of theta, have losses that are not finite."""
    state, unlucky = loop.step(state, probe_data(unlucky=0.5))
    state, after = loop.step(state, probe_data())
    edge = float(state.theta["w"][0])
    state, _ = loop.step(state, probe_data(limit=edge, scale=0.0))
    moved = float(state.theta["w"][0]) - edge
    shares = float(unlucky["diverged"]), float(after["restarted"])
    passed = (
        0 < shares[0] <= shares[1]
        and math.isfinite(float(unlucky["grad_norm"]))
        and all(np.isfinite(x).all() for x in jax.tree.leaves(to_host(state.theta)))
        and moved <= 0
    )
    return Check(
        passed, f"{shares[0]:.0%} diverged, then {shares[1]:.0%} restarted; theta moved by {moved:.2g}"
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


def check_estimator(
    factory: Factory,
    *,
    smoothing: Literal["window", "episode", "none"] = "episode",
    num_particles: int = 1,
    num_samples: int = 50_000,
    seed: int = 0,
) -> dict[str, Check]:
    """Certifies an estimator: the whole suite, name -> `Check`.

    The names that begin with "unbiased" compare its mean with closed-form truths (z < 4 at a standard
    error under 1 %): "accumulator" across restarts of staggered particles, "terminal" (only the last loss
    of an inner problem counts), "quadratic", "vector" (a tree of theta, random data), and "product",
    where the smoothings part. The others are those of `check_loop`, and hold for biased estimators too.

    Args:
      factory: `(system, *, options) -> GradientEstimator`; use `functools.partial` to set options.
      smoothing: what the estimator claims to smooth by: noise new in every "window", one for the
        whole "episode", or "none", the true gradient.
      num_particles: N of one sample; more than 1 for estimators that couple particles.
      num_samples: of each statistical check; more if their standard error is above 1 %.
      seed: of every key.

    Example:
      `{name: c.detail for name, c in check_estimator(my_estimator).items() if not c.passed}`
    """
    subject = Subject(factory, smoothing, num_particles, num_samples, seed)
    return {name: check(subject) for name, check in UNBIASED.items()} | check_loop(subject)


UNBIASED: dict[str, Callable[[Subject], Check]] = {
    "unbiased: accumulator": lambda s: check_unbiased(
        s, toys.accumulator(), truncation_length=5, sigma=0.1, stagger=True
    ),
    "unbiased: terminal": lambda s: check_unbiased(
        s, toys.accumulator(terminal=True), truncation_length=5, sigma=0.1
    ),
    "unbiased: quadratic": lambda s: check_unbiased(
        s, toys.linear_quadratic(), truncation_length=10, sigma=0.1
    ),
    "unbiased: vector": lambda s: check_unbiased(
        s, toys.vector_linear_quadratic(), truncation_length=5, sigma=0.1
    ),
    "unbiased: product": lambda s: check_unbiased(s, toys.product(), truncation_length=2, sigma=0.3),
}
