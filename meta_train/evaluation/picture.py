"""Pictures of an evaluation: the training curves, and the speed-ups with their profile."""

import io
import math
import textwrap
from typing import Any

import numpy as np

from meta_train.evaluation.compare import COMPARISONS
from meta_train.evaluation.curves import smooth
from meta_train.evaluation.protocol import ADAM
from meta_train.evaluation.results import LEARNED, Cell, Evaluation

WIDTH, DPI = 13.34, 120  # inches; 1600 pixels
# Okabe and Ito's colours, which can be distinguished without colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = {
    LEARNED: ("learned", "#D55E00", "-", 2.2),
    ADAM: ("Adam, tuned constant rate", "#0072B2", "--", 1.6),
    "adam_cosine": ("Adam, tuned cosine decay", "#009E73", "-.", 1.6),
}
OTHERS = ("other rivals, tuned", "0.72", "-", 0.8)
BEST = ("the best tuned rival", "#CC79A7", ":", 1.8)
COMPARISON_STYLES = {
    "per_task_tuned": ("#D55E00", "o", "-"),
    "single_setting": ("#0072B2", "s", "--"),
    "equal_budget": ("#009E73", "^", "-."),
}


def curves_png(evaluation: Evaluation, title: str = "") -> bytes:
    """The training curves: a panel for each task (columns) and horizon (rows).

    A line is the median over the seeds of the smoothed training loss; its band reaches from the best
    to the worst seed. More than four tasks go on over further rows.
    """
    from matplotlib.figure import Figure

    horizons = evaluation.settings.horizons
    tasks = list(dict.fromkeys(cell.task for cell in evaluation.cells))
    columns = min(4, len(tasks))
    rows = math.ceil(len(tasks) / columns) * len(horizons)
    figure = Figure(figsize=(WIDTH * max(columns, 2) / 4, 2.95 * rows + 1.2), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for cell in evaluation.cells:
        block, column = divmod(tasks.index(cell.task), columns)
        row = horizons.index(cell.horizon)
        axis = axes[block * len(horizons) + row, column]
        axis.set_visible(True)
        _panel(axis, cell, evaluation.settings.smoothing)
        axis.set_ylabel("training loss, smoothed" if column == 0 else "")
        axis.set_xlabel("inner step" if row == len(horizons) - 1 else "")
    found = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    figure.legend(
        found.values(), found, loc="outside lower center", ncols=len(found), frameon=False, fontsize=11
    )
    if title:
        figure.suptitle(textwrap.fill(title, 32 * max(columns, 2)), fontsize=12)
    return png(figure)


def scores_png(doc: dict[str, Any], title: str = "") -> bytes:
    """Each task's speed-up in every comparison, next to the performance profiles with their bands."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys((cell["ring"], cell["task"]) for cell in doc["cells"]))
    figure = Figure(figsize=(WIDTH, 2.2 + 0.32 * max(len(tasks), 8)), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    horizons = doc["settings"]["horizons"]
    for cell in doc["cells"]:
        row, longest = tasks.index((cell["ring"], cell["task"])), cell["horizon"] == horizons[-1]
        size = 4 + 4 * horizons.index(cell["horizon"]) / max(len(horizons) - 1, 1)
        for k, (name, outcome) in enumerate(cell["outcomes"].items()):
            colour, marker, _ = COMPARISON_STYLES[name]
            y = row + 0.22 * (k - (len(cell["outcomes"]) - 1) / 2)
            face = colour if longest else "white"
            left.plot(outcome["speed_up"], y, marker, color=colour, markersize=size, markerfacecolor=face)
        x = cell["outcomes"]["per_task_tuned"]["to_target"]["best"]
        (cross,) = left.plot(x, row, "x", color="0.2", markersize=size)
    left.legend([cross], ["to the best rival's final loss"], loc="best", frameon=False, fontsize=9)
    left.set_yticks(range(len(tasks)), [f"{ring}: {task}" if ring else task for ring, task in tasks])
    left.set_ylim(len(tasks) - 0.5, -0.5)
    left.set_xlabel(f"step speed-up over Adam (filled: {horizons[-1]} steps; small: {horizons[0]} steps)")
    for name, found in doc["profiles"].items():
        colour, _, line = COMPARISON_STYLES[name]
        right.plot(found["taus"], found["share"], line, color=colour, linewidth=1.8, label=name)
        right.fill_between(found["taus"], found["low"], found["high"], color=colour, alpha=0.13, linewidth=0)
    right.set_xlabel("speed-up of at least")
    right.set_ylabel("share of tasks and horizons")
    right.set_ylim(0, 1.02)
    for axis in (left, right):
        ratio_axis(axis)
    handles, labels = right.get_legend_handles_labels()
    titles = [f"{label}: {COMPARISONS[label]}" for label in labels]
    figure.legend(handles, titles, loc="outside lower center", ncols=1, frameon=False, fontsize=10)
    if title:
        figure.suptitle(textwrap.fill(title, 130), fontsize=13)
    return png(figure)


def ratio_axis(axis: Any) -> None:
    """Makes the x axis one of speed-ups: logarithmic, with a line at 1 and a grid."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.axvline(1, color="0.3", linewidth=1)
    axis.grid(True, which="major", color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def png(figure: Any) -> bytes:
    """A figure as PNG, the same bytes for the same figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": ""})
    return content.getvalue()


def _panel(axis: Any, cell: Cell, decay: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    lowest, highest = math.inf, 0.0
    for order, (name, train) in enumerate(cell.train.items()):
        label, colour, line, width = STYLES.get(name, BEST if name == cell.best else OTHERS)
        losses = smooth(train, decay)
        losses[~np.isfinite(losses) | (losses <= 0)] = np.nan
        at = np.flatnonzero(~np.isnan(losses).any(0))  # a curve ends where its first seed diverges
        losses = losses[:, at]
        middle = np.median(losses, axis=0)
        main = name in STYLES or name == cell.best
        style = {"color": colour, "linewidth": width, "label": label, "zorder": 4 - order if main else 1}
        axis.plot(at + 1, middle, line, **style)
        if at.size and main:
            axis.fill_between(at + 1, losses.min(0), losses.max(0), color=colour, alpha=0.16, linewidth=0)
        if at.size:
            lowest, highest = min(lowest, middle.min()), max(highest, middle[0])
    axis.set_yscale("log")
    if 0 < lowest < highest:
        axis.set_ylim(lowest / 2, highest * 1.5)
    few = highest < 30 * lowest  # few decades: label 2 and 5 as well
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if few else tuple(range(2, 10))))
    axis.yaxis.set_minor_formatter("{x:g}" if few else NullFormatter())
    axis.set_xlim(0, cell.horizon)
    axis.grid(True, which="major", color="0.9", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    first = cell.outcomes["per_task_tuned"]
    headline = f"speed-up {'>= ' if first.censored else ''}{first.speed_up:.2f}x"
    headline += f"\nloss {first.loss_ratio['best']:.2g} times that of {cell.best}"
    if cell.diverged:
        headline = f"{cell.diverged}/{len(cell.loss[LEARNED])} diverged"
    axis.set_title(f"{cell.task}, {cell.horizon} steps\n{headline}", fontsize=9.5)
