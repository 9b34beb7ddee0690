"""Variance and cost of every estimator, measured, and its formulas: docs/estimator_claims.json.

Variance: the trace of the covariance of one particle's gradient, window by window (K = 1, T = 8), over the
squared length of the window's true gradient, on two systems: losses linear in theta with random influences
(12 numbers in theta), and a linear-quadratic one (8 numbers), where the formulas hold exactly too. Influences
g[w, j], the gradient of loss w by theta as step j used it, are computed by automatic differentiation.

Cost: floating-point operations of the compiled estimate of one particle, over those of one step, by XLA's own
cost analysis, which counts the body of a loop once: so the number is one of windows of K steps. On a matrix
product (whose derivative by a state costs two products), and on the training of a small network.

Command: python benchmarks/estimator_claims.py [--fast] [--out docs/estimator_claims.json]
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import learned_opt
from meta_train.core.chain import chain, flatten
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS
from meta_train.inner import inner_training
from meta_train.testing import toys
from meta_train.testing.subject import build, truncates
from reproductions.systems.linear_influence import linear_influence
from tasks import make

LENGTH, SAMPLES, CUT, ISOTROPY, SURROGATES, PERIOD = 8, 20_000, 4.0, 0.5, 2, 4
OPTIONS: dict[str, dict[str, Any]] = {
    "artbp": {"mean_length": CUT, "lengths": "constant"},
    "gpes": {"noise_period": PERIOD},
    "guided_es": {"isotropy": ISOTROPY, "num_surrogates": SURROGATES},
}
Influences = np.ndarray  # f64[T, T, d]


def influences(system: UnrolledSystem, theta: Any, data: Any) -> Influences:
    """g[w, j]: gradient of loss w by theta as step j used it; the system must draw nothing."""

    def losses(thetas):
        state, _ = system.init(theta, jax.random.key(0))

        def step(state, theta):
            return system.step(theta, state, jax.random.key(0), data)

        return jax.lax.scan(step, state, thetas)[1]

    stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (LENGTH, *jnp.shape(x))), theta)
    slopes = [np.asarray(x, np.float64) for x in jax.tree.leaves(jax.jacrev(losses)(stacked))]
    return np.concatenate([x.reshape(LENGTH, LENGTH, -1) for x in slopes], -1)


def pes_variance(g: Influences) -> np.ndarray:
    """`d w sum_j |g_j|^2 + |sum_j g_j|^2` of every window; g f64[W, J, d]."""
    drawn = np.arange(1, len(g) + 1)
    return g.shape[-1] * drawn * np.square(g).sum((1, 2)) + np.square(g.sum(1)).sum(-1)


def gpes_variance(g: Influences) -> np.ndarray:
    """PES's of blocks of `PERIOD` steps."""
    blocks = g.reshape(len(g), -1, PERIOD, g.shape[-1]).sum(2)
    drawn = np.arange(len(g)) // PERIOD + 1
    return g.shape[-1] * drawn * np.square(blocks).sum((1, 2)) + np.square(g.sum(1)).sum(-1)


def older_variance(g: Influences) -> np.ndarray:
    """PES's without the newest window."""
    older = g * np.tril(np.ones(g.shape[:2]), -1)[:, :, None]
    drawn = np.arange(len(g))
    return g.shape[-1] * drawn * np.square(older).sum((1, 2)) + np.square(older.sum(1)).sum(-1)


def single_variance(g: Influences) -> np.ndarray:
    """`(d + 1) |sum_j g_j|^2`: one draw."""
    return (g.shape[-1] + 1) * np.square(g.sum(1)).sum(-1)


def guided_variance(g: Influences) -> np.ndarray:
    """`sum_c (V(P_c g) + |sum_j P_c g_j|^2) / p_c - |sum_j g_j|^2`, c inside or outside of the surrogates."""
    truncated = g[np.arange(len(g)), np.arange(len(g))]
    inside = []
    for w in range(len(g)):
        basis, _ = np.linalg.qr(truncated[[(w - 1 - i) % len(g) for i in range(SURROGATES)]].T)
        inside.append(basis @ basis.T)
    total = -np.square(g.sum(1)).sum(-1)
    for chance, part in ((1 - ISOTROPY, np.array(inside)), (ISOTROPY, np.eye(g.shape[-1]) - inside)):
        kept = np.einsum("jab,wjb->wja", part, g)
        rank = np.trace(part[0]) * np.arange(1, len(g) + 1)
        total += (rank * np.square(kept).sum((1, 2)) + 2 * np.square(kept.sum(1)).sum(-1)) / chance
    return total


def artbp_variance(g: Influences) -> np.ndarray:
    """Of the mean over windows: `sum (q^overlap - 1) g_wj . g_vi`, q = 1 / (1 - c), in common steps."""
    q = 1 / (1 - 1 / CUT)
    w, j = np.tril_indices(len(g))
    overlap = np.clip(np.minimum(w[:, None], w) - np.maximum(j[:, None], j), 0, None)
    vectors = g[w, j] / len(g)
    return np.array([((q**overlap - 1) * (vectors @ vectors.T)).sum()])


def nothing(g: Influences) -> np.ndarray:
    """No variance."""
    return np.zeros(len(g))


def first_window_only(g: Influences) -> np.ndarray:
    """No variance in the first window; no closed form after it."""
    return np.where(np.arange(len(g)) == 0, 0.0, np.nan)


