"""Error of a pair's gradient against the number of windows, for an LSTM that reads T characters.

theta is held fixed. Where the characters ask for the same change (one character repeated), new noise in every
window averages; where their gradients nearly cancel (random characters), each window's noise is paid for.
As the system is differentiable, the error is known to first order in sigma as well: the lines.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from meta_train.core import perturb
from meta_train.estimators import ESTIMATORS
from reproductions import common
from reproductions.systems.character_lstm import character_lstm

FULL = {
    "text": "pydoc[:100000]",
    "hidden": 5,
    "unroll_length": 256,
    "windows": (1, 4, 16, 64, 256),
    "samples": 1000,
}
FAST = {"text": "markov:1", "hidden": 3, "unroll_length": 32, "windows": (16,), "samples": 4000}
SCENARIOS = ("real", "random", "repeat")
NAMES = {"pes": "PES", "nres": "NRES", "truncated_es": "truncated ES"}
SIGMA = 1e-3
BATCH = 200


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Expected |ghat - g|^2 / |g|^2 of one pair, measured and to first order in sigma."""
    size = FAST if fast else FULL
    t, windows = size["unroll_length"], size["windows"]
    problems = {
        scenario: character_lstm(
            text=size["text"],
            scenario=scenario,
            hidden=size["hidden"],
            embedding=size["hidden"],
            unroll_length=t,
            random_start=False,
        )
        for scenario in SCENARIOS
    }
    system = problems["real"].system  # all of them: they differ in their data
    theta = problems["real"].init_theta(jax.random.key(0))
    data = {scenario: problem.data for scenario, problem in problems.items()}
    lines = {n: first_order(system, theta, data, t, n) for n in windows}
    curves, summary = {}, {}
    for scenario in SCENARIOS:
        curves[scenario] = {name: {"exact": [], "measured": []} for name in NAMES}
        curves[scenario]["tbptt"] = {"exact": [lines[n][scenario]["tbptt"] for n in windows]}
    for name, label in NAMES.items():
        for n in windows:
            estimator = ESTIMATORS[name](
                system, num_particles=1, truncation_length=t // n, sigma=SIGMA, stagger=False
            )
            truth = {scenario: lines[n][scenario]["gradient"] for scenario in SCENARIOS}
            found = measure(estimator, theta, data, truth, n, size["samples"], seeds[0])
            for scenario in SCENARIOS:
                curves[scenario][name]["exact"].append(lines[n][scenario][name])
                curves[scenario][name]["measured"].append(found[scenario])
        common.progress(label)
    for scenario, found in curves.items():
        for name, label in NAMES.items():
            exact, measured = (np.asarray(found[name][k]) for k in ("exact", "measured"))
            summary[f"{scenario}, {label}"] = (
                f"{', '.join(f'{x:.4g}' for x in measured)}; "
                f"off by at most {np.abs(measured / exact - 1).max():.1%}"
            )
    summary["windows"] = ", ".join(map(str, windows))
    return {"windows": list(windows), "size": perturb.size(theta), "curves": curves, "summary": summary}


def measure(
    estimator: Any, theta: Any, data: dict[str, Any], truth: dict[str, Any], n: int, samples: int, seed: int
) -> dict[str, float]:
    """scenario -> mean over samples of |ghat - g|^2 / |g|^2, ghat the mean over the n windows."""

    def one(key, data, g):
        key_init, key = jax.random.split(key)

        def window(carry, key):
            state, total = carry
            estimate, state = estimator.estimate(theta, state, key, data)
            return (state, perturb.add(total, estimate.grad)), None

        begin = (estimator.init(theta, key_init), perturb.zeros_like(theta))
        (_, total), _ = jax.lax.scan(window, begin, jax.random.split(key, n))
        return perturb.sq_norm(perturb.add_scaled(g, -1 / n, total)) / perturb.sq_norm(g)

    keys = jax.random.split(jax.random.key(seed), samples).reshape(-1, BATCH)
    many = jax.jit(lambda data, g: jax.lax.map(lambda k: jax.vmap(one, (0, None, None))(k, data, g), keys))
    return {scenario: float(many(data[scenario], truth[scenario]).mean()) for scenario in data}


