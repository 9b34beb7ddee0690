"""Loss curves of whole inner trainings: settings of an optimizer x seeds x tasks of one shape, one program.

A hand-designed optimizer is here what a learned one is: `build(setting, num_steps)` makes it, and a setting
may be its learning rate. So Adam and a learned optimizer run through the same code, on the same tasks,
initial parameters and minibatches.
"""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tasks.base import TaskFamily

Build = Callable[[Any, Any], optax.GradientTransformation]  # (setting, num_steps) -> optimizer
EvalParams = Callable[[Any, Any], Any]  # (params, opt_state) -> where validation losses are read
PARALLEL_BYTES = 512 * 2**20  # of parameters, gradients and optimizer states trained at once
PARALLEL_ON_CPU = 250_000  # parameters trained at once on a CPU: more do not fit into its caches
STREAMS = ("evaluation", "tuning", "selection")


class Curves(NamedTuple):
    """What S seeds of G families of one shape did under L settings of one optimizer."""

    # f32[G, L, S, num_steps], the minibatch loss that step t computed before it updated the parameters. From
    # the first non-finite loss of a run on, all of it is +inf: a diverged run is worse than any other
    train: np.ndarray
    # f32[G, L, S, M], the mean loss on a few fixed minibatches of the "valid" split after `stops[m]` steps;
    # NaN where none was asked for or the family has no such split, +inf where it is not finite
    valid: np.ndarray
    test: np.ndarray  # f32[G, L, S, M], the same of the "test" split, where it was asked for


class Records(Protocol):
    """Where `curves` finds and leaves what each run did, so that it goes on after an interruption."""

    def get(self, rows: np.ndarray, seeds: range) -> Curves | None:
        """The curves of these settings and seeds, or None if one of them is missing."""

    def put(self, rows: np.ndarray, seeds: range, found: Curves) -> None:
        """Keeps the curves of these settings and seeds."""


class Trainer(NamedTuple):
    """One compiled training program; see `trainer`."""

    # the jitted `(settings [L, ...], shared, keys [S], num_steps i32[], stops i32[M], reads i32[M], data [G,
    # ...]) -> (train f32[G, L, S, max_steps], losses f32[G, L, S, M, 2])`, where `reads` says what is read at
    # each stop: 0 nothing, 1 the validation loss, 2 the test loss as well
    run: Any
    data: Any  # of the G families, stacked, on the device
    num_families: int  # G
    device: Any  # where it runs
    max_steps: int  # the length of the curves it has room for
    num_stops: int  # the number of stops that it is compiled for, where there are fewer
    rows_at_once: int  # how many settings one call takes
    splits: tuple[str, ...]  # which of "valid" and "test" it reads losses of
    parallel: int  # runs of one setting with one seed, in all families, that are to go on at once


def seed_keys(stream: str, num_seeds: int, seed: int = 0) -> jax.Array:
    """key[num_seeds]: the seeds of one stream. Two streams never share a key: what is tuned is not measured.

    Args:
      stream: "evaluation", "tuning" or "selection" (of the best checkpoint).
      num_seeds: how many. The first n of a longer list are the list of n.
      seed: another seed gives other keys in every stream.
    """
    key = jax.random.fold_in(jax.random.key(seed), STREAMS.index(stream))
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_seeds))


