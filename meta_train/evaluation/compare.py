"""From measured trainings to three comparisons. Pure NumPy; settings are chosen on the tuning seeds alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from meta_train.evaluation.curves import final_loss, smooth
from meta_train.evaluation.measure import Grid
from meta_train.evaluation.optimizers import Contestant
from meta_train.evaluation.protocol import ADAM, Settings
from meta_train.evaluation.scores import Draws, loss_ratio, mean_over_seeds, step_speed_up
from meta_train.evaluation.target import Target, to_target

PER_TASK, SINGLE, BUDGET = "per_task_tuned", "single_setting", "equal_budget"
COMPARISONS = {
    PER_TASK: "against rivals tuned for each task and horizon",
    SINGLE: "against the best single setting of each rival for all tasks",
    BUDGET: "at equal tuning budget: its step tuned with as many trials",
}
SPEED_UP, WALL_CLOCK = "speed_up", "wall_clock_speed_up"
TARGET, TARGET_CLOCK = "to_target", "wall_clock_to_target"
LOSS, VALID, BEST_VALID, TEST = "loss_ratio", "valid_ratio", "best_valid_ratio", "test_ratio"
RATIOS = {"loss": LOSS, "valid": VALID, "best": BEST_VALID, "test": TEST}  # field of a Table -> metric
BEST, BEST_UNTUNED = "best", "best_untuned"  # of the rivals, chosen like every setting on the tuning seeds
LARGER_IS_BETTER = SPEED_UP, WALL_CLOCK, TARGET, TARGET_CLOCK


class Table(NamedTuple):
    """Final losses of a grid: f64[M, L, S], lower is better; the first seeds are the tuning seeds."""

    loss: np.ndarray  # training loss, the mean of the last steps
    valid: np.ndarray  # validation loss at the end
    best: np.ndarray  # the least validation loss up to then
    test: np.ndarray  # test loss at the end


class Chosen(NamedTuple):
    """Index of the setting at each horizon, i64[M], by training loss and by validation loss."""

    loss: np.ndarray
    valid: np.ndarray


class Side(NamedTuple):
    """One contestant in one comparison on one task: its choice, and its losses on the evaluation seeds."""

    chosen: Chosen  # its settings
    # f64[M, S] each; the setting of the training loss is that of `chosen.loss`, else of `chosen.valid`
    losses: Table
    curves: tuple[np.ndarray, ...]  # f32[S, horizon] at each horizon, the training losses of `chosen.loss`


class Comparison(NamedTuple):
    """One comparison on one task, at M horizons."""

    subject: Side  # the optimizer under test
    # name -> each rival; "best" is the best of them, "best_untuned" the best one without any tuning
    rivals: dict[str, Side]
    best: tuple[str, ...]  # name of the best rival by training loss at each horizon
    best_valid: tuple[str, ...]  # the same by validation loss
    # metric -> f64[B + 1, M]: "speed_up", "wall_clock_speed_up", and for each rival "loss_ratio/RIVAL",
    # "valid_ratio/RIVAL", "best_valid_ratio/RIVAL", "test_ratio/RIVAL" and "to_target/RIVAL"
    metrics: dict[str, np.ndarray]
    censored: np.ndarray  # bool[M]: Adam never got to the optimizer's loss: the speed-up is a lower bound
    targets: dict[str, tuple[Target, ...]]  # rival -> `Target` at each horizon


def table(grid: Grid, settings: Settings, num_settings: int) -> Table:
    """Final losses of the first `num_settings` rows of a grid."""
    loss = [
        final_loss(grid.train(m, h)[:num_settings], settings.final_steps)
        for m, h in enumerate(settings.horizons)
    ]
    others = (grid.valid, grid.best, grid.test)
    return Table(
        np.array(loss), *(np.moveaxis(np.asarray(x[:num_settings], np.float64), -1, 0) for x in others)
    )


def tuned(found: Table, num_tuning: int) -> Chosen:
    """The setting with the lowest mean loss on the tuning seeds, for each horizon."""
    return Chosen(*(tuning_means(x, num_tuning).argmin(1) for x in found[:2]))


def single(found: Sequence[Table], num_tuning: int) -> Chosen:
    """One setting for all tasks and horizons: the least geometric mean, on the tuning seeds, of the ratios
    to the best setting of each task and horizon; a failure counts as a ratio of 1000."""
    horizons = found[0].loss.shape[0]
    chosen = []
    for losses in zip(*(one[:2] for one in found), strict=True):  # training losses, then validation losses
        means = np.concatenate([tuning_means(x, num_tuning) for x in losses])  # [tasks * M, L]
        ratios = loss_ratio(means, means.min(1, keepdims=True))
        usable = ~np.isnan(ratios).any(1) & np.isfinite(means.min(1))
        total = np.log(ratios[usable]).sum(0) if usable.any() else np.zeros(means.shape[1])
        chosen.append(np.full(horizons, total.argmin()))
    return Chosen(*chosen)


def default(contestant: Contestant, found: Mapping[str, Table], num_tuning: int) -> Chosen:
    """The setting that a contestant has at all horizons: its own default, or its best single one.

    Args:
      contestant: whose settings they are.
      found: task -> its final losses.
      num_tuning: how many seeds are tuning seeds.
    """
    if contestant.default is None:
        return single(list(found.values()), num_tuning)
    horizons = len(next(iter(found.values())).loss)
    return Chosen(*[np.full(horizons, contestant.default)] * 2)


def tables(
    contestants: Mapping[str, Contestant], grids: Mapping[str, Mapping[str, Grid]], settings: Settings
) -> dict[str, dict[str, Table]]:
    """Contestant -> task -> final losses of all its settings, without the wrong horizons."""
    return {
        name: {label: table(grid, settings, len(c.values)) for label, grid in grids[name].items()}
        for name, c in contestants.items()
    }


def needed(
    contestants: Mapping[str, Contestant], grids: Mapping[str, Mapping[str, Grid]], settings: Settings
) -> dict[tuple[str, str], set[int]]:
    """(contestant, task) -> settings that a comparison chooses on the tuning seeds, and wrong horizons."""
    n, rows = settings.num_tuning_seeds, {}
    for name, found in tables(contestants, grids, settings).items():
        c = contestants[name]
        always = default(c, found, n)
        for label, losses in found.items():
            chosen = {*range(len(c.values), c.rows)}.union(*always, *tuned(losses, n))
            if name == ADAM:
                chosen |= {*_best_at_each_step(grids[name][label], settings)}
            rows[name, label] = {int(row) for row in chosen}
    return rows


def archive(grid: Grid, settings: Settings, setting: int | None) -> np.ndarray:
    """f64[S, steps] on the evaluation seeds: smoothed losses of constant-rate Adam.

    With the learning rate number `setting`; None: at each step with the one that is best *at that step* on
    the tuning seeds.
    """
    measured = smooth(grid.runs[0][:, settings.num_tuning_seeds :], settings.smoothing)
    if setting is not None:
        return measured[setting]
    best = _best_at_each_step(grid, settings)
    return measured[best, :, np.arange(len(best))].T


def _best_at_each_step(grid: Grid, settings: Settings) -> np.ndarray:
    """i64[steps]: the setting whose smoothed loss on the tuning seeds is least there."""
    return smooth(grid.runs[0][:, : settings.num_tuning_seeds], settings.smoothing).mean(1).argmin(0)


def compare(
    subject: tuple[Contestant, Grid],
    rivals: Mapping[str, Grid],
    choices: tuple[Chosen, Mapping[str, Chosen]],
    reference: np.ndarray,
    settings: Settings,
    drawn: Draws,
    time_ratios: Mapping[str, float],
) -> Comparison:
    """One comparison on one task.

    Args:
      subject: the optimizer under test and what it did.
      rivals: name -> what it did.
      choices: the settings of the subject and of each rival.
      reference: f64[S, steps], Adam's archive.
      settings: horizons and seeds.
      drawn: the bootstrap.
      time_ratios: rival -> seconds of its step over those of the subject; of Adam, and of others that were
        timed.
    """
    contestant, grid = subject
    n, count = settings.num_tuning_seeds, len(contestant.values)
    own = _side(grid, table(grid, settings, count), choices[0], settings)
    tables = {name: table(g, settings, len(g.valid)) for name, g in rivals.items()}
    sides = {name: _side(g, tables[name], choices[1][name], settings) for name, g in rivals.items()}
    untuned = [name for name, g in rivals.items() if len(g.valid) == 1]
    best = _best(list(rivals), tables, sides, n)
    sides[BEST] = best[2]
    if untuned:
        sides[BEST_UNTUNED] = _best(untuned, tables, sides, n)[2]
    metrics, targets = {}, {}
    for name, side in sides.items():
        for field, metric in RATIOS.items():
            pair = (getattr(s.losses, field) for s in (own, side))
            metrics[f"{metric}/{name}"] = loss_ratio(*(mean_over_seeds(x, drawn.weights) for x in pair)).T
        found = [
            to_target(a, b, drawn.weights, settings.final_steps)
            for a, b in zip(own.curves, side.curves, strict=True)
        ]
        targets[name] = tuple(target for _, target in found)
        metrics[f"{TARGET}/{name}"] = np.array([ratio for ratio, _ in found]).T
    steps = mean_over_seeds(reference.T, drawn.weights).T
    ups, censored = [], []
    for m, horizon in enumerate(settings.horizons):
        last = smooth(own.curves[m], settings.smoothing)[:, -1]
        up, beyond = step_speed_up(mean_over_seeds(last, drawn.weights), steps, horizon)
        ups.append(up)
        censored.append(beyond[0])
    metrics[SPEED_UP] = np.array(ups).T
    metrics[WALL_CLOCK] = metrics[SPEED_UP] * time_ratios[ADAM]
    for name, ratio in time_ratios.items():
        metrics[f"{TARGET_CLOCK}/{name}"] = metrics[f"{TARGET}/{name}"] * ratio
    ratios = [time_ratios.get(name, np.nan) for name in best[0]]
    metrics[f"{TARGET_CLOCK}/{BEST}"] = metrics[f"{TARGET}/{BEST}"] * ratios
    return Comparison(own, sides, best[0], best[1], metrics, np.array(censored), targets)


def wrong_horizons(contestant: Contestant, grid: Grid, settings: Settings) -> dict[float, np.ndarray]:
    """Given horizon over the right one -> f64[M], final loss over that when given the right one, untuned."""
    default = contestant.default or 0
    found = table(grid, settings, len(grid.valid)).loss[:, :, settings.num_tuning_seeds :].mean(-1)
    first = len(contestant.values)
    return {
        factor: loss_ratio(found[:, first + i], found[:, default]) for i, factor in enumerate(contestant.told)
    }


def _side(grid: Grid, found: Table, chosen: Chosen, settings: Settings) -> Side:
    at, n = np.arange(len(chosen.loss)), settings.num_tuning_seeds
    by = chosen.loss, *[chosen.valid] * 3
    curves = (grid.train(m, h)[chosen.loss[m], n:] for m, h in enumerate(settings.horizons))
    return Side(chosen, Table(*(x[at, i, n:] for x, i in zip(found, by, strict=True))), tuple(curves))


def _best(
    names: Sequence[str], tables: Mapping[str, Table], sides: Mapping[str, Side], num_tuning: int
) -> tuple[tuple[str, ...], tuple[str, ...], Side]:
    """At each horizon, the rivals that are best by training and by validation loss on the tuning seeds."""
    who = []
    for k in (0, 1):  # fields of `Chosen`, and the first two of `Table`
        means = [tuning_means(tables[name][k], num_tuning) for name in names]
        chosen = [
            mean[np.arange(len(mean)), sides[name].chosen[k]] for mean, name in zip(means, names, strict=True)
        ]
        who.append(tuple(names[i] for i in np.argmin(chosen, axis=0)))

    def of(k, read):
        return np.array([read(sides[name])[m] for m, name in enumerate(who[k])])

    chosen = Chosen(*(of(k, lambda side, k=k: side.chosen[k]) for k in (0, 1)))
    losses = Table(*(of(min(i, 1), lambda side, i=i: side.losses[i]) for i in range(len(Table._fields))))
    curves = tuple(sides[name].curves[m] for m, name in enumerate(who[0]))
    return who[0], who[1], Side(chosen, losses, curves)


def tuning_means(losses: np.ndarray, num_tuning: int) -> np.ndarray:
    """f64[M, L]; NaN (no validation split) counts as +inf."""
    means = losses[..., :num_tuning].mean(-1)
    return np.where(np.isnan(means), np.inf, means)
