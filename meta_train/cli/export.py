"""`meta-train export`."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Declares the command and its options."""
    export = commands.add_parser(
        "export", help="write a run's optimizer as a small artefact for learned_opt.load"
    )
    export.add_argument("run", type=Path, metavar="RUN", help="directory of a run, or of a population")
    export.add_argument(
        "--out", type=Path, metavar="DIR", help="directory of the artefact (default: RUN/optimizer)"
    )
    export.add_argument(
        "--last",
        action="store_true",
        help="the moving average at the newest checkpoint, not the theta of the best held-out score",
    )
    export.set_defaults(command=export_command)


def export_command(args: argparse.Namespace) -> int:
    """`meta-train export`."""
    from meta_train.cli.artefact import export_run

    for line in export_run(args.run, args.out or args.run / "optimizer", last=args.last):
        print(line)
    return 0
