"""Table 1 of Vicol et al. 2021, measured: what a gradient of each estimator costs, and what it is worth.

Operations are counted in the program, loops included; memory is the compiler's own account of it, with the
particles' state. Both are exact, so that the exponents of T, K, |s|, |theta| and N are those of the code.
They stand next to the slopes of the table's formulas over the same sizes. Bias, what more particles give, and
what is left without derivatives are measured on a linear-quadratic system whose gradient is known.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.estimator_claims import OPTIONS
from meta_train.core.chain import chain, flatten
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS
from meta_train.testing import toys
from meta_train.testing.subject import build, truncates
from reproductions import common
from reproductions.operations import count


class Size(NamedTuple):
    """T, K, |s|, |theta| and N of one measurement."""

    T: int = 64
    K: int = 16
    S: int = 1024
    P: int = 32
    N: int = 4


# The sizes of each axis, the other four as in `Size()`; |theta| matters where the state is small.
AXES: dict[str, list[Size]] = {
    "T": [Size(T=n) for n in (64, 256)],
    "K": [Size(K=n) for n in (4, 16, 64)],
    "S": [Size(S=n) for n in (256, 1024, 4096)],
    "P": [Size(S=32, P=n) for n in (4096, 65536)],
    "N": [Size(N=n) for n in (4, 16)],
}
FAST = {
    "T": [Size(T=n, S=256) for n in (64, 256)],
    "P": [Size(S=32, P=n) for n in (4096, 16384)],
}


class Row(NamedTuple):
    """Compute and memory of one estimate for N rollouts; F is a step's cost, B its derivative's."""

    compute: str
    memory: str


# Those of the paper in its order, and ES-Single (`nres`) from Vicol et al. 2023; then what neither table has,
# where the formulas are what the estimators' docstrings lead one to expect.
ROWS: dict[str, Row] = {
    "bptt": Row("N*T*(F+B)", "N*T*S"),
    "tbptt": Row("N*K*(F+B)", "N*K*S"),
    "artbp": Row("N*K*(F+B)", "N*K*S"),
    "rtrl": Row("N*K*(P*S**2+S*(F+B))", "N*(S*P+S**2)"),
    "uoro": Row("N*K*(F+B+S**2+P)", "N*(S+P)"),
    "reparam": Row("N*T*(F+B)", "N*T*S"),
    "full_es": Row("N*T*F", "N*S"),
    "truncated_es": Row("N*K*F", "N*S"),
    "pes": Row("N*K*F", "N*(S+P)"),
    "nres": Row("N*K*F", "N*(S+P)"),
    "pes_analytic": Row("N*K*(F+B)", "N*(K*S+P)"),
    "gpes": Row("N*K*F", "N*(S+P)"),
    "dodge": Row("N*K*F", "N*(S+P)"),
    "guided_es": Row("N*K*(F+B)", "N*(K*S+P)"),
    "metz2019": Row("N*K*(F+B)", "N*(K*S+P)"),
    "pes_reparam": Row("N*K*(F+B)", "N*(K*S+P)"),
    "implicit": Row("N*(K*F+20*B)", "N*(S+P)"),
}


def value(formula: str, size: Size) -> float:
    """A formula of `ROWS` at a size: a step of `recurrent` costs F = 2 S^2 + 2 P, its derivative 2 F."""
    cost = 2 * size.S**2 + 2 * size.P
    return eval(formula, {"F": cost, "B": 2 * cost}, size._asdict())


def recurrent(size: Size) -> UnrolledSystem:
    """`s <- tanh(W s + (b . theta) c)`, loss |s|^2 / S: a recurrent network; a step costs 2 S^2 + 2 P."""

    def step(theta, s, key, data):
        s = jnp.tanh(data["w"] @ s + (data["b"] @ theta) * data["c"])
        return s, jnp.square(s).mean()

    init = lambda theta, key: (jnp.full(size.S, 0.1), jnp.int32(size.T))  # noqa: E731
    return UnrolledSystem(init, step, size.T, size.T)


def program(name: str, size: Size) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`estimate` and the shapes of its arguments."""
    estimator = build(
        ESTIMATORS[name], recurrent(size), num_particles=size.N, truncation_length=size.K, stagger=False
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    data = {"w": of(size.S, size.S), "b": of(size.P), "c": of(size.S)}
    state = jax.eval_shape(estimator.init, of(size.P), key)
    return estimator.estimate, (of(size.P), state, key, data)


def cost(name: str, size: Size) -> tuple[float, float, Any]:
    """Operations, bytes (the particles' state and temporaries), and the compiled estimate.

    What is not timed is compiled without the optimiser of machine code, which moves no buffer.
    """
    estimate, shapes = program(name, size)
    traced = jax.jit(estimate, donate_argnums=1).trace(*shapes)
    options: Any = {} if size == Size() else {"xla_backend_optimization_level": "0"}
    compiled = traced.lower().compile(options)
    used: Any = compiled.memory_analysis()
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes[1]))
    return count(traced.jaxpr), used.temp_size_in_bytes + state, compiled


