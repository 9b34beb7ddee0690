"""A diagnosis for people and programs: a table, one closing line, a JSON file, a picture."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jax

from meta_train.config.load import RunConfig
from meta_train.diagnose.diagnose import DISTINCT, REFERENCE, Diagnosis, Progress, diagnose
from meta_train.diagnose.gradient_statistics import Row
from meta_train.diagnose.plan import label, plan
from meta_train.errors import RunError
from meta_train.evaluation.document import plain
from meta_train.evaluation.files import replace
from meta_train.evaluation.report import print_grid, terminal_width
from meta_train.evaluation.tables import made, number
from meta_train.run.directory import METRICS, load_config, load_trained
from meta_train.run.experiment import assemble, initial_theta
from meta_train.run.metrics import read_jsonl
from meta_train.run.random_walk import advice, assess, summary
from meta_train.run.train import Result, set_up_jax

FORMAT, VERSION = "meta-train/diagnosis", 1
DIVERGED = 0.01  # the share of diverged windows from which the closing line warns
ALIGNED = 0.9  # the least cosine with the reference of what is recommended
WIDE = 120  # characters that all columns of the table need
WIDE_ONLY = ("variance", "KiB", "diverged")


def diagnose_run(
    config: RunConfig,
    *,
    run: str | Path | Result | None = None,
    estimators: Sequence[str] | None = None,
    truncation_lengths: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    num_samples: int = 256,
    json_file: Path | None = None,
    picture: Path | None = None,
) -> Diagnosis:
    """Diagnoses a config, prints the table and the closing line, writes the files that are asked for.

    Args:
      config: tasks, learned optimizer and inner training; its seed names theta and every draw.
      run: directory of a run whose best theta is taken, or what `train` returned; None for the initial one.
      estimators: instead of the usual ones; see `plan`.
      truncation_lengths: instead of the config's.
      sigmas: instead of the config's, a third and three times of it.
      num_samples: chains for each row.
      json_file: where the figures go.
      picture: where the picture goes.

    Raises:
      ConfigError: options that do not fit.
      RunError: not a run, a run with another theta, a file that cannot be written.
    """
    set_up_jax(config)
    config = config.model_copy(update={"mesh": type(config.mesh)(particles=1)})
    experiment = assemble(config)
    theta, where = _theta(config, experiment.lopt.init, run)
    settings = plan(config, estimators, truncation_lengths, sigmas)
    with _progress() as progress:
        found = diagnose(experiment, theta, settings, num_samples=num_samples, progress=progress)
    if isinstance(run, str | Path):
        print_progress(Path(run))
    print_table(found)
    if json_file is not None:
        replace(json_file, json.dumps(to_json(found, theta=where), indent=1, allow_nan=False) + "\n")
    if picture is not None:
        replace(picture, draw(found, f"{where}, T = {found.unroll_length}"))
    return found


def print_progress(run: Path) -> None:
    """Prints what the metrics of a run say about its meta-training, and the advice if there is any."""
    config = load_config(run)
    progress = assess(read_jsonl(run / METRICS), has_sigma="sigma" in config.estimator)
    print(summary(progress))
    line = advice(progress, config.estimator["num_particles"])
    if line is not None:
        print(f"advice: {line}")


def _theta(config, init, run) -> tuple[Any, str]:
    """The theta to diagnose at, and what it is."""
    if run is None:
        return initial_theta(config, init), "initial theta"
    wanted = jax.eval_shape(init, jax.random.key(0))
    if isinstance(run, Result):
        which, theta = ("last", run.theta) if run.best_theta is None else ("best", run.best_theta)
        return _fitting(theta, wanted, run.config, config, "the run"), f"{which} theta of the run"
    trained = load_trained(Path(run), lambda text: print(f"warning: {text}", file=sys.stderr))
    theta = _fitting(trained.theta, wanted, trained.experiment.config, config, str(run))
    return theta, f"{trained.which} theta of {Path(run).name}, outer step {trained.outer_step}"


def _fitting(theta: Any, wanted: Any, there: RunConfig, here: RunConfig, run: str) -> Any:
    """The theta of a run, if a config's learned optimizer can have it (RunError)."""
    if _shapes(theta) != _shapes(wanted):
        name, wanted_name = (one.learned_optimizer["name"] for one in (there, here))
        raise RunError(f"theta of {run} ({name}) does not fit the config's learned optimizer ({wanted_name})")
    return theta


def _shapes(tree):
    return [(path, x.shape, x.dtype) for path, x in jax.tree_util.tree_leaves_with_path(tree)]


def choose(found: Diagnosis, *, unbiased: bool = False) -> Row | None:
    """The row with the most signal per second that keeps the direction of the reference; None if none does.

    Its sigma must not turn the gradient either; and with `unbiased`, no bias may have been found.
    """
    references = {r.sigma: r for r in found.references}
    smallest = found.references[0]

    def fits(row):
        reference = references.get(row.sigma, smallest)
        turned = smallest.z >= DISTINCT and reference.cosine < ALIGNED
        aligned = row.cosine + 2 * row.cosine_error >= ALIGNED
        distinct = reference.z >= DISTINCT and not math.isnan(row.snr_per_second)
        return distinct and aligned and not turned and not (unbiased and row.z >= DISTINCT)

    return max(filter(fits, found.rows), key=lambda row: row.snr_per_second, default=None)