def first_order(system: Any, theta: Any, data: dict[str, Any], t: int, n: int) -> dict[str, dict[str, Any]]:
    """scenario -> the gradient, and the errors of the estimators for losses that are linear in theta.

    With g[w, j] the gradient of window w's loss by theta as window j used it, d numbers in theta, and
    h[i, j] the sum of g[w, j] over the windows w >= max(i, j):
    PES `d sum_ij |h[i, j]|^2 + sum_ij h[i, j] . h[j, i]`; NRES `(d + 1) |g|^2`;
    truncated ES `(d + 1) sum_w |g[w, w]|^2` and its bias squared, which is the error of TBPTT.
    """
    flat, unravel = ravel_pytree(theta)

    def losses(thetas, data):
        state, _ = system.init(theta, jax.random.key(0))

        def window(state, flat):
            tree = unravel(flat)

            def step(state, _):
                return system.step(tree, state, jax.random.key(0), data)

            state, losses = jax.lax.scan(step, state, None, t // n)
            return state, losses.sum() / t

        return jax.lax.scan(window, state, thetas)[1]

    def sums(data):
        _, pull = jax.vjp(lambda thetas: losses(thetas, data), jnp.broadcast_to(flat, (n, flat.size)))

        def add_window(carry, i):  # from the last window to the first
            h, total, own = carry
            row = pull(jnp.zeros(n).at[i].set(1.0))[0]  # g[i, :]
            h = h + row  # h[i, :]
            earlier = jnp.where(jnp.arange(n)[:, None] <= i, h, 0).sum(0)
            # h[j, i] = h[i, i] for j < i, so that both orders of a pair are here.
            cross = h[i] @ (2 * earlier - h[i])
            total = total + flat.size * jnp.square(h).sum() + cross
            return (h, total, (own[0] + row[i], own[1] + jnp.square(row[i]).sum())), None

        begin = (jnp.zeros((n, flat.size)), 0.0, (jnp.zeros(flat.size), 0.0))
        (h, pes, (truncated, own)), _ = jax.lax.scan(add_window, begin, jnp.arange(n)[::-1])
        g = h.sum(0)
        size = jnp.square(g).sum()
        bias = jnp.square(truncated - g).sum() / size
        return {
            "gradient": unravel(g),
            "pes": pes / size,
            "nres": jnp.float32(flat.size + 1),
            "truncated_es": (flat.size + 1) * own / size + bias,
            "tbptt": bias,
        }

    found = jax.jit(lambda data: {scenario: sums(d) for scenario, d in data.items()})(data)
    return {
        scenario: {"gradient": numbers.pop("gradient")} | {k: float(v) for k, v in numbers.items()}
        for scenario, numbers in found.items()
    }


def draw(result: dict[str, Any], figure: Any) -> None:
    """One panel per text; lines are to first order in sigma, points measured."""
    panels = figure.subplots(1, len(result["curves"]))
    titles = {"real": "text", "random": "random characters", "repeat": "one character"}
    labels = NAMES | {"tbptt": "TBPTT (bias alone)"}
    for panel, (scenario, curves) in zip(panels, result["curves"].items(), strict=True):
        for i, (name, curve) in enumerate(curves.items()):
            exact = np.where(np.asarray(curve["exact"]) > 0, curve["exact"], np.nan)
            panel.plot(result["windows"], exact, color=common.COLOURS[i], label=labels[name])
            if "measured" in curve:
                panel.plot(result["windows"], curve["measured"], "o", color=common.COLOURS[i], markersize=4)
        panel.set(title=titles[scenario], xlabel="windows in T", xscale="log", yscale="log")
    panels[0].set(ylabel="|error|\N{SUPERSCRIPT TWO} / |g|\N{SUPERSCRIPT TWO} of one pair")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[0])
