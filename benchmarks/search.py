"""Searches for the numbers of `pretrained:general` by CMA-ES over whole trainings; resumable.

    python -m benchmarks.search runs/search --generations 60 --seed 1     # some 40 minutes of 2 cores
    python -m benchmarks.search runs/second --first --seed 2              # from where the first search began

The `spectral` optimizer has 87 meta-parameters; the search moves 21 numbers, of which `theta_of` makes all of
them. A generation trains every candidate on the same tasks, data and minibatches: each of fourteen small
families at 200 or at 1,000 steps, and one of two larger ones at 500. The score of a training is the logarithm
of the step speed-up over Adam, whose rate is the best of twelve at every step, where losing counts one and a
half times, plus the logarithm of Adam's best validation loss over its own. No task has data of an evaluation
ring.
"""

import argparse
import json
import pickle
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import learned_opt
import tasks
from learned_opt.architectures.features import FRACTIONS, TIMESCALES
from learned_opt.architectures.learned_rate import GROUPS

DIGITS, DOCS = ("digits[:1200]",), ("pydoc[:200000]",)
SMALL: dict[str, dict[str, Any]] = {
    "tanh": {"name": "image_mlp", "hidden": (48, 48), "activation": "tanh", "datasets": DIGITS},
    "batch_8": {"name": "image_mlp", "datasets": ("teacher:60",), "batch_size": 8},
    "conv": {"name": "image_conv", "datasets": DIGITS},
    "gru": {"name": "char_rnn", "core": "gru", "texts": ("markov:5",)},
    "autoencoder": {"name": "image_autoencoder", "hidden": (40,), "latent": 10, "datasets": DIGITS},
    "diabetes": {"name": "tabular_mlp"},
    "vit": {"name": "image_vit", "datasets": DIGITS},
    "field": {"name": "image_field", "datasets": DIGITS},
    "layer_norm": {"name": "image_mlp", "datasets": ("teacher:61",), "hidden": (32, 32), "norm": "layer"},
    "relu": {"name": "image_mlp", "datasets": DIGITS, "hidden": (32,), "permute_labels": True},
    "teacher_wide": {"name": "image_mlp", "datasets": ("teacher:63",), "hidden": (128,)},
    "batch_256": {"name": "image_mlp", "datasets": ("teacher:64",), "batch_size": 256},
    "rnn": {"name": "char_rnn", "core": "vanilla", "texts": ("markov:6",)},
    "mixer": {"name": "image_mixer", "datasets": DIGITS},
}
LARGE: dict[str, dict[str, Any]] = {
    "lm_25k": {"name": "transformer_lm", "texts": DOCS, "width": 32, "depth": 2, "length": 64},
    "mlp_50k": {"name": "image_mlp", "datasets": ("deformed:70[:4000]",), "hidden": (64, 64)},
}
SPECS = {**SMALL, **LARGE}
SHORT, LONG, OF_LARGE = 200, 1000, 500  # steps
SEEDS = range(100, 104)  # of tasks; a generation has one of them
SMOOTHED = 20  # steps over which a training loss is averaged
ARCHIVE = 4  # Adam's curves are so many times as long as the longest training
ADAM_RATES = np.logspace(-4, -0.3, 12)
MOST = 4.0  # the largest speed-up that counts
LOSING, VALIDATION = 1.5, 1.0  # weights in the score

# name -> where the search starts, and its first standard deviation
# The first search began at NorMuon with the powers of `log_t` at -.4 and `cosine` at 4, the second at the
# numbers of the first; both had no `decay_power` and `decay_course`, and counted validation losses by half.
# These are the numbers of the second, and the weight decay that was chosen after it.
NUMBERS: dict[str, tuple[float, float]] = {
    "level": (1.01, 0.4),  # log rate over .03
    "vectors": (0.49, 0.6),  # the same of vectors and of kernels, over that of matrices
    "kernels": (1.46, 0.5),
    "log_t": (-0.5, 0.2),  # of matrices and kernels
    "log_t_vectors": (-0.4, 0.3),
    "certainty": (0.32, 0.3),  # per unit of a signal, a tensor's own and the mean over all
    "mean_certainty": (-0.03, 0.3),
    "cosine": (4.17, 2.0),
    "mean_cosine": (-3.64, 2.0),
    "agreement": (6.88, 3.0),
    "mean_agreement": (-2.27, 3.0),
    "vectors_cosine": (3.92, 2.0),  # means
    "vectors_agreement": (4.3, 3.0),
    "early": (-0.3, 0.3),  # log rate in the first fifth of the steps, before and in the last fifth
    "middle": (0.33, 0.3),
    "late": (1.16, 0.3),
    "narrow": (0.33, 0.15),  # power of the width below 64
    "momentum": (-1.54, 0.4),
    "log_decay": (-0.3, 1.0),  # weight decay over .01, in the middle of the training
    "decay_power": (-1.0, 0.5),  # of the number of steps over 500
    "decay_course": (-2.0, 1.0),  # its logarithm at the end less that in the middle
}
SPREAD, FIRST_SPREAD = 0.3, 0.5  # of the first generation, in these deviations
FIRST = {"log_t": -0.4, "log_t_vectors": -0.4, "cosine": 4.0}  # NorMuon; all else is 0
WIDE = 0.0  # power of the width above 64, which no task of the search has
RATE, DECAY = 0.03, 0.01


