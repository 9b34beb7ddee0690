"""What happens between calls of the outer step: hooks, plain functions `(step, state, metrics) -> None`.

`step` counts the outer steps done, `metrics` are those of the call that just ended, still on the
device. Rows of metrics are labelled with the last outer step that they describe, `step - 1`: so
a run resumed at `step` drops exactly the rows that it will write again.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax

from meta_train.checkpoint import Checkpoints
from meta_train.metrics import Writer
from meta_train.outer import OuterState

Hook = Callable[[int, OuterState, dict[str, jax.Array]], None]


class RunError(Exception):
    """A run that cannot go on; one line says why and what is left."""


class Interrupted(Exception):
    """Somebody asked the run to stop (Ctrl-C, SIGTERM); its state at `step` is saved."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(f"interrupted after outer step {step}; the checkpoint is saved")


def every(n: int | None, hook: Hook, *, last: int) -> Hook:
    """The hook at every n-th step and after the last one; never, if n is None."""

    def wrapped(step, state, metrics):
        if n is not None and (step % n == 0 or step == last):
            hook(step, state, metrics)

    return wrapped


def log(
    writer: Writer, *, n: int, last: int, steps_per_call: int, inner_steps: int, show: Callable[[dict], None]
) -> Hook:
    """Reads the metrics from the device every n steps and writes their mean as one row.

    Args:
      writer: where rows go.
      n: steps between rows.
      last: the run's last step.
      steps_per_call: outer steps that one call's metrics are the mean of.
      inner_steps: steps of inner training in one outer step.
      show: called with every row too (the progress bar).
    """
    pending: list[dict[str, jax.Array]] = []
    since = time.perf_counter()

    def hook(step, state, metrics):
        nonlocal since
        pending.append(metrics)
        if step % n and step != last:
            return
        calls = jax.device_get(pending)
        row = {name: float(sum(call[name] for call in calls)) / len(calls) for name in calls[0]}
        now = time.perf_counter()
        row["inner_steps_per_second"] = len(calls) * steps_per_call * inner_steps / (now - since)
        row["inner_steps"] = step * inner_steps
        since = now
        pending.clear()
        writer.write(step - 1, row)
        show(row)
        refuse_divergence(step, row)

    return hook


def refuse_divergence(step: int, row: dict[str, float]) -> None:
    """Stops a run that has nothing left to learn from.

    Raises:
      RunError: all particles of a family diverged in every window of the row, or the update of theta
        is not finite.
    """
    for name, value in row.items():
        family, _, metric = name.rpartition("/")
        if metric == "diverged" and value == 1.0:
            raise RunError(f"all particles of family {family!r} diverged, up to outer step {step}")
    if not math.isfinite(row["update_norm"]):
        raise RunError(f"the update of theta is not finite at outer step {step}: {row['update_norm']}")


def save(checkpoints: Checkpoints, meta: Callable[[int], dict]) -> Hook:
    """Saves the whole outer state with what `meta(step)` says at that moment."""

    def hook(step, state, metrics):
        del metrics
        checkpoints.save(step, state, meta(step))

    return hook


def select(
    score: Callable[[Any], dict[str, float]],
    best: Checkpoints,
    writer: Writer,
    best_score: float,
    show: Callable[[dict], None],
) -> Hook:
    """Scores theta on held-out tasks (lower is better) and keeps the best theta apart.

    Args:
      score: `(theta) -> {"score": ..., and details}`.
      best: where the best theta is kept, under "theta".
      writer: where rows go, names prefixed by `held_out/`.
      best_score: the best so far.
      show: called with every row too.
    """

    def hook(step, state, metrics):
        nonlocal best_score
        del metrics
        row = {f"held_out/{name}": value for name, value in score(state.theta_ema).items()}
        current = row["held_out/score"]
        if current < best_score:
            best.save(step, {"theta": state.theta_ema}, {"score": current}, replace=True)
            best_score = current
        row["held_out/best_score"] = best_score
        writer.write(step - 1, row)
        show(row)

    return hook


def stop_when(asked: Callable[[], bool], checkpoints: Checkpoints, meta: Callable[[int], dict]) -> Hook:
    """Ends the run after the current call when asked to, with its state saved.

    Raises:
      Interrupted: when asked.
    """

    def hook(step, state, metrics):
        del metrics
        if asked():
            if step not in checkpoints.steps():
                checkpoints.save(step, state, meta(step))
            checkpoints.wait()
            raise Interrupted(step)

    return hook
