"""Whether a run of meta-training learns, or whether noise moves theta at random.

Three figures tell. The first two are taken over the last doubling of outer steps, the second half of the run:

* the drift of theta within one inner problem, in units of sigma. An estimator that carries information from
  window to window assumes that theta stands still meanwhile; above 3 it does not.
* the accumulated signal-to-noise ratio of the outer gradient: the ratio of one step, summed over the steps.
  Below 1, the sum of all these gradients is mostly noise.
* the scores of the initial theta and of the current one, on the selection tasks and on the training tasks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from meta_train.run.metrics import Writer

FIRST = 100  # outer steps before which nothing is said: the windows of the first ones are warming up
LARGE_DRIFT, SAFE_DRIFT = 3.0, 2.0  # sigmas
MOST_PARTICLES = 16  # the largest factor on the number of particles that is advised


class Progress(NamedTuple):
    """What the last doubling of outer steps says about a run.

    Attributes:
      outer_steps: done so far.
      drift: mean of `theta_drift` over rows and families; NaN if the estimator has no sigma.
      accumulated_snr: `snr`, averaged over families and summed over outer steps; NaN for one particle.
      score: of the current theta on the selection tasks, lower is better; NaN without selection.
      initial_score: of the initial theta on the same tasks.
      training_score: of the current theta on the training tasks, the mean log of the final loss.
      initial_training_score: of the initial theta.
    """

    outer_steps: int
    drift: float
    accumulated_snr: float
    score: float
    initial_score: float
    training_score: float
    initial_training_score: float


def assess(rows: Sequence[dict[str, Any]], *, has_sigma: bool) -> Progress:
    """The progress that the rows of `metrics.jsonl` show.

    Args:
      rows: from `read_jsonl`, in order; the label of a row is the last outer step that it describes.
      has_sigma: whether the estimator perturbs theta; without a sigma, drift has no unit.
    """
    logged = [row for row in rows if "grad_norm" in row]
    if not logged:
        return Progress(0, *[math.nan] * 6)
    done = logged[-1]["step"] + 1
    drift, snr, before = [], 0.0, 0
    for row in logged:
        steps = row["step"] + 1 - before
        before = row["step"] + 1
        if row["step"] + 1 > done / 2:
            drift.append(_mean_over_families(row, "theta_drift"))
            snr += steps * _mean_over_families(row, "snr")
    scored: dict[str, Any] = next((row for row in reversed(rows) if "held_out/score" in row), {})
    scores = ("score", "initial_score", "training_score", "initial_training_score")
    return Progress(
        done,
        sum(drift) / len(drift) if has_sigma else math.nan,
        snr,
        *(float(scored.get(f"held_out/{name}", math.nan)) for name in scores),
    )


def _mean_over_families(row: dict[str, Any], name: str) -> float:
    values = [float(value) for key, value in row.items() if key.rpartition("/")[2] == name]
    return sum(values) / len(values) if values else math.nan


def advice(progress: Progress, num_particles: int) -> str | None:
    """One line on what to change, or None if theta drifts little and beats its start.

    Args:
      progress: from `assess`.
      num_particles: N of the estimator.
    """
    drifts = progress.drift > LARGE_DRIFT
    no_better = progress.score >= progress.initial_score  # False where there is no score
    if not (drifts or no_better):
        return None
    found = []
    if no_better:
        scores = f"{progress.score:+.3f} now, {progress.initial_score:+.3f} for the initial theta"
        found.append(f"the selection score is no better than at the start ({scores})")
    if drifts:
        found.append(
            f"theta moves {progress.drift:.1f} sigma within one inner problem ({SAFE_DRIFT:g} is safe)"
        )
    snr = progress.accumulated_snr
    found.append(f"the accumulated signal-to-noise ratio is {snr:.2g}")
    return (
        f"after {progress.outer_steps} outer steps, {', '.join(found)}; {_remedy(drifts, snr, num_particles)}"
    )


def _remedy(drifts: bool, snr: float, num_particles: int) -> str:
    remedies = []
    if drifts:
        remedies.append("divide outer_optimizer.learning_rate by 2 to 4, or multiply estimator.sigma by 2")
    if snr < 1:
        factor = min(MOST_PARTICLES, 2 ** math.ceil(math.log2(1 / max(snr, 1 / MOST_PARTICLES))))
        remedies.append(f"set estimator.num_particles to {factor * num_particles} (now {num_particles})")
    if not remedies:
        remedies.append("the gradient carries a signal, so train on tasks closer to the selection tasks")
    return "; ".join(remedies)


def summary(progress: Progress) -> str:
    """The figures in one line, for a run that is looked at afterwards."""
    scores = {
        "selection": (progress.score, progress.initial_score),
        "training": (progress.training_score, progress.initial_training_score),
    }
    figures = {
        "drift within one inner problem": f"{progress.drift:.2g} sigma",
        "accumulated signal-to-noise ratio": f"{progress.accumulated_snr:.2g}",
        **{f"{k} score": f"{now:+.3f} (initial theta {start:+.3f})" for k, (now, start) in scores.items()},
    }
    known = [f"{name} {text}" for name, text in figures.items() if not text.startswith(("nan", "+nan"))]
    return f"the run after {progress.outer_steps} outer steps: {', '.join(known)}"


def watch(
    rows: Callable[[], Sequence[dict[str, Any]]],
    writer: Writer,
    *,
    last: int,
    steps_per_call: int,
    num_particles: int,
    has_sigma: bool,
    warn: Callable[[str], None],
) -> Callable[[int, Any, Any], None]:
    """A hook that assesses the run at every power of two from 128 outer steps on, and at the end.

    It writes `progress/theta_drift` and `progress/accumulated_snr`, and prints the advice if there is any.

    Args:
      rows: `() -> ` all rows of the run, of earlier sessions too, so that a resumed run sees what an
        uninterrupted one sees.
      writer: where the row goes.
      last: the run's last outer step.
      steps_per_call: outer steps between two calls of the hook.
      num_particles: N of the estimator.
      has_sigma: see `assess`.
      warn: is called with the advice.
    """

    def hook(step: int, state: Any, found: Any) -> None:
        del state, found
        doubled = step.bit_length() > (step - steps_per_call).bit_length()
        if step < FIRST or not (doubled or step == last):
            return
        progress = assess(rows(), has_sigma=has_sigma)
        row = {"theta_drift": progress.drift, "accumulated_snr": progress.accumulated_snr}
        writer.write(step - 1, {f"progress/{name}": value for name, value in row.items()})
        line = advice(progress, num_particles)
        if line is not None:
            warn(line)

    return hook
