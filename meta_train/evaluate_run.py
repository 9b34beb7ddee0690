"""`meta-train evaluate`: a run's best theta on held-out tasks, as table, JSON and picture."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meta_train import report
from meta_train.baselines import Settings
from meta_train.evaluate import Evaluation, evaluate
from meta_train.experiment import held_out_families
from meta_train.hooks import RunError
from meta_train.run_directory import load_config, load_trained
from meta_train.train import set_up_jax


def evaluate_run(
    run: Path,
    *,
    json_file: Path,
    picture: Path,
    cache: Path | None = None,
    horizons: Sequence[int] | None = None,
    num_seeds: int | None = None,
    warn: Callable[[str], None] = print,
) -> Evaluation:
    """Evaluates a run, prints the table, and writes the JSON file and the picture.

    Args:
      run: directory of the run.
      json_file: where the figures go.
      picture: where the curves go.
      cache: directory of tuned baselines, which are reused; None for none.
      horizons: instead of the config's.
      num_seeds: instead of the config's.
      warn: called with a line for whatever was skipped.

    Raises:
      RunError: not a run, nothing saved yet, settings that do not fit, a file that cannot be written.
    """
    evaluation = load_config(run).evaluation
    try:
        settings = Settings(
            horizons=tuple(sorted(set(horizons or evaluation.horizons))),
            num_seeds=evaluation.num_seeds if num_seeds is None else num_seeds,
        )
        horizon = settings.horizons[-1]
        if horizon * 4 > settings.archive_steps:
            settings = dataclasses.replace(settings, archive_steps=4 * horizon)
    except ValueError as error:
        raise RunError(f"cannot evaluate {run}: {error}") from error
    set_up_jax(load_config(run))
    trained = load_trained(run, warn)
    families = held_out_families(trained.experiment.config)
    with _progress() as progress:
        result = evaluate(
            trained.experiment.lopt.build, trained.theta, families, settings, cache=cache, progress=progress
        )
    report.print_table(result)
    title = f"{Path(run).name}: {trained.which} theta, outer step {trained.outer_step}"
    try:
        report.write_json(result, json_file, run=str(run), which=trained.which, outer_step=trained.outer_step)
        report.draw(result, picture, title)
    except OSError as error:
        raise RunError(f"cannot write {error.filename or json_file}: {error.strerror}") from error
    print(f"figures: {json_file}\npicture: {picture}")
    return result


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)
