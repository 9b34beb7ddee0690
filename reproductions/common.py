"""What the reproductions share: outer training of many seeds at once, the command line, the pictures."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.artefact.reading import FileError, read_json
from meta_train.core.outer import make_outer_step
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import GradientEstimator
from reproductions.systems.outer_problem import OuterProblem

# Colours that stay apart without colour vision (Okabe and Ito), then more of them, distinguished by dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F")


def trajectories(
    problem: OuterProblem,
    estimator: GradientEstimator,
    optimizer: optax.GradientTransformation,
    *,
    outer_steps: int,
    every: int,
    seeds: list[int],
    starts: Any = None,
) -> Any:
    """theta along outer training, like theta with leaves [seeds, outer_steps // every + 1, ...].

    Args:
      problem: what is trained.
      estimator: of its outer gradient.
      optimizer: outer optimizer.
      outer_steps: how many.
      every: outer steps from one recorded theta to the next.
      seeds: of the runs; they are trained together.
      starts: theta of each run to begin with, leaves [seeds, ...]; None for the problem's own.
    """

    def run(seed, start, data):
        init_theta = problem.init_theta if start is None else lambda key: start
        outer = make_outer_step(init_theta, estimator, optimizer, steps_per_call=every)

        def call(state, _):
            return outer.step(state, data)[0], state.theta

        state, thetas = jax.lax.scan(call, outer.init(jax.random.key(seed)), None, outer_steps // every)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), thetas, state.theta)

    run = jax.jit(jax.vmap(run, (0, 0, None)))
    return jax.tree.map(np.asarray, run(jnp.asarray(seeds), starts, problem.data))


def mean_losses(
    system: UnrolledSystem, thetas: Any, key: jax.Array, data: Any, *, num_steps: int, episodes: int = 1
) -> np.ndarray:
    """f64[M]: mean loss per step of whole inner problems at each of M thetas (leaves [M, ...]).

    The key is consumed; every theta meets the same `episodes` inner problems of `num_steps` steps.
    """

    def one(theta, key, data):
        key_init, key_steps = jax.random.split(key)

        def step(state, key):
            return system.step(theta, state, key, data)

        state, _ = system.init(theta, key_init)
        return jax.lax.scan(step, state, jax.random.split(key_steps, num_steps))[1].mean()

    keys = jax.random.split(key, episodes)
    many = jax.jit(jax.vmap(jax.vmap(one, (None, 0, None)), (0, None, None)))
    return np.asarray(many(thetas, keys, data), np.float64).mean(1)


def progress(label: str) -> None:
    """Tells on stderr what is done."""
    print(f"  {label}: done", file=sys.stderr, flush=True)


def main(
    doc: str,
    run: Callable[[bool, list[int]], dict[str, Any]],
    draw: Callable[[dict[str, Any], Any], None],
    *,
    seeds: list[int],
    argv: list[str] | None = None,
) -> dict[str, Any]:
    """The command line of a reproduction.

    Args:
      doc: its help.
      run: `(fast, seeds) -> result`, a tree of numbers, lists and strings; result["summary"] is printed.
      draw: `(result, figure)` draws it on a matplotlib figure.
      seeds: default of --seeds.
      argv: arguments; None for those of the process.

    Returns:
      The result.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--fast", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds, help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.add_argument(
        "--read", type=_numbers, metavar="FILE", help="the numbers of --json, instead of a run"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="draw the picture")
    options = parser.parse_args(argv)
    began = time.perf_counter()
    if options.read:
        result = options.read
    else:
        result = run(options.fast, options.seeds)
        result |= {"seeds": options.seeds, "fast": options.fast}
        result["seconds"] = round(time.perf_counter() - began, 1)
    for name, value in result["summary"].items():
        print(f"{name}: {value}")
    print(f"wall time: {result['seconds']} s")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result) + "\n", encoding="utf-8")
    if options.out:
        save_picture(draw, result, options.out)
    return result


def _numbers(path: str) -> dict[str, Any]:
    """What --json wrote."""
    try:
        found = read_json(path)
    except FileError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not isinstance(found, dict) or "summary" not in found or "seconds" not in found:
        raise argparse.ArgumentTypeError(f"{path} is not what --json writes")
    return found


def save_picture(draw: Callable[[dict[str, Any], Any], None], result: dict[str, Any], path: Path) -> None:
    """Draws a result and writes it; the ending of `path` names the format."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "font.size": 10,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9, 4), layout="constrained", dpi=130)
        FigureCanvasAgg(figure)
        draw(result, figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
