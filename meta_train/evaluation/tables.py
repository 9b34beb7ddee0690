"""The rows of an evaluation's tables, as text: for the terminal, Markdown and the page alike."""

from typing import Any, NamedTuple

from meta_train.evaluation.compare import BEST, LOSS, SPEED_UP, VALID, WALL_CLOCK
from meta_train.evaluation.document import TITLES
from meta_train.evaluation.protocol import ADAM
from meta_train.evaluation.results import LEARNED

PER_TASK = "per_task_tuned"


class Grid(NamedTuple):
    """A table of text. `narrow` are the columns that 80 characters have room for; `good` colours a row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    narrow: tuple[str, ...]
    good: tuple[bool | None, ...]


def number(x: float | None) -> str:
    """Three digits; "-" for what was not measured."""
    if x is None:
        return "-"
    return f"{x:.4g}" if abs(x) >= 1000 else f"{x:#.3g}".rstrip(".")


def interval(found: dict[str, Any]) -> str:
    """`1.50 [1.20, 1.90]`."""
    if found["value"] is None:
        return "-"
    return f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]"


def mean(losses: list[float | None]) -> float | None:
    """Over the seeds; None if one is unknown."""
    known = [x for x in losses if x is not None]
    return sum(known) / len(known) if len(known) == len(losses) else None


def cells(doc: dict[str, Any]) -> Grid:
    """A row for each task and horizon, as the first comparison sees it."""
    head = ("held-out task", "steps", "loss", "Adam", "(rate)", "best rival", "its loss", "ratio")
    head += ("to best", "speed-up", "wall clock", "valid", "Adam's")
    rows, good = [], []
    for cell in doc["cells"]:
        first, loss, valid = cell["outcomes"][PER_TASK], cell["loss"], cell["valid"]
        lost = bool(cell["diverged"])
        label = f"{cell['ring']}: {cell['task']}" if len(rings(doc)) > 1 else cell["task"]
        up = f"{'>= ' if first['censored'] else ''}{first[SPEED_UP]:.2f}x"
        rows.append(
            (
                label,
                str(cell["horizon"]),
                "inf" if lost else number(mean(loss[LEARNED])),
                number(mean(loss[ADAM])),
                f"{first['rival_setting'][ADAM]:.2g}",
                cell["best"],
                number(mean(loss[cell["best"]])),
                number(first[LOSS][ADAM]),
                number(first[LOSS][BEST]),
                f"{cell['diverged']}/{len(loss[LEARNED])} diverged" if lost else up,
                number(first[WALL_CLOCK]),
                number(mean(valid[LEARNED])),
                number(mean(valid[ADAM])),
            )
        )
        good.append(None if lost else first[SPEED_UP] >= 1)
    return Grid(head, tuple(rows), (*head[:4], "its loss", "ratio", "speed-up"), tuple(good))


def scores(doc: dict[str, Any]) -> Grid:
    """A row for each comparison and group of cells."""
    head = ("comparison", "cells", "speed-up", "IQM", "median", "worst", "wall clock")
    head += ("loss / Adam's", "loss / best", "valid / Adam's", "valid / best")
    rows, good = [], []
    for name in TITLES:
        for group, comparisons in doc["scores"].items():
            if name not in comparisons:
                continue
            found = comparisons[name]
            up = found[SPEED_UP]
            ratios = [
                interval(found[f"{metric}/{rival}"]["geometric_mean"])
                for metric in (LOSS, VALID)
                for rival in (ADAM, BEST)
            ]
            rows.append(
                (name, f"{group} ({up['cells']})", interval(up["geometric_mean"]), interval(up["iqm"]))
                + (interval(up["median"]), number(up["worst"]), interval(found[WALL_CLOCK]["geometric_mean"]))
                + tuple(ratios)
            )
            value = up["geometric_mean"]["value"]
            good.append(None if value is None else value >= 1)
    return Grid(head, tuple(rows), (*head[:3], "worst"), tuple(good))


def notes(doc: dict[str, Any]) -> list[str]:
    """What the tables do not say, and what to be wary of, one line each."""
    up, settings = doc["speed_up"], doc["settings"]
    lines = [
        f"step speed-up over tuned Adam: {up['mean']:.2f}x, 95% interval {up['low']:.2f} to "
        f"{up['high']:.2f}, worst {up['worst']:.2f}x (geometric mean over tasks and horizons)",
        f"diverged: {doc['divergence_rate']:.0%} of the optimizer's trainings",
    ]
    if doc["wrong_horizon"]:
        told = ", ".join(f"{number(x)} when told {f} times" for f, x in doc["wrong_horizon"].items())
        lines.append(f"final loss over that when told the right number of steps: {told}")
    ms = doc["ms_per_step"].values()
    slower = [m[LEARNED] / m[ADAM] for m in ms]
    size = doc["state_bytes_per_parameter"]
    lines.append(
        f"a step takes {min(slower):.2f} to {max(slower):.2f} times Adam's, gradient included; state: "
        f"{number(size[LEARNED])} bytes per parameter, Adam {number(size[ADAM])}"
    )
    single = ", ".join(f"{name} {x:.3g}" for name, x in doc["single_setting"].items() if name != LEARNED)
    lines.append(f"best single learning rates: {single}")
    edge = [
        f"{cell['task']} at {cell['horizon']} ({name})"
        for cell in doc["cells"]
        for name, at_edge in cell["at_grid_edge"].items()
        if at_edge
    ]
    if edge:
        lines.append(f"the chosen learning rate is the first or last of those tried: {', '.join(edge)}")
    if any(cell["outcomes"][PER_TASK]["censored"] for cell in doc["cells"]):
        lines.append(f">= : Adam did not get there within {settings['archive_steps']} steps")
    if doc.get("trained_for"):
        lines.append(f"it was meta-trained on inner trainings of {doc['trained_for']}")
    return lines


def summary(doc: dict[str, Any]) -> dict[str, Any]:
    """What a small artefact keeps of an evaluation: the headline, both tables as text, the notes."""
    kept = ("format", "version", "speed_up", "divergence_rate", "wrong_horizon", "settings", "environment")
    found = {key: doc[key] for key in (*kept, "tasks", "rings_version") if key in doc}
    for key, grid in (("table", cells(doc)), ("comparisons", scores(doc))):
        found[key] = {"head": grid.head, "rows": grid.rows}
    return found | {"notes": notes(doc)}


def rings(doc: dict[str, Any]) -> list[str]:
    """The rings that the cells belong to."""
    return list(dict.fromkeys(cell["ring"] for cell in doc["cells"]))
