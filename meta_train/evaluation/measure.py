"""All trainings of an evaluation: one program for each shape and optimizer, in threads, kept on disk."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.evaluation import cache as cache_lib
from meta_train.evaluation.cache import Digests, Entries, Entry
from meta_train.evaluation.curves import Curves, curves, seed_keys, trainer
from meta_train.evaluation.optimizers import Contestant
from meta_train.evaluation.protocol import ADAM, Settings
from meta_train.evaluation.results import LEARNED
from meta_train.evaluation.threads import Progress, counted, in_threads
from tasks.base import TaskFamily

ROWS_AT_ONCE = 5  # on a CPU: about so many settings at once fit its cache


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


class Run(NamedTuple):
    """One length of a contestant's trainings: where it reads validation losses, and where test losses too."""

    length: int
    stops: tuple[int, ...]
    tested: tuple[int, ...]


class Job(NamedTuple):
    """Families of one shape, and the contestants of one program that are still to be run on them."""

    labels: tuple[str, ...]
    contestants: tuple[Contestant, ...]


class Measured(NamedTuple):
    """`grids[contestant's name][family's label]`, and which families share a program (their shape's hash)."""

    grids: dict[str, dict[str, Grid]]
    shapes: dict[str, str]


def measure(
    families: dict[str, TaskFamily],
    contestants: Sequence[Contestant],
    settings: Settings,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Trains every family with every setting of every contestant, on all seeds.

    Families that differ in the values of their data alone are run by one program, side by side. Jobs are
    compiled and run in as many threads as there are devices, two at least.

    Args:
      families: label -> family.
      contestants: the optimizers.
      settings: horizons and seeds.
      cache: directory of what contestants did in earlier calls, made if need be; None keeps nothing. A
        damaged entry is recomputed; one that cannot be written only warns.
      progress: called with `(inner steps done, of how many, what was run)`; what is complete in the cache is
        not counted.

    Raises:
      RunError: a training that the device refuses, out of memory for instance.
    """
    described = {label: cache_lib.digests(family) for label, family in families.items()}
    entries = _entries(contestants, described, settings, cache)
    missing = {
        label: tuple(c for c in contestants if not all(e.complete() for e in entries[c.name, label]))
        for label in families
    }
    jobs = _jobs(missing, {label: d.program for label, d in described.items()})
    total = sum(len(job.labels) * _steps(c, settings) for job in jobs for c in job.contestants)
    tell = counted(total, progress)

    def run(job: Job, device: Any, stop: Callable[[], None]):
        text = f"{', '.join(job.labels)}: {job.contestants[0].program}"

        def advance(steps):
            stop()
            tell(steps, text)

        _run(job, families, settings, device, advance, entries)

    in_threads(run, jobs)
    grids = {
        c.name: {label: _grid(c, entries[c.name, label], settings) for label in families} for c in contestants
    }
    return Measured(grids, {label: d.program for label, d in described.items()})


def _keys(contestant: Contestant, settings: Settings) -> jax.Array:
    """key[S]: the tuning seeds (unless a lone setting is under test), then the evaluation seeds."""
    streams = ("tuning", settings.num_tuning_seeds), ("evaluation", settings.num_seeds)
    keys = jnp.concatenate([seed_keys(*stream, settings.seed) for stream in streams])
    alone = contestant.name == LEARNED and len(contestant.values) == 1
    return keys[settings.num_tuning_seeds :] if alone else keys


def _run(job: Job, families, settings: Settings, device, advance, entries) -> None:
    """Fills the entries of a job's contestants."""
    first = job.contestants[0]
    rows = max(c.rows for c in job.contestants)
    calls = -(-rows // ROWS_AT_ONCE) if device.platform == "cpu" else 1
    train = trainer(
        [families[label] for label in job.labels],
        first.build,
        max(_longest(c, settings) for c in job.contestants),
        num_valid_batches=settings.num_valid_batches,
        num_stops=max(len(run.stops) for c in job.contestants for run in _runs(c, settings)),
        rows_at_once=-(-rows // calls),
        eval_params=first.eval_params,
        device=device,
    )
    for contestant in job.contestants:
        keys = _keys(contestant, settings)
        for k, (length, stops, tested) in enumerate(_runs(contestant, settings)):
            mine = [entries[contestant.name, label][k] for label in job.labels]
            options = {"shared": contestant.shared, "tested": tested, "records": Entries(mine)}
            try:
                curves(train, contestant.settings, keys, length, stops, advance, **options)
            finally:
                for entry in mine:
                    entry.save()


def _grid(contestant: Contestant, entries: Sequence[Entry], settings: Settings) -> Grid:
    """What is in the entries of one family, a run for each length; NaN on seeds that were not needed."""
    runs = list(_runs(contestant, settings))
    rows, seeds = range(contestant.rows), range(len(_keys(contestant, settings)))
    absent = settings.num_tuning_seeds + settings.num_seeds - len(seeds)
    found = []
    for entry in entries:
        parts = entry.get(rows, seeds)
        assert parts is not None  # `measure` has filled it
        shapes = ((x.shape[0], absent, x.shape[2]) for x in parts)
        unknown = (np.full(shape, np.nan, np.float32) for shape in shapes)
        found.append(Curves(*(np.concatenate(pair, 1) for pair in zip(unknown, parts, strict=True))))
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


def _longest(contestant: Contestant, settings: Settings) -> int:
    return settings.archive_steps if contestant.name == ADAM else settings.horizons[-1]


def _runs(contestant: Contestant, settings: Settings) -> Iterator[Run]:
    """A run for each horizon; a single one for a contestant that does not depend on the number of steps."""

    def readings(horizon):
        at = (round(horizon * (i + 1) / settings.readings) for i in range(settings.readings))
        return sorted({max(1, stop) for stop in at})

    if contestant.constant:
        length = _longest(contestant, settings)
        stops = sorted({length, *(stop for h in settings.horizons for stop in readings(h))})
        yield Run(length, tuple(stops), settings.horizons)
    else:
        for horizon in settings.horizons:
            yield Run(horizon, tuple(readings(horizon)), (horizon,))


def _steps(contestant: Contestant, settings: Settings) -> int:
    lengths = sum(run.length for run in _runs(contestant, settings))
    return contestant.rows * len(_keys(contestant, settings)) * lengths


def _jobs(missing: dict[str, tuple[Contestant, ...]], shapes: dict[str, str]) -> list[Job]:
    """Families of one shape that lack the same contestants, those of one program together."""
    groups: dict[Any, list[str]] = {}
    work: dict[Any, tuple[Contestant, ...]] = {}
    for label, lacking in missing.items():
        for program in dict.fromkeys(c.program for c in lacking):
            some = tuple(c for c in lacking if c.program == program)
            key = shapes[label], tuple(c.name for c in some)
            groups.setdefault(key, []).append(label)
            work[key] = some
    return [Job(tuple(labels), work[key]) for key, labels in groups.items()]


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
            Entry(path(c, family, run), c.settings, _keys(c, settings)) for run in _runs(c, settings)
        ]
        for c in contestants
        for label, family in described.items()
    }
