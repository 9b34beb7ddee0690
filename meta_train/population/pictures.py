"""A population in one picture: every member's fitness and hyperparameters over time, and who copied whom."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from meta_train.evaluation.picture import COLOURS
from meta_train.population.base import Controller
from meta_train.population.lineage import Schedule, schedule_of, winner
from meta_train.population.rounds import Record
from meta_train.population.space import Space


def draw_population(
    controller: Controller,
    space: Space,
    records: Sequence[Record],
    figure: Any,
    *,
    log: Sequence[str] = (),
    copied_weights: bool = True,
) -> None:
    """Draws on a matplotlib figure; members are coloured by group, the winner's ancestry is black.

    Args:
      controller: that trained them.
      space: what was searched.
      records: every round.
      figure: to draw on.
      log: hyperparameters on a logarithmic axis.
      copied_weights: as in `schedule_of`.
    """
    names = list(space)
    panels = figure.subplots(len(names) + 2, 1, sharex=True)
    best = winner(controller, records, copied_weights)
    _fitness(panels[0], controller, records, best)
    for panel, name in zip(panels[1:-1], names, strict=True):
        _hyperparameter(panel, controller, records, best, name, name in log)
    _family(panels[-1], controller, records, best, copied_weights)
    panels[-1].set(xlabel="steps", ylabel="member")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False)


def figure_of(space: Space) -> Any:
    """An empty figure with room for the panels of `draw_population`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(9, 3 * (len(space) + 2)), layout="constrained", dpi=110)


def _groups(controller: Controller):
    return zip(controller.groups.items(), COLOURS * len(controller.groups), strict=False)


def _evaluations(records: Sequence[Record]) -> np.ndarray:
    evaluations = records[0].scores.shape[1]
    return np.arange(1, len(records) * evaluations + 1) * records[0].step / evaluations


def _fitness(panel, controller, records, best: Schedule) -> None:
    steps, scores = _evaluations(records), np.concatenate([r.scores for r in records], 1)
    scores = np.where(np.isfinite(scores), scores, np.nan)
    for (label, members), colour in _groups(controller):
        panel.plot(steps, scores[members].T, color=colour, lw=0.6, alpha=0.5)
        panel.plot([], [], color=colour, label=label)
    per = records[0].scores.shape[1]
    panel.plot(
        steps, scores[np.repeat(best.slots, per), np.arange(len(steps))], "k", lw=1.5, label="the winner"
    )
    low = np.nanpercentile(scores, 2)
    panel.set(ylabel="fitness", ylim=(low - 0.05 * (np.nanmax(scores) - low), None))
    panel.grid(alpha=0.25)


def _hyperparameter(panel, controller, records, best: Schedule, name: str, log: bool) -> None:
    edges = np.arange(len(records) + 1) * records[0].step
    values = np.stack([r.hypers[name] for r in records])
    for (_, members), colour in _groups(controller):
        for m in members:
            panel.stairs(values[:, m], edges, baseline=None, color=colour, lw=0.7, alpha=0.5)
    panel.stairs(best.hypers[name], edges, baseline=None, color="k", lw=1.5)
    panel.set(ylabel=name.replace("_", " "), yscale="log" if log else "linear")
    panel.grid(alpha=0.25)


def _family(panel, controller, records, best: Schedule, copied_weights: bool) -> None:
    """One row per member and a line for each copy, darker if its weights reached the last round."""
    alive = {
        (i, slot)
        for member in controller.ranked
        for i, slot in enumerate(schedule_of(records, member, copied_weights).slots.tolist())
    }
    step = records[0].step
    for i, record in enumerate(records[:-1]):
        for slot, source in enumerate(record.source.tolist()):
            if slot != source:
                kept = (i + 1, slot) in alive
                x, y = [(i + 0.85) * step, (i + 1.15) * step], [source, slot]
                panel.plot(
                    x, y, color="k" if kept else "0.75", lw=0.7 if kept else 0.5, zorder=3 if kept else 1
                )
    for (_, members), colour in _groups(controller):
        panel.hlines(members, 0, len(records) * step, color=colour, lw=0.6, alpha=0.4)
    panel.step(np.arange(len(best.slots)) * step + step / 2, best.slots, "k", where="mid", lw=1.5)
