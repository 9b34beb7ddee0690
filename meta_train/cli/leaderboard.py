"""`meta-train leaderboard`."""

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "leaderboard",
        help="put evaluations side by side",
        description="Writes leaderboard.json, .csv, .png and .html.",
    )
    parser.add_argument(
        "evaluations", type=Path, nargs="+", metavar="DIR", help="directory that holds an evaluation.json"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / "leaderboard",
        metavar="DIR",
        help="default: runs/leaderboard",
    )
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Runs the command."""
    from meta_train.evaluation.leaderboard import leaderboard

    leaderboard(args.evaluations, args.out)
    return 0
