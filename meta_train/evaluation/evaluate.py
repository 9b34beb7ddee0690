"""Meta-testing: an optimizer against tuned hand-designed ones on held-out tasks, by one protocol."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from meta_train.evaluation import compare as compare_lib
from meta_train.evaluation import scores as scores_lib
from meta_train.evaluation import timing
from meta_train.evaluation.compare import BUDGET, COMPARISONS, PER_TASK, SINGLE, Comparison, Table
from meta_train.evaluation.measure import Measured, Progress, measure
from meta_train.evaluation.optimizers import Contestant, rivals
from meta_train.evaluation.protocol import ADAM, Settings
from meta_train.evaluation.results import ALL, LEARNED, Cell, Evaluation, HeldOut, Outcome
from meta_train.evaluation.scores import Draws, Score

ALSO_TIMED = ("adamw_warmup_cosine",)  # what most people use


def evaluate(
    subject: Contestant,
    tasks: Mapping[str, HeldOut],
    settings: Settings | None = None,
    *,
    learned_rivals: Sequence[Contestant] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Trains held-out tasks with an optimizer and with its rivals, and compares them in three ways.

    All see the same tasks, initial parameters and minibatches. Losses are averaged over the seeds
    (arithmetically) before anything is compared. See `compare` for the three comparisons.

    *Speed-up*: the training losses are smoothed. The archive is the lower envelope of constant-rate Adam
    over the learning rates: at each step the rate that is best on the tuning seeds, its loss on the
    evaluation seeds, and of these the running minimum (in the comparison of single settings: the one rate).
    The speed-up is the step at which the archive first reaches the optimizer's loss at the horizon, over the
    horizon, within [0.05, 20]. It favours Adam, whose rate is chosen again for every step. A training that
    diverges on any seed counts 0.05, and a ratio of 1000.

    *Interval*: tasks are drawn with replacement, and within each the seeds, for all optimizers alike.
    The spread over meta-training seeds is not in it: theta is given.

    Args:
      subject: the optimizer under test, from `optimizers.learned` or `optimizers.hand_designed`.
      tasks: label -> held-out task.
      settings: None for the defaults.
      learned_rivals: further rivals, besides the hand-designed ones of the settings: each with one setting.
      cache: directory of what the contestants did in earlier evaluations, see `measure`.
      progress: called with `(inner steps done, of how many, what was run)`.
    """
    settings = Settings() if settings is None else settings
    began, cpu = time.monotonic(), time.process_time()
    subject = subject._replace(name=LEARNED)
    against = {c.name: c for c in (*rivals(settings), *learned_rivals)}
    families = {label: task.family for label, task in tasks.items()}
    everyone = {LEARNED: subject, **against}

    def needed(grids):
        return compare_lib.needed(everyone, grids, settings)

    measured = measure(
        families, [*against.values(), subject], settings, needed=needed, cache=cache, progress=progress
    )
    drawn = scores_lib.draws(settings.num_seeds, settings.seed)
    tables = compare_lib.tables(everyone, measured.grids, settings)
    contest = _Contest(subject, against, measured, tables, settings, drawn)
    ms = timing.milliseconds_per_step(families, measured.shapes, _timed(contest))
    compared, singles = _comparisons(contest, ms)
    cells = tuple(
        _cell(contest, compared, label, tasks[label].ring, m)
        for label in tasks
        for m in range(len(settings.horizons))
    )
    wrong = {f: np.array([cell.wrong_horizon[f] for cell in cells]) for f in subject.told}
    return Evaluation(
        settings,
        cells,
        _all_scores(compared, tasks, settings, drawn),
        {
            name: scores_lib.profile(_stack(found, compare_lib.SPEED_UP), np.arange(len(tasks)), drawn)
            for name, found in compared.items()
        },
        {f: float(scores_lib.geometric_mean(ratios)) for f, ratios in wrong.items()},
        float(np.mean([cell.diverged / settings.num_seeds for cell in cells])),
        ms,
        {
            name: float(np.mean([timing.state_bytes_per_parameter(f, c) for f in families.values()]))
            for name, c in everyone.items()
        },
        singles,
        time.monotonic() - began,
        time.process_time() - cpu,
        {"jax": jax.__version__, "backend": jax.default_backend(), "device": jax.devices()[0].device_kind},
    )


class _Contest(NamedTuple):
    """What all comparisons have in common."""

    subject: Contestant
    against: dict[str, Contestant]
    measured: Measured
    tables: dict[str, dict[str, Table]]  # final losses by contestant and task
    settings: Settings
    drawn: Draws


def _timed(c: _Contest) -> dict[str, list[Contestant]]:
    """Task -> whose steps are timed: the optimizer under test, Adam, and the best rival at each horizon."""
    out = {}
    for label in c.measured.shapes:
        losses = {name: c.tables[name][label].loss for name in c.against}
        finals = {
            name: compare_lib.tuning_means(x, c.settings.num_tuning_seeds).min(1)
            for name, x in losses.items()
        }
        best = [min(finals, key=lambda name, m=m: finals[name][m]) for m in range(len(c.settings.horizons))]
        names = dict.fromkeys((ADAM, *ALSO_TIMED, *best))
        out[label] = [c.subject, *(c.against[name] for name in names if name in c.against)]
    return out


