"""Variance of the gradient of one window's loss against the number of windows since the restart.

A linear system whose influences are given, so that the variance is known in closed form. What the loss of
window w owes to each earlier window decides: PES pays for every window's noise, NRES does not.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.estimators import ESTIMATORS
from reproductions import common
from reproductions.systems.linear_influence import influences, linear_influence, variance

KINDS = ("equal", "random", "last")
NAMES = {"pes": "PES", "nres": "NRES", "pes_analytic": "PES+Analytic"}


def measure(name: str, kind: str, *, unroll_length: int, dim: int, samples: int, seed: int) -> np.ndarray:
    """f64[T]: trace of the covariance of one pair's gradient of each window's loss, K = 1."""
    problem = linear_influence(kind=kind, unroll_length=unroll_length, dim=dim)  # type: ignore[arg-type]
    theta = problem.init_theta(jax.random.key(0))
    estimator = ESTIMATORS[name](
        problem.system, num_particles=1, truncation_length=1, sigma=0.1, stagger=False
    )

    def one(key, data):
        key_init, key = jax.random.split(key)

        def window(state, key):
            estimate, state = estimator.estimate(theta, state, key, data)
            return state, estimate.grad

        return jax.lax.scan(window, estimator.init(theta, key_init), jax.random.split(key, unroll_length))[1]

    def batch(moments, key):
        grads = jax.vmap(one, (0, None))(jax.random.split(key, 200), problem.data)
        first, second = moments
        return (first + grads.sum(0), second + jnp.square(grads).sum(0)), None

    begin = (jnp.zeros((unroll_length, dim)),) * 2
    keys = jax.random.split(jax.random.key(seed), samples // 200)
    first, second = (
        np.asarray(x, np.float64) for x in jax.jit(lambda k: jax.lax.scan(batch, begin, k)[0])(keys)
    )
    return (second - np.square(first) / samples).sum(-1) / (samples - 1)


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Measured and exact trace of the covariance over |g|^2, T = 20 and 50 numbers in theta."""
    size = {"unroll_length": 8, "dim": 10} if fast else {"unroll_length": 20, "dim": 50}
    curves, summary = {}, {}
    for kind in KINDS:
        g = influences(kind, size["unroll_length"], size["dim"])
        scale = np.square(g.sum(1)).sum(-1)
        curves[kind] = {}
        for name in NAMES:
            exact = variance(name, g) / scale  # type: ignore[arg-type]
            found = measure(name, kind, **size, samples=4000 if fast else 20_000, seed=seeds[0]) / scale
            curves[kind][name] = {"exact": exact.tolist(), "measured": found.tolist()}
            ratio = found[exact > 0] / exact[exact > 0]
            off = f"within {np.abs(ratio - 1).max():.1%}" if ratio.size else "exactly 0"
            summary[f"{kind}, {NAMES[name]}"] = f"{exact[-1]:.4g} after {len(g)} windows; measured {off}"
    return {"windows": list(range(1, size["unroll_length"] + 1)), "curves": curves, "summary": summary}


def draw(result: dict[str, Any], figure: Any) -> None:
    """One panel per kind of influence; lines are exact, points measured."""
    panels = figure.subplots(1, 3, sharey=True)
    titles = ("all windows alike", "independent influences", "only the newest window")
    for panel, (_kind, curves), title in zip(panels, result["curves"].items(), titles, strict=True):
        for i, (name, curve) in enumerate(curves.items()):
            panel.plot(result["windows"], curve["exact"], color=common.COLOURS[i], label=NAMES[name])
            panel.plot(result["windows"], curve["measured"], ".", color=common.COLOURS[i], markersize=5)
        panel.set(title=title, xlabel="windows since the restart", yscale="log", ylim=(5, 3000))
    panels[0].set(ylabel="tr Cov / |g|\N{SUPERSCRIPT TWO} of one pair")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[0])
