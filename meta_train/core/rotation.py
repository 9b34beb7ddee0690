"""More families than one program should hold: each has a program of its own, and they take turns.

The one place besides `outer.py` where an outer step is assembled. There all families are part of one jitted
function; here the families that are active call one program each, and a last small one moves theta.
Families with equal computations share a program, and the others compile side by side in threads.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.core import perturb
from meta_train.core.combine import AverageState, means, weigh
from meta_train.core.estimator import Estimate, GradientEstimator, summarise
from meta_train.core.outer import OuterState, OuterStep, only, update_theta

DECAY = 0.99  # of the running sizes of the families' gradients, as in `combine.average`


class Rotation(NamedTuple):
    """Which families are active when.

    Attributes:
      labels: all families.
      weights: probabilities, relative to each other, of being drawn.
      active: how many are active at a time.
      every: outer steps after which others are drawn.
      seed: of the draws.
    """

    labels: tuple[str, ...]
    weights: tuple[float, ...]
    active: int
    every: int
    seed: int

    def at(self, outer_step: int) -> tuple[str, ...]:
        """The families that are active in this outer step, in the order of `labels`."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, outer_step // self.every]))
        share = np.asarray(self.weights) / sum(self.weights)
        chosen = draw.choice(len(self.labels), self.active, replace=False, p=share)
        return tuple(self.labels[i] for i in sorted(chosen))


def make_mixture_step(
    init_theta: Callable[[jax.Array], Any],
    estimators: dict[str, GradientEstimator],
    optimizer: optax.GradientTransformation,
    rotation: Rotation,
    data: dict[str, Any],
    everywhere: jax.sharding.Sharding,
    *,
    scaling: Literal["none", "ema", "loss"] = "none",
    ema: float = 0.0,
    trained: tuple[str, ...] = (),
) -> OuterStep:
    """An outer step over the families that are active: the plain mean of their (scaled) gradients.

    A family that becomes active begins with fresh particles: theta has moved since it was last.

    Args:
      init_theta: `(key) -> theta`.
      estimators: label -> estimator; all with equally many particles.
      optimizer: outer optimizer.
      rotation: who is active when; its weights decide how often, not how much.
      data: label -> data, for their shapes.
      everywhere: where theta lives: on every device of the estimators' mesh.
      scaling: of the families' gradients, as in `combine.average`.
      ema: decay of theta's moving average.
      trained: keys of theta that are moved; () for all.

    Returns:
      `init` and `step` as of `make_outer_step`, one outer step a call; not jitted as a whole.
    """
    labels = rotation.labels
    programs = _Programs(init_theta, estimators, data)
    finish = _finisher(optimizer, scaling, ema, trained)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def split(key, i):
        return tuple(jax.random.split(jax.random.fold_in(key, i), 2 * len(labels)))

    def init(key):
        key_theta, key_estimator, key = jax.device_put(tuple(jax.random.split(key, 3)), everywhere)
        theta = jax.jit(init_theta, out_shardings=everywhere)(key_theta)
        keys = split(key_estimator, 0)[: len(labels)]
        programs.compile(labels)
        states = {label: programs.init(label)(theta, k) for label, k in zip(labels, keys, strict=True)}
        theta_ema, opt_state, running, counts, outer_step = rest(theta)
        families = AverageState(states, running, counts)
        return OuterState(theta, theta_ema, opt_state, families, key, outer_step)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def rest(theta):
        # Made where theta lives: a step moves nothing from device to device.
        running = None if scaling == "none" else jnp.zeros(len(labels))
        counts = jnp.zeros(len(labels), jnp.int32)
        return jax.tree.map(jnp.copy, theta), optimizer.init(theta), running, counts, jnp.zeros([], jnp.int32)

    def step(state, data):
        i = int(jax.device_get(state.outer_step))
        active, before = rotation.at(i), rotation.at(max(i - 1, 0))
        states = dict(state.estimator_state.states)
        keys = split(state.key, state.outer_step)
        estimates = []
        for label in active:
            place = labels.index(label)
            if label not in before:
                states[label] = programs.init(label)(state.theta, keys[len(labels) + place])
            one, states[label] = programs.estimate(label)(
                state.theta, states[label], keys[place], data[label]
            )
            estimates.append(one)
        places = jax.device_put(np.asarray([labels.index(x) for x in active], np.int32), everywhere)
        bare = state._replace(estimator_state=state.estimator_state._replace(states={}))
        state, metrics, each = finish(bare, estimates, places)
        for label, found in zip(active, each, strict=True):
            metrics |= {f"{label}/{name}": value for name, value in found.items()}
        return state._replace(estimator_state=state.estimator_state._replace(states=states)), metrics

    return OuterStep(init, step)


def _finisher(optimizer, scaling, ema, trained) -> Callable[..., Any]:
    """`(state, estimates, places) -> (state, metrics, each family's)`: the program that moves theta."""

    @jax.jit
    def finish(state, estimates, places):
        families = state.estimator_state
        counts = families.counts.at[places].add(1)
        before = None if families.running is None else families.running[places]
        shares = jnp.full(len(estimates), 1 / len(estimates))
        found = list(means(dict(enumerate(estimates))).values())
        grad, loss, running = weigh(found, shares, before, counts[places], scaling=scaling, decay=DECAY)
        grad = only(trained, grad)
        theta, theta_ema, opt_state, norm = update_theta(state, grad, optimizer, ema=ema, trained=trained)
        if families.running is not None:
            running = families.running.at[places].set(running)
        metrics = {"loss": loss, "grad_norm": jnp.sqrt(perturb.sq_norm(grad)), "update_norm": norm}
        families = AverageState({}, running, counts)
        after = OuterState(theta, theta_ema, opt_state, families, state.key, state.outer_step + 1)
        return after, metrics, [summarise(_alone(one)).metrics for one in estimates]

    return finish


def _alone(one: Estimate) -> Estimate:
    return one._replace(metrics={})


class _Programs:
    """The compiled `init` and `estimate` of every family; equal ones are compiled once, others in threads."""

    def __init__(self, init_theta, estimators, data):
        key = jax.random.key(0)
        self._key, self._theta = key, jax.eval_shape(init_theta, key)
        self._estimators, self._data = estimators, data
        self._compiled: dict[str, Future] = {}
        self._names: dict[str, tuple[str, str]] = {}

    def compile(self, labels: tuple[str, ...]) -> None:
        """Traces the families, and compiles what differs."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            for label in labels:
                one = self._estimators[label]
                state = jax.eval_shape(one.init, self._theta, self._key)
                self._names[label] = (
                    self._submit(threads, jax.jit(one.init), self._theta, self._key),
                    self._submit(
                        threads,
                        jax.jit(one.estimate, donate_argnums=1),
                        self._theta,
                        state,
                        self._key,
                        self._data[label],
                    ),
                )

    def _submit(self, threads, function, *args) -> str:
        traced = function.trace(*args)
        name = _fingerprint(traced.jaxpr)
        if name not in self._compiled:
            self._compiled[name] = threads.submit(lambda: traced.lower().compile())
        return name

    def init(self, label: str):
        return self._compiled[self._names[label][0]].result()

    def estimate(self, label: str):
        return self._compiled[self._names[label][1]].result()

    @property
    def count(self) -> int:
        return len(self._compiled)


def _fingerprint(closed: Any) -> str:
    """What tells one computation from another: the operations, the shapes, and the constants."""

    def content(c):
        if not hasattr(c, "dtype"):
            return repr(c)
        key = jnp.issubdtype(c.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(c) if key else c).tobytes()

    return f"{closed}{[content(c) for c in closed.consts]}"
