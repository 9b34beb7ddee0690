"""`meta-train population`, `export-schedule` and `replay`: populations, and what they found."""

import argparse
from pathlib import Path

from meta_train.cli import processes


def add(commands: argparse._SubParsersAction) -> None:
    """Declares the three commands."""
    population = commands.add_parser(
        "population", help="search hyperparameters and their schedules with a population"
    )
    population.add_argument("config", metavar="CONFIG", help="a YAML file (configs/population_*.yaml)")
    population.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replaces one value")
    population.add_argument(
        "--out", type=Path, metavar="DIR", help="directory of the run (default: runs/CONFIG's name)"
    )
    population.add_argument("--resume", action="store_true", help="go on with the run in that directory")
    processes.add_options(population)
    population.set_defaults(command=population_command)

    export = commands.add_parser("export-schedule", help="write the schedule of a population's best member")
    export.add_argument("run", type=Path, metavar="RUN", help="directory of a population")
    export.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/schedule.json")
    export.set_defaults(command=export_schedule_command)

    replay = commands.add_parser("replay", help="train again from scratch with the winner's schedule")
    replay.add_argument("run", type=Path, metavar="RUN", help="directory of a population")
    replay.add_argument("--num-seeds", type=int, default=5, metavar="S", help="default: 5")
    replay.add_argument("--seed", type=int, default=0, metavar="SEED", help="default: 0")
    replay.add_argument("--json", type=Path, metavar="FILE", help="default: RUN/replay.json")
    replay.set_defaults(command=replay_command)


def population_command(args: argparse.Namespace) -> int:
    """`meta-train population`."""
    from meta_train.parallel import hosts
    from meta_train.population import config as config_lib
    from meta_train.population.interactive import train_population
    from meta_train.run.train import SILENT

    processes.join(args)
    config = config_lib.load(args.config, args.overrides)
    directory = args.out or Path("runs") / Path(args.config).stem
    first = hosts.is_first()
    display = None if first else SILENT
    result = train_population(config, directory, resume=args.resume, display=display)
    if not first:
        return 0
    print(f"best: member {result.slot}, fitness {result.fitness:.4f}")
    for name, value in result.test.items():
        print(f"  {name}: {value:.4f}")
    print(f"{config.rounds} rounds, this session {result.seconds:.0f} s; the run is in {directory}")
    print(f"next: meta-train plot {directory}; meta-train replay {directory}")
    if config.trainer["name"] == "meta_training":
        print(f"      meta-train evaluate {directory}; meta-train export {directory}")
    return 0


def export_schedule_command(args: argparse.Namespace) -> int:
    """`meta-train export-schedule`."""
    from meta_train.population.lineage import pieces
    from meta_train.population.replay import export_schedule

    file = args.out or args.run / "schedule.json"
    schedule = export_schedule(args.run, file)
    for piece in pieces(schedule):
        hypers = "  ".join(f"{name} {value:.6g}" for name, value in piece["hypers"].items())
        print(f"{piece['from']:>8} to {piece['to']:<8} {hypers}")
    print(f"written to {file}")
    return 0


def replay_command(args: argparse.Namespace) -> int:
    """`meta-train replay`."""
    from meta_train.errors import RunError
    from meta_train.population.replay import replay_run

    if args.num_seeds < 1:
        raise RunError(f"--num-seeds must be >= 1, got {args.num_seeds}")
    file = args.json or args.run / "replay.json"
    schedule, found = replay_run(args.run, file, num_seeds=args.num_seeds, seed=args.seed)
    print(f"in the population: fitness {schedule.fitness[-1]:.4f}")
    print(f"from scratch, {args.num_seeds} seeds: {_spread(found.fitness)}")
    for name, values in found.test.items():
        print(f"  {name}: {_spread(values)}")
    print(f"written to {file}")
    return 0


def _spread(values) -> str:
    return f"mean {values.mean():.4f}, from {values.min():.4f} to {values.max():.4f}"
