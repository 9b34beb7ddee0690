"""`meta-train evaluate`: from a source to the table, the JSON, the CSV, the pictures and the page."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from learned_opt.artefact.reading import FileError, read_bytes
from meta_train.cli.learned_rivals import learned_rival
from meta_train.cli.own_tasks import own_optimizer
from meta_train.cli.sources import open_source, tasks_and_settings
from meta_train.config.registry import Factory
from meta_train.errors import RunError
from meta_train.evaluation import document as document_lib
from meta_train.evaluation.evaluate import evaluate
from meta_train.evaluation.files import replace
from meta_train.evaluation.measure import Progress
from meta_train.evaluation.page import evaluation_page
from meta_train.evaluation.picture import curves_png, scores_png
from meta_train.evaluation.report import print_report
from meta_train.evaluation.results import Evaluation
from meta_train.evaluation.tables import best_rivals
from meta_train.run.display import LINE_EVERY
from meta_train.run.hooks import in_words
from meta_train.run.train import Result


def evaluate_source(
    source: str | Path | Result,
    *,
    last: bool = False,
    rings: str | None = None,
    options: Mapping[str, Any] | None = None,
    cache: Path | None = None,
    out: str | Path | None = None,
    json_file: Path | None = None,
    warn: Callable[[str], None] = print,
    architecture: Factory | str | None = None,
) -> Evaluation:
    """Evaluates a run, an artefact or an optimizer of optax, prints the tables, and writes all files.

    Of a run in memory, what `train` returned, files are written only where `out` says so.

    Args:
      source: see `open_source`.
      last: as there.
      rings: as "A+B", or tasks of one's own, "FILE.py:TASKS"; None for the default of the source.
      options: keyword arguments of `Settings`; None where the default is wanted.
      cache: directory of what the rivals did, which is reused; None for none.
      out: directory of the files; None for the run's own, or one below runs/evaluations.
      json_file: where the figures go; None for `evaluation.json` in `out`.
      warn: called with a line for whatever was skipped.
      architecture: of an artefact whose architecture is not of this package, the factory, or where it is,
        `FILE.py:FACTORY`.

    Raises:
      ConfigError, RunError, ArtefactError: in one line, before anything is trained; or a file that
        cannot be written.
    """
    options = dict(options or {})
    named = options.get("rivals")
    found = {name: learned_rival(name) for name in named or ()}
    others = [rival for rival in found.values() if rival is not None]
    if named is not None:
        options["rivals"] = [name for name in named if found[name] is None]
    if isinstance(architecture, str):
        architecture = own_optimizer(architecture)
    opened = open_source(source, warn, last=last, architecture=architecture)
    tasks, settings, about_tasks = tasks_and_settings(opened, rings, options)
    out = opened.out if out is None else Path(out)
    if out is not None:
        refuse_foreign(out, json_file)
    contestant = opened.contestant(settings)
    for line in opened.what.get("warnings", ()):
        warn(line)
    with progress_bar() as progress:
        result = evaluate(contestant, tasks, settings, learned_rivals=others, cache=cache, progress=progress)
    about_tasks["learned_rivals"] = [rival.name for rival in others]
    doc = document_lib.document(result, name=opened.name, **opened.what, **about_tasks)
    print_report(doc)
    for path in () if out is None else write(result, doc, out, json_file):
        print(path)
    return result


def refuse_foreign(out: Path, json_file: Path | None = None) -> None:
    """Refuses (RunError), before anything is trained, to replace files that no evaluation wrote."""
    json_file = json_file or out / "evaluation.json"
    csv = out / "evaluation.csv"
    ours = {json_file: False, csv: False}
    with suppress(RunError):
        ours[json_file] = json_file.is_file() and bool(document_lib.read(json_file, any_version=True))
    with suppress(FileError):
        ours[csv] = csv.is_file() and read_bytes(csv).startswith(document_lib.CSV_HEAD.encode())
    others = [out / name for name in ("evaluation.png", "evaluation_scores.png", "evaluation.html")]
    foreign = [path for path, known in ours.items() if not known and path.is_file()]
    foreign += [path for path in others if path.exists() and not any(ours.values())]
    if foreign:
        raise RunError(
            f"{foreign[0]} will not be overwritten: it is not of an evaluation; choose another --out"
        )


def write(
    evaluation: Evaluation, doc: dict[str, Any], out: Path, json_file: Path | None = None
) -> Iterator[Path]:
    """Writes the files of an evaluation, and yields each path once it is there.

    Raises:
      RunError: a file that cannot be written.
    """
    title = f"{doc['name']}: step speed-up over Adam {doc['speed_up']['mean']:.2f}, {best_rivals(doc)}"
    drawn = curves_png(evaluation, title)
    scores = scores_png(doc, title)
    page = evaluation_page(doc, {"Speed-ups": scores, "Training curves": drawn})
    files = {
        json_file or out / "evaluation.json": document_lib.to_json(doc),
        out / "evaluation.csv": document_lib.to_csv(doc),
        out / "evaluation.png": drawn,
        out / "evaluation_scores.png": scores,
        out / "evaluation.html": page,
    }
    for path, content in files.items():
        replace(path, content)
        yield path


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """A bar on a terminal; elsewhere a line now and then, as of a run."""
    if not sys.stderr.isatty():
        yield progress_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)


def progress_lines(every: float = LINE_EVERY) -> Progress:
    """Writes a line to stderr every so many seconds: the share of the inner steps, the time, what was run."""
    began = printed = time.monotonic()
    first: int | None = None  # steps done at the first call: what was in the cache took no time

    def progress(done: int, total: int, text: str) -> None:
        nonlocal printed, first
        first, now = done if first is None else first, time.monotonic()
        if now - printed >= every:
            printed, spent = now, now - began
            left = (
                f", about {in_words(spent * (total - done) / (done - first))} to go" if done > first else ""
            )
            print(f"{done / total:.0%}  {in_words(spent)}{left}  {text}", file=sys.stderr, flush=True)

    return progress