FORMULAS: dict[str, Callable[[Influences], np.ndarray]] = {
    "artbp": artbp_variance,
    "bptt": lambda g: np.zeros(1),
    "dodge": single_variance,
    "full_es": lambda g: single_variance(g.mean(0, keepdims=True)),
    "gpes": gpes_variance,
    "guided_es": guided_variance,
    "metz2019": lambda g: np.full(len(g), np.nan),
    "nres": single_variance,
    "pes": pes_variance,
    "pes_analytic": older_variance,
    "pes_reparam": older_variance,
    "reparam": nothing,
    "rtrl": nothing,
    "tbptt": nothing,
    "truncated_es": lambda g: single_variance(g * np.eye(len(g))[:, :, None]),
    "uoro": first_window_only,
}


def variances(name: str, system: UnrolledSystem, theta: Any, data: Any, samples: int) -> np.ndarray:
    """f64[W]: trace of the covariance of one particle's gradient, by window of a second inner problem."""
    window = 1 if truncates(ESTIMATORS[name]) else LENGTH
    options = {"num_particles": 1, "truncation_length": window, "sigma": 0.1, "stagger": False}
    estimator = build(ESTIMATORS[name], system, **options, **OPTIONS.get(name, {}))
    count = LENGTH // window

    def one(key, data):
        grads = chain(estimator, theta, key, data, num_windows=2 * count, each=lambda one: flatten(one.grad))[
            1
        ]
        return grads[count:]

    keys = jax.random.split(jax.random.key(1), samples)
    return np.asarray(jax.jit(jax.vmap(one, (0, None)))(keys, data), np.float64).var(0, ddof=1).sum(-1)


def systems() -> dict[str, tuple[UnrolledSystem, Any, Any]]:
    """The two systems of the variances: name -> system, theta, data."""
    linear = linear_influence(kind="random", unroll_length=LENGTH, dim=12)
    quadratic = toys.vector_linear_quadratic(unroll_length=LENGTH, noise=0.0)
    return {
        "linear": (linear.system, linear.init_theta(jax.random.key(0)), linear.data),
        "quadratic": (quadratic.system, quadratic.theta, ()),
    }


def measured_variances(names: list[str], samples: int) -> dict[str, Any]:
    """System -> estimator -> measured and expected, over |g|^2, and their largest relative deviation."""
    found: dict[str, Any] = {}
    for label, (system, theta, data) in systems().items():
        g = influences(system, theta, data)
        for name in names:
            measured, expected = variances(name, system, theta, data, samples), FORMULAS[name](g)
            whole = g if len(measured) > 1 else g.mean(0, keepdims=True)
            scale = np.square(whole.sum(1)).sum(-1)
            known = np.isfinite(expected) & (expected > 0)
            off = (
                float(np.abs(measured / np.where(known, expected, 1) - 1)[known].max())
                if known.any()
                else None
            )
            found.setdefault(label, {})[name] = {
                "measured": [float(f"{x:.4g}") for x in measured / scale],
                "expected": [None if np.isnan(x) else float(f"{x:.4g}") for x in expected / scale],
                "deviation": off if off is None else round(off, 4),
            }
            print(label, name, found[label][name], flush=True)
    return found


def matrix_product() -> tuple[UnrolledSystem, Any, Any]:
    """`s <- tanh(s s / 16 + theta)`, s 64 x 64, theta four numbers."""

    def step(theta, s, key, data):
        s = jnp.tanh(s @ s / 16 + theta["a"] + theta["b"].sum())
        return s, s[0, 0]

    init = lambda theta, key: (jnp.full((64, 64), 0.1), jnp.int32(LENGTH))  # noqa: E731
    return UnrolledSystem(init, step, LENGTH, LENGTH), {"a": jnp.zeros([]), "b": jnp.zeros(3)}, ()


def small_network() -> tuple[UnrolledSystem, Any, Any]:
    """A 64-64-10 network, batches of 128, trained with learnable Adam."""
    family = make({"name": "teacher_mlp", "features": 64, "hidden": [64], "batch_size": 128})
    lopt = learned_opt.learnable_adam()
    system = inner_training(family, lopt, unroll_length=LENGTH)
    return system, lopt.init(jax.random.key(0)), family.data


def flops(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of a compiled function; the body of a loop counts once."""
    return float(jax.jit(function).lower(*args).compile().cost_analysis()["flops"])  # type: ignore[index]


def count(name: str, system: UnrolledSystem, theta: Any, data: Any) -> float:
    """Operations of one particle's estimate over those of one step of the system."""
    key = jax.random.key(0)
    state, _ = system.init(theta, key)
    window = LENGTH // 2 if truncates(ESTIMATORS[name]) else LENGTH
    estimator = build(ESTIMATORS[name], system, num_particles=1, truncation_length=window)
    particles = jax.eval_shape(estimator.init, theta, key)
    one = flops(system.step, theta, state, key, data)
    return round(flops(estimator.estimate, theta, particles, key, data) / one, 1)


def costs(names: list[str]) -> dict[str, dict[str, float]]:
    """Label -> estimator -> `count`."""
    found: dict[str, dict[str, float]] = {}
    for label, make_system in (("product", matrix_product), ("network", small_network)):
        system = make_system()
        for name in names:
            found.setdefault(label, {})[name] = count(name, *system)
            print(label, name, found[label][name], flush=True)
    return found


def main() -> None:
    """Measures everything and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="a tenth of the samples")
    parser.add_argument("--out", type=Path, default=Path("docs/estimator_claims.json"))
    parser.add_argument("names", nargs="*", default=[])
    given = parser.parse_args()
    names, samples = given.names or sorted(FORMULAS), SAMPLES // 10 if given.fast else SAMPLES
    result = {"samples": samples, "steps": costs(names), "variance": measured_variances(names, samples)}
    given.out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
