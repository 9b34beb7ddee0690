"""`meta-train import`: a learned optimizer that another codebase published, as an artefact."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Declares the command and its options."""
    parser = commands.add_parser(
        "import", help="make an artefact of a learned optimizer that another codebase published"
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="its file, or the directory of it (docs/importing.md)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="what the files do not say; asked for by name"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="directory of the artefact"
    )
    parser.set_defaults(command=import_command)


def import_command(args: argparse.Namespace) -> int:
    """`meta-train import`."""
    from learned_opt import importers
    from meta_train.config import file as config_file
    from meta_train.errors import ConfigError, Problem

    settings, problems = config_file.override({}, args.overrides, lambda *_: None)
    if problems:
        raise ConfigError(problems)
    try:
        found = importers.convert(args.source, args.out, **settings)
    except importers.SettingProblem as error:
        raise ConfigError([Problem("", str(error))]) from error
    print(f"{found.name} of {args.source} ({found.provenance['format']}) is in {args.out}")
    print(f"options: {', '.join(f'{key}={value}' for key, value in found.options.items()) or 'the defaults'}")
    print(f"use it: tx = learned_opt.load({str(args.out)!r}, num_steps=...)")
    return 0