def _comparisons(
    c: _Contest, ms: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, dict[str, Comparison]], dict[str, float]]:
    """Comparison -> task -> its result; and the single settings."""
    n, grids = c.settings.num_tuning_seeds, c.measured.grids
    everyone = {LEARNED: c.subject, **c.against}
    own = c.tables[LEARNED]
    fixed = {name: compare_lib.default(one, c.tables[name], n) for name, one in everyone.items()}
    default = fixed.pop(LEARNED)
    names = COMPARISONS if len(c.subject.values) > 1 else (PER_TASK, SINGLE)
    out: dict[str, dict[str, Comparison]] = {name: {} for name in names}
    for label, times in ms.items():
        tuned = {name: compare_lib.tuned(c.tables[name][label], n) for name in c.against}
        envelope = compare_lib.archive(grids[ADAM][label], c.settings, None)
        one_rate = compare_lib.archive(grids[ADAM][label], c.settings, int(fixed[ADAM].loss[0]))
        choices = {
            PER_TASK: ((default, tuned), envelope),
            SINGLE: ((default, fixed), one_rate),
            BUDGET: ((compare_lib.tuned(own[label], n), tuned), envelope),
        }
        for name in names:
            out[name][label] = compare_lib.compare(
                (c.subject, grids[LEARNED][label]),
                {rival: grids[rival][label] for rival in c.against},
                *choices[name],
                c.settings,
                c.drawn,
                {name: time / times[LEARNED] for name, time in times.items() if name != LEARNED},
            )
    singles = {name: c.against[name].values[int(chosen.loss[0])] for name, chosen in fixed.items()}
    return out, {LEARNED: c.subject.values[int(default.loss[0])], **singles}


def _stack(found: Mapping[str, Comparison], metric: str) -> np.ndarray:
    """f64[tasks, B + 1, M]."""
    return np.array([comparison.metrics[metric] for comparison in found.values()])


def _all_scores(
    compared: Mapping[str, Mapping[str, Comparison]],
    tasks: Mapping[str, HeldOut],
    settings: Settings,
    drawn: Draws,
) -> dict[str, dict[str, dict[str, Score]]]:
    rings = list(dict.fromkeys(task.ring for task in tasks.values() if task.ring))
    everything, every = np.arange(len(tasks)), list(range(len(settings.horizons)))
    groups = {ALL: (everything, every)}
    if len(rings) > 1:
        for ring in rings:
            of_ring = [i for i, task in enumerate(tasks.values()) if task.ring == ring]
            groups[f"ring {ring}"] = np.array(of_ring), every
    if len(every) > 1:
        groups |= {f"{h} steps": (everything, [m]) for m, h in enumerate(settings.horizons)}
    return {
        group: {
            name: {
                metric: scores_lib.score(
                    _stack(found, metric)[:, :, at],
                    which,
                    drawn,
                    larger_is_better=metric.startswith(compare_lib.LARGER_IS_BETTER),
                )
                for metric in set.intersection(*(set(c.metrics) for c in found.values()))
            }
            for name, found in compared.items()
        }
        for group, (which, at) in groups.items()
    }


def _cell(
    c: _Contest, compared: Mapping[str, Mapping[str, Comparison]], label: str, ring: str, m: int
) -> Cell:
    first = compared[PER_TASK][label]
    sides = {LEARNED: first.subject} | {name: first.rivals[name] for name in c.against}
    train = {name: side.curves[m] for name, side in sides.items()}
    wrong = compare_lib.wrong_horizons(c.subject, c.measured.grids[LEARNED][label], c.settings)
    return Cell(
        task=label,
        ring=ring,
        horizon=c.settings.horizons[m],
        diverged=int(np.isinf(train[LEARNED]).any(-1).sum()),
        best=first.best[m],
        best_valid=first.best_valid[m],
        loss={name: side.losses.loss[m] for name, side in sides.items()},
        valid={name: side.losses.valid[m] for name, side in sides.items()},
        least_valid={name: side.losses.best[m] for name, side in sides.items()},
        test={name: side.losses.test[m] for name, side in sides.items()},
        train=train,
        at_grid_edge={
            name: rival.values[int(sides[name].chosen.loss[m])] in (min(rival.values), max(rival.values))
            for name, rival in c.against.items()
            if len(set(rival.values)) > 1
        },
        wrong_horizon={factor: float(ratios[m]) for factor, ratios in wrong.items()},
        outcomes={name: _outcome(c, found[label], m) for name, found in compared.items()},
    )


def _outcome(c: _Contest, found: Comparison, m: int) -> Outcome:
    values = {metric: float(x[0, m]) for metric, x in found.metrics.items()}
    by_rival = (*compare_lib.RATIOS.values(), compare_lib.TARGET, compare_lib.TARGET_CLOCK)
    rows = {name: int(found.rivals[name].chosen.loss[m]) for name in c.against}
    return Outcome(
        speed_up=values[compare_lib.SPEED_UP],
        censored=bool(found.censored[m]),
        wall_clock_speed_up=values[compare_lib.WALL_CLOCK],
        **{
            metric: {
                name: values[f"{metric}/{name}"] for name in found.rivals if f"{metric}/{name}" in values
            }
            for metric in by_rival
        },
        target_steps={name: targets[m] for name, targets in found.targets.items()},
        setting=c.subject.values[int(found.subject.chosen.loss[m])],
        rival_setting={name: rival.values[rows[name]] for name, rival in c.against.items()},
        rival_hyper={name: rival.hyper[rows[name]] for name, rival in c.against.items() if rival.hyper},
    )
