"""The rows of an evaluation's tables, as text: for the terminal, Markdown and the page alike."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from meta_train.evaluation.compare import (
    BEST,
    BEST_UNTUNED,
    BEST_VALID,
    LOSS,
    PER_TASK,
    SPEED_UP,
    TARGET,
    TARGET_CLOCK,
    TEST,
    VALID,
    WALL_CLOCK,
)
from meta_train.evaluation.document import TITLES
from meta_train.evaluation.protocol import ADAM
from meta_train.evaluation.results import ALL, LEARNED


class Grid(NamedTuple):
    """A table of text. `marks` are those of its texts: "good", "bad", "lost" or nothing."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[tuple[str, ...], ...]


def made(head: tuple[str, ...], rows: list[list[Any]]) -> Grid:
    """A table of texts, or of pairs of a text and its mark."""
    pairs = [[cell if isinstance(cell, tuple) else (cell, "") for cell in row] for row in rows]
    texts, marks = (tuple(tuple(pair[i] for pair in row) for row in pairs) for i in (0, 1))
    return Grid(head, texts, marks)


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


def speed(x: float | None, more: str = "") -> tuple[str, str]:
    """`1.50x`, good from 1 on."""
    return ("-", "") if x is None else (f"{more}{number(x)}x", "good" if x >= 1 else "bad")


def average(metrics: dict[str, Any], metric: str) -> tuple[str, str]:
    """The geometric mean of a metric with its interval; good on the right side of 1."""
    if metric not in metrics:
        return "-", ""
    found = metrics[metric]["geometric_mean"]
    if found["value"] is None:
        return "-", ""
    larger = metric.startswith((SPEED_UP, TARGET, TARGET_CLOCK, WALL_CLOCK))
    return interval(found), "good" if (found["value"] >= 1) == larger or found["value"] == 1 else "bad"


def mean(losses: list[float | None]) -> float | None:
    """Over the seeds; None if one is unknown."""
    known = [x for x in losses if x is not None]
    return sum(known) / len(known) if len(known) == len(losses) else None


def rings(doc: dict[str, Any]) -> list[str]:
    """The rings that the cells belong to."""
    return list(dict.fromkeys(cell["ring"] for cell in doc["cells"]))


def _cells(doc: dict[str, Any]) -> Iterator[tuple[list[str], dict[str, Any], dict[str, Any]]]:
    """The first columns of each task and horizon, the cell, and its outcome in the first comparison."""
    for cell in doc["cells"]:
        label = f"{cell['ring']}: {cell['task']}" if len(rings(doc)) > 1 else cell["task"]
        yield [label, str(cell["horizon"])], cell, cell["outcomes"][PER_TASK]


def losses(doc: dict[str, Any]) -> Grid:
    """A row for each task and horizon: final losses, beside those of the best tuned rival."""
    head = ("held-out task", "steps", "loss", "best rival", "its loss", "validation", "its validation")
    rows = []
    for first, cell, _ in _cells(doc):
        row = [*first]
        for kind, name in (("loss", cell["best"]), ("valid", cell["best_valid"])):
            own, rival = mean(cell[kind][LEARNED]), mean(cell[kind][name])
            lost = kind == "loss" and cell["diverged"]
            mark = "" if own is None or rival is None else "good" if own <= rival else "bad"
            row += [("inf", "lost") if lost else (number(own), mark)]
            row += [name] if kind == "loss" else []
            row += [number(rival)]
        rows.append(row)
    return made(head, rows)


def speeds(doc: dict[str, Any]) -> Grid:
    """A row for each task and horizon: speeds in steps and by the clock."""
    head = ("held-out task", "steps", "over Adam", "to best's loss", "sure at", "clock / Adam")
    head += ("clock / best",)
    rows = []
    for first, cell, found in _cells(doc):
        if cell["diverged"]:
            lost = f"{cell['diverged']}/{len(cell['loss'][LEARNED])} diverged"
            rows.append([*first, (lost, "lost"), "-", "-", "-", "-"])
            continue
        sure = found["target_steps"][BEST]["significant"]
        rows.append(
            [
                *first,
                speed(found[SPEED_UP], ">= " if found["censored"] else ""),
                speed(found[TARGET][BEST]),
                "-" if sure is None else str(sure),
                speed(found[WALL_CLOCK]),
                speed(found[TARGET_CLOCK].get(BEST)),
            ]
        )
    return made(head, rows)


def _scores(doc: dict[str, Any], columns: dict[str, Callable[[dict[str, Any]], Any]]) -> Grid:
    """A row for each comparison and group of cells."""
    rows = []
    for name in TITLES:
        for group, comparisons in doc["scores"].items():
            if name in comparisons:
                found = comparisons[name]
                rows.append(
                    [name, f"{group} ({found[SPEED_UP]['cells']})", *(f(found) for f in columns.values())]
                )
    return made(("comparison", "cells", *columns), rows)


def _column(metric: str) -> Callable[[dict[str, Any]], tuple[str, str]]:
    return lambda found: average(found, metric)


