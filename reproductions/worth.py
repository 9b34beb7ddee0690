"""What a gradient is worth: its bias, what more particles give, and what is left without derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.estimator_claims import OPTIONS
from meta_train.core.chain import chain, flatten
from meta_train.estimators import ESTIMATORS
from meta_train.testing import toys
from meta_train.testing.subject import build, truncates
from reproductions.costs import WHOLE

LENGTH, WINDOW = 8, 2


def worth(name: str, samples: int) -> dict[str, float]:
    """Bias and variance on a linear-quadratic system: T = 8, K = 2, |theta| = 8, four particles.

    "ratio" and "error": the mean along the true gradient, over its length, and the standard error; "z": of
    its difference from 1; "four": variance of the mean of four particles over that of one (NaN for 0);
    "rounded" and "rounded error": the ratio where losses are rounded to multiples of 0.05, so that they have
    no derivative. The samples are independent chains of one inner problem.
    """
    toy = toys.vector_linear_quadratic(unroll_length=LENGTH, noise=0.0)

    def step(theta, state, key, rounded):
        state, loss = toy.system.step(theta, state, key, ())
        return state, jnp.where(rounded, jnp.round(20 * loss) / 20, loss)

    whole = name in WHOLE or not truncates(ESTIMATORS[name])
    window = LENGTH if whole else WINDOW
    options: dict[str, Any] = {
        "num_particles": 4,
        "truncation_length": window,
        "sigma": 0.1,
        "stagger": False,
    }
    system = toy.system._replace(step=step)
    estimator = build(ESTIMATORS[name], system, **options, **OPTIONS.get(name, {}))

    def one(key, rounded):
        each = lambda e: (flatten(e.grad), e.particles["grad_sq"].mean())  # noqa: E731
        return chain(estimator, toy.theta, key, rounded, num_windows=LENGTH // window, each=each)[1]

    many = jax.jit(jax.vmap(one, (0, None)))
    keys = jax.random.split(jax.random.key(0), samples)
    run = many.lower(keys, False).compile({"xla_backend_optimization_level": "0"})
    truth = np.asarray(flatten(toy.gradient(0.0, LENGTH)), np.float64)

    def along(grads):
        found = np.asarray(grads, np.float64).mean(1) @ truth / (truth @ truth)
        return float(found.mean()), float(found.std(ddof=1) / samples**0.5)

    grads, squares = (np.asarray(x, np.float64) for x in run(keys, False))
    (ratio, error), (rounded, rounded_error) = along(grads), along(run(keys, True)[0])
    alone = (squares.mean(0) - np.square(grads.mean(0)).sum(-1)).sum()
    together = grads.var(0, ddof=1).sum()
    random = together > 1e-6 * (truth @ truth)
    return {
        "ratio": ratio,
        "error": error,
        "z": (ratio - 1) / max(error, 1e-5),
        "four": float(together / alone) if random else float("nan"),
        "rounded": rounded,
        "rounded error": rounded_error,
    }
