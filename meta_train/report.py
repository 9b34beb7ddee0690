"""An evaluation for people and programs: a table, a JSON file, a picture of the curves."""

import dataclasses
import io
import json
import math
import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from meta_train.baselines import smooth
from meta_train.evaluate import ADAM, COSINE, LEARNED, Cell, Evaluation

FORMAT, VERSION = "meta-train/evaluation", 1
WIDE = 126  # characters that all columns of the table need
NARROW_COLUMNS = ("held-out task", "steps", "loss", "Adam", "cosine", "ratio", "speed-up")
PICTURE_WIDTH, DPI = 13.34, 120  # inches; 1600 pixels
# Okabe and Ito's colours, told apart without colour vision; the line styles differ as well.
STYLES = {
    LEARNED: ("learned", "#D55E00", "-", 2.2),
    ADAM: ("Adam, tuned constant rate", "#0072B2", "--", 1.6),
    COSINE: ("Adam, tuned cosine decay", "#009E73", "-.", 1.6),
}


def print_table(evaluation: Evaluation, file: IO[str] | None = None) -> None:
    """Prints the comparison and `summary_lines`: in colours on a terminal, as Markdown elsewhere.

    Args:
      evaluation: from `evaluate`.
      file: where to; None is the standard output.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=file)
    terminal = console.is_terminal
    if not terminal:
        console = Console(file=file, width=10 * WIDE, color_system=None)
    rows = [_row(cell) for cell in evaluation.cells]
    names = list(rows[0]) if console.width >= WIDE else NARROW_COLUMNS
    if terminal:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    else:
        table = Table(box=box.MARKDOWN)
    for name in names:
        table.add_column(name.strip(), justify="left" if name == names[0] else "right", no_wrap=True)
    for cell, row in zip(evaluation.cells, rows, strict=True):
        table.add_row(*(row[name] for name in names), style=_style(cell) if terminal else "")
    with console.capture() as capture:
        console.print(table)
    print(capture.get().strip("\n") if terminal else _stripped(capture.get()), file=file)
    print(file=file)
    for line in summary_lines(evaluation):
        print(line, file=file)


def to_markdown(evaluation: Evaluation) -> str:
    """The table and the summary as Markdown text."""
    text = io.StringIO()
    print_table(evaluation, text)
    return text.getvalue()


def summary_lines(evaluation: Evaluation) -> list[str]:
    """What the table comes to, and what to be wary of, one line each."""
    up, ratio, cosine = evaluation.speed_up, evaluation.ratio, evaluation.ratio_cosine
    lines = [
        f"step speed-up over tuned Adam: {up.mean:.2f}x, 95% interval {up.low:.2f} to {up.high:.2f}, "
        f"worst {up.worst:.2f}x (geometric mean over tasks and horizons)",
        f"final loss over tuned Adam's: {_number(ratio.mean)} ({_number(ratio.low)} to "
        f"{_number(ratio.high)}), worst {_number(ratio.worst)}; over cosine Adam's: {_number(cosine.mean)} "
        f"({_number(cosine.low)} to {_number(cosine.high)}), worst {_number(cosine.worst)}",
        f"diverged: {evaluation.divergence_rate:.0%} of the learned optimizer's trainings",
    ]
    edge = [
        f"{cell.family} at {cell.horizon} ({STYLES[name][0]})"
        for cell in evaluation.cells
        for name, at_edge in cell.at_grid_edge.items()
        if at_edge
    ]
    if edge:
        lines.append(f"the chosen learning rate is the first or last of those tried: {', '.join(edge)}")
    if any(cell.censored for cell in evaluation.cells):
        lines.append(f">= : Adam did not get there within {evaluation.settings.archive_steps} steps")
    return lines


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the curves as plain JSON values; None for what diverged or was not measured."""
    cells = [{k: v for k, v in cell._asdict().items() if k != "train"} for cell in evaluation.cells]
    scores = {name: getattr(evaluation, name)._asdict() for name in ("speed_up", "ratio", "ratio_cosine")}
    return _plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "settings": dataclasses.asdict(evaluation.settings),
            "environment": evaluation.environment,
            "seconds": evaluation.seconds,
            **scores,
            "divergence_rate": evaluation.divergence_rate,
            "cells": cells,
        }
    )