def scores(doc: dict[str, Any]) -> Grid:
    """Geometric means: the speed-up over Adam, and everything against the best rival."""
    return _scores(
        doc,
        {
            "over Adam": _column(SPEED_UP),
            "worst": lambda found: speed(found[SPEED_UP]["worst"]),
            "to best's loss": _column(f"{TARGET}/{BEST}"),
            "loss / best": _column(f"{LOSS}/{BEST}"),
            "validation / best": _column(f"{VALID}/{BEST}"),
        },
    )


def others(doc: dict[str, Any]) -> list[Grid]:
    """Other averages of the speed-up; other losses; and the rivals that nobody tuned."""
    grids = [
        {
            "over Adam, IQM": lambda found: interval(found[SPEED_UP]["iqm"]),
            "median": lambda found: interval(found[SPEED_UP]["median"]),
            "clock / Adam": _column(WALL_CLOCK),
            "loss / Adam": _column(f"{LOSS}/{ADAM}"),
            "validation / Adam": _column(f"{VALID}/{ADAM}"),
        },
        {
            "clock / best": _column(f"{TARGET_CLOCK}/{BEST}"),
            "best validation / best": _column(f"{BEST_VALID}/{BEST}"),
            "test / best": _column(f"{TEST}/{BEST}"),
        },
    ]
    if f"{LOSS}/{BEST_UNTUNED}" in doc["scores"][ALL][PER_TASK]:
        titles = {TARGET: "to best untuned's loss", LOSS: "loss / its", VALID: "validation / its"}
        titles[TEST] = "test / its"
        grids.append({title: _column(f"{metric}/{BEST_UNTUNED}") for metric, title in titles.items()})
    return [_scores(doc, columns) for columns in grids]


def rates(doc: dict[str, Any]) -> Grid:
    """Which learning rate was best on each task: whether a rate transfers from one size to another."""
    head = ("tuned rival", "steps", "lowest", "highest", "ratio", "best rate on each task")
    rows = []
    for name in doc["cells"][0]["at_grid_edge"]:
        for horizon in doc["settings"]["horizons"]:
            found = {
                cell["task"]: cell["outcomes"][PER_TASK]["rival_setting"][name]
                for cell in doc["cells"]
                if cell["horizon"] == horizon
            }
            low, high = min(found.values()), max(found.values())
            each = ", ".join(f"{task} {rate:.2g}" for task, rate in found.items())
            rows.append([name, str(horizon), f"{low:.2g}", f"{high:.2g}", f"{high / low:.3g}", each])
    return made(head, rows)


def best_rivals(doc: dict[str, Any]) -> str:
    """How often each rival was the best, and how the optimizer stands against the best one, in one line."""
    count = Counter(cell["best"] for cell in doc["cells"])
    names = ", ".join(f"{name} ({n} of {len(doc['cells'])})" for name, n in count.most_common())
    found = doc["scores"][ALL][PER_TASK]
    parts = [
        f"{title} {average(found, f'{metric}/{BEST}')[0]}"
        for title, metric in (("speed to its final loss", TARGET), ("loss", LOSS), ("validation loss", VALID))
    ]
    return f"best tuned rival: {names}; against it: {', '.join(parts)}"


def notes(doc: dict[str, Any]) -> list[str]:
    """What the tables do not say, and what to be wary of, one line each."""
    up, settings = doc["speed_up"], doc["settings"]
    lines = [
        best_rivals(doc),
        f"step speed-up over tuned Adam: {up['mean']:.2f}x, 95% interval {up['low']:.2f} to "
        f"{up['high']:.2f}, worst {up['worst']:.2f}x (geometric mean over tasks and horizons)",
        f"diverged: {doc['divergence_rate']:.0%} of the optimizer's trainings",
    ]
    if doc["wrong_horizon"]:
        given = ", ".join(f"{number(x)} when given {f} times" for f, x in doc["wrong_horizon"].items())
        lines.append(f"final loss over that when given the right number of steps: {given}")
    low, high = doc["step_cost"]
    size = doc["state_bytes_per_parameter"]
    lines.append(
        f"a step takes {low:.2f} to {high:.2f} times Adam's, gradient included; state: "
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
    if any(target["significant"] for cell in doc["cells"] for target in _targets(cell)):
        lines.append("sure at: the step from which (target - mean) sqrt(n) >= 3 sigma over the n seeds")
    lines += doc.get("warnings", [])
    if doc.get("trained_for"):
        lines.append(f"it was meta-trained on inner trainings of {doc['trained_for']}")
    return lines


def _targets(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return list(cell["outcomes"][PER_TASK]["target_steps"].values())


def summary(doc: dict[str, Any]) -> dict[str, Any]:
    """What a small artefact keeps of an evaluation: the headline, the main tables as text, the notes."""
    kept = ("format", "version", "speed_up", "divergence_rate", "wrong_horizon", "settings", "environment")
    found = {key: doc[key] for key in (*kept, "tasks", "rings_version") if key in doc}
    for key, grid in (("table", losses(doc)), ("speeds", speeds(doc)), ("comparisons", scores(doc))):
        found[key] = {"head": grid.head, "rows": grid.rows}
    return found | {"notes": notes(doc)}
