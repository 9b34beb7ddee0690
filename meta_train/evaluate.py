"""Meta-testing: a trained optimizer on held-out tasks against Adam with a tuned learning rate."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.baselines import Reference, Settings, final_loss, reference_steps, smooth, tuned_adam
from meta_train.curves import Build, Curves, curves, seed_keys, trainer
from tasks.base import TaskFamily

LEARNED, ADAM, COSINE = "learned", "adam", "adam_cosine"
SPEED_UP_RANGE = 0.05, 20.0  # a failed training counts the lower end
RATIO_RANGE = 1e-3, 1e3  # a failed training counts the upper end
LOSS_FLOOR = 1e-12  # lower losses count as equal
NUM_BOOTSTRAP = 1000


class Cell(NamedTuple):
    """One family at one horizon. The dicts are keyed by "learned", "adam" and "adam_cosine".

    Attributes:
      family: its label.
      horizon: steps of the inner training.
      speed_up: steps that tuned constant-rate Adam needs to reach the learned optimizer's final loss, over
        the horizon.
      censored: whether Adam's archive never reached that loss: `speed_up` is then a lower bound.
      ratio: final loss of the learned optimizer over that of Adam with the best constant learning rate.
      ratio_cosine: the same over Adam with cosine decay. NaN where a loss is negative.
      diverged: seeds on which the learned optimizer met a loss that is not finite.
      final: f64[S], mean training loss of the last steps, per seed; +inf where diverged.
      valid: f64[S], validation loss at the end, per seed; NaN without a "valid" split.
      train: f32[S, horizon], the training losses.
      learning_rate: Adam's, as chosen on the tuning seeds.
      at_grid_edge: whether that is the first or the last of those tried: a better one may lie outside.
    """

    family: str
    horizon: int
    speed_up: float
    censored: bool
    ratio: float
    ratio_cosine: float
    diverged: int
    final: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    train: dict[str, np.ndarray]
    learning_rate: dict[str, float]
    at_grid_edge: dict[str, bool]


class Score(NamedTuple):
    """A geometric mean over families and horizons, its 95 % bootstrap interval, and the worst cell."""

    mean: float
    low: float
    high: float
    worst: float


class Evaluation(NamedTuple):
    """What `evaluate` found.

    Attributes:
      settings: what it was asked.
      cells: one per family and horizon, family by family.
      speed_up: of the step speed-ups; the worst is the smallest.
      ratio: of the final-loss ratios to constant-rate Adam; the worst is the largest.
      ratio_cosine: of those to Adam with cosine decay.
      divergence_rate: share of the learned optimizer's trainings that diverged.
      seconds: wall time of the evaluation, compilation included.
      environment: versions and device.
    """

    settings: Settings
    cells: tuple[Cell, ...]
    speed_up: Score
    ratio: Score
    ratio_cosine: Score
    divergence_rate: float
    seconds: float
    environment: dict[str, str]


def evaluate(
    build: Build,
    theta: Any,
    families: dict[str, TaskFamily],
    settings: Settings | None = None,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Trains tasks of each family with `build(theta, horizon)` and with tuned Adam, and compares.

    Both see the same tasks, initial parameters and minibatches. Losses are averaged over the seeds
    (arithmetically) before anything is compared; families and horizons are averaged geometrically.

    *Speed-up*: the training losses are smoothed. The archive is the lower envelope of constant-rate Adam
    over the learning rates: at each step the rate that is best on the tuning seeds, its loss on the
    evaluation seeds, and of these the running minimum. The speed-up is the step at which the archive first
    reaches the learned optimizer's loss at the horizon, over the horizon, within [0.05, 20]. It
    favours Adam, whose rate is chosen anew for every step. A training that diverges on any
    seed counts 0.05, and a ratio of 1000.

    *Interval*: families are drawn with replacement, and within each the seeds, for both optimizers alike.
    The spread over meta-training seeds is not in it: `theta` is given.

    Args:
      build: a learned optimizer's `build`, `(theta, num_steps) -> optax.GradientTransformation`.
      theta: its meta-parameters, a pytree with at least one leaf.
      families: label -> held-out family.
      settings: None for the defaults.
      cache: directory of tuned baselines, see `tuned_adam`.
      progress: told `(inner steps done, of how many, what is being run)`.
    """
    settings = Settings() if settings is None else settings
    begin, done = time.monotonic(), 0
    learned_steps = settings.num_seeds * sum(settings.horizons)
    total = len(families) * (reference_steps(settings) + learned_steps)

    def report(text):
        def advance(steps):
            nonlocal done
            done += steps
            if progress is not None:
                progress(done, total, text)

        return advance

    theta = jax.tree.map(lambda x: np.asarray(x)[None], jax.device_get(theta))
    results, references = [], []
    for label, family in families.items():
        references.append(tuned_adam(family, settings, cache, report(f"{label}: tuning Adam")))
        results.append(_learned(family, build, theta, settings, report(f"{label}: learned optimizer")))
    all_seeds = np.full((1, settings.num_seeds), 1 / settings.num_seeds)
    points = [_compare(r, ref, settings, all_seeds) for r, ref in zip(results, references, strict=True)]
    cells = tuple(
        _cell(label, m, result, ref, point, settings)
        for label, result, ref, point in zip(families, results, references, points, strict=True)
        for m in range(len(settings.horizons))
    )
    speed_up, ratio, ratio_cosine = _scores(results, references, points, settings)
    return Evaluation(
        settings,
        cells,
        speed_up,
        ratio,
        ratio_cosine,
        float(np.mean([cell.diverged / settings.num_seeds for cell in cells])),
        time.monotonic() - begin,
        {"jax": jax.__version__, "backend": jax.default_backend(), "device": jax.devices()[0].device_kind},
    )