def write_json(evaluation: Evaluation, path: Path, **more: Any) -> None:
    """Writes `to_json`, and `more` beside it (what was evaluated), replacing the file at once."""
    document = to_json(evaluation) | _plain(more)
    _replace(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def draw(evaluation: Evaluation, path: Path, title: str = "") -> None:
    """Writes a PNG of the training curves: a panel for each family (columns) and horizon (rows).

    A line is the median over the seeds of the smoothed training loss; its band reaches from the best
    to the worst seed. More than four families go on over further rows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    horizons = evaluation.settings.horizons
    families = list(dict.fromkeys(cell.family for cell in evaluation.cells))
    columns = min(4, len(families))
    rows = math.ceil(len(families) / columns) * len(horizons)
    size = PICTURE_WIDTH * max(columns, 2) / 4, 2.75 * rows + 1.0
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for cell in evaluation.cells:
        block, column = divmod(families.index(cell.family), columns)
        row = horizons.index(cell.horizon)
        axis = axes[block * len(horizons) + row, column]
        axis.set_visible(True)
        _panel(axis, cell, evaluation.settings.smoothing)
        axis.set_ylabel("training loss, smoothed" if column == 0 else "")
        axis.set_xlabel("inner step" if row == len(horizons) - 1 else "")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=11)
    if title:
        figure.suptitle(title, fontsize=13)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": ""})
    _replace(path, png.getvalue())


def _panel(axis: Any, cell: Cell, decay: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    lowest, highest = math.inf, 0.0
    for order, (name, (label, colour, line, width)) in enumerate(STYLES.items()):
        losses = smooth(cell.train[name], decay)
        losses[~np.isfinite(losses) | (losses <= 0)] = np.nan
        at = np.flatnonzero(~np.isnan(losses).any(0))  # a curve ends where its first seed diverges
        losses = losses[:, at]
        median = np.median(losses, axis=0)
        style = {"color": colour, "linewidth": width, "label": label, "zorder": 4 - order}
        axis.plot(at + 1, median, line, **style)
        if at.size:
            axis.fill_between(at + 1, losses.min(0), losses.max(0), color=colour, alpha=0.16, linewidth=0)
            lowest, highest = min(lowest, median.min()), max(highest, median[0])
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
    headline = f"speed-up {_speed_up(cell)}, loss ratio {_number(cell.ratio)}"
    if cell.diverged:
        headline = _speed_up(cell)
    axis.set_title(f"{cell.family}, {cell.horizon} steps\n{headline}", fontsize=10.5)


def _row(cell: Cell) -> dict[str, str]:
    """Column title -> text. Titles are unique: those that look the same differ in a blank."""
    final = {name: _number(float(np.mean(x))) for name, x in cell.final.items()}
    valid = {name: _number(float(np.mean(x))) for name, x in cell.valid.items()}
    return {
        "held-out task": cell.family,
        "steps": str(cell.horizon),
        "loss": final[LEARNED],
        "Adam": final[ADAM],
        "(rate)": f"{cell.learning_rate[ADAM]:.2g}",
        "cosine": final[COSINE],
        "(rate) ": f"{cell.learning_rate[COSINE]:.2g}",
        "ratio": _number(cell.ratio),
        "to cosine": _number(cell.ratio_cosine),
        "speed-up": _speed_up(cell),
        "valid": valid[LEARNED],
        "Adam's": valid[ADAM],
    }


def _speed_up(cell: Cell) -> str:
    if cell.diverged:
        return f"{cell.diverged}/{len(cell.final[LEARNED])} diverged"
    return f"{'>= ' if cell.censored else ''}{cell.speed_up:.2f}x"


def _style(cell: Cell) -> str:
    return "red" if cell.diverged else "green" if cell.speed_up >= 1 else "yellow"


def _number(x: float) -> str:
    if not math.isfinite(x):
        return "-" if math.isnan(x) else "inf"
    return f"{x:.4g}" if abs(x) >= 1000 else f"{x:#.3g}".rstrip(".")


def _stripped(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {str(key): _plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    if isinstance(x, (np.ndarray, np.generic)):
        return _plain(x.tolist())
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x


def _replace(path: Path, content: bytes) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