def slope(sizes: list[Size], axis: str, values: list[float]) -> tuple[float, float]:
    """Exponent of `values` in a size, and its standard error (0 for two sizes)."""
    x, y = np.log([getattr(size, axis) for size in sizes]), np.log(values)
    x, y = x - x.mean(), y - y.mean()
    found = x @ y / (x @ x)
    left = np.square(y - found * x).sum() / max(len(x) - 2, 1)
    return float(found), float(np.sqrt(left / (x @ x)))


def exponents(name: str, axes: dict[str, list[Size]], known: dict[Size, Any]) -> dict[str, Any]:
    """Axis -> exponents of operations and of bytes with their standard errors, and those of the formulas."""
    found: dict[str, Any] = {}
    for axis, sizes in axes.items():
        for size in sizes:
            if size not in known:
                known[size] = cost(name, size)
        row = ROWS[name]
        found[axis] = {
            "operations": slope(sizes, axis, [known[size][0] for size in sizes]),
            "bytes": slope(sizes, axis, [known[size][1] for size in sizes]),
            "operations of the formula": slope(sizes, axis, [value(row.compute, size) for size in sizes])[0],
            "bytes of the formula": slope(sizes, axis, [value(row.memory, size) for size in sizes])[0],
        }
    return found


def times(programs: dict[str, Any], rounds: int) -> dict[str, float]:
    """Median milliseconds of one estimate at `Size()`; the estimators take turns."""
    size, taken = Size(), {name: [] for name in programs}
    w = jax.random.normal(jax.random.key(0), (size.S, size.S)) / size.S**0.5
    data = {"w": w, "b": jnp.ones(size.P) / size.P, "c": jnp.ones(size.S)}
    states = {
        name: build(
            ESTIMATORS[name], recurrent(size), num_particles=size.N, truncation_length=size.K, stagger=False
        ).init(jnp.zeros(size.P), jax.random.key(1))
        for name in programs
    }
    for _ in range(rounds):
        for name, compiled in programs.items():
            state = jax.tree.map(jnp.copy, states[name])  # it is donated
            began = time.perf_counter()
            jax.block_until_ready(compiled(jnp.zeros(size.P), state, jax.random.key(2), data))
            taken[name].append(1000 * (time.perf_counter() - began))
    return {name: float(np.median(values)) for name, values in taken.items()}


def worth(name: str, samples: int) -> dict[str, float]:
    """Bias and variance on a linear-quadratic system: T = 8, K = 2, |theta| = 8, four particles.

    "ratio" and "error": the mean along the true gradient, over its length, and the standard error; "z": of
    its difference from 1; "four": variance of the mean of four particles over that of one (NaN for 0);
    "rounded": the ratio where losses are rounded to multiples of 0.05, so that they have no derivative.
    The samples are independent chains of one inner problem.
    """
    toy = toys.vector_linear_quadratic(unroll_length=8, noise=0.0)

    def step(theta, state, key, rounded):
        state, loss = toy.system.step(theta, state, key, ())
        return state, jnp.where(rounded, jnp.round(20 * loss) / 20, loss)

    options = {"num_particles": 4, "truncation_length": 2, "sigma": 0.1, "stagger": False}
    system = toy.system._replace(step=step)
    estimator = build(ESTIMATORS[name], system, **options, **OPTIONS.get(name, {}))
    windows = 4 if truncates(ESTIMATORS[name]) else 1

    def one(key, rounded):
        each = lambda e: (flatten(e.grad), e.particles["grad_sq"].mean())  # noqa: E731
        return chain(estimator, toy.theta, key, rounded, num_windows=windows, each=each)[1]

    many = jax.jit(jax.vmap(one, (0, None)))
    keys = jax.random.split(jax.random.key(0), samples)
    run = many.lower(keys, False).compile({"xla_backend_optimization_level": "0"})
    grads, squares = (np.asarray(x, np.float64) for x in run(keys, False))
    truth = np.asarray(flatten(toy.gradient(0.0, 8)), np.float64)
    along = grads.mean(1) @ truth / (truth @ truth)
    ratio, error = along.mean(), along.std(ddof=1) / samples**0.5
    alone = (squares.mean(0) - np.square(grads.mean(0)).sum(-1)).sum()
    together = grads.var(0, ddof=1).sum()
    random = together > 1e-6 * (truth @ truth)
    rounded = np.asarray(run(keys, True)[0], np.float64).mean((0, 1)) @ truth / (truth @ truth)
    return {
        "ratio": float(ratio),
        "error": float(error),
        "z": float((ratio - 1) / max(error, 1e-5)),
        "four": float(together / alone) if random else float("nan"),
        "rounded": float(rounded),
    }


