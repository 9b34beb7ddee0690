"""`meta-train schema`: what an editor needs to complete and check config files."""

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Declares the command and its options."""
    schema = commands.add_parser(
        "schema",
        help="the JSON schema of config files, for editors",
        description="Prints the JSON schema of config files, those of runs and of populations alike. In VS "
        "Code, Neovim, Emacs and others, the YAML language server uses it for a file whose first line is "
        "# yaml-language-server: $schema=FILE",
    )
    schema.add_argument("--out", metavar="FILE", help="write it to FILE")
    schema.set_defaults(command=schema_command)


def schema_command(args: argparse.Namespace) -> int:
    """`meta-train schema`."""
    import json

    from meta_train.cli.json_schema import config_schema
    from meta_train.cli.output import write_json

    if args.out is None:
        print(json.dumps(config_schema(), indent=1))
        return 0
    write_json(args.out, config_schema())
    print(f"written to {args.out}; first line of a config: # yaml-language-server: $schema={args.out}")
    return 0
