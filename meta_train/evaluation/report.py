"""An evaluation on the terminal, in colours; away from one, as Markdown."""

from typing import IO, Any

import numpy as np

from meta_train.evaluation import tables
from meta_train.evaluation.compare import COMPARISONS


def print_report(doc: dict[str, Any], file: IO[str] | None = None) -> None:
    """Prints the tasks, the comparisons and the notes; the best rates where there are several sizes.

    Args:
      doc: from `document`.
      file: where to; None is the standard output.
    """
    grids = [tables.losses(doc), tables.speeds(doc), tables.scores(doc)]
    if {"L", "XL"} & set(tables.rings(doc)):
        grids.append(tables.rates(doc))
    for grid in grids:
        print_grid(grid, file)
        print(file=file)
    for name, title in COMPARISONS.items():
        if name in doc["scores"]["all"]:
            print(f"{name}: {title}", file=file)
    print("averages: geometric mean [95% interval over tasks and seeds]", file=file)
    for line in tables.notes(doc):
        print(line, file=file)


def terminal_width(file: IO[str] | None = None) -> int | None:
    """Characters in a line of a terminal; None for another file. `file` as in `print_report`."""
    from rich.console import Console

    console = Console(file=file)
    return console.width if console.is_terminal else None


def print_grid(grid: tables.Grid, file: IO[str] | None = None) -> None:
    """A table; on a terminal too narrow for it, its first columns that there is room for."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(len, column)) + 2 for column in zip(grid.head, *grid.rows, strict=True)]
    width = terminal_width(file)
    if width is None:
        console, columns = Console(file=file, width=10 * sum(widths), color_system=None), len(widths)
        table = Table(box=box.MARKDOWN)
    else:
        console, columns = Console(file=file), max(2, sum(np.cumsum(widths) <= width))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for i, name in enumerate(grid.head[:columns]):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    styles = {"good": "green", "bad": "yellow", "lost": "red", "": ""}
    for row, marks in zip(grid.rows, grid.marks, strict=True):
        texts = [Text(text, style=styles[mark]) for text, mark in zip(row, marks, strict=True)]
        table.add_row(*texts[:columns])
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().strip("\n").splitlines()
    print("\n".join(lines if width else filter(None, map(str.strip, lines))), file=file)
