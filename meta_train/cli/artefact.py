"""The best theta of a run or a population as an artefact that needs nothing of this package to be used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

import learned_opt
from meta_train.config import load as config_lib
from meta_train.config.places import last, portable, short
from meta_train.config.schema import RunConfig
from meta_train.errors import RunError
from meta_train.evaluation import document, tables
from meta_train.population.best import load_best
from meta_train.population.run import holds_population
from meta_train.run.directory import load_trained
from meta_train.run.experiment import own_architecture
from meta_train.run.train import Result

EVALUATION = "evaluation.json"


def export_run(
    run: str | Path | Result,
    out: str | Path,
    warn: Callable[[str], None] = print,
    *,
    last: bool = False,
) -> list[str]:
    """Writes the artefact of a run, with its card, and says what it is and how to load it.

    Args:
      run: directory of the run, or of a finished population, whose best member counts; or what `train`
        returned.
      out: directory of the artefact; replaced if it is one.
      warn: called with a line for whatever was skipped.
      last: the moving average at a run's newest checkpoint, not its best theta.

    Raises:
      RunError, CheckpointError, ArtefactError: the run or the directory is not what it should be.
    """
    out = Path(out)
    if isinstance(run, Result):
        found = _of_result(run, last)
    elif holds_population(Path(run)):
        if last:
            raise RunError(f"{run} is a population: only its best member can be exported")
        best = load_best(Path(run), warn)
        which = f"the best member ({best.provenance['member']}, round {best.provenance['round']})"
        found = _Found(best.settings, best.theta, best.provenance, best.outer_step, which)
    else:
        trained = load_trained(Path(run), warn, last=last)
        config, step = trained.experiment.config, trained.outer_step
        found = _of_training(config, trained.theta, step, trained.which, trained.score)
    directory = run.directory if isinstance(run, Result) else Path(run)
    evaluation = None if directory is None else _evaluation(directory, found.outer_step, warn)
    foreign = _save(out, found.config, found.theta, found.provenance, evaluation)
    own = f", architecture={foreign}" if foreign else ""
    return [
        f"{found.which} of {directory or 'the run in memory'} is in {out}",
        f"use it: tx = learned_opt.load({str(out)!r}, num_steps=...{own})",
    ]


class _Found(NamedTuple):
    """What becomes an artefact, and `which` of a run's thetas it is, in words."""

    config: RunConfig
    theta: Any
    provenance: dict[str, Any]
    outer_step: int
    which: str


def _of_training(config: RunConfig, theta: Any, step: int, which: str, score: float | None) -> _Found:
    provenance = {"outer_step": step, "which": which, "held_out_score": score}
    return _Found(config, theta, provenance, step, f"{which} theta (outer step {step})")


def _of_result(run: Result, last: bool) -> _Found:
    if run.best_theta is None or run.best_step is None or last:
        return _of_training(run.config, run.theta, run.outer_steps, "last", None)
    return _of_training(run.config, run.best_theta, run.best_step, "best", run.best_score)


def _save(
    out: Path, config: RunConfig, theta: Any, provenance: dict[str, Any], evaluation: Any
) -> str | None:
    """Writes the artefact; what the factory of its architecture is called, where it is a foreign one."""
    length, foreign = config.inner.unroll_length, own_architecture(config)
    learned_opt.save(
        out,
        name=short(config.learned_optimizer["name"]),
        architecture=foreign,
        options={key: value for key, value in config.learned_optimizer.items() if key != "name"},
        theta=jax.device_get(theta),
        horizon=length if isinstance(length, int) else (length.min, length.max),
        provenance=provenance | {"config_sha256": config_lib.digest(config), "jax": jax.__version__},
        config=portable(config_lib.resolved(config)),  # the directories of this machine concern nobody
        evaluation=evaluation,
    )
    return None if foreign is None else last(config.learned_optimizer["name"])


def _evaluation(run: Path, outer_step: int, warn: Callable[[str], None]) -> Any:
    """The summary of the run's evaluation, if it was made of the same theta."""
    if not (run / EVALUATION).is_file():
        return None
    try:
        found = document.read(run)
    except RunError as error:
        warn(f"the artefact has no evaluation: {error}")
        return None
    if found.get("outer_step") != outer_step:
        warn(f"the artefact has no evaluation: {run / EVALUATION} is of outer step {found.get('outer_step')}")
        return None
    return tables.summary(found)
