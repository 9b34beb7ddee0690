"""What must be alike in every inner problem of a chain, whatever the mean of an estimator is."""

import inspect
import math
from typing import Any

import jax
import numpy as np

from meta_train.core.chain import chain, flatten
from meta_train.testing import toys
from meta_train.testing.subject import Check, Subject, build, truncates

EPISODES, SAMPLES, LENGTH = 6, 4096, 4


def check_episodes(subject: Subject) -> dict[str, Check]:
    """4096 chains of six inner problems of the accumulator: T = 4, K = 2, theta one number, N at least 2.

    "resets": the variance of a window is no larger after a restart than in the first inner problem
    (something of the old one was kept). "fresh noise": the first and the second inner problem are
    uncorrelated. "independent": the mean over N particles has at most the variance of one, over N.
    "loss": the mean of the reported losses is the mean loss per step. Each |z| < 4, false alarm 6e-5.

    An estimator without the option `stagger` may start its chains anywhere: then the first T steps are left
    out, and the inner problems that are compared are T steps apart.
    """
    particles = max(2, subject.num_particles)
    toy = toys.accumulator(unroll_length=LENGTH)
    window = LENGTH // 2 if truncates(subject.factory) else LENGTH
    estimator = build(
        subject.factory,
        toy.system,
        num_particles=particles,
        truncation_length=window,
        sigma=0.1,
        stagger=False,
    )

    def one(key):
        def numbers(estimate):
            return flatten(estimate.grad)[0], estimate.particles["grad_sq"].mean(), estimate.loss

        windows: Any = EPISODES * LENGTH // window
        return chain(estimator, toy.theta, key, num_windows=windows, each=numbers)[1]

    keys = jax.random.split(jax.random.key(subject.seed), SAMPLES)
    found = jax.jit(jax.vmap(one))(keys)
    aligned = "stagger" in inspect.signature(subject.factory).parameters or window == LENGTH
    begin, apart = (0, 1) if aligned else (1, 2)
    shape = SAMPLES, EPISODES, -1
    grads, squares, losses = (np.asarray(x, np.float64).reshape(shape)[:, begin:] for x in found)
    means = grads.mean((0, 1))
    off = np.square(grads - means)
    growth = (off[:, 1:].mean(1) - off[:, 0]).T  # of every window's variance, in each chain
    first, second = ((grads - means).mean(2)[:, i] for i in (0, apart))
    excess = particles * off.mean((1, 2)) - (squares.mean((1, 2)) - np.square(means).mean())
    size = float(np.square(means).mean())
    worst = max(_z(x, size) for x in growth)
    loss = _z(losses.mean((1, 2)) - float(toy.theta) * (LENGTH + 1) / 2, 1.0)
    return {
        "resets": Check(worst < 4, f"variance after a restart against the first: z = {worst:.1f}"),
        "fresh noise": _check("two inner problems correlate", _z(first * second, size)),
        "independent": Check(
            (z := _z(excess, size)) < 4, f"variance of the mean of {particles} particles: z = {z:.1f}"
        ),
        "loss": _check("the mean loss against the truth", loss),
    }


def _check(what: str, z: float) -> Check:
    return Check(abs(z) < 4, f"{what}: z = {z:.1f}")


def _z(samples: np.ndarray, scale: float) -> float:
    """z of the mean of independent samples f64[M] against 0; 1e-4 of `scale` counts as rounding."""
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    return float(samples.mean() / max(error, 1e-4 * scale / 4))
