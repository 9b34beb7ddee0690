"""`meta-train leaderboard`: evaluations by the same protocol, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from meta_train.errors import RunError
from meta_train.evaluation import document as document_lib
from meta_train.evaluation.compare import COMPARISONS
from meta_train.evaluation.document import ALIKE
from meta_train.evaluation.files import replace
from meta_train.evaluation.page import PROTOCOL, grid, image, items, page
from meta_train.evaluation.report import print_grid
from meta_train.evaluation.tables import Grid, average, best_rivals, made, mean, number

FORMAT, VERSION = "meta-train/leaderboard", 2
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.3")


def leaderboard(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Puts evaluations side by side, best first: prints the table, and writes JSON, CSV, PNG and HTML.

    Args:
      paths: directories that hold an `evaluation.json`, or such files.
      out: directory of the files.

    Returns:
      What the JSON file holds.

    Raises:
      RunError: no evaluation in a directory, two that were not made alike, a file that cannot be written.
    """
    board = side_by_side(check_alike(paths))
    print_board(board)
    picture = bars_png(board)
    files = {
        "leaderboard.json": document_lib.to_json(board),
        "leaderboard.csv": to_csv(board),
        "leaderboard.png": picture,
        "leaderboard.html": board_page(board, picture),
    }
    for name, content in files.items():
        replace(out / name, content)
        print(out / name)
    return board


