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

from meta_train.checkpoint.checkpoints import Checkpoints, Restored
from meta_train.checkpoint.in_memory import InMemory
from meta_train.config import load as config_lib
from meta_train.config.load import RunConfig
from meta_train.core.outer import OuterState
from meta_train.core.stream import Feeds
from meta_train.errors import Interrupted, RunError
from meta_train.parallel import hosts
from meta_train.run import hooks, loggers
from meta_train.run.directory import METRICS, open_checkpoints, prepare, refuse_changed, settings_of
from meta_train.run.experiment import Experiment, assemble, selection_families
from meta_train.run.metrics import Writer, all_of, columns, jsonl_writer, memory_writer, read_jsonl
from meta_train.run.standard_hooks import SILENT, Display, best_so_far, hooks_of, select_hook, watch_hook

__all__ = ["SILENT", "Display", "Result", "run", "set_up_jax", "stop_signals"]

Rows = Callable[[], list[dict[str, Any]]]


class Result(NamedTuple):
    """What a finished run leaves behind.

    Attributes:
      config: of the run.
      directory: of the run; None for a run in memory.
      outer_steps: done, in all sessions together; a run in memory may have been stopped before its end.
      theta: the moving average of the meta-parameters at the end.
      best_theta: that of the best held-out score; None without selection.
      best_score: that score.
      best_step: outer steps done when it was measured.
      metrics: name -> f64[S], as `columns` gives them; empty in all processes but the first.
      start_seconds: from the call of `run` to the end of its first outer steps; None if none was left to do.
      seconds: of this session.
    """

    config: RunConfig
    directory: Path | None
    outer_steps: int
    theta: Any
    best_theta: Any
    best_score: float | None
    best_step: int | None
    metrics: dict[str, np.ndarray]
    start_seconds: float | None
    seconds: float


def run(
    config: RunConfig,
    directory: Path | None,
    *,
    resume: bool = False,
    display: Display = SILENT,
    profile: Path | None = None,
) -> Result:
    """Meta-trains as a config says.

    Args:
      config: what to do.
      directory: of the run: its config, checkpoints and metrics. Made if it is not there. None for a run in
        memory, which writes nothing: asked to stop, it returns what it has.
      resume: go on with the run that is there, bit for bit as if it had not stopped.
      display: what to show the user.
      profile: where to write a JAX trace of the second to fourth call of the outer step; None for none.

    Raises:
      ConfigError: before anything is compiled or written.
      RunError: a directory that holds another run, or training that cannot go on.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
      CheckpointError, MetricsError: the disk refused; the last good checkpoint can be restored.
    """
    began = time.perf_counter()
    if directory is None and resume:
        raise RunError("resume must be false for a run in memory, which has nothing to go on with")
    set_up_jax(config)
    hosts.agree("config", config_lib.resolved(config))
    if not hosts.is_first():
        display = SILENT
    loggers.check(config.logging, directory)
    experiment = assemble(config)
    families = selection_families(config)
    with contextlib.ExitStack() as held:
        directory = hosts.first_then_all(
            lambda: directory and prepare(directory, config, resume or not hosts.is_first(), held)
        )
        checkpoints, best = map(held.enter_context, _stores(config, directory, display))
        asked_to_stop = held.enter_context(stop_signals())
        done, state, meta = _restored(experiment, directory, checkpoints, resume, display)
        feeds = held.enter_context(_feeds(experiment, done, meta.get("streams")))
        writer, rows = held.enter_context(
            _writer(config, directory, done if resume else None, meta.get("wandb_id"), display)
        )
        feeds.check(done, meta.get("streams", {}), display.warn)
        _warn_of_lost_rows(directory, meta.get("rows", 0) - writer.rows(), done, display)
        fixed = {"config": config_lib.digest(config)}
        fixed |= {} if directory is None else {"settings": settings_of(directory)}
        record: dict[str, float | None] = {"best_score": None}

        def save_meta(step: int) -> dict:
            found = fixed | record | {"wandb_id": writer.run_id, "rows": writer.rows()}
            return found | ({"streams": feeds.position(step)} if experiment.streams else {})

        run_hooks = hooks_of(experiment, checkpoints, writer, save_meta, asked_to_stop, display)
        run_hooks.insert(0, hooks.forecast_time(display.say, config.outer_steps))
        if profile is not None:
            run_hooks.insert(0, hooks.profile(profile, display.say, last=config.outer_steps))
        if families:
            record |= best_so_far(experiment, best, meta, display)
            run_hooks.insert(1, select_hook(experiment, families, best, writer, record, fixed, display))
        if hosts.is_first():
            run_hooks.insert(-2, watch_hook(experiment, rows, writer, display))
        state, done, first = _loop(experiment, state, done, feeds, run_hooks, checkpoints, display)
        found = best.restore({"theta": state.theta_ema}) if families else None
        metrics = columns(rows())
    kept = (None, None, None) if found is None else (found.state["theta"], found.meta["score"], found.step)
    start, seconds = None if first is None else first - began, time.perf_counter() - began
    return Result(config, directory, done, state.theta_ema, *kept, metrics, start, seconds)


