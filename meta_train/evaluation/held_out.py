"""A quick held-out score, for choosing the best checkpoint while meta-training runs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from meta_train.evaluation.baselines import BASELINES
from meta_train.evaluation.baselines import build as build_baseline
from meta_train.evaluation.baselines import theta as baseline_theta
from meta_train.evaluation.curves import Build, curves, final_loss, seed_keys, trainer
from meta_train.evaluation.scores import RATIO_RANGE, loss_ratio
from tasks.base import TaskFamily


def make_held_out(
    build: Build,
    families: dict[str, TaskFamily],
    *,
    horizons: tuple[int, ...] = (200, 500),
    num_seeds: int = 3,
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2),
    final_steps: int = 20,
    seed: int = 0,
) -> Callable[[Any], dict[str, float]]:
    """A quick score for choosing the best checkpoint while meta-training runs; deterministic.

    Each family is compiled once, at the first call. The seeds are those of the stream "selection": none
    of them is a seed of `evaluate`.

    Args:
      build: a learned optimizer's `build`.
      families: label -> family.
      horizons: lengths of the inner trainings.
      num_seeds: trainings per family and horizon.
      learning_rates: the baseline is Adam with the best constant one of these, per family and
        horizon, on the same seeds; found at the first call. () compares with a loss of 1 instead.
      final_steps: steps at the end that the final loss averages.
      seed: another one gives other seeds.

    Returns:
      `score(theta) -> metrics`: "score", the mean over families and horizons of log(final loss / baseline's),
      lower is better, 0 is as good as the baseline, log(1000) is a failure; "diverged", the
      share of trainings with a loss that is not finite; "LABEL/HORIZON", each quotient.
    """
    if not horizons or min(horizons) < final_steps:
        raise ValueError(f"horizons must be >= final_steps ({final_steps}), got {horizons}")
    keys = seed_keys("selection", num_seeds, seed)
    trainers = {label: trainer(f, build, max(horizons), num_valid_batches=0) for label, f in families.items()}
    adam, grid = build_baseline(BASELINES["adam"]), baseline_theta(learning_rates, "constant")
    baseline: dict[str, np.ndarray] = {}

    def finals(train, theta):
        return [final_loss(curves(train, theta, keys, h).train[0], final_steps) for h in horizons]

    def tune(family):
        if not learning_rates:
            return np.ones(len(horizons))
        train = trainer(family, adam, max(horizons), num_valid_batches=0, rows_at_once=len(learning_rates))
        return np.array([final.mean(1).min() for final in finals(train, grid)])

    def score(theta):
        theta = jax.tree.map(lambda x: np.asarray(x)[None], jax.device_get(theta))
        metrics, diverged = {}, []
        for label, train in trainers.items():
            if label not in baseline:
                baseline[label] = tune(families[label])
            for horizon, base, final in zip(horizons, baseline[label], finals(train, theta), strict=True):
                metrics[f"{label}/{horizon}"] = float(loss_ratio(final.mean(), base))
                diverged.append(np.isinf(final).mean())
        mean = float(np.mean(np.log(np.maximum(list(metrics.values()), RATIO_RANGE[0]))))
        return {"score": mean, "diverged": float(np.mean(diverged)), **metrics}

    return score
