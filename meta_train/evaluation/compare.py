"""From measured trainings to three comparisons. Pure NumPy; nothing is trained here.

per_task_tuned  the optimizer as it is, against rivals whose learning rate is tuned for each task and horizon
single_setting  the optimizer as it is, against the best single learning rate of each rival for all of them
equal_budget    the optimizer with its step tuned among as many factors as the rivals have learning rates

Every setting is chosen on the tuning seeds and measured on the evaluation seeds.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from meta_train.evaluation.curves import final_loss, smooth
from meta_train.evaluation.measure import Grid
from meta_train.evaluation.optimizers import Contestant
from meta_train.evaluation.protocol import ADAM, Settings
from meta_train.evaluation.scores import Draws, loss_ratio, mean_over_seeds, step_speed_up

PER_TASK, SINGLE, BUDGET = "per_task_tuned", "single_setting", "equal_budget"
COMPARISONS = PER_TASK, SINGLE, BUDGET
SPEED_UP, WALL_CLOCK, LOSS, VALID = "speed_up", "wall_clock_speed_up", "loss_ratio", "valid_ratio"
BEST = "best"  # of the rivals, chosen like every setting on the tuning seeds


class Table(NamedTuple):
    """Final losses of a grid: f64[M, L, S], lower is better; the first seeds are the tuning seeds."""

    loss: np.ndarray
    valid: np.ndarray


class Chosen(NamedTuple):
    """Index of the setting at each horizon, i64[M], by training loss and by validation loss."""

    loss: np.ndarray
    valid: np.ndarray


class Side(NamedTuple):
    """One contestant in one comparison on one task: its choice, and its losses on the evaluation seeds."""

    chosen: Chosen
    loss: np.ndarray  # f64[M, S]
    valid: np.ndarray  # f64[M, S]


class Comparison(NamedTuple):
    """One comparison on one task, at M horizons.

    Attributes:
      subject: the optimizer under test.
      rivals: name -> each rival; "best" is the best of them.
      best: name of the best rival by training loss at each horizon.
      metrics: metric -> f64[B + 1, M]: "speed_up", "wall_clock_speed_up", and "loss_ratio/RIVAL",
        "valid_ratio/RIVAL" for each rival.
      censored: bool[M]: Adam never got to the optimizer's loss: the speed-up is a lower bound.
    """

    subject: Side
    rivals: dict[str, Side]
    best: tuple[str, ...]
    metrics: dict[str, np.ndarray]
    censored: np.ndarray


def table(grid: Grid, settings: Settings, num_settings: int) -> Table:
    """Final losses of the first `num_settings` rows of a grid."""
    loss = [
        final_loss(grid.train(m, h)[:num_settings], settings.final_steps)
        for m, h in enumerate(settings.horizons)
    ]
    return Table(np.array(loss), np.moveaxis(np.asarray(grid.valid[:num_settings], np.float64), -1, 0))


def tuned(found: Table, num_tuning: int) -> Chosen:
    """The setting with the lowest mean loss on the tuning seeds, for each horizon."""
    return Chosen(*(_tuning_means(x, num_tuning).argmin(1) for x in found))


def single(found: Sequence[Table], num_tuning: int) -> Chosen:
    """One setting for all tasks and horizons: the least geometric mean, on the tuning seeds, of the ratios
    to the best setting of each task and horizon; a failure counts as a ratio of 1000."""
    horizons = found[0].loss.shape[0]
    chosen = []
    for losses in zip(*found, strict=True):
        means = np.concatenate([_tuning_means(x, num_tuning) for x in losses])  # [tasks * M, L]
        ratios = loss_ratio(means, means.min(1, keepdims=True))
        usable = ~np.isnan(ratios).any(1) & np.isfinite(means.min(1))
        total = np.log(ratios[usable]).sum(0) if usable.any() else np.zeros(means.shape[1])
        chosen.append(np.full(horizons, total.argmin()))
    return Chosen(*chosen)


def always(setting: int, horizons: int) -> Chosen:
    """The same setting at all horizons."""
    return Chosen(*[np.full(horizons, setting)] * 2)


def archive(grid: Grid, settings: Settings, setting: int | None) -> np.ndarray:
    """f64[S, steps] on the evaluation seeds: smoothed losses of constant-rate Adam.

    With the learning rate number `setting`; None: at each step with the one that is best *at that step* on
    the tuning seeds.
    """
    losses = smooth(grid.runs[0], settings.smoothing)
    tuning, measured = losses[:, : settings.num_tuning_seeds], losses[:, settings.num_tuning_seeds :]
    if setting is not None:
        return measured[setting]
    best = tuning.mean(1).argmin(0)
    return measured[best, :, np.arange(len(best))].T


def compare(
    subject: tuple[Contestant, Grid],
    rivals: Mapping[str, Grid],
    choices: tuple[Chosen, Mapping[str, Chosen]],
    reference: np.ndarray,
    settings: Settings,
    drawn: Draws,
    time_ratio: float,
) -> Comparison:
    """One comparison on one task.

    Args:
      subject: the optimizer under test and what it did.
      rivals: name -> what it did.
      choices: the settings of the subject and of each rival.
      reference: f64[S, steps], Adam's archive.
      settings: horizons and seeds.
      drawn: the bootstrap.
      time_ratio: seconds of a step with Adam over those with the subject; NaN if not measured.
    """
    contestant, grid = subject
    n, count = settings.num_tuning_seeds, len(contestant.values)
    own = _side(table(grid, settings, count), choices[0], n)
    tables = {name: table(g, settings, len(g.valid)) for name, g in rivals.items()}
    sides = {name: _side(tables[name], choices[1][name], n) for name in rivals}
    sides[BEST], best = _best(tables, choices[1], sides, n)
    metrics = {}
    for name, side in sides.items():
        for metric, a, b in ((LOSS, own.loss, side.loss), (VALID, own.valid, side.valid)):
            means = (mean_over_seeds(x, drawn.weights) for x in (a, b))
            metrics[f"{metric}/{name}"] = loss_ratio(*means).T
    steps = mean_over_seeds(reference.T, drawn.weights).T
    ups, censored = [], []
    for m, horizon in enumerate(settings.horizons):
        last = smooth(grid.train(m, horizon)[own.chosen.loss[m], n:], settings.smoothing)[:, -1]
        up, beyond = step_speed_up(mean_over_seeds(last, drawn.weights), steps, horizon)
        ups.append(up)
        censored.append(beyond[0])
    metrics[SPEED_UP] = np.array(ups).T
    metrics[WALL_CLOCK] = metrics[SPEED_UP] * time_ratio
    return Comparison(own, sides, best, metrics, np.array(censored))


def wrong_horizons(contestant: Contestant, grid: Grid, settings: Settings) -> dict[float, np.ndarray]:
    """Told horizon over the right one -> f64[M], final loss over that when told right, without tuning."""
    default = contestant.default or 0
    found = table(grid, settings, len(grid.valid)).loss[:, :, settings.num_tuning_seeds :].mean(-1)
    first = len(contestant.values)
    return {
        factor: loss_ratio(found[:, first + i], found[:, default]) for i, factor in enumerate(contestant.told)
    }


def _side(found: Table, chosen: Chosen, num_tuning: int) -> Side:
    at = np.arange(len(chosen.loss))
    return Side(chosen, found.loss[at, chosen.loss, num_tuning:], found.valid[at, chosen.valid, num_tuning:])


def _best(
    tables: Mapping[str, Table], chosen: Mapping[str, Chosen], sides: Mapping[str, Side], num_tuning: int
) -> tuple[Side, tuple[str, ...]]:
    """The rival with the lowest loss on the tuning seeds at each horizon, and by training loss its name."""
    names, at = list(tables), np.arange(len(chosen[ADAM].loss))
    measured, who = [], []
    for field in ("loss", "valid"):
        means = [
            _tuning_means(getattr(tables[name], field), num_tuning)[at, getattr(chosen[name], field)]
            for name in names
        ]
        best = np.argmin(means, axis=0)
        who.append(best)
        measured.append(np.array([getattr(sides[names[i]], field)[m] for m, i in enumerate(best)]))
    picked = [
        np.array([getattr(chosen[names[i]], f)[m] for m, i in enumerate(w)])
        for f, w in zip(("loss", "valid"), who, strict=True)
    ]
    return Side(Chosen(*picked), *measured), tuple(names[i] for i in who[0])


def _tuning_means(losses: np.ndarray, num_tuning: int) -> np.ndarray:
    """f64[M, L]; NaN (no validation split) counts as +inf."""
    means = losses[..., :num_tuning].mean(-1)
    return np.where(np.isnan(means), np.inf, means)
