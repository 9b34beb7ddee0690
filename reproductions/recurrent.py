"""Recurrent networks trained by eight estimators: an LSTM and a vanilla RNN on copying, adding and text.

theta is the network, and an inner problem is one sequence of T symbols, in windows of K. TBPTT and truncated
ES see no further than a window; the others give credit across windows. Every method takes equally many inner
steps, with the best of three outer rates on another seed, and its processor time is measured.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.core import perturb
from meta_train.core.outer import make_outer_step
from meta_train.estimators import ESTIMATORS
from reproductions import common, learning, populations
from reproductions.systems.outer_problem import OuterProblem
from reproductions.systems.recurrent import Core, Problem, recurrent

# name -> problem, network, and windows that each method trains for
CASES: dict[str, tuple[Problem, Core, int]] = {
    "adding, LSTM": ("adding", "lstm", 4000),
    "copy, vanilla": ("copy", "vanilla", 2000),
    "text, vanilla": ("text", "vanilla", 1000),
    "adding, vanilla": ("adding", "vanilla", 4000),
    "copy, LSTM": ("copy", "lstm", 2000),
    "text, LSTM": ("text", "lstm", 1000),
}
FAST: dict[str, tuple[Problem, Core, int]] = {"copy, vanilla": ("copy", "vanilla", 80)}
LENGTH = 20
HIDDEN, K, EPISODES, RECORDS, TUNING_SEED = 8, 5, 256, 10, 1000
GRADIENT, PAIRS = {"num_particles": 32}, {"num_particles": 64, "sigma": 0.1}
LOW, HIGH = (0.003, 0.01, 0.03), (0.01, 0.03, 0.1)
# label -> estimator, its options, and the outer rates of which the best is taken
METHODS: dict[str, tuple[str, dict[str, Any], tuple[float, float, float]]] = {
    "BPTT": ("bptt", GRADIENT, HIGH),
    "TBPTT": ("tbptt", GRADIENT, HIGH),
    "UORO": ("uoro", GRADIENT, LOW),
    "RTRL": ("rtrl", {"num_particles": 4}, LOW),
    "truncated ES": ("truncated_es", PAIRS, HIGH),
    "full ES": ("full_es", PAIRS, HIGH),
    "PES": ("pes", PAIRS, LOW),
    "NRES": ("nres", PAIRS, HIGH),
}
WHOLE = ("BPTT", "full ES")  # an outer step takes T inner steps, not K
RTRL_LIMIT = 150  # |theta| above which its influence matrices would take longer than all other methods


def training(problem: OuterProblem, label: str, windows: int, num_runs: int) -> Any:
    """`(seeds [R], rates [R], data) -> theta` after each tenth of training, leaves [R, RECORDS + 1, ...]."""
    name, options, _ = METHODS[label]
    own = {} if label in WHOLE else {"truncation_length": K}
    estimator = ESTIMATORS[name](problem.system, **options, **own)
    outer_steps = windows * K // (problem.system.length_multiple if label in WHOLE else K)

    def one(seed, rate, data):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        every = outer_steps // RECORDS
        outer = make_outer_step(problem.init_theta, estimator, optimizer, steps_per_call=every)

        def call(state, _):
            return outer.step(state, data)[0], state.theta

        state, thetas = jax.lax.scan(call, outer.init(jax.random.key(seed)), None, RECORDS)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), thetas, state.theta)

    # Less optimised code compiles in half the time and is about as fast.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    program = jax.jit(jax.vmap(one, (0, 0, None)), compiler_options=options)
    rows = jax.ShapeDtypeStruct((num_runs,), np.int32), jax.ShapeDtypeStruct((num_runs,), np.float32)
    return program.lower(*rows, problem.data).compile()


def compare(kind: Problem, core: Core, windows: int, seeds: list[int]) -> dict[str, Any]:
    """label -> {"loss": [S][RECORDS + 1] on sequences that are not trained on, "rate", "seconds", "size"}."""
    options: Any = {"problem": kind, "core": core, "hidden": HIDDEN, "length": LENGTH}
    problem, held_out = recurrent(**options), recurrent(**options, rows=1024, seed=1)
    size = perturb.size(problem.init_theta(jax.random.key(0)))
    labels = [label for label in METHODS if label != "RTRL" or size <= RTRL_LIMIT]
    programs: dict[tuple[str, int], Any] = {}

    def train(label: str, seeds: list[int], rates: tuple[float, ...]) -> tuple[Any, float]:
        """thetas, and processor seconds of one run."""
        r = len(seeds)
        if (label, r) not in programs:
            programs[label, r] = training(problem, label, windows, r)
        began = time.process_time()
        given = np.asarray(seeds, np.int32), np.asarray(rates, np.float32)
        thetas = jax.block_until_ready(programs[label, r](*given, problem.data))
        common.progress(f"{kind}, {core}, {label}, rates {rates}")
        return thetas, (time.process_time() - began) / r

    def losses(thetas: list[Any]) -> np.ndarray:
        """f64[methods, R, RECORDS + 1]."""
        flat = jax.tree.map(lambda *xs: np.concatenate([x.reshape(-1, *x.shape[2:]) for x in xs]), *thetas)
        found = learning.objective(held_out, flat, jax.random.key(1), episodes=EPISODES)
        return found.reshape(len(thetas), -1, RECORDS + 1)

    rates = [METHODS[label][2] for label in labels]
    tuned = losses([train(m, [TUNING_SEED] * len(r), r)[0] for m, r in zip(labels, rates, strict=True)])
    best = [r[int(loss[:, -3:].mean(1).argmin())] for r, loss in zip(rates, tuned, strict=True)]
    runs = [train(m, seeds, (rate,) * len(seeds)) for m, rate in zip(labels, best, strict=True)]
    return {
        label: {"loss": loss.tolist(), "rate": rate, "seconds": seconds, "size": size}
        for label, loss, rate, (_, seconds) in zip(
            labels, losses([thetas for thetas, _ in runs]), best, runs, strict=True
        )
    }


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Loss on held-out sequences along training, for every case and method; --fast one case, 80 windows."""
    cases = FAST if fast else CASES
    curves = {name: compare(*case, seeds) for name, case in cases.items()}
    windows = {name: case[2] for name, case in cases.items()}
    return {"curves": curves, "windows": windows, "summary": summary(curves)}


