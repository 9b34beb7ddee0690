"""All trainings of an evaluation: one program for each shape and optimizer, in threads, kept on disk."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.errors import RunError
from meta_train.evaluation import cache as cache_lib
from meta_train.evaluation.curves import curves, seed_keys, trainer
from meta_train.evaluation.optimizers import Contestant
from meta_train.evaluation.protocol import ADAM, Settings
from tasks.base import TaskFamily

Progress = Callable[[int, int, str], None]
ROWS_AT_ONCE = 5  # on a CPU: about so many settings at once fit its cache


class Grid(NamedTuple):
    """What one contestant did on one family: L settings (and wrong horizons), S tuning and evaluation seeds.

    Attributes:
      runs: f32[L, S, steps] of training losses: one for each horizon, or a single one whose beginnings
        are those of all horizons.
      valid: f32[L, S, M], validation losses at the M horizons.
    """

    runs: tuple[np.ndarray, ...]
    valid: np.ndarray

    def train(self, m: int, horizon: int) -> np.ndarray:
        """f32[L, S, horizon]: the training losses of horizon number m."""
        return self.runs[m if len(self.runs) > 1 else 0][..., :horizon]


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
      cache: directory of what hand-designed contestants did in earlier calls, made if need be; None keeps
        nothing. A damaged entry is recomputed; one that cannot be written only warns.
      progress: told `(inner steps done, of how many, what was run)`; what is cached is not counted.

    Raises:
      RunError: a training that the device refuses, out of memory for instance.
    """
    described = {label: cache_lib.digests(family) for label, family in families.items()}
    paths = _entries(contestants, described, settings, cache)
    grids = {c.name: {} for c in contestants}
    for (name, label), path in paths.items():
        arrays = cache_lib.load(path)
        if arrays is not None:
            grids[name][label] = _grid(arrays)
    missing = {label: tuple(c for c in contestants if label not in grids[c.name]) for label in families}
    jobs = _jobs(missing, {label: d.program for label, d in described.items()})
    total = sum(len(job.labels) * _steps(c, settings) for job in jobs for c in job.contestants)
    tell = _counted(total, progress)

    def run(job: Job, device: Any, stop: Callable[[], None]):
        text = f"{', '.join(job.labels)}: {job.contestants[0].program}"

        def advance(steps):
            stop()
            tell(steps, text)

        for contestant, found in _run(job, families, settings, device, advance):
            for label, grid in found.items():
                grids[contestant.name][label] = grid
                if (contestant.name, label) in paths:
                    cache_lib.store(paths[contestant.name, label], _arrays(grid))

    _in_threads(run, jobs)
    return Measured(grids, {label: d.program for label, d in described.items()})


def all_keys(settings: Settings) -> jax.Array:
    """key[S]: the tuning seeds, then the evaluation seeds."""
    return jnp.concatenate(
        [
            seed_keys("tuning", settings.num_tuning_seeds, settings.seed),
            seed_keys("evaluation", settings.num_seeds, settings.seed),
        ]
    )


def _run(job: Job, families, settings: Settings, device, advance):
    """Yields each contestant's grids by label."""
    first = job.contestants[0]
    rows = len(jax.tree.leaves(first.settings)[0])
    calls = -(-rows // ROWS_AT_ONCE) if device.platform == "cpu" else 1
    train = trainer(
        [families[label] for label in job.labels],
        first.build,
        max(_longest(c, settings) for c in job.contestants),
        num_valid_batches=settings.num_valid_batches,
        rows_at_once=-(-rows // calls),
        eval_params=first.eval_params,
        device=device,
    )
    keys = all_keys(settings)
    for contestant in job.contestants:
        lengths = [_longest(contestant, settings)] if contestant.constant else settings.horizons
        found = []
        for length in lengths:
            # The same number of stops every time, so that one compilation does.
            stops = (*(min(h, length) for h in settings.horizons), length)
            found.append(
                curves(train, contestant.settings, keys, length, stops, advance, shared=contestant.shared)
            )
        valid = np.stack(
            [found[0 if contestant.constant else m].valid[..., m] for m in range(len(settings.horizons))], -1
        )
        yield (
            contestant,
            {label: Grid(tuple(f.train[g] for f in found), valid[g]) for g, label in enumerate(job.labels)},
        )


def _longest(contestant: Contestant, settings: Settings) -> int:
    return settings.archive_steps if contestant.name == ADAM else settings.horizons[-1]


def _steps(contestant: Contestant, settings: Settings) -> int:
    rows = len(jax.tree.leaves(contestant.settings)[0])
    length = _longest(contestant, settings) if contestant.constant else sum(settings.horizons)
    return rows * (settings.num_tuning_seeds + settings.num_seeds) * length


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


def _in_threads(run: Callable[[Job, Any, Callable[[], None]], None], jobs: list[Job]) -> None:
    """Runs the jobs, each thread with a device of its own if there are enough; the first error ends all."""
    here = jax.local_devices()
    workers = max(2, len(here))
    devices: queue.SimpleQueue = queue.SimpleQueue()
    for i in range(workers):
        devices.put(here[i % len(here)])
    stopped = threading.Event()

    def stop():
        if stopped.is_set():
            raise InterruptedError

    def work(job):
        stop()
        device = devices.get()
        try:
            run(job, device, stop)
        except jax.errors.JaxRuntimeError as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise RunError(
                f"cannot train {', '.join(job.labels)} with {job.contestants[0].name}: {reason}"
            ) from error
        finally:
            devices.put(device)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _counted(total: int, progress: Progress | None) -> Callable[[int, str], None]:
    lock, done = threading.Lock(), [0]

    def tell(steps: int, text: str) -> None:
        with lock:
            done[0] += steps
            if progress is not None:
                progress(done[0], total, text)

    return tell


def _entries(
    contestants: Sequence[Contestant],
    described: dict[str, cache_lib.Digests],
    settings: Settings,
    cache: Path | None,
) -> dict[tuple[str, str], Path]:
    """Contestant's name and label -> file of the cache; learned optimizers have none."""
    if cache is None:
        return {}
    code = cache_lib.code_version()
    return {
        (c.name, label): Path(cache) / _entry(c, family, settings, code)
        for c in contestants
        if not c.learned
        for label, family in described.items()
    }


def _entry(contestant: Contestant, family: cache_lib.Digests, settings: Settings, code: str) -> str:
    texts = [
        code,
        *family,
        contestant.program,
        repr((contestant.constant, _longest(contestant, settings), settings.horizons, settings.seed)),
        repr((settings.num_tuning_seeds, settings.num_seeds, settings.num_valid_batches)),
    ]
    return f"{contestant.program}-{cache_lib.hash_of(texts, contestant.settings)[:32]}.npz"


def _arrays(grid: Grid) -> dict[str, np.ndarray]:
    return {"valid": grid.valid} | {f"train_{i}": run for i, run in enumerate(grid.runs)}


def _grid(arrays: dict[str, np.ndarray]) -> Grid:
    return Grid(tuple(arrays[f"train_{i}"] for i in range(len(arrays) - 1)), arrays["valid"])
