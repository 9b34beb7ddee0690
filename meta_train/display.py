"""A run's face: a progress bar on a terminal, nothing but warnings elsewhere."""

import contextlib
import sys
from collections.abc import Iterator

from meta_train.train import Display


@contextlib.contextmanager
def progress_display(outer_steps: int) -> Iterator[Display]:
    """A display for a run of that many outer steps.

    On a terminal: outer step, meta-loss, inner steps per second, the held-out score and the time
    left. Anywhere else only warnings, on stderr.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Display(warn=lambda text: print(f"warning: {text}", file=sys.stderr))
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("outer step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    numbers: dict[str, str] = {}
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task("", total=outer_steps, numbers="compiling")

        def row(metrics):
            if "loss" in metrics:
                numbers["loss"] = f"meta-loss {metrics['loss']:.4f}"
                numbers["speed"] = f"{metrics['inner_steps_per_second']:,.0f} inner steps/s"
            if "held_out/score" in metrics:
                numbers["held out"] = (
                    f"held-out {metrics['held_out/score']:+.3f} (best {metrics['held_out/best_score']:+.3f})"
                )
            bar.update(task, numbers="  ".join(numbers.values()))

        yield Display(
            say=lambda text: bar.console.print(text),
            warn=lambda text: bar.console.print(f"warning: {text}", style="yellow"),
            step=lambda step: bar.update(task, completed=step),
            row=row,
        )