def _learned(family: TaskFamily, build: Build, theta: Any, settings: Settings, advance) -> list[Curves]:
    """Curves f32[1, S, horizon] per horizon."""
    train = trainer(family, build, settings.horizons[-1], num_valid_batches=settings.num_valid_batches)
    keys = seed_keys("evaluation", settings.num_seeds, settings.seed)
    return [curves(train, theta, keys, horizon, None, advance) for horizon in settings.horizons]


def _compare(result: list[Curves], ref: Reference, settings: Settings, weights: np.ndarray) -> np.ndarray:
    """f64[4, B, M]: speed-up, ratio, cosine ratio, censored; for B weightings of the seeds, f64[B, S]."""

    def mean(x):  # inf only where a diverged seed has weight
        x = np.asarray(x, np.float64)
        finite = weights @ np.where(np.isfinite(x), x, 0)
        return np.where(weights @ ~np.isfinite(x) > 0, np.inf, finite)

    archive = np.minimum.accumulate(mean(ref.envelope), axis=1)
    out = []
    for m, horizon in enumerate(settings.horizons):
        train = result[m].train[0]
        target = mean(smooth(train, settings.smoothing)[:, -1])
        reached = archive <= target[:, None]
        steps = np.where(reached.any(1), reached.argmax(1) + 1, settings.archive_steps)
        speed_up = np.where(np.isinf(target), 0, np.clip(steps / horizon, *SPEED_UP_RANGE))
        learned = mean(final_loss(train, settings.final_steps))
        adams = [mean(final_loss(ref.train[k, m, :, :horizon], settings.final_steps)) for k in (0, 1)]
        ratios = [loss_ratio(learned, a) for a in adams]
        out.append([np.maximum(speed_up, SPEED_UP_RANGE[0]), *ratios, ~reached.any(1)])
    return np.moveaxis(np.array(out, np.float64), 0, -1)


def loss_ratio(learned: Any, reference: Any) -> np.ndarray:
    """Final loss over a reference's, in `RATIO_RANGE`: the upper end for +inf. NaN if either is negative."""
    learned, reference = np.asarray(learned, np.float64), np.asarray(reference, np.float64)
    failed = np.isinf(learned)
    top = np.where(failed, 1.0, np.maximum(learned, LOSS_FLOOR))
    ratio = np.where(failed, np.inf, top / np.maximum(reference, LOSS_FLOOR))
    negative = (learned < 0) | (reference < 0)
    return np.where(negative, np.nan, np.clip(ratio, *RATIO_RANGE))


def _cell(
    label: str, m: int, result: list[Curves], ref: Reference, point: np.ndarray, settings: Settings
) -> Cell:
    horizon = settings.horizons[m]
    train = {LEARNED: result[m].train[0]} | {
        n: ref.train[k, m, :, :horizon] for k, n in enumerate((ADAM, COSINE))
    }
    valid = {LEARNED: result[m].valid[0, :, -1]} | {n: ref.valid[k, m] for k, n in enumerate((ADAM, COSINE))}
    chosen = {name: int(ref.chosen[k, m]) for k, name in enumerate((ADAM, COSINE))}
    last = len(settings.learning_rates) - 1
    speed_up, ratio, ratio_cosine, censored = (float(x) for x in point[:, 0, m])
    return Cell(
        family=label,
        horizon=horizon,
        speed_up=speed_up,
        censored=bool(censored),
        ratio=ratio,
        ratio_cosine=ratio_cosine,
        diverged=int(np.isinf(train[LEARNED]).any(-1).sum()),
        final={name: final_loss(x, settings.final_steps) for name, x in train.items()},
        valid=valid,
        train=train,
        learning_rate={name: settings.learning_rates[i] for name, i in chosen.items()},
        at_grid_edge={name: i in (0, last) for name, i in chosen.items()},
    )


def _scores(
    results: list[list[Curves]], references: list[Reference], points: list[np.ndarray], settings: Settings
) -> tuple[Score, Score, Score]:
    """Point estimates and bootstrap intervals of speed-up, ratio and cosine ratio."""
    rng = np.random.default_rng(settings.seed)
    seeds, families = settings.num_seeds, len(results)
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=NUM_BOOTSTRAP) / seeds
    logs = np.log(
        [_compare(r, ref, settings, weights)[:3] for r, ref in zip(results, references, strict=True)]
    )
    family = rng.integers(families, size=(NUM_BOOTSTRAP, families))
    draw = rng.integers(NUM_BOOTSTRAP, size=(NUM_BOOTSTRAP, families))
    point = np.array([p[:3, 0] for p in points])  # [family, metric, horizon]
    scores = []
    for metric, worst in enumerate((np.fmin, np.fmax, np.fmax)):  # they pass NaN over
        resampled = [_mean(x) for x in logs[family, metric, draw]]
        low, high = np.exp(np.quantile(resampled, (0.025, 0.975)))
        cells = point[:, metric].ravel()
        worst_cell = worst.reduce(cells)
        scores.append(Score(float(np.exp(_mean(np.log(cells)))), float(low), float(high), float(worst_cell)))
    return tuple(scores)


def _mean(x: np.ndarray) -> float:
    """Mean of those that are not NaN; NaN if there is none."""
    known = x[~np.isnan(x)]
    return float(known.mean()) if known.size else float("nan")