def trainer(
    families: TaskFamily | Sequence[TaskFamily],
    build: Build,
    max_steps: int,
    *,
    num_valid_batches: int = 8,
    num_stops: int = 1,
    rows_at_once: int = 1,
    eval_params: EvalParams | None = None,
    device: Any = None,
) -> Trainer:
    """A program that trains tasks with `build(setting, num_steps)`.

    One seed is one task of the family, one initialisation and one sequence of minibatches, whatever
    the optimizer, the number of steps, and the other seeds are. The number of steps is an argument:
    one compilation serves all horizons. Minibatches are gathered once for all settings.

    Args:
      families: one family, or several that differ in nothing but the values of their data; these travel as
        arguments of the program.
      build: `(setting, num_steps) -> optax.GradientTransformation`, traced; `update` also gets `value=loss`.
        The setting is `(setting, shared)` where `curves` is given what all settings share.
      max_steps: the longest training the program can hold.
      num_valid_batches: how many minibatches of the "valid" split, and of "test", are averaged; 0 for none.
      num_stops: times at which such losses are read, where `curves` asks for fewer: one compilation serves
        them all.
      rows_at_once: settings in one call.
      eval_params: `(params, opt_state) -> params` to read validation losses at; None for the parameters.
      device: where to run; None for jax's first.
    """
    families = [families] if isinstance(families, TaskFamily) else list(families)
    family = families[0]
    device = jax.local_devices()[0] if device is None else device
    splits = tuple(s for s in ("valid", "test") if num_valid_batches and s in family.data)

    run_one = _training(family, build, max_steps, splits, num_valid_batches, eval_params)
    limits = (None,) * 3
    over_settings = jax.vmap(run_one, (0, None, None, *limits, None))
    over_seeds = jax.vmap(over_settings, (None, None, 0, *limits, None), out_axes=1)
    # The size is given for families without data.
    over_families = jax.vmap(over_seeds, (None, None, None, *limits, 0), axis_size=len(families))
    # On a CPU, LLVM's full optimisation doubles the compile time of these programs and gains them nothing.
    options = {"xla_backend_optimization_level": 1} if device.platform == "cpu" else None
    run = jax.jit(over_families, compiler_options=options)
    data = jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *[f.data for f in families])
    return Trainer(
        run,
        jax.device_put(data, device),
        len(families),
        device,
        max_steps,
        num_stops,
        rows_at_once,
        splits,
        max(1, runs_at_once(family, device) // len(families)),
    )


def _training(family, build, max_steps, splits, num_valid_batches, eval_params) -> Callable[..., Any]:
    """One training of `Trainer.run`: one setting, one seed, one family."""

    def run_one(setting, shared, key, num_steps, stops, reads, data):
        key_cfg, key_init, key_steps, key_valid = jax.random.split(key, 4)
        task = family.task(family.sample(key_cfg))
        setting = setting if shared is None else (setting, shared)
        opt = optax.with_extra_args_support(build(setting, num_steps))

        def step(t, carry):
            params, opt_state, losses = carry
            loss, grads = jax.value_and_grad(task.loss)(
                params, jax.random.fold_in(key_steps, t), data["train"]
            )
            updates, opt_state = opt.update(grads, opt_state, params, value=loss)
            return optax.apply_updates(params, updates), opt_state, losses.at[t].set(loss)

        def held_out(split, params):
            keys = jax.random.split(key_valid, num_valid_batches)
            loss = jax.lax.map(lambda k: task.loss(params, k, data[split]), keys).mean()
            return jnp.where(jnp.isfinite(loss), loss, jnp.inf)

        def segment(carry, bounds):
            start, stop, read = bounds
            carry = jax.lax.fori_loop(start, stop, step, carry)
            params = carry[0] if eval_params is None else eval_params(*carry[:2])
            found = [jnp.float32(jnp.nan)] * 2
            for i, split in enumerate(splits):
                found[i] = jax.lax.cond(
                    read > i, partial(held_out, split), lambda _: jnp.float32(jnp.nan), params
                )
            return carry, jnp.stack(found)

        params = task.init(key_init)
        carry = params, opt.init(params), jnp.zeros([max_steps], jnp.float32)
        starts = jnp.concatenate([jnp.zeros(1, jnp.int32), stops[:-1]])
        (_, _, losses), read = jax.lax.scan(segment, carry, (starts, stops, reads))
        return losses, read

    return run_one


def curves(
    train: Trainer,
    settings: Any,
    keys: jax.Array,
    num_steps: int,
    stops: tuple[int, ...] | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    shared: Any = None,
    tested: Collection[int] = (),
    records: Records | None = None,
) -> Curves:
    """Curves of L settings x S seeds over `num_steps` steps, as many at once as are good for the device.

    Args:
      train: from `trainer`.
      settings: pytree with a leading axis L.
      keys: key[S].
      num_steps: the horizon, handed to `build`; at most `train.max_steps`.
      stops: ascending step counts after which the validation loss is read, the last one
        being `num_steps`; None for the end only.
      progress: called with the number of inner steps (of one run each) that a chunk has done.
      shared: what all settings share; None for nothing.
      tested: the stops after which the test loss is read too.
      records: what is known already is not run again; None for nothing.
    """
    stops = (num_steps,) if stops is None else stops
    if num_steps > train.max_steps or stops[-1] != num_steps or list(stops) != sorted(set(stops)):
        raise ValueError(f"stops must ascend to num_steps <= {train.max_steps}, got {stops} and {num_steps}")
    rows, seeds, families = len(jax.tree.leaves(settings)[0]), len(keys), train.num_families
    row_chunk = min(train.rows_at_once, train.parallel)
    at_once = max(1, train.parallel // row_chunk)
    seed_chunk = next(d for d in range(min(seeds, at_once), 0, -1) if seeds % d == 0)
    padding = [0] * (train.num_stops - len(stops))
    reads = np.array([*(1 + (stop in tested) for stop in stops), *padding], np.int32)
    limits = np.int32(num_steps), np.array([*stops, *(num_steps for _ in padding)], np.int32), reads
    limits, keys, shared = jax.device_put((limits, keys, shared), train.device)
    out = Curves(
        np.empty((families, rows, seeds, num_steps), np.float32),
        *(np.empty((families, rows, seeds, len(stops)), np.float32) for _ in range(2)),
    )
    for i in range(0, rows, row_chunk):
        # A chunk that is not full repeats rows: another shape would be compiled again.
        index = np.minimum(np.arange(i, i + row_chunk), rows - 1)
        some = None
        for j in range(0, seeds, seed_chunk):
            which = range(j, j + seed_chunk)
            found = None if records is None else records.get(index, which)
            if found is None:
                if some is None:
                    some = jax.device_put(
                        jax.tree.map(lambda x, index=index: x[index], settings), train.device
                    )
                loss, read = jax.device_get(
                    train.run(some, shared, keys[j : j + seed_chunk], *limits, train.data)
                )
                diverged = np.logical_or.accumulate(~np.isfinite(loss), axis=-1)
                loss = np.where(diverged, np.float32(np.inf), loss)
                found = Curves(loss[..., :num_steps], *(read[..., : len(stops), i] for i in (0, 1)))
                if records is not None:
                    records.put(index, which, found)
            for whole, part in zip(out, found, strict=True):
                whole[:, index[:, None], np.asarray(which)] = part
            if progress is not None:
                progress(families * len(np.unique(index)) * seed_chunk * num_steps)
    return out


def runs_at_once(family: TaskFamily, device: Any = None) -> int:
    """Runs that are trained at once: small ones side by side, large ones one after another.

    Counted are parameters, gradients and up to six accumulators, old and new; activations are not. The device
    is jax's first if it is None.
    """
    params = jax.eval_shape(lambda key: family.task(family.sample(key)).init(key), jax.random.key(0))
    leaves = jax.tree.leaves(params)
    if (device or jax.local_devices()[0]).platform == "cpu":
        return max(1, PARALLEL_ON_CPU // max(1, sum(math.prod(x.shape) for x in leaves)))
    return max(1, PARALLEL_BYTES // max(1, sum(16 * math.prod(x.shape) * x.dtype.itemsize for x in leaves)))


def final_loss(train: np.ndarray, final_steps: int) -> np.ndarray:
    """f64[...]: mean of the last steps of f32[..., num_steps]."""
    return train[..., -final_steps:].mean(-1, dtype=np.float64)


def smooth(train: np.ndarray, decay: float) -> np.ndarray:
    """Exponential moving average along the last axis, started at its first value."""
    out = np.array(train, np.float64)
    if not decay:  # 0 times +inf is no number
        return out
    for t in range(1, out.shape[-1]):
        out[..., t] = decay * out[..., t - 1] + (1 - decay) * out[..., t]
    return out
