"""A run's face: a progress bar on a terminal and in a notebook, a line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from meta_train.run.hooks import in_words
from meta_train.run.train import Display

LINE_EVERY = 30.0  # seconds between two lines where nothing can be drawn again in its place
FRAME_EVERY = 0.2  # seconds between two drawings in a notebook


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
    outer_steps: int,
    *,
    unit: str = "outer step",
    words: Callable[[dict], dict[str, str]] = run_words,
    line_every: float = LINE_EVERY,
) -> Iterator[Display]:
    """A display for a run of that many outer steps.

    On a terminal and in a notebook: outer step, meta-loss, inner steps per second, the held-out score and
    the time left. Anywhere else the same as a line on stderr, at the start, every 30 seconds, and at the end.

    Args:
      outer_steps: how many there are.
      unit: what they are called.
      words: what is shown of a row of metrics, by key; later rows replace what they name again.
      line_every: seconds between two lines, > 0.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_jupyter:
        drawn = _in_notebook(outer_steps, unit, words)
    elif console.is_terminal:
        drawn = _on_terminal(console, outer_steps, unit, words)
    else:
        drawn = _as_lines(outer_steps, unit, words, line_every)
    with drawn as display:
        yield display


def _bar(unit: str, **options: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(unit),
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, **options)


@contextlib.contextmanager
def _on_terminal(console, outer_steps, unit, words) -> Iterator[Display]:
    numbers: dict[str, str] = {}
    with _bar(unit, console=console, transient=False) as bar:
        task = bar.add_task("", total=outer_steps, numbers="compiling")

        def row(metrics):
            numbers.update(words(metrics))
            bar.update(task, numbers="  ".join(numbers.values()))

        yield Display(
            begin=lambda now: bar.update(task, completed=now),
            say=lambda text: bar.console.print(text),
            warn=lambda text: bar.console.print(f"warning: {text}", style="yellow"),
            step=lambda step: bar.update(task, completed=step),
            row=row,
        )


@contextlib.contextmanager
def _in_notebook(outer_steps, unit, words) -> Iterator[Display]:
    """One bar that is drawn again in its place; it needs no widgets, and stays in the saved notebook."""
    from IPython.display import display

    numbers: dict[str, str] = {}
    bar = _bar(unit, auto_refresh=False)
    task = bar.add_task("", total=outer_steps, numbers="compiling")
    handle: Any = display(bar, display_id=True)
    drawn = time.monotonic()

    def step(done):
        nonlocal drawn
        bar.update(task, completed=done)
        if time.monotonic() - drawn >= FRAME_EVERY:
            handle.update(bar)
            drawn = time.monotonic()

    def row(metrics):
        numbers.update(words(metrics))
        bar.update(task, numbers="  ".join(numbers.values()))

    try:
        begin = lambda now: bar.update(task, completed=now)  # noqa: E731
        warn = lambda text: print(f"warning: {text}")  # noqa: E731
        yield Display(begin=begin, say=print, warn=warn, step=step, row=row)
    finally:
        handle.update(bar)


@contextlib.contextmanager
def _as_lines(outer_steps, unit, words, every) -> Iterator[Display]:
    """Lines on stderr: for batch systems, files and pipes."""
    numbers: dict[str, str] = {}
    began = printed = time.monotonic()
    done, first = 0, None

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def line() -> None:
        nonlocal printed
        printed = time.monotonic()
        spent = [in_words(printed - began)]
        if first is not None and first[0] < done < outer_steps:
            left = (outer_steps - done) * (printed - first[1]) / (done - first[0])
            spent.append(f"about {in_words(left)} to go")
        share = f"{unit} {done}/{outer_steps} ({done / outer_steps:.0%})"
        say("  ".join([share, *numbers.values(), ", ".join(spent)]))

    def step(now: int) -> None:
        nonlocal done, first
        done = now
        first = first or (now, time.monotonic())
        if time.monotonic() - printed >= every:
            line()

    yield Display(
        begin=lambda now: say(f"{unit} {now}/{outer_steps}: compiling"),
        say=say,
        warn=lambda text: say(f"warning: {text}"),
        step=step,
        row=lambda metrics: numbers.update(words(metrics)),
    )
    if done:  # a run that ends by an error, or was finished already, says so itself
        line()