def summary(curves: dict[str, Any]) -> dict[str, str]:
    """The loss at the end and its interval over seeds, the outer rate, and the processor time of one run."""
    lines = {}
    for name, found in curves.items():
        for label, curve in found.items():
            final = populations.interval([loss[-1] for loss in curve["loss"]])
            cost = f"rate {curve['rate']}, {curve['seconds']:.2f} s"
            lines[f"{name} ({curve['size']}), {label}"] = f"{final}; {cost}"
    return lines


def draw(result: dict[str, Any], figure: Any) -> None:
    """A column for each case, three in a row: the loss against windows and against time, mean and range."""
    curves = result["curves"]
    columns, rows = min(len(curves), 3), 2 * -(-len(curves) // 3)
    figure.set_size_inches(9, 0.6 + 2.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for i, (name, found) in enumerate(curves.items()):
        steps, times = panels[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        for label, curve in found.items():
            loss, colour = np.asarray(curve["loss"]), common.COLOURS[list(METHODS).index(label)]
            for panel, last in ((steps, result["windows"][name]), (times, curve["seconds"])):
                x = np.linspace(0, last, RECORDS + 1)
                panel.plot(x, loss.mean(0), color=colour, lw=1.3, label=label)
                panel.fill_between(x, loss.min(0), loss.max(0), color=colour, alpha=0.1, lw=0)
        top = 1.05 * max(np.max(np.asarray(curve["loss"])[:, 1:]) for curve in found.values())
        steps.set(title=name, xlabel="windows of K steps", ylim=(None, top))
        times.set(xlabel="processor seconds", ylim=(None, top))
    for panel in panels[:, 0]:
        panel.set(ylabel="loss")
    lines = {line.get_label(): line for panel in panels.flat for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[0, 1, 2])
