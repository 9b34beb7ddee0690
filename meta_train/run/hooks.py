"""What happens between calls of the outer step: hooks, plain functions `(step, state, metrics) -> None`.

`step` counts the outer steps done, `metrics` are those of the call that just ended, still on the
device. Rows of metrics are labelled with the last outer step that they describe, `step - 1`: so
a run resumed at `step` drops exactly the rows that it will write again.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.core.outer import OuterState
from meta_train.errors import Interrupted, LostProcess, RunError
from meta_train.run.metrics import Writer

Hook = Callable[[int, OuterState, dict[str, jax.Array]], None]


def lost_process(what: str, error: Exception, left: str) -> LostProcess:
    """What to raise for an error of JAX's when another process is gone; `left` says what is saved."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return LostProcess(f"another process of the {what} is gone ({reason}); {left}")


def every(n: int | None, hook: Hook, *, last: int) -> Hook:
    """The hook at every n-th step and after the last one; never, if n is None."""

    def wrapped(step, state, metrics):
        if n is not None and (step % n == 0 or step == last):
            hook(step, state, metrics)

    return wrapped


def log(
    writer: Writer,
    *,
    n: int,
    last: int,
    steps_per_call: int,
    inner_steps: int,
    show: Callable[[dict], None],
    warn: Callable[[str], None],
) -> Hook:
    """Reads the metrics from the device every n steps and writes their mean as one row.

    Args:
      writer: where rows go.
      n: steps between rows.
      last: the run's last step.
      steps_per_call: outer steps that one call's metrics are the mean of.
      inner_steps: steps of inner training in one outer step.
      show: called with every row too (the progress bar).
      warn: called when all particles of a family have diverged, or no longer do.
    """
    lost: set[str] = set()
    pending: list[dict[str, jax.Array]] = []
    since = time.perf_counter()

    def hook(step, state, metrics):
        nonlocal since, lost
        pending.append(metrics)
        if step % n and step != last:
            return
        calls = jax.device_get(pending)
        row = _means(calls)
        now = time.perf_counter()
        row["inner_steps_per_second"] = len(calls) * steps_per_call * inner_steps / (now - since)
        row["inner_steps"] = step * inner_steps
        since = now
        pending.clear()
        writer.write(step - 1, row)
        show(row)
        lost = warn_of_divergence(step, row, lost, warn)

    return hook


def _means(calls: list[dict]) -> dict[str, float]:
    """The mean of every number over the calls that have it; families that rotate are not in all of them."""
    found: dict[str, list[float]] = {}
    for call in calls:
        for name, value in call.items():
            found.setdefault(name, []).append(float(value))
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def forecast_time(say: Callable[[str], None], last: int, *, after: int = 10) -> Hook:
    """Says once, after the first call (which compiles) and ten outer steps, how long the rest will take.

    Args:
      say: how to say it.
      last: the run's last step.
      after: outer steps to measure.
    """
    first: tuple[int, float] | None = None
    said = False

    def hook(step, state, metrics):
        nonlocal first, said
        del state, metrics
        if first is None:
            first = step, time.perf_counter()
        elif not said and step - first[0] >= after:
            said = True
            per_step = (time.perf_counter() - first[1]) / (step - first[0])
            left = (last - step) * per_step
            say(f"{1000 * per_step:.3g} ms an outer step: about {in_words(left)} to go")

    return hook


def in_words(seconds: float) -> str:
    """A duration: "42 s", "3 min 20 s", "5 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def profile(directory: Path, say: Callable[[str], None], *, last: int, calls: int = 3) -> Hook:
    """Writes a JAX trace of some calls after the first one, which compiles.

    Args:
      directory: where to; TensorBoard and Perfetto open it.
      say: called when it is written.
      last: the run's last step.
      calls: of the outer step; fewer where the run ends before.
    """
    seen = 0

    def hook(step, state, metrics):
        nonlocal seen
        del state, metrics
        seen += 1
        if seen == 1 and step < last:
            jax.profiler.start_trace(str(directory))
        elif 1 < seen <= calls + 1 and (seen == calls + 1 or step == last):
            jax.profiler.stop_trace()
            say(f"the trace of {seen - 1} calls is in {directory}")

    return hook


def warn_of_divergence(
    step: int, row: dict[str, float], before: set[str], warn: Callable[[str], None]
) -> set[str]:
    """The families of which all particles diverged; a warning about those that were not there before.

    The losses of such a family are all `worst_loss`: it adds nothing to the gradient until some particle
    recovers, and the others are still learned from.

    Raises:
      RunError: nothing is left to learn from, or the update of theta is not finite.
    """
    shares = {name.rpartition("/")[0]: x for name, x in row.items() if name.endswith("/diverged")}
    lost = {family for family, share in shares.items() if share == 1.0}
    names = ", ".join(map(repr, sorted(lost)))
    if lost and lost == shares.keys():
        plural = "family" if len(lost) == 1 else "all families,"
        raise RunError(f"all particles of {plural} {names} diverged, up to outer step {step}")
    if lost - before:
        warn(f"all particles of family {names} diverged, up to outer step {step}: only the others teach")
    if not math.isfinite(row["update_norm"]):
        raise RunError(f"the update of theta is not finite at outer step {step}: {row['update_norm']}")
    return lost


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
    record: dict[str, float | None],
    show: Callable[[dict], None],
    meta: dict,
) -> Hook:
    """Scores theta on held-out tasks (lower is better) and keeps the best theta apart.

    Args:
      score: `(theta) -> {"score": ..., and details}`.
      best: where the best theta is kept, under "theta".
      writer: where rows go, names prefixed by `held_out/`.
      record: {"best_score": the best so far, None without one}; kept up to date.
      show: called with every row too.
      meta: what else the best theta's checkpoint remembers.
    """

    def hook(step, state, metrics):
        del metrics
        row = {f"held_out/{name}": value for name, value in score(state.theta_ema).items()}
        current, so_far = row["held_out/score"], record["best_score"]
        if current < (math.inf if so_far is None else so_far):
            best.save(step, {"theta": state.theta_ema}, meta | {"score": current}, replace=True)
            record["best_score"] = current
        row["held_out/best_score"] = math.inf if record["best_score"] is None else record["best_score"]
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
