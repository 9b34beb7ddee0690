"""All trainings of an evaluation: one program for each shape and optimizer, in threads, kept on disk."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.evaluation import cache as cache_lib
from meta_train.evaluation.cache import Digests, Entries, Entry
from meta_train.evaluation.curves import Curves, Trainer, curves, runs_at_once, seed_keys, trainer
from meta_train.evaluation.lengths import Run, longest, runs_of, steps_of
from meta_train.evaluation.optimizers import Contestant
from meta_train.evaluation.protocol import Settings
from meta_train.evaluation.results import LEARNED
from meta_train.evaluation.threads import Progress, counted, in_threads
from tasks.base import TaskFamily

ROWS_AT_ONCE = 5  # on a CPU: about so many settings at once fit its cache
FEW_AT_ONCE = 5  # of a family of which no more runs go on at once, what need not be run is not


class Grid(NamedTuple):
    """What a contestant did on one family: L settings (and wrong horizons), S tuning and evaluation seeds."""

    # f32[L, S, steps] of training losses: one for each horizon, or a single one whose beginnings are those of
    # all horizons
    runs: tuple[np.ndarray, ...]
    valid: np.ndarray  # f32[L, S, M], validation losses at the M horizons
    best: np.ndarray  # f32[L, S, M], the least validation loss read up to there
    test: np.ndarray  # f32[L, S, M], test losses at the M horizons; NaN without such a split

    def train(self, m: int, horizon: int) -> np.ndarray:
        """f32[L, S, horizon]: the training losses of horizon number m."""
        return self.runs[m if len(self.runs) > 1 else 0][..., :horizon]


# (contestant's name, family's label) -> rows of the contestant's settings
Rows = Mapping[tuple[str, str], Collection[int]]


class Job(NamedTuple):
    """Families of one shape, and the contestants of one program that are still to be run on them."""

    labels: tuple[str, ...]
    contestants: tuple[Contestant, ...]
    rows: tuple[tuple[int, ...], ...]  # of each contestant's settings


class Measured(NamedTuple):
    """`grids[contestant's name][family's label]`, and which families share a program (their shape's hash)."""

    grids: dict[str, dict[str, Grid]]
    shapes: dict[str, str]


def measure(
    families: dict[str, TaskFamily],
    contestants: Sequence[Contestant],
    settings: Settings,
    *,
    needed: Callable[[dict[str, dict[str, Grid]]], Rows] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Trains every family with every setting of every contestant, on the seeds that are wanted.

    Families that differ in the values of their data alone are run by one program, side by side. Jobs are
    compiled and run in as many threads as there are devices, two at least.

    Args:
      families: label -> family.
      contestants: the optimizers.
      settings: horizons and seeds.
      needed: from the grids of the tuning seeds, which rows are to be run on the evaluation seeds. The others
        are NaN there for large families; small ones take longer to compile than to run. None for all.
      cache: directory of what contestants did in earlier calls, made if need be; None keeps nothing. A
        damaged entry is recomputed; one that cannot be written only warns.
      progress: called with `(inner steps done, of how many, what was run)`; what is complete in the cache is
        not counted. How many there are on the evaluation seeds is known, and added, when these begin.

    Raises:
      RunError: a training that the device refuses, out of memory for instance.
    """
    described = {label: cache_lib.digests(family) for label, family in families.items()}
    entries = _entries(contestants, described, settings, cache)
    shapes = {label: d.program for label, d in described.items()}
    work = _Work(families, contestants, settings, entries, shapes, {}, progress)
    tuning, both = settings.num_tuning_seeds, settings.num_tuning_seeds + settings.num_seeds
    large = set() if needed is None else {x for x in families if runs_at_once(families[x]) <= FEW_AT_ONCE}
    small = {(c.name, label): range(c.rows) for c in contestants for label in families if label not in large}
    done = _train(work, small, range(both))
    if needed is None or not large:
        return Measured(_grids(work), shapes)
    first = {(c.name, label): range(len(c.values)) for c in contestants for label in large}
    done = _train(work, first, range(tuning), done, keep=True)
    chosen = {key: rows for key, rows in needed(_grids(work)).items() if key[1] in large}
    _train(work, chosen, range(tuning, both), done, keep=True)
    return Measured(_grids(work), shapes)


class _Work(NamedTuple):
    """What the trainings on both kinds of seeds have in common."""

    families: dict[str, TaskFamily]
    contestants: Sequence[Contestant]
    settings: Settings
    entries: dict[tuple[str, str], list[Entry]]
    shapes: dict[str, str]
    trainers: dict[Any, Trainer]  # programs that are kept from one kind of seeds to the other
    progress: Progress | None


def _grids(work: _Work) -> dict[str, dict[str, Grid]]:
    return {
        c.name: {label: _grid(c, work.entries[c.name, label], work.settings) for label in work.families}
        for c in work.contestants
    }


def _train(work: _Work, wanted: Rows, seeds: range, before: int = 0, *, keep: bool = False) -> int:
    """Runs what is wanted and not known yet, and returns the steps done so far; may keep the programs."""
    settings = work.settings

    def lacks(c: Contestant, label: str) -> bool:
        entries, own = work.entries[c.name, label], _own(c, seeds, settings)
        return not all(entry.complete(wanted[c.name, label], own) for entry in entries)

    labels = dict.fromkeys(label for _, label in wanted)
    missing = {label: tuple(c for c in work.contestants if lacks(c, label)) for label in labels}
    jobs = _jobs(missing, work.shapes, wanted)
    total = sum(
        len(job.labels) * len(rows) * len(_own(c, seeds, settings)) * steps_of(c, settings)
        for job in jobs
        for c, rows in zip(job.contestants, job.rows, strict=True)
    )
    report = counted(total, work.progress, before)

    def run(job: Job, device: Any, stop: Callable[[], None]):
        text = f"{', '.join(job.labels)}: {job.contestants[0].program}"

        def advance(steps):
            stop()
            report(steps, text)

        key = job.labels, tuple(c.name for c in job.contestants), device
        train = work.trainers.get(key) or _trainer(job, work.families, settings, device)
        if keep:
            work.trainers[key] = train
        _run(job, train, seeds, settings, advance, work.entries)

    in_threads(run, jobs)
    return before + total


def _keys(settings: Settings) -> jax.Array:
    """key[S]: the tuning seeds, then the evaluation seeds."""
    streams = ("tuning", settings.num_tuning_seeds), ("evaluation", settings.num_seeds)
    return jnp.concatenate([seed_keys(*stream, settings.seed) for stream in streams])


def _own(contestant: Contestant, seeds: range, settings: Settings) -> range:
    """Those of the seeds that the contestant is run on: a lone setting under test needs no tuning seeds."""
    alone = contestant.name == LEARNED and len(contestant.values) == 1
    return range(max(seeds.start, settings.num_tuning_seeds), seeds.stop) if alone else seeds


def _trainer(job: Job, families: dict[str, TaskFamily], settings: Settings, device: Any) -> Trainer:
    first = job.contestants[0]
    rows = max(c.rows for c in job.contestants)
    calls = -(-rows // ROWS_AT_ONCE) if device.platform == "cpu" else 1
    return trainer(
        [families[label] for label in job.labels],
        first.build,
        max(longest(c, settings) for c in job.contestants),
        num_valid_batches=settings.num_valid_batches,
        num_stops=max(len(run.stops) for c in job.contestants for run in runs_of(c, settings)),
        rows_at_once=-(-rows // calls),
        eval_params=first.eval_params,
        device=device,
    )


def _run(job: Job, train: Trainer, seeds: range, settings: Settings, advance, entries) -> None:
    """Fills the entries of a job's contestants."""
    for contestant, rows in zip(job.contestants, job.rows, strict=True):
        own = _own(contestant, seeds, settings)
        keys = _keys(settings)[own.start : own.stop]
        values = jax.tree.map(lambda x, rows=rows: np.asarray(x)[np.array(rows)], contestant.settings)
        for k, (length, stops, tested) in enumerate(runs_of(contestant, settings)):
            mine = [entries[contestant.name, label][k] for label in job.labels]
            options = {"shared": contestant.shared, "tested": tested, "records": Entries(mine, rows, own)}
            try:
                curves(train, values, keys, length, stops, advance, **options)
            finally:
                for entry in mine:
                    entry.save()


def _grid(contestant: Contestant, entries: Sequence[Entry], settings: Settings) -> Grid:
    """What is in the entries of one family, one for each length; NaN where nothing was run."""
    runs = list(runs_of(contestant, settings))
    seeds = settings.num_tuning_seeds + settings.num_seeds
    found = []
    for entry, run in zip(entries, runs, strict=True):
        sizes = run.length, len(run.stops), len(run.stops)
        whole = Curves(*(np.full((contestant.rows, seeds, n), np.nan, np.float32) for n in sizes))
        for row, seed in itertools.product(range(contestant.rows), range(seeds)):
            for x, part in zip(whole, entry.get([row], [seed]) or (), strict=False):
                x[row, seed] = part[0, 0]
        found.append(whole)
    valid, best, test = [], [], []
    for m, horizon in enumerate(settings.horizons):
        k = m if len(runs) > 1 else 0
        stops = np.array(runs[k].stops)
        at = int(np.argmax(stops == horizon))
        valid.append(found[k].valid[..., at])
        test.append(found[k].test[..., at])
        so_far = np.where(np.isnan(found[k].valid), np.inf, found[k].valid)[..., : at + 1].min(-1)
        best.append(np.where(np.isnan(valid[-1]), np.nan, so_far))
    return Grid(tuple(f.train for f in found), *(np.stack(x, -1) for x in (valid, best, test)))


def _jobs(missing: dict[str, tuple[Contestant, ...]], shapes: dict[str, str], wanted: Rows) -> list[Job]:
    """Families of one shape that lack runs of the same contestants, those of one program together."""
    groups: dict[Any, list[str]] = {}
    work: dict[Any, tuple[Contestant, ...]] = {}
    for label, lacking in missing.items():
        for program in dict.fromkeys(c.program for c in lacking):
            some = tuple(c for c in lacking if c.program == program)
            key = shapes[label], tuple(c.name for c in some)
            groups.setdefault(key, []).append(label)
            work[key] = some
    return [
        Job(
            tuple(labels),
            work[key],
            tuple(tuple(sorted({r for x in labels for r in wanted[c.name, x]})) for c in work[key]),
        )
        for key, labels in groups.items()
    ]


def _entries(
    contestants: Sequence[Contestant],
    described: dict[str, Digests],
    settings: Settings,
    cache: Path | None,
) -> dict[tuple[str, str], list[Entry]]:
    """Contestant's name and label -> an entry for each of its runs."""
    programs: dict[Any, str] = {}

    def program(contestant: Contestant, params: Any) -> str:
        shapes = str([(jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(params)])
        key = contestant.program, shapes
        if key not in programs:
            programs[key] = cache_lib.optimizer_digest(contestant, params)
        return programs[key]

    def path(contestant: Contestant, family: Digests, run: Run) -> Path | None:
        if cache is None:
            return None
        what = cache_lib.loop_digest(), program(contestant, family.params), family.program, family.data
        texts = *what, repr((run, settings.num_valid_batches))
        digest = cache_lib.hash_of(texts, contestant.shared)[:32]
        return Path(cache) / f"{contestant.program.replace(':', '-')}-{digest}.npz"

    return {
        (c.name, label): [
            Entry(path(c, family, run), c.settings, _keys(settings)) for run in runs_of(c, settings)
        ]
        for c in contestants
        for label, family in described.items()
    }