def theta_of(numbers: Any, wide: float = WIDE, hidden: int = 0) -> Any:
    """The meta-parameters of `spectral`, whose rate is RATE, that the numbers stand for.

    Args:
      numbers: f32[21], in the order of NUMBERS; may be traced.
      wide: power of the width above 64, which is chosen on larger tasks afterwards.
      hidden: width of a network that changes nothing yet; 0 for none.
    """
    of = dict(zip(NUMBERS, numbers, strict=True))
    slow = len(TIMESCALES) - 1
    bend = [len(TIMESCALES) + FRACTIONS.index(fraction) for fraction in (0.2, 0.8)]
    shape = jnp.zeros(len(TIMESCALES) + len(FRACTIONS) + 1)
    shape = shape.at[bend[0]].set((of["middle"] - of["early"]) / 2)
    shape = shape.at[bend[1]].set((of["late"] - of["middle"]) / 2)
    middle = (of["early"] + of["late"]) / 2
    own = jnp.stack([of[name] for name in ("certainty", "cosine", "agreement")])
    mean = jnp.stack([of["mean_" + name] for name in ("certainty", "cosine", "agreement")])
    vectors = jnp.stack([0.0, of["vectors_cosine"], of["vectors_agreement"]])
    theta = learned_opt.spectral(hidden=hidden).init(jax.random.key(0))
    for group in GROUPS:
        level = of["level"] + middle + (0.0 if group == "matrices" else of[group])
        # The slowest scale is a constant, tanh(-1), but for 1 % in 2,000 steps.
        schedule = shape.at[slow].set(level / np.tanh(-1.0))
        is_vector = group == "vectors"
        theta["schedule"][group] = schedule.at[-1].set(of["log_t_vectors" if is_vector else "log_t"])
        theta["signals"][group] = jnp.concatenate([0 * own, vectors] if is_vector else [own, mean])
    decay = jnp.stack([of["log_decay"], of["decay_power"], of["decay_course"]])
    width = jnp.stack([of["narrow"], wide])
    return {**theta, "width": width, "momentum": of["momentum"], "weight_decay": decay}


def trainer(spec: dict[str, Any], build: Any, steps: int, *, curves: bool = False) -> Any:
    """`(settings f32[S, ...], seed) -> (training losses [S] or curves [S, steps / 20], validation [S])`.

    Args:
      spec: of the task family.
      build: `(setting, num_steps) -> optimizer`.
      steps: T.
      curves: the means of all SMOOTHED steps instead of the last mean.
    """
    family = tasks.make(spec)

    def train(setting, seed, data):
        key_cfg, key_params, key_steps = jax.random.split(jax.random.key(seed), 3)
        task = family.task(family.sample(key_cfg))
        tx = optax.with_extra_args_support(build(setting, steps))

        def step(carry, t):
            params, state = carry
            loss, grads = jax.value_and_grad(task.loss)(
                params, jax.random.fold_in(key_steps, t), data["train"]
            )
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        start = task.init(key_params)
        (params, _), losses = jax.lax.scan(step, (start, tx.init(start)), jnp.arange(steps))
        keys = jax.random.split(jax.random.key(99), 16)
        valid = jax.lax.map(lambda key: task.loss(params, key, data["valid"]), keys).mean()
        means = losses.reshape(-1, SMOOTHED).mean(-1)
        return means if curves else means[-1], valid

    run = jax.jit(jax.vmap(train, (0, None, None)))
    return lambda settings, seed: jax.device_get(run(jnp.asarray(settings, jnp.float32), seed, family.data))


def adam(name: str, steps: int, seed: int, cache: Path) -> tuple[np.ndarray, float]:
    """Adam's least loss by every SMOOTHED steps, over its rates, and its best validation loss at `steps`."""
    length = ARCHIVE * (LONG if name in SMALL else OF_LARGE)
    found = []
    for total, curves in ((length, True), (steps, False)):
        path = cache / f"{name}-{total}-{seed}.npy"
        if not path.exists():
            run = trainer(SPECS[name], lambda rate, t: optax.adam(rate), total, curves=curves)
            values = run(ADAM_RATES, seed)[0 if curves else 1]
            cache.mkdir(parents=True, exist_ok=True)
            np.save(path, np.where(np.isfinite(values), values, np.inf).min(0))
        found.append(np.load(path))
    return np.minimum.accumulate(found[0]), float(found[1])


