"""The drawing that explains the project: windows of K steps, inner problems of T steps, restarts, pairs.

`python docs/make_windows_drawing.py` writes docs/windows.svg and docs/windows_dark.svg. The time lines and
the losses in it are computed by the functions that every estimator uses, on a small system.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.core.system import UnrolledSystem, finished, restart_if, start, unroll

T, K, N, OUTER_STEPS = 20, 5, 4, 11  # of the drawing: steps, steps, particles, windows
THETA, EPS = -2.6, 0.55  # the log of a learning rate, and the size of its perturbation

LIGHT = {"paper": "#ffffff", "ink": "#24292f", "faint": "#8c959f", "band": "#fff1c9"}
LIGHT |= {"pos": "#0a58ca", "neg": "#c2410c", "even": "#9ec5fe", "odd": "#a3cfbb", "edge": "#ffffff"}
DARK = {"paper": "#0d1117", "ink": "#e6edf3", "faint": "#8b949e", "band": "#3a3000"}
DARK |= {"pos": "#79c0ff", "neg": "#ffa657", "even": "#1f4f8f", "odd": "#1f6f4a", "edge": "#0d1117"}


class Window(NamedTuple):
    """One window of one particle.

    Attributes:
      problem: which inner problem of the particle it belongs to, counted from 0.
      first: the first inner step of the window, counted from the restart.
    """

    problem: int
    first: int


def descent() -> UnrolledSystem:
    """SGD on a noisy quadratic whose learning rate is exp(theta)."""

    def init(theta, key):
        return 2.0 + 0.3 * jax.random.normal(key), jnp.int32(T)

    def step(theta, params, key, data):
        noise = 0.25 * jax.random.normal(key)
        return params - jnp.exp(theta) * (params + noise), 0.5 * params**2

    return UnrolledSystem(init, step, length_multiple=T, max_length=T)


def time_lines(seed: int = 5) -> list[list[Window]]:
    """For each of N staggered particles, its windows in the first outer steps."""
    system, theta = descent(), jnp.float32(THETA)

    @jax.jit
    def window(rollout, key_restart, key_window):
        rollout = restart_if(finished(rollout), system, theta, rollout, key_restart)
        return unroll(system, theta, rollout, key_window, (), K)[0], rollout.t

    lines = []
    for key in jax.random.split(jax.random.key(seed), N):
        rollout, line, problem = start(system, theta, key, stagger=K), [], 0
        for _ in range(OUTER_STEPS):
            key, key_restart, key_window = jax.random.split(key, 3)
            problem += int(finished(rollout))
            rollout, first = window(rollout, key_restart, key_window)
            line.append(Window(problem, int(first)))
        lines.append(line)
    return lines


def pair_losses(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Losses of both halves of an antithetic pair, [2, T] of one inner problem and [2, K] of the next one."""
    system, thetas = descent(), THETA + EPS * jnp.asarray([1.0, -1.0])
    problems = []
    for key, steps in zip(jax.random.split(jax.random.key(seed)), (T, K), strict=True):
        key_start, key_steps = jax.random.split(key)  # both halves get the same keys
        halves = [
            unroll(system, theta, start(system, theta, key_start), key_steps, (), steps) for theta in thetas
        ]
        problems.append(np.stack([losses for _, losses in halves]))
    return problems[0], problems[1]


def write(
    axes: Any, x: float, y: float, text: str, colour: str, *, size: int = 10, at: str = "center"
) -> Any:
    """Text whose `at` is its left end, its centre or its right end, vertically centred on y."""
    return axes.text(x, y, text, color=colour, fontsize=size, ha=at, va="center", linespacing=1.3)


def measure(axes: Any, left: float, right: float, y: float, text: str, ink: str) -> None:
    """A double arrow from left to right with its text in the middle."""
    arrow = {"arrowstyle": "<->", "color": ink, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (left, y), (right, y), arrowprops=arrow)
    box = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 2}
    write(axes, (left + right) / 2, y, text, ink).set_bbox(box)


