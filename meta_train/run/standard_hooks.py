"""The hooks of a run as its config asks for them, and the display that they report to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.errors import CheckpointError
from meta_train.evaluation.held_out import make_held_out
from meta_train.parallel import hosts
from meta_train.run import hooks
from meta_train.run.experiment import Experiment, initial_theta
from meta_train.run.random_walk import watch


class Display(NamedTuple):
    """What a run shows its user; the default shows nothing.

    Attributes:
      begin: `(outer steps done)`, once, before the first call of the outer step, which compiles.
      say: a line of text.
      warn: a line that something is not as it should be.
      step: `(outer steps done)`, after every call of the outer step.
      row: `(metrics)`, on log and evaluation steps.
    """

    begin: Callable[[int], None] = lambda step: None
    say: Callable[[str], None] = lambda text: None
    warn: Callable[[str], None] = lambda text: None
    step: Callable[[int], None] = lambda step: None
    row: Callable[[dict], None] = lambda row: None


SILENT = Display()


def hooks_of(experiment, checkpoints, writer, save_meta, asked_to_stop, display) -> list[hooks.Hook]:
    """Logging first and saving last: what a checkpoint follows is already written."""
    config, last = experiment.config, experiment.config.outer_steps
    log = hooks.log(
        writer,
        n=config.logging.every,
        last=last,
        steps_per_call=experiment.steps_per_call,
        inner_steps=experiment.estimator.inner_steps,
        show=display.row,
        warn=display.warn,
    )
    save = hooks.every(config.checkpoint.every or last, hooks.save(checkpoints, save_meta), last=last)
    return [log, save, hooks.stop_when(asked_to_stop, checkpoints, save_meta)]


def best_so_far(experiment: Experiment, best: Checkpoints, meta: dict, display: Display) -> dict:
    """The best score up to the checkpoint that is resumed, which `best` may be later than."""
    try:
        found = best.restore({"theta": experiment.lopt.init(jax.random.key(0))})
    except CheckpointError as error:  # the best one is a convenience: a damaged one must not stop a run
        display.warn(f"{error}: the search for the best one starts again")
        found = None
    return {"best_score": None if found is None else meta.get("best_score", found.meta["score"])}


def select_hook(experiment: Experiment, families, best, writer, record, meta, display) -> hooks.Hook:
    """Scores theta on the selection tasks and keeps the best one."""
    score, on_host = _scores(experiment, families), hosts.global_array
    hook = hooks.select(lambda theta: score(on_host(theta)), best, writer, record, display.row, meta)
    return hooks.every(experiment.config.selection.every, hook, last=experiment.config.outer_steps)


def _scores(experiment: Experiment, families) -> Callable[[Any], dict[str, float]]:
    """`make_held_out`, and the score on the training tasks, and both scores of the initial theta."""
    selection, build = experiment.config.selection, experiment.lopt.build
    selected = make_held_out(build, families, horizons=selection.horizons, num_seeds=selection.num_seeds)
    # One short training of each task, for comparison with the initial theta alone.
    shortest = (min(selection.horizons),)
    trained = make_held_out(build, experiment.families, horizons=shortest, num_seeds=1, learning_rates=())
    initial: dict[str, float] = {}

    def score(theta):
        if not initial:
            start = initial_theta(experiment.config, experiment.lopt.init)
            initial["initial_score"] = selected(start)["score"]
            initial["initial_training_score"] = trained(start)["score"]
        return {**selected(theta), "training_score": trained(theta)["score"], **initial}

    return score


def watch_hook(experiment: Experiment, rows, writer, display) -> hooks.Hook:
    """Warns when meta-training is a random walk; `rows()` are those written so far."""
    estimator = experiment.config.estimator
    return watch(
        rows,
        writer,
        last=experiment.config.outer_steps,
        steps_per_call=experiment.steps_per_call,
        num_particles=experiment.estimator.num_particles,
        has_sigma="sigma" in estimator,
        warn=display.warn,
    )
