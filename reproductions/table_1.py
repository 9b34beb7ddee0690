"""Table 1 of Vicol et al. 2021, measured: what a gradient of each estimator costs, and what it is worth.

Operations are counted in the program, loops included; memory is the compiler's own account of it, with the
particles' state. Both are exact, so that the exponents of T, K, |s|, |theta| and N are those of the code.
They stand next to the slopes of the table's formulas over the same sizes, and next to the exponents of the
processor time. Bias, what more particles give, and what is left without derivatives are measured on a
linear-quadratic system whose gradient is known.
"""

import time
from typing import Any, NamedTuple

import numpy as np

from reproductions import common
from reproductions.costs import Cost, Size, cost, slope, times, value
from reproductions.populations import half_width
from reproductions.worth import worth

# The sizes of each axis, the other four as in `Size()`; |theta| matters where the state is small.
AXES: dict[str, list[Size]] = {
    "T": [Size(T=n) for n in (64, 256)],
    "K": [Size(K=n) for n in (4, 16, 64)],
    "S": [Size(S=n) for n in (256, 1024, 2048)],
    "P": [Size(S=32, P=n) for n in (2048, 16384)],
    "N": [Size(N=n) for n in (4, 16)],
}
FAST = {
    "T": [Size(T=n, S=256) for n in (64, 256)],
    "P": [Size(S=32, P=n) for n in (4096, 16384)],
}
KINDS = ("operations", "bytes", "ms")
LARGEST = 2**29  # bytes of a program that is timed: RTRL's grow with |theta|^2


class Row(NamedTuple):
    """Compute and memory of one estimate for N rollouts, and what the paper's table ticks (None: not in it).

    F is a step's cost, B its derivative's. "p": N rollouts run in parallel, "u": unbiased, "n": for losses
    without derivatives.
    """

    compute: str
    memory: str
    ticks: str | None = None


# Those of the paper in its order, and ES-Single (`nres`) from Vicol et al. 2023; then what neither table has,
# where the formulas are what the estimators' docstrings lead one to expect.
ROWS: dict[str, Row] = {
    "bptt": Row("N*T*(F+B)", "N*T*S", "u"),
    "tbptt": Row("N*K*(F+B)", "N*K*S", ""),
    "artbp": Row("N*K*(F+B)", "N*K*S", "u"),
    "rtrl": Row("N*K*(P*S**2+S*(F+B))", "N*(S*P+S**2)", "u"),
    "uoro": Row("N*K*(F+B+S**2+P)", "N*(S+P)", "u"),
    "reparam": Row("N*T*(F+B)", "N*T*S", "pu"),
    "full_es": Row("N*T*F", "N*S", "pun"),
    "truncated_es": Row("N*K*F", "N*S", "pn"),
    "pes": Row("N*K*F", "N*(S+P)", "pun"),
    "pes_analytic": Row("N*K*(F+B)", "N*(K*S+P)", "pu"),
    "nres": Row("N*K*F", "N*(S+P)", "pun"),
    "gpes": Row("N*K*F", "N*(S+P)"),
    "dodge": Row("N*K*F", "N*(S+P)"),
    "guided_es": Row("N*K*(F+B)", "N*(K*S+P)"),
    "metz2019": Row("N*K*(F+B)", "N*(K*S+P)"),
    "pes_reparam": Row("N*K*(F+B)", "N*(K*S+P)"),
    "implicit": Row("N*(K*F+20*B)", "N*(S+P)"),
}


def exponents(
    name: str, axes: dict[str, list[Size]], known: dict[Size, Cost], rounds: int = 0
) -> dict[str, Any]:
    """Axis -> exponents of operations, bytes and processor time with their errors, and those of the formulas.

    The error is the standard error of the fit (0 for two sizes); that of the time is half of the 95 %
    t-interval over the rounds. No time is measured with 0 rounds, nor of programs of `LARGEST` bytes or more.
    """
    for size in {size for sizes in axes.values() for size in sizes}:
        if size not in known:
            known[size] = cost(name, size)
    small = sorted((s for s in known if known[s].bytes < LARGEST), key=lambda size: (size.S, size.P))
    taken = times(name, {size: known[size].program for size in small}, rounds) if rounds else {}
    found: dict[str, Any] = {}
    for axis, sizes in axes.items():
        row = ROWS[name]
        found[axis] = {
            "operations": slope(sizes, axis, [known[size].operations for size in sizes]),
            "bytes": slope(sizes, axis, [known[size].bytes for size in sizes]),
            "operations of the formula": slope(sizes, axis, [value(row.compute, size) for size in sizes])[0],
            "bytes of the formula": slope(sizes, axis, [value(row.memory, size) for size in sizes])[0],
        }
        if rounds and all(size in taken for size in sizes):
            each = [slope(sizes, axis, [taken[size][i] for size in sizes])[0] for i in range(rounds)]
            found[axis]["ms"] = float(np.mean(each)), float(half_width(each))
    if Size() in taken:
        found["ms"] = np.quantile(taken[Size()], (0, 0.5, 1)).tolist()
    return found