def _stores(config: RunConfig, directory: Path | None, display: Display) -> tuple[Any, Any]:
    """Where the state and the best theta are kept."""
    if directory is None:
        return InMemory(keep=False), InMemory(keep=True)
    return open_checkpoints(directory, config.checkpoint.max_to_keep, display.warn)


def _loop(
    experiment: Experiment,
    state: OuterState,
    done: int,
    feeds: Feeds,
    run_hooks: list[hooks.Hook],
    checkpoints: Checkpoints | InMemory,
    display: Display,
) -> tuple[OuterState, int, float | None]:
    """All outer steps that are left: the last state, the outer steps done, and when the first call ended."""
    first, call, step = None, experiment.steps_per_call, done
    if done < experiment.config.outer_steps:
        display.begin(done)
    try:
        for step in range(done + call, experiment.config.outer_steps + 1, call):
            feeds.advance(step - call)
            with jax.transfer_guard("disallow"):
                state, metrics = experiment.outer.step(state, feeds.data)
                jax.block_until_ready(metrics)
            first = first or time.perf_counter()
            display.step(step)
            for hook in run_hooks:
                hook(step, state, metrics)
        checkpoints.wait()
    except Interrupted as stopped:
        if checkpoints.directory is not None:
            raise
        display.warn(f"stopped after outer step {stopped.step}")
    except RunError as error:
        raise RunError(f"{error}; {_what_is_left(checkpoints)}") from error
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not hosts.several():
            raise
        checkpoints.give_up()
        raise hooks.lost_process("run", error, _what_is_left(checkpoints)) from error
    return state, step, first


def _restored(
    experiment: Experiment,
    directory: Path | None,
    checkpoints: Checkpoints | InMemory,
    resume: bool,
    display: Display,
) -> Restored:
    """The newest checkpoint, or the state that a run begins with."""
    state = _first_state(experiment)
    found = checkpoints.restore(state) if resume else None
    if found is None or directory is None:
        return Restored(0, state, {})
    refuse_changed(directory, found.step, found.meta, lambda text: None)
    display.say(f"resumed at outer step {found.step}")
    return found


def _warn_of_lost_rows(directory: Path | None, lost: int, done: int, display: Display) -> None:
    if directory is not None and lost > 0:
        display.warn(
            f"{directory / METRICS} has lost {lost} rows from before outer step {done}: the run continues "
            "without them"
        )


def _first_state(experiment: Experiment):
    seed = experiment.config.seed
    if not hosts.several():
        return experiment.outer.init(jax.random.key(seed))
    # From a number, which every process has; a key would be an array of one of them.
    return jax.jit(lambda seed: experiment.outer.init(jax.random.key(seed)))(np.uint32(seed))


def _feeds(experiment: Experiment, outer_step: int, saved: dict[str, Any] | None) -> Feeds:
    everywhere = NamedSharding(experiment.mesh, PartitionSpec())
    put = lambda arrays: jax.device_put(arrays, everywhere)  # noqa: E731
    return Feeds(experiment.streams, experiment.data, put, outer_step, saved)


def set_up_jax(config: RunConfig) -> None:
    """Sets what the config's `runtime` section asks of jax, for the whole process."""
    if config.runtime.x64:
        jax.config.update("jax_enable_x64", True)
    if config.runtime.compilation_cache is not None:
        cache = Path(config.runtime.compilation_cache).expanduser().absolute()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def _writer(config, directory, resume_step, wandb_id, display) -> Iterator[tuple[Writer, Rows]]:
    """metrics.jsonl, or a list, and the loggers of the config, closed in any case; and all rows so far."""
    if not hosts.is_first():
        yield all_of([]), list
        return
    kept: list[dict[str, Any]] = []
    if directory is None:
        writers, rows = [memory_writer(kept)], lambda: kept
    else:
        file = directory / METRICS
        writers, rows = [jsonl_writer(file, resume_step=resume_step)], lambda: read_jsonl(file)
        writers += loggers.open_all(
            config.logging,
            directory,
            config=config_lib.resolved(config),
            resume_step=resume_step,
            wandb_id=wandb_id,
            warn=display.warn,
            say=display.say,
        )
    writer = all_of(writers)
    try:
        yield writer, rows
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


def _what_is_left(checkpoints: Checkpoints | InMemory) -> str:
    saved = checkpoints.steps()
    if checkpoints.directory is None:
        return "nothing is saved of a run in memory"
    if not saved:
        return "no checkpoint was saved yet"
    return f"the last good checkpoint is {checkpoints.directory / str(saved[-1])}"
