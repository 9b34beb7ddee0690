"""The reference of an evaluation: Adam with its learning rate tuned per family and horizon, kept on disk."""

import dataclasses
import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge, Gt, Interval, MinLen

from meta_train.curves import Trainer, curves, seed_keys, trainer
from tasks.base import TaskFamily

Progress = Callable[[int], None] | None
SCHEDULES = ("constant", "cosine")
ROWS_AT_ONCE = 3  # few, as the last call may be padded; enough to keep two cores busy
LEARNING_RATES = tuple(float(f"{x:.4g}") for x in np.geomspace(1e-4, 0.3, 12))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What an evaluation measures.

    Args:
      horizons: lengths of the inner trainings that are compared, in steps.
      num_seeds: seeds that losses are read on. A seed is a task of the family, an
        initialisation and a sequence of minibatches, the same for all optimizers.
      num_tuning_seeds: other seeds, which the learning rates are chosen on.
      learning_rates: what Adam's is chosen from, ascending.
      archive_steps: length of the Adam trainings that the speed-up is measured against. No speed-up above
        archive_steps / horizon can be seen.
      smoothing: decay of the moving average of the losses that the speed-up compares.
      final_steps: the final loss is the mean of the training loss over so many last steps.
      num_valid_batches: minibatches of the "valid" split that the validation loss averages; 0 for none.
      seed: another one gives other seeds throughout.

    Raises:
      ValueError: settings that contradict each other.
    """

    horizons: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (200, 500)
    num_seeds: Annotated[int, Ge(1)] = 5
    num_tuning_seeds: Annotated[int, Ge(1)] = 5
    learning_rates: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)] = LEARNING_RATES
    archive_steps: Annotated[int, Ge(1)] = 2000
    smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.95
    final_steps: Annotated[int, Ge(1)] = 20
    num_valid_batches: Annotated[int, Ge(0)] = 8
    seed: int = 0

    def __post_init__(self):
        for name in ("horizons", "learning_rates"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if not values or values[0] <= 0 or list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be positive, ascending and distinct, got {values}")
        for name, least in (
            ("num_seeds", 1),
            ("num_tuning_seeds", 1),
            ("final_steps", 1),
            ("num_valid_batches", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {self.smoothing}")
        if self.horizons[0] < self.final_steps:
            raise ValueError(f"horizons must be >= final_steps ({self.final_steps}), got {self.horizons[0]}")
        if self.archive_steps < self.horizons[-1]:
            raise ValueError(
                f"archive_steps must be >= every horizon ({self.horizons[-1]}), got {self.archive_steps}"
            )


class Reference(NamedTuple):
    """Tuned Adam on one family: 2 schedules (constant, cosine), M horizons, L learning rates, S seeds.

    Attributes:
      chosen: i64[2, M], index of the learning rate with the lowest mean final loss on the tuning seeds.
      tuning: f64[2, M, L], those final losses; +inf where a run diverged.
      train: f32[2, M, S, longest horizon], training loss at the chosen learning rate on the evaluation
        seeds; NaN beyond the horizon.
      valid: f32[2, M, S], validation loss at the horizon.
      envelope: f32[S, archive_steps], smoothed training loss on the evaluation seeds of constant-rate Adam,
        at each step with the learning rate that was best *at that step* on the tuning seeds.
    """

    chosen: np.ndarray
    tuning: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    envelope: np.ndarray


def adam(theta: dict[str, Any], num_steps: Any) -> optax.GradientTransformation:
    """Adam as the `build` of a learned optimizer whose theta is its learning rate and schedule.

    Args:
      theta: "learning_rate", f32[]; "cosine", bool[]: decay to 0 over `num_steps`, as
        `optax.cosine_decay_schedule` does. Both are arrays, so one program runs both schedules.
      num_steps: i32[], may be traced.
    """

    def schedule(count):
        done = jnp.minimum(count / num_steps, 1.0)
        decay = jnp.where(theta["cosine"], 0.5 * (1 + jnp.cos(jnp.pi * done)), 1.0)
        return theta["learning_rate"] * decay

    return optax.adam(schedule)


def final_loss(train: np.ndarray, final_steps: int) -> np.ndarray:
    """f64[...]: mean of the last steps of f32[..., num_steps]."""
    return train[..., -final_steps:].mean(-1, dtype=np.float64)


def smooth(train: np.ndarray, decay: float) -> np.ndarray:
    """Exponential moving average along the last axis, started at its first value."""
    out = np.array(train, np.float64)
    for t in range(1, out.shape[-1]):
        out[..., t] = decay * out[..., t - 1] + (1 - decay) * out[..., t]
    return out


def reference_steps(settings: Settings) -> int:
    """Inner steps that `tuned_adam` makes at most, over all runs."""
    tuning = len(settings.learning_rates) * settings.num_tuning_seeds
    per_schedule = len(settings.learning_rates) * settings.num_seeds * settings.archive_steps
    cosine = (tuning + settings.num_seeds) * sum(settings.horizons)
    return tuning * settings.archive_steps + per_schedule + cosine


def tuned_adam(
    family: TaskFamily,
    settings: Settings,
    cache: Path | None = None,
    progress: Progress = None,
) -> Reference:
    """Adam on `family` with the best learning rate per horizon, chosen on other seeds than it is measured on.

    Args:
      family: the tasks.
      settings: the grid, the horizons, the seeds.
      cache: directory of results of earlier calls, made if need be; None keeps nothing. An entry's name is a
        hash of the lowered training program itself, of the data, the settings, the versions and the device
        kind, so it can not outlive a change of the task. A damaged entry is recomputed; one
        that cannot be written only warns.
      progress: told the number of inner steps of each chunk of work (all of them at once for a cache hit).
    """
    train = trainer(
        family,
        adam,
        settings.archive_steps,
        num_valid_batches=settings.num_valid_batches,
        rows_at_once=ROWS_AT_ONCE,
    )
    path = None if cache is None else Path(cache) / f"adam-{_digest(train, settings)}.npz"
    found = None if path is None else _load(path)
    if found is not None:
        if progress is not None:
            progress(reference_steps(settings))
        return found
    result = _tune(train, settings, progress)
    if path is not None:
        _store(path, result)
    return result


def _theta(settings: Settings, schedule: str, rows: Any = slice(None)) -> dict[str, np.ndarray]:
    rates = np.asarray(settings.learning_rates, np.float32)[rows]
    return {"learning_rate": rates, "cosine": np.full(rates.shape, schedule == "cosine")}


def _tune(train: Trainer, settings: Settings, progress: Progress) -> Reference:
    tuning = seed_keys("tuning", settings.num_tuning_seeds, settings.seed)
    seeds = seed_keys("evaluation", settings.num_seeds, settings.seed)
    # The same number of stops every time, so that one compilation does.
    stops = (*settings.horizons, settings.archive_steps)

    def run(schedule, keys, num_steps, rows: Any = slice(None)):
        capped = tuple(min(stop, num_steps) for stop in stops)
        return curves(train, _theta(settings, schedule, rows), keys, num_steps, capped, progress)

    def final(train_loss, horizon):
        return final_loss(train_loss[..., :horizon], settings.final_steps).mean(1)

    archive = run("constant", tuning, settings.archive_steps).train
    rate_at_step = smooth(archive, settings.smoothing).mean(1).argmin(0)
    tuned = [[final(archive, h) for h in settings.horizons]]
    tuned.append([final(run("cosine", tuning, h).train, h) for h in settings.horizons])
    tuned = np.array(tuned)
    chosen = tuned.argmin(-1)

    # On the evaluation seeds, only the learning rates that are the best of some step or horizon.
    rows = np.union1d(rate_at_step, chosen[0])
    measured = run("constant", seeds, settings.archive_steps, rows)
    if progress is not None:
        progress((len(settings.learning_rates) - len(rows)) * len(seeds) * settings.archive_steps)
    smoothed = smooth(measured.train, settings.smoothing)
    envelope = smoothed[np.searchsorted(rows, rate_at_step), :, np.arange(settings.archive_steps)].T

    best = np.full((*chosen.shape, len(seeds), settings.horizons[-1]), np.nan, np.float32)
    valid = np.empty((*chosen.shape, len(seeds)), np.float32)
    for m, horizon in enumerate(settings.horizons):
        row = np.searchsorted(rows, chosen[0, m])
        best[0, m, :, :horizon] = measured.train[row, :, :horizon]
        valid[0, m] = measured.valid[row, :, m]
        cosine = run("cosine", seeds, horizon, chosen[1, m : m + 1])
        best[1, m, :, :horizon], valid[1, m] = cosine.train[0], cosine.valid[0, :, -1]
    return Reference(chosen, tuned, best, valid, envelope.astype(np.float32))


def _digest(train: Trainer, settings: Settings) -> str:
    keys = seed_keys("evaluation", settings.num_seeds, settings.seed)
    stops = np.zeros(len(settings.horizons) + 1, np.int32)
    args = _theta(settings, "constant"), keys, np.int32(0), stops, train.family.data
    traced = train.run.trace(*args)
    digest = hashlib.sha256()
    for text in (
        traced.lower().as_text(),
        repr(settings),
        f"jax {jax.__version__} {jax.default_backend()} {jax.devices()[0].device_kind}",
    ):
        digest.update(text.encode() + b"\0")
    digest.update(Path(__file__).read_bytes())  # how the curves are turned into a Reference
    for x in jax.tree.leaves(jax.device_get((train.family.data, traced.jaxpr.consts))):
        digest.update(f"{x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()[:32]


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256()
    for name, x in sorted(arrays.items()):
        digest.update(f"{name} {x.dtype} {x.shape} ".encode() + np.ascontiguousarray(x).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def _load(path: Path) -> Reference | None:
    """The entry, or None if it is missing or damaged in any way."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not np.array_equal(arrays.pop("sha256"), _checksum(arrays)):
            return None
        return Reference(**arrays)
    except Exception:  # numpy and zipfile raise a dozen types on damaged files; the entry is recomputed
        return None


def _store(path: Path, reference: Reference) -> None:
    arrays = reference._asdict()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, sha256=_checksum(arrays), **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(buffer.getvalue())
        os.replace(file.name, path)
    except OSError as error:
        warnings.warn(f"cannot keep the tuned baseline in {path.parent}: {error}", stacklevel=2)
