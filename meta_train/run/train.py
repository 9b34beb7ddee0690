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
from meta_train.config import load as config_lib
from meta_train.config.load import RunConfig
from meta_train.core.outer import OuterState
from meta_train.core.stream import Feeds
from meta_train.errors import RunError
from meta_train.parallel import hosts
from meta_train.run import hooks
from meta_train.run.directory import METRICS, open_checkpoints, prepare, refuse_changed, settings_of
from meta_train.run.experiment import Experiment, assemble, selection_families
from meta_train.run.metrics import Writer, all_of, jsonl_writer
from meta_train.run.standard_hooks import SILENT, Display, best_so_far, hooks_of, select_hook, watch_hook
from meta_train.run.wandb_writer import wandb_writer

__all__ = ["SILENT", "Display", "Result", "run", "set_up_jax", "stop_signals"]


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
      display: what to show the user.
      profile: where to write a JAX trace of the second to fourth call of the outer step; None for none.

    Raises:
      ConfigError: before anything is compiled or written.
      RunError: a directory that holds another run, or training that cannot go on.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
      CheckpointError, MetricsError: the disk refused; the last good checkpoint can be restored.
    """
    began = time.perf_counter()
    set_up_jax(config)
    hosts.agree("config", config_lib.resolved(config))
    if not hosts.is_first():
        display = SILENT
    experiment = assemble(config)
    families = selection_families(config)
    with contextlib.ExitStack() as held:
        directory = hosts.first_then_all(
            lambda: prepare(directory, config, resume or not hosts.is_first(), held)
        )
        found = open_checkpoints(directory, config.checkpoint.max_to_keep, display.warn)
        checkpoints, best = map(held.enter_context, found)
        asked_to_stop = held.enter_context(stop_signals())
        done, state, meta = _restored(experiment, directory, checkpoints, resume, display)
        feeds = held.enter_context(_feeds(experiment, done))
        writer = held.enter_context(
            _writer(config, directory, done if resume else None, meta.get("wandb_id"), display)
        )
        feeds.check(done, meta.get("streams", {}))
        _warn_of_lost_rows(directory / METRICS, meta.get("rows", 0) - writer.rows(), done, display)
        fixed = {"config": config_lib.digest(config), "settings": settings_of(directory)}
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
            run_hooks.insert(-2, watch_hook(experiment, directory, writer, display))
        state, first = _loop(experiment, state, done, feeds, run_hooks, checkpoints, display)
    start = None if first is None else first - began
    return Result(directory, config.outer_steps, state.theta_ema, start, time.perf_counter() - began)


def _loop(
    experiment: Experiment,
    state: OuterState,
    done: int,
    feeds: Feeds,
    run_hooks: list[hooks.Hook],
    checkpoints: Checkpoints,
    display: Display,
) -> tuple[OuterState, float | None]:
    """All outer steps that are left: the last state, and when the first call ended."""
    first, call = None, experiment.steps_per_call
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
    except RunError as error:
        raise RunError(f"{error}; {_what_is_left(checkpoints)}") from error
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not hosts.several():
            raise
        checkpoints.give_up()
        raise hooks.lost_process("run", error, _what_is_left(checkpoints)) from error
    return state, first


def _restored(
    experiment: Experiment, directory: Path, checkpoints: Checkpoints, resume: bool, display: Display
) -> Restored:
    """The newest checkpoint, or the state that a run begins with."""
    state = _first_state(experiment)
    found = checkpoints.restore(state) if resume else None
    if found is None:
        return Restored(0, state, {})
    refuse_changed(directory, found.step, found.meta, lambda text: None)
    display.say(f"resumed at outer step {found.step}")
    return found


def _warn_of_lost_rows(file: Path, lost: int, done: int, display: Display) -> None:
    if lost > 0:
        display.warn(
            f"{file} has lost {lost} rows from before outer step {done}: the run continues without them"
        )


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