def measure(name: str, axes: dict[str, list[Size]], samples: int, rounds: int) -> dict[str, Any]:
    """Everything of one estimator."""
    known: dict[Size, Cost] = {}
    found: dict[str, Any] = {"exponents": exponents(name, axes, known, rounds)}
    found |= {"ms": found["exponents"].pop("ms", None), "worth": worth(name, samples)}
    if Size() in known:
        found |= {"operations": known[Size()].operations, "bytes": known[Size()].bytes}
    return found


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """All estimators; --fast four of them on two axes. Nothing depends on the seeds."""
    del seeds
    names = ("bptt", "tbptt", "pes", "truncated_es") if fast else tuple(ROWS)
    axes, samples, rounds = (FAST, 500, 2) if fast else (AXES, 4000, 5)
    found = {}
    for name in names:
        began = time.process_time()
        found[name] = measure(name, axes, samples, rounds)
        common.progress(f"{name}, {time.process_time() - began:.0f} s of processor time")
    return {"found": found, "axes": list(axes), "summary": summary(found)}


def summary(found: dict[str, Any]) -> dict[str, str]:
    """The five tables of the page, row by row."""
    lines = {}
    for kind, of in (("operations", "compute"), ("bytes", "memory"), ("ms", "time")):
        for name, one in found.items():
            exact = [e.get(f"{kind} of the formula") for e in one["exponents"].values()]
            cells = [
                shown(*e.get(kind, (np.nan, 0))) + ("" if f is None else f" ({abs(f):.2f})")
                for e, f in zip(one["exponents"].values(), exact, strict=True)
            ]
            formula = [] if kind == "ms" else [getattr(ROWS[name], of).replace("**", "^").replace("*", " ")]
            lines[f"{of} of {name}"] = " | ".join(formula + cells)
    for name, one in found.items():
        w = one["worth"]
        unbiased, parallel, without = (tick(name, mark) for mark in "upn")
        cells = [unbiased, f"{w['ratio']:.3f} +- {w['error']:.3f}, z = {round(w['z'], 1) + 0:.1f}", parallel]
        cells += ["no variance" if np.isnan(w["four"]) else f"{w['four']:.3f}", without]
        lines[f"worth of {name}"] = " | ".join([*cells, f"{w['rounded']:.3f} +- {w['rounded error']:.3f}"])
    for name, one in found.items():
        if one["ms"]:
            least, median, most = one["ms"]
            cells = [f"{one['operations'] / 1e6:.0f}", f"{one['bytes'] / 1024:.0f}"]
            lines[f"cost of {name}"] = " | ".join([*cells, f"{median:.0f}, {least:.0f} to {most:.0f}"])
    return lines


def tick(name: str, mark: str) -> str:
    """What the paper's table says."""
    ticks = ROWS[name].ticks
    return "" if ticks is None else "yes" if mark in ticks else "no"


def shown(exponent: float, error: float) -> str:
    """An exponent, with its error where there is one."""
    if np.isnan(exponent):
        return "-"
    exponent = 0.0 if abs(exponent) < 0.005 else exponent
    return f"{exponent:.2f} +- {error:.2f}" if error >= 0.0005 else f"{exponent:.2f}"


def draw(result: dict[str, Any], figure: Any) -> None:
    """The tables of exponents as fields of numbers; a frame where the formula says another, in ()."""
    from matplotlib.patches import Rectangle

    names, axes = list(result["found"]), result["axes"]
    figure.set_size_inches(11, 1.2 + 0.3 * len(names))
    panels = figure.subplots(1, 3, sharey=True)
    for panel, kind, title in zip(panels, KINDS, ("operations", "memory", "processor time"), strict=True):
        rows = [result["found"][name]["exponents"] for name in names]
        values = np.array([[row[axis].get(kind, (np.nan, 0))[0] for axis in axes] for row in rows])
        of = "bytes" if kind == "bytes" else "operations"
        formula = np.array([[row[axis][f"{of} of the formula"] for axis in axes] for row in rows])
        panel.imshow(values, cmap="Blues", vmin=0, vmax=3, aspect="auto")
        for (i, j), exponent in np.ndenumerate(values):
            label, colour = shown(exponent, 0), "white" if exponent > 1.6 else "black"
            if kind != "ms" and abs(exponent - formula[i, j]) > 0.15:
                frame = Rectangle((j - 0.46, i - 0.42), 0.92, 0.84, fill=False, edgecolor="#D55E00", lw=1.8)
                panel.add_patch(frame)
                label += f" ({formula[i, j]:.1f})"
            panel.text(j, i, label, ha="center", va="center", color=colour, fontsize=7.5)
        panel.set_xticks(range(len(axes)), [{"S": "|s|", "P": "|theta|"}.get(axis, axis) for axis in axes])
        panel.set_yticks(range(len(names)), names)
        panel.set_title(f"exponent of the {title}")
        panel.grid(False)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=[0])
