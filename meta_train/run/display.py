"""A run's face: a progress bar on a terminal, nothing but warnings elsewhere."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from meta_train.run.train import Display


def run_words(metrics: dict) -> dict[str, str]:
    """What the progress bar shows of a row of a run's metrics."""
    numbers = {}
    if "loss" in metrics:
        numbers["loss"] = f"meta-loss {metrics['loss']:.4f}"
        numbers["speed"] = f"{metrics['inner_steps_per_second']:,.0f} inner steps/s"
    if "held_out/score" in metrics:
        score, best = metrics["held_out/score"], metrics["held_out/best_score"]
        numbers["held out"] = f"held-out {score:+.3f} (best {best:+.3f})"
    return numbers


@contextlib.contextmanager
def progress_display(
    outer_steps: int, *, unit: str = "outer step", words: Callable[[dict], dict[str, str]] = run_words
) -> Iterator[Display]:
    """A display for a run of that many outer steps.

    On a terminal: outer step, meta-loss, inner steps per second, the held-out score and the time
    left. Anywhere else only warnings, on stderr.

    Args:
      outer_steps: how many there are.
      unit: what they are called.
      words: what is shown of a row of metrics, by key; later rows replace what they name again.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Display(warn=lambda text: print(f"warning: {text}", file=sys.stderr))
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(unit),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    numbers: dict[str, str] = {}
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task("", total=outer_steps, numbers="compiling")

        def row(metrics):
            numbers.update(words(metrics))
            bar.update(task, numbers="  ".join(numbers.values()))

        yield Display(
            say=lambda text: bar.console.print(text),
            warn=lambda text: bar.console.print(f"warning: {text}", style="yellow"),
            step=lambda step: bar.update(task, completed=step),
            row=row,
        )