def measure(name: str, axes: dict[str, list[Size]], samples: int) -> tuple[dict[str, Any], Any]:
    """Everything of one estimator but its time, and its program at `Size()`, if it was compiled."""
    known: dict[Size, Any] = {}
    found: dict[str, Any] = {"exponents": exponents(name, axes, known)}
    found["worth"] = worth(name, samples)
    base = known.get(Size())
    if base:
        found |= {"operations": base[0], "bytes": base[1]}
    return found, base and base[2]


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """All estimators; --fast four of them on two axes. Nothing depends on the seeds."""
    del seeds
    names = ("bptt", "tbptt", "pes", "truncated_es") if fast else tuple(ROWS)
    axes, samples = (FAST, 500) if fast else (AXES, 4000)
    found, programs = {}, {}
    for name in names:
        found[name], program = measure(name, axes, samples)
        if program is not None:
            programs[name] = program
        common.progress(name)
    for name, taken in times(programs, 7).items():
        found[name]["ms"] = taken
    return {"found": found, "axes": list(axes), "summary": summary(found)}


def summary(found: dict[str, Any]) -> dict[str, str]:
    """The three tables of the page, row by row."""
    lines = {}
    for kind, of in (("operations", "compute"), ("bytes", "memory")):
        for name, one in found.items():
            cells = [
                f"{shown(*e[kind])} ({e[f'{kind} of the formula']:.2f})" for e in one["exponents"].values()
            ]
            lines[f"{of} of {name}"] = " | ".join(
                [getattr(ROWS[name], of).replace("**", "^").replace("*", " "), *cells]
            )
    for name, one in found.items():
        w = one["worth"]
        four = "none" if np.isnan(w["four"]) else f"{w['four']:.2f}"
        cells = [f"{w['ratio']:.3f} +- {w['error']:.3f}", f"{w['z']:.1f}", four, f"{w['rounded']:.2f}"]
        if "ms" in one:
            cells += [f"{one['operations'] / 1e6:.0f}, {one['bytes'] / 1024:.0f}", f"{one['ms']:.0f}"]
        lines[f"worth of {name}"] = " | ".join(cells)
    return lines


def shown(exponent: float, error: float) -> str:
    """An exponent, with its standard error where there are three sizes."""
    return f"{exponent:.2f} +- {error:.2f}" if error else f"{abs(exponent):.2f}"


def draw(result: dict[str, Any], figure: Any) -> None:
    """Both tables of exponents as fields of numbers; a frame where the formula says another."""
    from matplotlib.patches import Rectangle

    names, axes = list(result["found"]), result["axes"]
    figure.set_size_inches(9, 1.2 + 0.3 * len(names))
    panels = figure.subplots(1, 2, sharey=True)
    for panel, kind, title in zip(panels, ("operations", "bytes"), ("operations", "memory"), strict=True):
        rows = [result["found"][name]["exponents"] for name in names]
        values = np.array([[row[axis][kind][0] for axis in axes] for row in rows])
        formula = np.array([[row[axis][f"{kind} of the formula"] for axis in axes] for row in rows])
        panel.imshow(values, cmap="Blues", vmin=0, vmax=3, aspect="auto")
        for (i, j), exponent in np.ndenumerate(values):
            dark = "white" if exponent > 1.6 else "black"
            panel.text(j, i, f"{abs(exponent):.2f}", ha="center", va="center", color=dark, fontsize=8)
            if abs(exponent - formula[i, j]) > 0.15:
                frame = Rectangle((j - 0.46, i - 0.42), 0.92, 0.84, fill=False, edgecolor="#D55E00", lw=1.5)
                panel.add_patch(frame)
                panel.text(j + 0.44, i + 0.4, f"{formula[i, j]:.1f}", ha="right", fontsize=6, color="#D55E00")
        panel.set_xticks(range(len(axes)), [{"S": "|s|", "P": "|theta|"}.get(axis, axis) for axis in axes])
        panel.set_yticks(range(len(names)), names)
        panel.set_title(f"exponent of the {title}")
        panel.grid(False)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[0])
