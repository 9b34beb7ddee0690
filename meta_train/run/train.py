"""A meta-training run, from top to bottom: restore, loop, close."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.config import load as config_lib
from meta_train.config.load import RunConfig
from meta_train.core.stream import Feeds
from meta_train.errors import CheckpointError, RunError
from meta_train.evaluation.held_out import make_held_out
from meta_train.parallel import hosts
from meta_train.run import hooks
from meta_train.run.directory import METRICS, open_checkpoints, prepare
from meta_train.run.experiment import Experiment, assemble, initial_theta, selection_families
from meta_train.run.metrics import Writer, all_of, jsonl_writer
from meta_train.run.random_walk import watch
from meta_train.run.wandb_writer import wandb_writer


class Display(NamedTuple):
    """How a run talks to a person; the default says nothing.

    Attributes:
      say: a line of text.
      warn: a line that something is not as it should be.
      step: `(outer steps done)`, after every call of the outer step.
      row: `(metrics)`, on log and evaluation steps.
    """

    say: Callable[[str], None] = lambda text: None
    warn: Callable[[str], None] = lambda text: None
    step: Callable[[int], None] = lambda step: None
    row: Callable[[dict], None] = lambda row: None


SILENT = Display()


class Result(NamedTuple):
    """What a finished run leaves behind.

    Attributes:
      directory: of the run.
      outer_steps: done, in all sessions together.
      theta: the moving average of the meta-parameters at the end.
      start_seconds: from the call of `run` to the end of its first outer steps; None if none was left to do.
      seconds: of this session.
    """

    directory: Path
    outer_steps: int
    theta: Any
    start_seconds: float | None
    seconds: float


def run(
    config: RunConfig,
    directory: Path,
    *,
    resume: bool = False,
    display: Display = SILENT,
    profile: Path | None = None,
) -> Result:
    """Meta-trains as a config says.

    Args:
      config: what to do.
      directory: of the run: its config, checkpoints and metrics. Made if it is not there.
      resume: go on with the run that is there, bit for bit as if it had not stopped.
      display: how to talk to a person.
      profile: where to write a JAX trace of the second to fourth call of the outer step; None for none.

    Raises:
      ConfigError: before anything is compiled or written.
      RunError: a directory that holds another run, or training that cannot go on.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
      CheckpointError, MetricsError: the disk refused; the last good checkpoint can be restored.
    """
    began = time.perf_counter()
    set_up_jax(config)
    hosts.agree("config", config_lib.digest(config))
    if not hosts.is_first():
        display = SILENT
    experiment = assemble(config)
    families = selection_families(config)
    directory = hosts.first_then_all(lambda: prepare(directory, config, resume or not hosts.is_first()))
    checkpoints, best = open_checkpoints(directory, config.checkpoint.max_to_keep, display.warn)
    with checkpoints, best, stop_signals() as asked_to_stop:
        state = _first_state(experiment)
        done, meta = 0, {}
        restored = checkpoints.restore(state) if resume else None
        if restored is not None:
            done, state, meta = restored
            display.say(f"resumed at outer step {done}")
        with (
            _feeds(experiment, done) as feeds,
            _writer(config, directory, done if resume else None, meta.get("wandb_id"), display) as writer,
        ):
            feeds.check(done, meta.get("streams", {}))

            def save_meta(step: int) -> dict:
                found = {"config": config_lib.digest(config), "wandb_id": writer.run_id}
                return found | ({"streams": feeds.position(step)} if experiment.streams else {})

            run_hooks = _hooks(experiment, checkpoints, writer, save_meta, asked_to_stop, display)
            run_hooks.insert(0, hooks.forecast_time(display.say, config.outer_steps))
            if profile is not None:
                run_hooks.insert(0, hooks.profile(profile, display.say, last=config.outer_steps))
            if families:
                run_hooks.insert(1, _select_hook(experiment, families, best, writer, display))
            if hosts.is_first():
                run_hooks.insert(-2, _watch_hook(experiment, directory, writer, display))
            start_seconds = None
            call = experiment.steps_per_call
            try:
                for step in range(done + call, config.outer_steps + 1, call):
                    feeds.advance(step - call)
                    with jax.transfer_guard("disallow"):
                        state, metrics = experiment.outer.step(state, feeds.data)
                        jax.block_until_ready(metrics)
                    start_seconds = start_seconds or time.perf_counter() - began
                    display.step(step)
                    for hook in run_hooks:
                        hook(step, state, metrics)
                checkpoints.wait()
            except RunError as error:
                raise RunError(f"{error}; {_what_is_left(checkpoints)}") from error
            except (jax.errors.JaxRuntimeError, ValueError) as error:
                if not hosts.several():
                    raise
                checkpoints.give_up()
                raise hooks.lost_process("run", error, _what_is_left(checkpoints)) from error
    return Result(directory, config.outer_steps, state.theta_ema, start_seconds, time.perf_counter() - began)


def _first_state(experiment: Experiment):
    seed = experiment.config.seed
    if not hosts.several():
        return experiment.outer.init(jax.random.key(seed))
    # From a number, which every process has; a key would be an array of one of them.
    return jax.jit(lambda seed: experiment.outer.init(jax.random.key(seed)))(np.uint32(seed))


def _feeds(experiment: Experiment, outer_step: int) -> Feeds:
    everywhere = NamedSharding(experiment.mesh, PartitionSpec())
    return Feeds(
        experiment.streams, experiment.data, lambda arrays: jax.device_put(arrays, everywhere), outer_step
    )


def set_up_jax(config: RunConfig) -> None:
    """Sets what the config's `runtime` section asks of jax, for the whole process."""
    if config.runtime.x64:
        jax.config.update("jax_enable_x64", True)
    if config.runtime.compilation_cache is not None:
        cache = Path(config.runtime.compilation_cache).expanduser().absolute()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _hooks(experiment, checkpoints, writer, save_meta, asked_to_stop, display) -> list[hooks.Hook]:
    """Logging first and saving last: what a checkpoint follows is already written."""
    config, last = experiment.config, experiment.config.outer_steps
    log = hooks.log(
        writer,
        n=config.logging.every,
        last=last,
        steps_per_call=experiment.steps_per_call,
        inner_steps=experiment.estimator.inner_steps,
        show=display.row,
    )
    save = hooks.every(config.checkpoint.every or last, hooks.save(checkpoints, save_meta), last=last)
    return [log, save, hooks.stop_when(asked_to_stop, checkpoints, save_meta)]