def check_alike(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The evaluations of these paths; RunError if one is damaged, or two were not made alike."""
    docs = {str(path): document_lib.read(path) for path in paths}
    first, *others = docs
    for other in others:
        _check_alike(first, docs[first], other, docs[other])
    return docs


def side_by_side(docs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The leaderboard as JSON values: an entry for each evaluation, the largest mean speed-up first."""
    entries = [
        {
            "name": doc.get("name", path),
            "path": path,
            "scores": doc["scores"],
            "divergence_rate": doc["divergence_rate"],
            "wrong_horizon": doc["wrong_horizon"],
            "best_rivals": best_rivals(doc),
            "time_over_adam": _time_over_adam(doc),
            "state_bytes_per_parameter": doc["state_bytes_per_parameter"]["learned"],
            "won": won,
        }
        for (path, doc), won in zip(docs.items(), _won(list(docs.values())), strict=True)
    ]
    entries.sort(key=lambda entry: -_speed_up(entry["scores"]["all"], "per_task_tuned")["value"])
    one = next(iter(docs.values()))
    return {
        "format": FORMAT,
        "version": VERSION,
        "tasks": list(dict.fromkeys(cell["task"] for cell in one["cells"])),
        "settings": {key: one["settings"][key] for key in ALIKE},
        "entries": entries,
    }


def to_grids(board: dict[str, Any]) -> list[Grid]:
    """Three tables with a row for each entry: the main one; groups of tasks; budgets and costs."""
    groups = [group for group in board["entries"][0]["scores"] if group != "all"]
    main, parts, costs = [], [], []
    for entry in board["entries"]:
        found = entry["scores"]["all"]
        first, wrong, name = found["per_task_tuned"], entry["wrong_horizon"], entry["name"]
        diverged = f"{entry['divergence_rate']:.0%}", "lost" if entry["divergence_rate"] else ""
        ratios = ("speed_up", "to_target/best", "loss_ratio/best", "valid_ratio/best")
        main.append([name, *(average(first, metric) for metric in ratios), f"{entry['won']:.0%}", diverged])
        firsts = (entry["scores"][group]["per_task_tuned"] for group in groups)
        parts.append([name, *(average(metrics, "speed_up") for metrics in firsts)])
        budgets = [average(found.get(other, {}), "speed_up") for other in ("single_setting", "equal_budget")]
        told = f"{number(wrong.get('0.5'))}, {number(wrong.get('2.0'))}"
        cost = number(entry["time_over_adam"]), number(entry["state_bytes_per_parameter"])
        costs.append([name, *budgets, average(first, "wall_clock_speed_up"), told, *cost])
    of_main = ("over Adam", "to best's loss", "loss / best", "validation / best", "won", "diverged")
    of_costs = ("single setting", "equal budget", "clock / Adam", "given x0.5, x2", "time / Adam's")
    of_costs += ("bytes/param",)
    tables = ((of_main, main), (groups, parts), (of_costs, costs))
    return [made(("optimizer", *head), rows) for head, rows in tables]


def print_board(board: dict[str, Any], file: IO[str] | None = None) -> None:
    """Prints the tables."""
    for found in to_grids(board):
        print_grid(found, file)
        print(file=file)
    for line in notes(board):
        print(line, file=file)


def notes(board: dict[str, Any]) -> list[str]:
    """What the columns mean."""
    return [
        *(f"{entry['name']}: {entry['best_rivals']}" for entry in board["entries"]),
        f"{len(board['tasks'])} tasks at {', '.join(map(str, board['settings']['horizons']))} steps, "
        f"{board['settings']['num_seeds']} seeds; speed-ups and ratios: geometric mean [95% interval]",
        f"over Adam, and all columns not named otherwise: {COMPARISONS['per_task_tuned']}",
        "won: share of tasks and horizons with the lowest training loss of all entries; "
        "given: final loss when given a wrong number of steps, over that when given the right one",
    ]


def to_csv(board: dict[str, Any]) -> str:
    """One row for each entry, group, comparison and metric."""
    head = ("name", "group", "comparison", "metric", "average", "value", "low", "high")
    rows = (
        (entry["name"], group, comparison, metric, kind, *(score[kind][x] for x in ("value", "low", "high")))
        for entry in board["entries"]
        for group, comparisons in entry["scores"].items()
        for comparison, metrics in comparisons.items()
        for metric, score in metrics.items()
        for kind in ("geometric_mean", "iqm", "median")
    )
    return document_lib.csv_text(head, rows)


def board_page(board: dict[str, Any], picture: bytes) -> str:
    """One HTML page."""
    return page(
        "Leaderboard",
        *(grid(found) for found in to_grids(board)),
        items(notes(board)),
        image(picture, "speed-ups with intervals"),
        f"<h2>How it was measured</h2><p>{PROTOCOL}</p>",
    )


def bars_png(board: dict[str, Any]) -> bytes:
    """Speed-ups with their intervals: a panel for each comparison, a colour for each group."""
    from matplotlib.figure import Figure

    from meta_train.evaluation.picture import DPI, WIDTH, png, ratio_axis

    entries, groups = board["entries"], list(board["entries"][0]["scores"])
    names = [name for name in COMPARISONS if any(name in entry["scores"]["all"] for entry in entries)]
    size = WIDTH, 1.6 + 0.16 * len(entries) * (len(groups) + 1)
    figure = Figure(figsize=(size[0], max(size[1], 3)), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        for k, group in enumerate(groups):
            for row, entry in enumerate(entries):
                if name in entry["scores"][group]:
                    found = _speed_up(entry["scores"][group], name)
                    y = row + 0.7 * (k / len(groups) - 0.35)
                    colour = COLOURS[k % len(COLOURS)]
                    axis.plot((found["low"], found["high"]), (y, y), color=colour, linewidth=2)
                    label = group if row == 0 else None
                    axis.plot(found["value"], y, "o", color=colour, markersize=6, label=label)
        axis.set_title(f"{name}\n{COMPARISONS[name]}", fontsize=9)
        ratio_axis(axis)
        axis.grid(False, axis="y")
        axis.set_xlabel("step speed-up over Adam")
    axes[0].set_yticks(range(len(entries)), [entry["name"] for entry in entries])
    axes[0].set_ylim(len(entries) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return png(figure)


def _check_alike(a: str, one: dict[str, Any], b: str, other: dict[str, Any]) -> None:
    """Refuses evaluations whose numbers do not compare (RunError)."""
    keys = ("task", "ring", "horizon")
    ours, theirs = (sorted(tuple(cell[key] for key in keys) for cell in doc["cells"]) for doc in (one, other))
    if ours != theirs:
        odd = min(set(ours) ^ set(theirs))
        where = a if odd in ours else b
        raise RunError(
            f"{a} and {b} were not evaluated on the same tasks: only {where} has {odd[0]} at {odd[2]} steps; "
            "evaluate both with the same --tasks and --horizons"
        )
    for key in ALIKE:
        if one["settings"][key] != other["settings"][key]:
            raise RunError(
                f"{a} and {b} were not evaluated alike: {key} is {one['settings'][key]} there, "
                f"{other['settings'][key]} here"
            )
    if set(one["scores"]) != set(other["scores"]):
        odd = sorted(set(one["scores"]) ^ set(other["scores"]))[0]
        raise RunError(f"{a} and {b} were not evaluated alike: only one of them has scores of {odd}")
    if one.get("rings_version") != other.get("rings_version"):
        raise RunError(f"{a} and {b} were evaluated on different versions of the rings: evaluate again")


def _won(docs: list[dict[str, Any]]) -> list[float]:
    """Share of the cells where each has the lowest mean training loss; ties count for all of them."""
    found = [{(c["task"], c["horizon"]): mean(c["loss"]["learned"]) for c in doc["cells"]} for doc in docs]
    losses = np.array([[np.inf if one[cell] is None else one[cell] for cell in found[0]] for one in found])
    best = losses.min(0)
    return [float(((row == best) & np.isfinite(row)).mean()) for row in losses]


def _time_over_adam(doc: dict[str, Any]) -> float:
    ratios = [ms["learned"] / ms["adam"] for ms in doc["ms_per_step"].values()]
    return float(np.exp(np.mean(np.log(ratios))))


def _speed_up(comparisons: dict[str, Any], comparison: str) -> dict[str, Any]:
    return comparisons[comparison]["speed_up"]["geometric_mean"]
