"""`meta-train verify`."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "verify",
        help="check the files of a run, a population or an artefact",
        description="Checks digests, the config against the checkpoints, the metrics against the steps, and "
        "that theta is finite. Prints one line for each check; the exit code is 1 if one fails.",
    )
    parser.add_argument(
        "directory",
        type=Path,
        metavar="RUN_OR_ARTEFACT",
        help="directory of a run, a population or an artefact",
    )
    parser.set_defaults(command=verify_command)


def verify_command(args: argparse.Namespace) -> int:
    """`meta-train verify`."""
    from meta_train.cli.verification import verify

    failed = False
    for check in verify(args.directory):
        print(f"{'ok    ' if check.passed else 'FAILED'} {check.text}")
        failed |= not check.passed
    return int(failed)