def log_speed_up(loss: float, envelope: np.ndarray, steps: int) -> float:
    """Logarithm of Adam's steps to this loss over `steps`, between those of 0.05 and MOST."""
    reached = int(np.sum(envelope > loss)) if np.isfinite(loss) else -1
    if reached == len(envelope):
        return float(np.log(MOST))
    needed = SMOOTHED * (reached + 1)
    if reached > 0:
        above, below, here = (np.log(max(x, 1e-12)) for x in (*envelope[reached - 1 : reached + 1], loss))
        needed = SMOOTHED * (reached + (above - here) / max(above - below, 1e-12))
    return float(np.log(np.clip(needed / steps, 0.05, MOST)))


def scores(candidates: np.ndarray, cells: list[tuple[str, int]], seed: int, cache: Path, runs: dict) -> Any:
    """Log speed-up and log ratio of validation losses, two f64[candidates, cells].

    Args:
      candidates: f64[candidates, 21].
      cells: task and steps.
      seed: of the tasks.
      cache: where Adam's curves are kept.
      runs: the programs that were compiled; those that are not there are added.
    """
    speed, validation = np.zeros((2, len(candidates), len(cells)))
    for j, (name, steps) in enumerate(cells):
        if (name, steps) not in runs:
            lopt = learned_opt.spectral(learning_rate=RATE, weight_decay=DECAY)
            runs[name, steps] = trainer(
                SPECS[name], lambda x, t, lopt=lopt: lopt.build(theta_of(x), t), steps
            )
        envelope, best = adam(name, steps, seed, cache)
        losses, valid = runs[name, steps](candidates, seed)
        speed[:, j] = [log_speed_up(loss, envelope, steps) for loss in losses]
        validation[:, j] = np.clip(np.nan_to_num(np.log(best / valid), nan=-1.5), -1.5, 1.5)
    return speed, validation


def score(speed: np.ndarray, validation: np.ndarray, weight: float = VALIDATION) -> np.ndarray:
    """f64[candidates], larger is better; `weight` is that of the validation losses."""
    return (np.where(speed < 0, LOSING * speed, speed) + weight * validation).mean(1)


def search(
    directory: Path,
    generations: int,
    seed: int,
    population: int,
    first: bool = False,
    weight: float = VALIDATION,
) -> None:
    """Goes on until `generations` are done, and writes its state after each of them.

    Args:
      directory: of the search.
      generations: in all.
      seed: of the candidates and of the tasks.
      population: candidates in a generation.
      first: begin where the first search began instead of at the numbers that it and the second one found.
      weight: of the validation losses, from here on.
    """
    import cma

    state, log = directory / "state.pickle", directory / "log.jsonl"
    cache, runs = directory.parent / "search_adam", {}
    directory.mkdir(parents=True, exist_ok=True)
    shipped, scale = np.array(list(NUMBERS.values())).T
    if state.exists():
        strategy, draw, done, origin = pickle.loads(state.read_bytes())
    else:
        options = {"popsize": population, "seed": seed, "verbose": -9}
        strategy = cma.CMAEvolutionStrategy(
            np.zeros(len(NUMBERS)), FIRST_SPREAD if first else SPREAD, options
        )
        draw, done = np.random.default_rng(seed), 0
        origin = np.array([FIRST.get(name, 0.0) for name in NUMBERS]) if first else shipped
    for generation in range(done, generations):
        start, names = time.perf_counter(), draw.permutation(list(SMALL))
        half = len(names) // 2
        cells = [(str(n), SHORT if i <= half else LONG) for i, n in enumerate(names)]
        cells.append((list(LARGE)[generation % len(LARGE)], OF_LARGE))
        asked = strategy.ask()
        tried = origin + scale * np.array([*asked, strategy.mean])
        speed, validation = scores(tried, cells, int(draw.choice(SEEDS)), cache, runs)
        found = score(speed, validation, weight)
        strategy.tell(asked, list(-found[:-1]))
        row = {
            "generation": generation,
            "weight": weight,
            "score_of_mean": found[-1],
            "scores": [found[:-1].mean(), found.max()],
            "speed_up": float(np.exp(speed[-1].mean())),
            "validation": float(np.exp(-validation[-1].mean())),
            "spread": strategy.sigma,
            "mean": dict(zip(NUMBERS, (origin + scale * strategy.mean).round(4).tolist(), strict=True)),
            "seconds": time.perf_counter() - start,
        }
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        temporary = state.with_suffix(".tmp")
        temporary.write_bytes(pickle.dumps((strategy, draw, generation + 1, origin)))
        temporary.replace(state)
        shown = {k: v for k, v in row.items() if k not in ("mean", "scores")}
        print("  ".join(f"{k} {v:.3g}" for k, v in shown.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--generations", type=int, default=60)
    parser.add_argument("--population", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", action="store_true", help="begin where the first search began")
    parser.add_argument(
        "--weight",
        type=float,
        default=VALIDATION,
        help="of the validation losses in the score, from here on (default: 1)",
    )
    args = parser.parse_args()
    search(args.directory, args.generations, args.seed, args.population, args.first, args.weight)


if __name__ == "__main__":
    main()