def closing_line(found: Diagnosis) -> str:
    """Which estimator, which K, which sigma, how many particles."""
    if all(r.z < DISTINCT for r in found.references):
        chains = REFERENCE * found.num_samples
        return f"no reference gradient stands out of the noise of {chains} chains: give more --samples"
    best = choose(found)
    if best is None:
        return f"nothing keeps a cosine of {ALIGNED:g} with the reference: try a longer K, or more --samples"
    line = (
        f"use {_advice(best)}: the most signal per second of what keeps the gradient's direction "
        f"(cosine {best.cosine:.2f} +- {best.cosine_error:.2f}, "
    )
    diverged = ""
    if best.diverged >= DIVERGED:
        diverged = f"; warning: {best.diverged:.1%} of its windows have a loss that is not finite"
    size = "a bias" if math.isnan(best.bias) else f"a bias of {_number(best.bias)}"
    if best.z < DISTINCT:
        return line + f"{size} that these samples cannot tell from noise, z = {best.z:.1f}){diverged}"
    other = choose(found, unbiased=True)
    also = f"; without a bias that shows: {_advice(other)}" if other else ""
    return line + f"{size}, z = {best.z:.1f}{also}){diverged}"


def _advice(row: Row) -> str:
    particles = max(1, math.ceil(row.n_crit))
    return (
        f"{label(row.estimator, row.truncation_length, row.sigma)} with {particles:,} "
        f"particle{'s' if particles > 1 else ''}"
    )


def print_table(found: Diagnosis, file: IO[str] | None = None) -> None:
    """Prints the rows, the references and the closing line: in colours on a terminal, as Markdown elsewhere.

    Args:
      found: from `diagnose`.
      file: where to; None is the standard output.
    """
    cells, best = [_cells(row) for row in found.rows], choose(found)
    width = terminal_width(file)
    names = [name for name in cells[0] if width is None or width >= WIDE or name not in WIDE_ONLY]
    marks = ["good" if row is best else "" for row in found.rows]
    rows = [[(texts[name], mark) for name in names] for texts, mark in zip(cells, marks, strict=True)]
    print_grid(made(tuple(names), rows), file)
    print(file=file)
    for line in (*_notes(found), closing_line(found)):
        print(line, file=file)


def _cells(row: Row) -> dict[str, str]:
    """Column title -> text."""
    return {
        "estimator": row.estimator,
        "K": "T" if row.truncation_length is None else str(row.truncation_length),
        "sigma": "-" if row.sigma is None else f"{row.sigma:g}",
        "bias": _number(row.bias),
        "cosine": f"{row.cosine:.2f} +- {row.cosine_error:.2f}" if math.isfinite(row.cosine) else "-",
        "z": f"{row.z:.1f}" if abs(row.z) < 1000 else f"{row.z:.0e}",
        "variance": _number(row.variance),
        "SNR/1000 steps": _number(1000 * row.snr_per_step),
        "SNR/s": _number(row.snr_per_second),
        "N_crit": _number(row.n_crit),
        "KiB": _number(row.state_bytes / 1024),
        "diverged": f"{row.diverged:.1%}",
    }


def _notes(found: Diagnosis) -> Iterator[str]:
    for r in found.references:
        turned = "" if r is found.references[0] else f", cosine with the smallest sigma's {_number(r.cosine)}"
        yield f"reference at sigma {r.sigma:g}: |gradient| {_number(r.norm)}, z = {r.z:.1f}{turned}"
    yield (
        f"{found.num_samples} chains a row, {found.num_meta_parameters:,} meta-parameters, "
        f"T up to {found.unroll_length}; -: not distinguishable from noise; measured in {found.seconds:.0f} s"
    )


def _number(x: float) -> str:
    return "inf" if math.isinf(x) else number(None if math.isnan(x) else x)


def to_json(found: Diagnosis, **more: Any) -> dict[str, Any]:
    """Everything as plain JSON values; None for what is not distinguishable from noise, or infinite."""
    best = choose(found)
    return {
        "format": FORMAT,
        "version": VERSION,
        **more,
        **plain(found),
        "choice": None if best is None else found.rows.index(best),
        "closing_line": closing_line(found),
    }


def draw(found: Diagnosis, title: str = "") -> bytes:
    """A PNG: a line for each row, its cosine, signal per second and N_crit; the choice is bold."""
    from matplotlib.figure import Figure

    from meta_train.evaluation.picture import COLOURS, png

    figure = Figure(figsize=(12.5, 1.6 + 0.3 * len(found.rows)), dpi=120, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    names = list(dict.fromkeys(row.estimator for row in found.rows))
    best = choose(found)
    for i, row in enumerate(found.rows):
        style = {"color": COLOURS[names.index(row.estimator) % len(COLOURS)], "markersize": 7}
        error = min(row.cosine_error, 2.0) if math.isfinite(row.cosine_error) else 0.0
        panels[0].errorbar(row.cosine, i, xerr=error, fmt="o", **style)
        for panel, x in ((panels[1], row.snr_per_second), (panels[2], row.n_crit)):
            if math.isfinite(x) and x > 0:
                panel.plot(x, i, "o", **style)
    panels[0].axvline(ALIGNED, color="0.6", linewidth=1, linestyle="--")
    panels[0].set_xlim(-1.05, 1.05)
    panels[0].set_xlabel("cosine with the reference (1: unbiased direction)")
    panels[1].set_xlabel("signal-to-noise per second (more is better)")
    panels[2].set_xlabel("N_crit: particles at which signal = noise")
    labels = [label(row.estimator, row.truncation_length, row.sigma) for row in found.rows]
    panels[0].set_yticks(range(len(found.rows)), labels)
    for tick, row in zip(panels[0].get_yticklabels(), found.rows, strict=True):
        tick.set_fontweight("bold" if row is best else "normal")
    panels[0].set_ylim(len(found.rows) - 0.5, -0.5)
    for panel in panels:
        panel.grid(True, color="0.9", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[1:]:
        if any(len(line.get_xdata()) for line in panel.lines):
            panel.set_xscale("log")
    figure.suptitle(title, fontsize=12)
    return png(figure)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)
