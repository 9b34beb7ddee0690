"""Runs in one picture: meta-losses, signal-to-noise ratios and held-out scores over the outer steps."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meta_train.errors import RunError
from meta_train.evaluation.files import replace

# Colours that stay apart without colour vision (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FAMILIES = 7  # task families of a single run that are drawn apart
SMOOTHED = 50  # a line is smoothed over a share of one in so many of its points
WIDE = 30.0  # the ratio of the largest to the least value from which an axis is logarithmic

Metrics = Mapping[str, np.ndarray]


def draw_runs(runs: Mapping[str, Metrics], *, inner_steps: bool = False) -> Any:
    """A matplotlib figure of the metrics of runs, one colour each; of a single run, one for each task family.

    Args:
      runs: label -> metrics, as `columns` gives them; at least one.
      inner_steps: draw over inner steps, which cost alike whatever the estimator, not over outer steps.

    Raises:
      RunError: a run that has not logged anything yet.
    """
    from matplotlib.figure import Figure

    for label, metrics in runs.items():
        if "loss" not in metrics:
            raise RunError(f"{label} has no metrics yet")
    scored = any("held_out/score" in metrics for metrics in runs.values())
    figure = Figure(figsize=(8, 3 * (2 + scored)), layout="constrained", dpi=110)
    panels = figure.subplots(2 + scored, 1, sharex=True)
    lines = _of_families(runs) if len(runs) == 1 else _of_runs(runs)
    for (label, metrics, loss, snr), colour in zip(lines, COLOURS * len(lines), strict=False):
        x = _steps(metrics, inner_steps)
        _line(panels[0], x, loss, colour, label)
        _line(panels[1], x, snr, colour, label)
    if scored:
        for (label, metrics), colour in zip(runs.items(), COLOURS * len(runs), strict=False):
            _scores(panels[2], metrics, _steps(metrics, inner_steps), colour, label, len(runs) == 1)
        panels[2].set(ylabel="held-out score")
    _axis(panels[0], "meta-loss", [loss for *_, loss, _ in lines])
    _axis(panels[1], "signal-to-noise ratio", [snr for *_, snr in lines])
    panels[-1].set(xlabel="inner steps" if inner_steps else "outer steps")
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)), frameon=False)
    return figure


def save(figure: Any, file: Path) -> None:
    """Writes a figure; the ending of the file names the format (RunError if matplotlib has none of it)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, content = FigureCanvasAgg(figure), io.BytesIO()
    ending = Path(file).suffix.removeprefix(".").lower()
    if ending not in canvas.get_supported_filetypes():
        raise RunError(f"{file} must end in one of png, svg, pdf, got {ending or 'no ending'}")
    figure.savefig(content, format=ending)
    replace(file, content.getvalue())


def _steps(metrics: Metrics, inner_steps: bool) -> np.ndarray:
    """Steps done at each row; rows without a count of inner steps have that of the row before."""
    if not inner_steps:
        return metrics["step"] + 1
    counts = metrics["inner_steps"]
    return np.fmax.accumulate(np.where(np.isfinite(counts), counts, 0))


def _mean_of(metrics: Metrics, name: str) -> np.ndarray:
    """The mean over the families that have a figure, row by row; NaN where none has."""
    found = [values for key, values in metrics.items() if key.rpartition("/")[2] == name and "/" in key]
    found = [values for values in found if np.isfinite(values).any()]
    if not found:
        return np.full(len(metrics["step"]), math.nan)
    stacked = np.stack(found)
    count = np.isfinite(stacked).sum(0)
    return np.where(count > 0, np.nansum(stacked, 0) / np.maximum(count, 1), math.nan)


def _of_runs(runs: Mapping[str, Metrics]) -> list[tuple[str, Metrics, np.ndarray, np.ndarray]]:
    """(label, metrics, losses, ratios) of each run."""
    return [(label, m, m["loss"], _mean_of(m, "snr")) for label, m in runs.items()]


def _of_families(runs: Mapping[str, Metrics]) -> list[tuple[str, Metrics, np.ndarray, np.ndarray]]:
    """The same of each family of the one run, and of their mean; of the mean alone where there are many."""
    ((name, metrics),) = runs.items()
    labels = [key.removesuffix("/loss") for key in metrics if key.endswith("/loss")]
    found = [(name, metrics, metrics["loss"], _mean_of(metrics, "snr"))]
    if not 1 < len(labels) < FAMILIES:
        return found
    nothing = np.full(len(metrics["step"]), math.nan)
    of_families = [(x, metrics, metrics[f"{x}/loss"], metrics.get(f"{x}/snr", nothing)) for x in labels]
    return [("mean", *found[0][1:]), *of_families]


def _line(panel: Any, x: np.ndarray, y: np.ndarray, colour: str, label: str) -> None:
    """The points, and through them a line that is smoothed."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    width = max(1, len(y) // SMOOTHED)
    panel.plot(x, y, color=colour, lw=0.5, alpha=0.35 if width > 1 else 1.0)
    if width > 1:
        weights = np.ones(width)
        y = np.convolve(y, weights, "same") / np.convolve(np.ones_like(y), weights, "same")
    panel.plot(x, y, color=colour, lw=1.5, label=label)


def _scores(panel: Any, metrics: Metrics, x: np.ndarray, colour: str, label: str, alone: bool) -> None:
    """The selection score, lower is better; of a run alone, also that of the initial theta."""
    score = metrics.get("held_out/score")
    if score is None:
        return
    known = np.isfinite(score)
    panel.plot(x[known], score[known], "o-", ms=3, color=colour, label=label)
    initial = metrics.get("held_out/initial_score")
    if alone and initial is not None and known.any():
        panel.axhline(initial[known][0], color="0.5", ls="--", lw=1, label="initial theta")
        panel.legend(frameon=False)
    panel.grid(alpha=0.25)


def _axis(panel: Any, name: str, values: list[np.ndarray]) -> None:
    every = np.concatenate(values)
    every = every[np.isfinite(every)]
    wide = every.size > 0 and every.min() > 0 and every.max() / every.min() > WIDE
    panel.set(ylabel=name, yscale="log" if wide else "linear")
    panel.grid(alpha=0.25)