def _select_hook(experiment: Experiment, families, best, writer, display) -> hooks.Hook:
    selection, last = experiment.config.selection, experiment.config.outer_steps
    score = _scores(experiment, families)
    try:
        so_far = best.restore({"theta": experiment.lopt.init(jax.random.key(0))})
    except CheckpointError as error:  # the best one is a convenience: a damaged one must not stop a run
        display.warn(f"{error}: starting to look for the best anew")
        so_far = None
    on_host = hosts.global_array
    best_score = float("inf") if so_far is None else so_far.meta["score"]
    return hooks.every(
        selection.every,
        hooks.select(lambda theta: score(on_host(theta)), best, writer, best_score, display.row),
        last=last,
    )


def _scores(experiment: Experiment, families) -> Callable[[Any], dict[str, float]]:
    """`make_held_out` with, besides, the score on the training tasks and both scores of the initial theta."""
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


def _watch_hook(experiment: Experiment, directory: Path, writer, display) -> hooks.Hook:
    estimator = experiment.config.estimator
    return watch(
        directory / METRICS,
        writer,
        last=experiment.config.outer_steps,
        steps_per_call=experiment.steps_per_call,
        num_particles=experiment.estimator.num_particles,
        has_sigma="sigma" in estimator,
        warn=display.warn,
    )


@contextlib.contextmanager
def _writer(config, directory, resume_step, wandb_id, display) -> Iterator[Writer]:
    """metrics.jsonl and Weights & Biases; closed in any case."""
    if not hosts.is_first():
        yield all_of([])
        return
    writer = all_of(
        [
            jsonl_writer(directory / METRICS, resume_step=resume_step),
            wandb_writer(
                **config.logging.wandb.model_dump(),  # its keys are the writer's options
                directory=directory,
                config=config_lib.resolved(config),
                run_id=wandb_id,
                warn=display.warn,
                say=display.say,
            ),
        ]
    )
    try:
        yield writer
    finally:
        writer.close()


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question that the loop can ask; a second one stops at once."""
    came = []

    def handler(number, frame):
        del frame
        if came:
            raise KeyboardInterrupt
        came.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # not in the main thread: whoever runs us there stops us in their own way
        yield lambda: False
        return
    try:
        yield lambda: hosts.anybody(bool(came))
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _what_is_left(checkpoints: Checkpoints) -> str:
    saved = checkpoints.steps()
    if not saved:
        return "no checkpoint was saved yet"
    return f"the last good checkpoint is {checkpoints.directory / str(saved[-1])}"
