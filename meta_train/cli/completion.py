"""`meta-train completion`: a script that completes commands, options and files in a shell."""

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Any) -> None:
    """Declares the command and its options."""
    completion = commands.add_parser(
        "completion",
        help="a script that completes commands and options in a shell",
        description="Prints the script. bash: meta-train completion bash > "
        "~/.local/share/bash-completion/completions/meta-train; zsh: meta-train completion zsh > "
        "a folder of $fpath/_meta-train",
    )
    completion.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS))
    completion.set_defaults(command=completion_command)


def completion_command(args: argparse.Namespace) -> int:
    """`meta-train completion`."""
    import shtab

    print(shtab.complete(with_files(args.parser), shell=args.shell))
    return 0


def with_files(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, whose arguments that are files or directories say so to shtab."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                with_files(inner)
            continue
        if isinstance(action.choices, dict):  # shtab takes a dict for commands
            action.choices = list(action.choices)
        if action.metavar in ("DIR", "RUN", "RUN_OR_ARTEFACT"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in ("FILE", "CONFIG", "SOURCE"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
