"""The rows of an evaluation's tables, as text: for the terminal, Markdown and the page alike."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from meta_train.evaluation.compare import COMPARISONS, LARGER_IS_BETTER

# Columns of the tables of averages: title -> the metric, and what of it if not the geometric mean.
SCORES = {
    "over Adam": "speed_up",
    "worst": "speed_up worst",
    "to best's loss": "to_target/best",
    "loss / best": "loss_ratio/best",
    "validation / best": "valid_ratio/best",
}
OTHERS = (
    {
        "over Adam, IQM": "speed_up iqm",
        "median": "speed_up median",
        "clock / Adam": "wall_clock_speed_up",
        "loss / Adam": "loss_ratio/adam",
        "validation / Adam": "valid_ratio/adam",
    },
    {
        "clock / best": "wall_clock_to_target/best",
        "best validation / best": "best_valid_ratio/best",
        "test / best": "test_ratio/best",
    },
    {
        "to best untuned's loss": "to_target/best_untuned",
        "loss / its": "loss_ratio/best_untuned",
        "validation / its": "valid_ratio/best_untuned",
        "test / its": "test_ratio/best_untuned",
    },
)


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
    value = metrics[metric]["geometric_mean"]["value"] if metric in metrics else None
    if value is None:
        return "-", ""
    good = value == 1 or (value > 1) == metric.startswith(LARGER_IS_BETTER)
    return interval(metrics[metric]["geometric_mean"]), "good" if good else "bad"


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
        yield [label, str(cell["horizon"])], cell, cell["outcomes"]["per_task_tuned"]


def losses(doc: dict[str, Any]) -> Grid:
    """A row for each task and horizon: final losses, and those of the best tuned rival."""
    rows = []
    for first, cell, _ in _cells(doc):
        texts = []
        for kind, name in (("loss", cell["best"]), ("valid", cell["best_valid"])):
            own, rival = mean(cell[kind]["learned"]), mean(cell[kind][name])
            mark = "" if own is None or rival is None else "good" if own <= rival else "bad"
            texts += [(number(own), mark), number(rival)]
        loss, rivals, valid, rivals_valid = texts
        loss = ("inf", "lost") if cell["diverged"] else loss
        rows.append([*first, loss, cell["best"], rivals, valid, rivals_valid])
    head = ("held-out task", "steps", "loss", "best rival", "its loss", "validation", "its validation")
    return made(head, rows)


def speeds(doc: dict[str, Any]) -> Grid:
    """A row for each task and horizon: speeds in steps and by the clock."""
    rows = []
    for first, cell, found in _cells(doc):
        sure = found["target_steps"]["best"]["significant"]
        row = [
            speed(found["speed_up"], ">= " if found["censored"] else ""),
            speed(found["to_target"]["best"]),
            "-" if sure is None else str(sure),
            speed(found["wall_clock_speed_up"]),
            speed(found["wall_clock_to_target"].get("best")),
        ]
        if cell["diverged"]:
            row = [(f"{cell['diverged']}/{len(cell['loss']['learned'])} diverged", "lost"), *"----"]
        rows.append(first + row)
    head = ("held-out task", "steps", "over Adam", "to best's loss", "sure at", "clock / Adam")
    return made((*head, "clock / best"), rows)


def _averages(doc: dict[str, Any], columns: dict[str, str]) -> Grid:
    """A row for each comparison and group of cells; columns as in `SCORES`."""

    def text(found, column):
        metric, _, kind = column.partition(" ")
        if not kind:
            return average(found, metric)
        return speed(found[metric][kind]) if kind == "worst" else interval(found[metric][kind])

    rows = [
        [name, f"{group} ({found['speed_up']['cells']})", *(text(found, c) for c in columns.values())]
        for name in COMPARISONS
        for group, comparisons in doc["scores"].items()
        for found in [comparisons.get(name)]
        if found
    ]
    return made(("comparison", "cells", *columns), rows)


def scores(doc: dict[str, Any]) -> Grid:
    """Geometric means: the speed-up over Adam, and everything against the best rival."""
    return _averages(doc, SCORES)


def others(doc: dict[str, Any]) -> list[Grid]:
    """Other averages of the speed-up; other losses; and the rivals that nobody tuned."""
    untuned = "loss_ratio/best_untuned" in doc["scores"]["all"]["per_task_tuned"]
    return [_averages(doc, columns) for columns in (OTHERS if untuned else OTHERS[:-1])]


def rates(doc: dict[str, Any]) -> Grid:
    """Which learning rate was best on each task: whether a rate transfers from one size to another."""
    head = ("tuned rival", "steps", "lowest", "highest", "ratio", "best rate on each task")
    rows = []
    for name in doc["cells"][0]["at_grid_edge"]:
        for horizon in doc["settings"]["horizons"]:
            found = {
                cell["task"]: outcome["rival_setting"][name]
                for _, cell, outcome in _cells(doc)
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
    found = doc["scores"]["all"]["per_task_tuned"]
    target, loss, valid = (average(found, f"{m}/best")[0] for m in ("to_target", "loss_ratio", "valid_ratio"))
    against = f"speed to its final loss {target}, loss {loss}, validation loss {valid}"
    return f"best tuned rival: {names}; against it: {against}"


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
        f"{number(size['learned'])} bytes per parameter, Adam {number(size['adam'])}"
    )
    single = ", ".join(f"{name} {x:.3g}" for name, x in doc["single_setting"].items() if name != "learned")
    lines.append(f"best single learning rates: {single}")
    edge = [
        f"{cell['task']} at {cell['horizon']} ({name})"
        for cell in doc["cells"]
        for name, at_edge in cell["at_grid_edge"].items()
        if at_edge
    ]
    if edge:
        lines.append(f"the chosen learning rate is the first or last of those tried: {', '.join(edge)}")
    outcomes = [found for _, _, found in _cells(doc)]
    if any(outcome["censored"] for outcome in outcomes):
        lines.append(f">= : Adam did not get there within {settings['archive_steps']} steps")
    if any(target["significant"] for outcome in outcomes for target in outcome["target_steps"].values()):
        lines.append("sure at: the step from which (target - mean) sqrt(n) >= 3 sigma over the n seeds")
    lines += doc.get("warnings", [])
    if doc.get("trained_for"):
        lines.append(f"it was meta-trained on inner trainings of {doc['trained_for']}")
    return lines


def summary(doc: dict[str, Any]) -> dict[str, Any]:
    """What a small artefact keeps of an evaluation: the headline, the main tables as text, the notes."""
    kept = ("format", "version", "speed_up", "divergence_rate", "wrong_horizon", "settings", "environment")
    found = {key: doc[key] for key in (*kept, "tasks", "rings_version") if key in doc}
    for key, grid in (("table", losses(doc)), ("speeds", speeds(doc)), ("comparisons", scores(doc))):
        found[key] = {"head": grid.head, "rows": grid.rows}
    return found | {"notes": notes(doc)}