def draw_particles(axes: Any, lines: list[list[Window]], look: dict[str, str]) -> None:
    """The upper half: what every particle does in every outer step."""
    from matplotlib.patches import FancyBboxPatch, Rectangle

    ink, chosen = look["ink"], 6  # `chosen` is the outer step that is pointed out
    axes.add_patch(Rectangle((chosen, -0.25), 1, N + 0.35, facecolor=look["band"], edgecolor="none"))
    for row, line in enumerate(lines):
        y = N - 0.65 - row
        write(axes, -0.15, y, f"particle {row + 1}", ink, at="right")
        for column, window in enumerate(line):
            colour, shape = look["odd" if window.problem % 2 else "even"], "round,pad=0,rounding_size=0.08"
            corner = (column + 0.05, y - 0.29)
            axes.add_patch(
                FancyBboxPatch(corner, 0.9, 0.58, facecolor=colour, edgecolor="none", boxstyle=shape)
            )
            write(axes, column + 0.5, y, f"{window.first}–{window.first + K - 1}", ink, size=8)
            if column and window.first == 0:
                axes.plot([column, column], [y - 0.38, y + 0.38], color=look["neg"], lw=2.2)
    write(axes, OUTER_STEPS + 0.15, N - 0.65, "inner steps\nof a window", look["faint"], size=9, at="left")
    write(axes, -0.3, -0.62, "meta-parameters", ink, at="right")
    for step in range(OUTER_STEPS + 1):
        write(axes, step, -0.62, rf"$\theta_{{{step}}}$", ink, size=11)
    write(
        axes,
        0,
        N + 0.6,
        "first inner problems are short,\nso particles are staggered",
        ink,
        size=9,
        at="left",
    )
    one_step = "one outer step: one window of every particle;\nthe mean of their gradients moves "
    write(axes, chosen + 0.5, N + 0.65, one_step + r"$\theta$", ink)
    axes.plot([9.35, 9.35], [N + 0.35, N + 0.95], color=look["neg"], lw=2.2)
    write(axes, 9.5, N + 0.65, "restart: the inner\nproblem ended,\na new one begins", ink, size=9, at="left")
    axes.set(xlim=(-2.1, OUTER_STEPS + 1.5), ylim=(-0.95, N + 1.25))


def draw_pair(axes: Any, look: dict[str, str]) -> None:
    """The lower half: both trainings of one particle, with one perturbation for each inner problem (NRES)."""
    ink, faint, pos, neg = (look[name] for name in ("ink", "faint", "pos", "neg"))
    ended, following = pair_losses()
    for steps, losses in ((np.arange(T), ended), (np.arange(T, T + K), following)):
        axes.fill_between(steps, *losses, color=faint, alpha=0.25, lw=0)
        for half, colour in zip(losses, (pos, neg), strict=True):
            axes.plot(steps, half, color=colour, lw=1.8)
    top, right = float(max(ended.max(), following.max())), T + K + 0.1
    for boundary in range(0, T + K + 1, K):
        line = {"color": neg, "lw": 2.2} if boundary == T else {"color": faint, "lw": 0.8, "ls": ":"}
        axes.axvline(boundary - 0.5, ymax=0.74, **line)
    measure(axes, -0.5, T - 0.5, top * 1.33, f"T = {T}: an inner problem, one training from scratch", ink)
    measure(axes, -0.5, K - 0.5, top * 1.13, f"K = {K}", ink)
    between = r"a window; between windows $\theta$ moves"
    write(axes, K - 0.2, top * 1.13, between, ink, at="left")
    write(axes, T - 0.2, top * 1.13, "restart", neg, at="left")
    write(axes, -1.2, top * 0.98, "loss", ink, at="right")
    write(axes, 7.4, ended[1, 7] + 0.17 * top, r"trained with $\theta - \varepsilon$:  $L^-$", neg, at="left")
    write(axes, -0.1, 0.1 * top, r"trained with $\theta + \varepsilon$:  $L^+$", pos, at="left")
    pair = "An antithetic pair:\nsame task, same initial\nparameters, same\nminibatches. Its gradient:"
    write(axes, right, top * 0.85, pair, ink, at="left")
    write(axes, right, top * 0.43, r"$g = \xi\ \mathrm{mean}(L^+ - L^-)\,/\,2$", ink, size=12, at="left")
    write(
        axes,
        right,
        top * 0.17,
        r"$\xi = \Sigma\ \varepsilon\,/\,\sigma^2$ since restart",
        ink,
        size=12,
        at="left",
    )
    noise = "new noise in every window, or\nfor every inner problem"
    write(axes, right, -top * 0.28, noise, ink, size=9, at="left")
    windows = range(T // K + 1)
    drawn = {"PES": [block + 1 for block in windows], "NRES": [1 + block * K // T for block in windows]}
    for name, y in (("PES", -top * 0.2), ("NRES", -top * 0.36)):
        write(axes, -1.2, y, f"{name}:", ink, at="right")
        for block in windows:
            write(axes, (block + 0.5) * K - 0.5, y, rf"$\varepsilon_{{{drawn[name][block]}}}$", ink, size=11)
    axes.set(xlim=(-4.3, T + K + 5.6), ylim=(-top * 0.48, top * 1.45))


def draw(file: Path, look: dict[str, str]) -> None:
    """Draws both halves into a file, in the colours of `look`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "windows", "mathtext.fontset": "cm"}):
        figure, (above, below) = pyplot.subplots(
            2, figsize=(10, 6.6), height_ratios=(5, 5.2), facecolor=look["paper"], layout="constrained"
        )
        for axes in (above, below):
            axes.set_facecolor(look["paper"])
            axes.axis("off")
        draw_particles(above, time_lines(), look)
        draw_pair(below, look)
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, facecolor=look["paper"], metadata=metadata, dpi=110)
        pyplot.close(figure)


if __name__ == "__main__":
    folder = Path(__file__).parent
    draw(folder / "windows.svg", LIGHT)
    draw(folder / "windows_dark.svg", DARK)
