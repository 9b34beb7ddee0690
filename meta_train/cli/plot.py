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
    from meta_train.population.run import holds_population

    populations = [run for run in args.runs if holds_population(run)]
    if populations and (len(args.runs) > 1 or args.inner_steps):
        raise RunError(f"{populations[0]} is a population, which is drawn alone, over its steps")
    file = _plot_population(args.runs[0], args.out) if populations else _plot_runs(args)
    print(f"drawn to {file}")
    return 0


def _plot_runs(args: argparse.Namespace) -> Path:
    from meta_train.run.plots import save
    from meta_train.run.session import plot

    default = args.runs[0] / "metrics.png" if len(args.runs) == 1 else Path("runs") / "comparison.png"
    file = args.out or default
    save(plot(*args.runs, inner_steps=args.inner_steps), file)
    return file


def _plot_population(run: Path, out: Path | None) -> Path:
    from meta_train.population import lineage
    from meta_train.population.config import assemble
    from meta_train.population.pictures import save_population
    from meta_train.population.run import load_config

    config = load_config(run)
    records, parts = lineage.read(run), assemble(config)
    file = out or run / "population.png"
    log = [name for name, spec in config.hypers.items() if spec["name"] == "log"]
    copied = config.copied.weights
    save_population(parts.controller, parts.space, records, file, log=log, copied_weights=copied)
    return file
