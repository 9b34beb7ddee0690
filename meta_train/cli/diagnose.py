"""`meta-train diagnose`."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Declares the command and its options."""
    diagnose = commands.add_parser(
        "diagnose", help="which estimator, K, sigma and how many particles: measured on a config's tasks"
    )
    diagnose.add_argument("config", metavar="CONFIG", help="a YAML file")
    diagnose.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replaces one value")
    diagnose.add_argument(
        "--run", type=Path, metavar="RUN", help="at a run's best theta, not the initial one"
    )
    diagnose.add_argument("--estimators", nargs="+", metavar="NAME", help="instead of the usual ones")
    diagnose.add_argument(
        "--truncation-lengths", type=int, nargs="+", metavar="K", help="instead of the config's"
    )
    diagnose.add_argument("--sigmas", type=float, nargs="+", metavar="S", help="instead of the config's")
    diagnose.add_argument("--samples", type=int, default=256, metavar="M", help="for each row (default: 256)")
    diagnose.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    diagnose.add_argument("--picture", type=Path, metavar="FILE", help="write a picture to FILE")
    diagnose.set_defaults(command=diagnose_command)


def diagnose_command(args: argparse.Namespace) -> int:
    """`meta-train diagnose`."""
    from meta_train.config import load as config_lib
    from meta_train.diagnose.report import diagnose_run

    diagnose_run(
        config_lib.load(args.config, args.overrides),
        run=args.run,
        estimators=args.estimators,
        truncation_lengths=args.truncation_lengths,
        sigmas=args.sigmas,
        num_samples=args.samples,
        json_file=args.json,
        picture=args.picture,
    )
    return 0
