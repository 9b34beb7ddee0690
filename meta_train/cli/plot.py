"""`meta-train plot`: pictures of runs and of populations."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Declares the command and its options."""
    plot = commands.add_parser(
        "plot",
        help="draw a run, several runs, or a population",
        description="Of runs: meta-losses, signal-to-noise ratios, held-out scores. Of a population: every "
        "member over time.",
    )
    plot.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directory of a run or a population")
    plot.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: RUN/metrics.png, RUN/population.png, or runs/comparison.png for several runs",
    )
    plot.add_argument(
        "--inner-steps",
        action="store_true",
        help="over inner steps, which cost alike whatever the estimator; not for a population",
    )
    plot.set_defaults(command=plot_command)


def plot_command(args: argparse.Namespace) -> int:
    """`meta-train plot`."""
    from meta_train.errors import RunError
    from meta_train.population.interactive import plot_population
    from meta_train.population.run import holds_population
    from meta_train.run.plots import save
    from meta_train.run.session import plot

    populations, alone = [run for run in args.runs if holds_population(run)], len(args.runs) == 1
    if populations and not (alone and not args.inner_steps):
        raise RunError(f"{populations[0]} is a population, which is drawn alone, over its steps")
    name = "population.png" if populations else "metrics.png"
    file = args.out or (args.runs[0] / name if alone else Path("runs") / "comparison.png")
    figure = plot_population(args.runs[0]) if populations else plot(*args.runs, inner_steps=args.inner_steps)
    save(figure, file)
    print(f"drawn to {file}")
    return 0
