"""Implicit hypergradients against unrolling: ten L2 penalties of a linear model, whose gradient is known.

Where the model has settled, the implicit function theorem gives the gradient of the settled loss for a few
derivatives of one step. Three parts: how far off each gradient is, against the steps that the model has
trained; the penalties tuned while the model trains, at equal inner steps; and where it must be wrong, with
minibatches and with a hyperparameter that moves only the way to the fixed point.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.core.chain import chain
from meta_train.core.outer import make_outer_step
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS
from meta_train.testing.conformance import sample_gradients
from meta_train.testing.subject import build
from reproductions import common, toy_regression
from reproductions.populations import interval
from reproductions.systems.ridge import RidgeData, ridge, ridge_data
from reproductions.systems.toy_regression import toy_regression as toy_system

RATE, FEATURES, BOUND = 0.003, 10, 5.0  # of the inner gradient descent; log penalties lie in (-5, 5)
SETTLE = (1, 2, 5, 10, 20, 50, 100, 200)  # windows of ten inner steps at a fixed theta
IMPLICIT: dict[str, dict[str, Any]] = {
    "one step": {"terms": 1},
    "Neumann, 20 terms": {"terms": 20},
    "Neumann, 200 terms": {"terms": 200},
    "conjugate gradients": {"solver": "cg", "terms": 30},
    "GMRES": {"solver": "gmres", "terms": FEATURES + 1},
}
# label: (estimator, options, T): K = 10, but for the one-step gradient, which is there after every step.
WAYS: dict[str, Any] = {
    label: ("implicit", options | {"truncation_length": 1 if options["terms"] == 1 else 10}, None)
    for label, options in IMPLICIT.items()
    if label != "Neumann, 200 terms"
} | {
    "TBPTT, K = 10": ("tbptt", {"num_particles": 1, "truncation_length": 10}, None),
    "BPTT, T = 200": ("bptt", {"num_particles": 1}, 200),
    "PES, 4 pairs": ("pes", {"num_particles": 4, "truncation_length": 10, "sigma": 0.1}, None),
}
RATES = (0.01, 0.03, 0.1, 0.3)  # of outer Adam
TUNING = 3  # more splits, on which the rate of each is chosen
FULL = {"budget": 40_000, "settle": SETTLE, "chains": 64, "windows": 400, "toy": 1000}
FAST = {"budget": 4_000, "settle": SETTLE[:4], "chains": 8, "windows": 20, "toy": 20}
RECORDS = 10


def penalties(unroll_length: int | None = None, rows: int | None = None) -> UnrolledSystem:
    """`ridge` with a log penalty of its own for each feature, 5 tanh(theta / 5), theta f32[10].

    Args:
      unroll_length: T; None for one endless inner problem.
      rows: of a minibatch, drawn with replacement; None for all training rows.
    """
    base = ridge(learning_rate=RATE).system

    def step(theta, w, key, data):
        batch = data
        if rows is not None:
            chosen = jax.random.randint(key, (rows,), 0, len(data.y))
            scale = (len(data.y) / rows) ** 0.5
            batch = data._replace(x=scale * data.x[chosen], y=scale * data.y[chosen])
        return base.step(BOUND * jnp.tanh(theta / BOUND), w, key, batch)

    def init(theta, key):
        w, length = base.init(theta, key)
        return w, length if unroll_length is None else jnp.int32(unroll_length)

    return base._replace(init=init, step=step, length_multiple=unroll_length or 0, max_length=unroll_length)


def exact(data: RidgeData, log_l2: np.ndarray) -> tuple[float, np.ndarray]:
    """`|x w - y|^2 / 2` of the validation rows at the exact solution, and its gradient; log_l2 f64[10]."""
    x, y, x_valid, y_valid = (np.asarray(a, np.float64) for a in data)
    penalty = np.exp(np.asarray(log_l2, np.float64))
    hessian = x.T @ x + np.diag(penalty)
    w = np.linalg.solve(hessian, x.T @ y)
    residual = x_valid @ w - y_valid
    gradient = -penalty * w * np.linalg.solve(hessian, x_valid.T @ residual)
    return 0.5 * float(residual @ residual), gradient


def exact_gradient(data: RidgeData, log_l2: np.ndarray) -> np.ndarray:
    """f64[10]: gradient of the validation loss at the exact solution by the log penalties."""
    return exact(data, log_l2)[1]


def error(data: RidgeData, theta: np.ndarray) -> float:
    """Mean squared validation error of the exact solution at theta f32[10], as `penalties` reads it."""
    return 2 * exact(data, BOUND * np.tanh(np.asarray(theta, np.float64) / BOUND))[0] / len(data.y_valid)


def best_error(data: RidgeData, starts: tuple[float, ...] = (-2.0, 1.0, 4.0)) -> float:
    """The least `error`, by L-BFGS on the exact loss with all log penalties equal at each start."""
    from scipy.optimize import minimize

    ends = [
        minimize(
            lambda v: exact(data, v), np.full(FEATURES, x), jac=True, bounds=[(-BOUND, BOUND)] * FEATURES
        )
        for x in starts
    ]
    return 2 * min(float(end.fun) for end in ends) / len(data.y_valid)


def splits(seeds: list[int]) -> tuple[list[RidgeData], RidgeData]:
    """The data of each seed, and all of them stacked."""
    data = [ridge_data(seed=seed) for seed in seeds]
    return data, jax.tree.map(lambda *xs: jnp.stack(xs), *data)


def gradient_errors(
    seeds: list[int], windows: tuple[int, ...], labels: tuple[str, ...] = (*IMPLICIT, "BPTT")
) -> dict[str, list[list[float]]]:
    """Label -> relative error of the gradient, [windows of ten steps trained][seed], at theta from N(0, 1).

    "BPTT" is that of the mean loss of all steps so far: the mean of what RTRL finds in the windows.
    """
    data, stacked = splits(seeds)
    thetas = jnp.stack([jax.random.normal(jax.random.key(seed), (FEATURES,)) for seed in seeds])
    squash, slope = BOUND * np.tanh(np.asarray(thetas, np.float64) / BOUND), 1 - np.tanh(thetas / BOUND) ** 2
    truths = np.stack([exact_gradient(d, log) for d, log in zip(data, squash, strict=True)]) * slope
    system, found = penalties(), {}
    for label in labels:
        estimator = build(
            ESTIMATORS["rtrl" if label == "BPTT" else "implicit"],
            system,
            num_particles=1,
            truncation_length=10,
            **IMPLICIT.get(label, {}),
        )

        def one(theta, data, estimator=estimator):
            run = chain(
                estimator, theta, jax.random.key(0), data, num_windows=windows[-1], each=lambda e: e.grad
            )
            return run[1]

        grads = np.asarray(jax.jit(jax.vmap(one))(thetas, stacked), np.float64)
        if label == "BPTT":
            grads = np.cumsum(grads, 1) / np.arange(1, windows[-1] + 1)[:, None]
        off = np.linalg.norm(grads - truths[:, None], axis=2) / np.linalg.norm(truths, axis=1)[:, None]
        found[label] = [off[:, n - 1].tolist() for n in windows]
    common.progress("gradients")
    return found


def train(label: str, seeds: list[int], budget: int) -> tuple[np.ndarray, int]:
    """theta along outer training, f32[rates, seeds, records, 10], and the outer steps; one program."""
    name, options, length = WAYS[label]
    estimator = ESTIMATORS[name](penalties(length), **options)
    every = budget // estimator.inner_steps // RECORDS

    def run(rate, seed, data):
        outer = make_outer_step(
            lambda key: jnp.zeros(FEATURES), estimator, optax.adam(rate), steps_per_call=every
        )

        def call(state, _):
            return outer.step(state, data)[0], state.theta

        state, thetas = jax.lax.scan(call, outer.init(jax.random.key(seed)), None, RECORDS)
        return jnp.concatenate([thetas, state.theta[None]])

    many = jax.jit(jax.vmap(jax.vmap(run, (None, 0, 0)), (0, None, None)))
    return np.asarray(many(jnp.asarray(RATES), jnp.asarray(seeds), splits(seeds)[1])), every * RECORDS


def tune(seeds: list[int], budget: int) -> dict[str, Any]:
    """Label -> rate, outer steps and error of the exact solution along the way, [seeds][records]."""
    tuning = [100 + i for i in range(TUNING)]
    data, _ = splits(seeds + tuning)
    found = {}
    for label in WAYS:
        thetas, outer_steps = train(label, seeds + tuning, budget)
        errors = np.array(
            [[[error(d, t) for t in way] for d, way in zip(data, ways, strict=True)] for ways in thetas]
        )
        best = int(errors[:, len(seeds) :, -1].mean(1).argmin())
        way = errors[best, : len(seeds)].tolist()
        found[label] = {"rate": RATES[best], "outer_steps": outer_steps, "error": way}
        common.progress(label)
    return found


def minibatches(chains: int, windows: int) -> dict[str, dict[str, str]]:
    """Rows of a minibatch -> estimator -> its mean gradient along RTRL's, and a 95 % interval.

    RTRL carries the whole influence of theta: without truncation, and without the assumption of rest. The
    model has trained for 2000 steps at theta = 1 before; K = 10.
    """
    data, theta, found = ridge_data(), jnp.ones(FEATURES), {}
    names: dict[str, tuple[str, dict[str, Any]]] = {"RTRL": ("rtrl", {})}
    names |= {label: ("implicit", IMPLICIT[label]) for label in IMPLICIT if label != "conjugate gradients"}
    names["PES"] = ("pes", {"sigma": 0.1})
    for rows in (30, 10):
        row, truth = {}, np.zeros(FEATURES)
        for label, (name, options) in names.items():
            estimator = build(
                ESTIMATORS[name], penalties(rows=rows), num_particles=1, truncation_length=10, **options
            )
            samples = sample_gradients(
                estimator,
                theta,
                jax.random.key(len(label)),
                data,
                num_samples=chains,
                num_windows=windows,
                burn_in=200,
            )
            truth = samples.mean(0) if label == "RTRL" else truth
            row[label] = interval((samples @ truth / (truth @ truth)).tolist())
        found[str(rows)] = row
        common.progress(f"minibatches of {rows}")
    return found


def learning_rates(seeds: list[int], outer_steps: int) -> dict[str, str]:
    """The sum of 100 losses of the toy regression: its learning rates do not move any fixed point."""
    problem = toy_system()
    shared = {"truncation_length": 10, "stagger": False}
    pes = {"num_particles": 50, "sigma": 0.3}
    ways = {"implicit": ("implicit", {"terms": 20}), "PES": ("pes", pes)}
    found = {"start": f"{toy_regression.objective(np.full(2, -4.0)):.1f}"}
    for label, (name, options) in ways.items():
        estimator = ESTIMATORS[name](problem.system, **shared, **options)
        thetas = common.trajectories(
            problem,
            estimator,
            optax.adam(0.01, b1=0.99),
            outer_steps=outer_steps,
            every=outer_steps,
            seeds=seeds,
        )
        found[label] = interval(toy_regression.objective(thetas[:, -1]).tolist())
    return found


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """Ten splits of the data; --fast two, with fewer steps and chains."""
    size, seeds = (FAST, seeds[:2]) if fast else (FULL, seeds)
    errors = gradient_errors(seeds, size["settle"])
    curves = tune(seeds, size["budget"])
    least = [best_error(data) for data in splits(seeds)[0]]
    local = [best_error(data, (0.0,)) - best for data, best in zip(splits(seeds)[0], least, strict=True)]
    summary = {"least error": interval(least), "above it, L-BFGS from the start of all": interval(local)}
    for label, way in curves.items():
        excess = [end[-1] - best for end, best in zip(way["error"], least, strict=True)]
        text = f"error {interval([e[-1] for e in way['error']])}; above the least {interval(excess)}"
        summary[label] = f"{text}; {way['outer_steps']} outer steps, rate {way['rate']}"
    for label, rows in errors.items():
        summary[f"gradient off, {label}"] = ", ".join(f"{np.median(row):.2g}" for row in rows)
    noise = minibatches(size["chains"], size["windows"])
    for rows, row in noise.items():
        summary[f"minibatches of {rows}"] = "; ".join(f"{label} {text}" for label, text in row.items())
    short = learning_rates(seeds, size["toy"])
    summary["toy regression"] = "; ".join(f"{label} {text}" for label, text in short.items())
    inner = np.linspace(0, size["budget"], RECORDS + 1).tolist()
    return {
        "settle": [10 * n for n in size["settle"]],
        "errors": errors,
        "inner_steps": inner,
        "curves": curves,
        "least": least,
        "minibatches": noise,
        "toy": short,
        "summary": summary,
    }


def draw(result: dict[str, Any], figure: Any) -> None:
    """The error of each gradient against the steps trained, and what tuning by each leads to."""
    left, right = figure.subplots(1, 2)
    colour = {label: common.COLOURS[i] for i, label in enumerate(IMPLICIT)}
    others = iter(common.COLOURS[len(IMPLICIT) :])
    for label, rows in result["errors"].items():
        lines = np.asarray(rows)
        style = {"color": colour.get(label) or "0.4", "linestyle": "--" if label == "BPTT" else "-"}
        left.plot(result["settle"], np.median(lines, 1), label=label, **style)
        left.fill_between(result["settle"], lines.min(1), lines.max(1), color=style["color"], alpha=0.1, lw=0)
    least = np.asarray(result["least"])[:, None]
    for label, way in result["curves"].items():
        excess = np.asarray(way["error"]) - least
        right.plot(
            result["inner_steps"], np.mean(excess, 0), label=label, color=colour.get(label) or next(others)
        )
    left.set(xscale="log", yscale="log", xlabel="steps of the model", ylabel="relative error of the gradient")
    right.set(yscale="log", xlabel="inner steps, all particles", ylabel="validation error above the least")
    right.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    left.legend(fontsize=8)
    right.legend(fontsize=8)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
