"""An evaluation on the terminal, in colours; away from one, as Markdown."""

import io
from collections.abc import Callable
from typing import IO, Any

from meta_train.evaluation import tables
from meta_train.evaluation.document import TITLES


def print_report(doc: dict[str, Any], file: IO[str] | None = None) -> None:
    """Prints the cells, the three comparisons and the notes.

    Args:
      doc: from `document`.
      file: where to; None is the standard output.
    """
    print_grid(tables.cells(doc), file)
    print(file=file)
    print_grid(tables.scores(doc), file)
    print(file=file)
    for name, title in TITLES.items():
        if name in doc["scores"]["all"]:
            print(f"{name}: {title}", file=file)
    print("speed-up: geometric mean [95% interval over tasks and seeds] of the step speed-up", file=file)
    for line in tables.notes(doc):
        print(line, file=file)


def to_markdown(doc: dict[str, Any], show: Callable[..., None] = print_report) -> str:
    """What `show` prints, as Markdown text."""
    text = io.StringIO()
    show(doc, text)
    return text.getvalue()


def print_grid(grid: tables.Grid, file: IO[str] | None = None) -> None:
    """A table; on a terminal too narrow for it, the columns that it has room for."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    width = sum(max(map(len, column)) + 2 for column in zip(grid.head, *grid.rows, strict=True))
    console = Console(file=file)
    terminal = console.is_terminal
    if not terminal:
        console = Console(file=file, width=10 * width, color_system=None)
    names = grid.head if console.width >= width else grid.narrow
    if terminal:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    else:
        table = Table(box=box.MARKDOWN)
    for name in names:
        table.add_column(name, justify="left" if name == names[0] else "right", no_wrap=True)
    colours = {True: "green", False: "yellow", None: "red"}
    for row, good in zip(grid.rows, grid.good, strict=True):
        texts = dict(zip(grid.head, row, strict=True))
        table.add_row(*(texts[name] for name in names), style=colours[good] if terminal else "")
    with console.capture() as capture:
        console.print(table)
    text = capture.get().strip("\n") if terminal else _stripped(capture.get())
    print(text, file=file)


def _stripped(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())
