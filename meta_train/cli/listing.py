"""`meta-train list` and `meta-train describe`: what a config can name."""

import argparse
from typing import Any

from meta_train.cli.output import write_json

KINDS = (
    "tasks",
    "named",
    "augmentations",
    "estimators",
    "optimizers",
    "controllers",
    "trainers",
    "scales",
)


def add(commands: Any) -> None:
    """Declares the two commands and their options."""
    listing = commands.add_parser("list", help="what a config can name")
    listing.add_argument("kind", choices=KINDS, metavar="|".join(KINDS))
    listing.add_argument("--json", metavar="FILE", help="write it to FILE")
    listing.set_defaults(command=list_command)

    describe = commands.add_parser(
        "describe", help="docstring, options and defaults of a name, or of `config`, `population`"
    )
    describe.add_argument("name", metavar="NAME")
    describe.set_defaults(command=describe_command)


def registries() -> dict[str, dict[str, Any]]:
    """The registries by the names that the command line gives them."""
    from meta_train.config.checks import default_registries
    from meta_train.population.controllers import CONTROLLERS
    from meta_train.population.space import SCALES
    from meta_train.population.trainers import TRAINERS

    found = default_registries()
    return {
        "tasks": found.tasks,
        "augmentations": found.augmentations,
        "estimators": found.estimators,
        "optimizers": found.learned_optimizers,
        "controllers": CONTROLLERS,
        "trainers": TRAINERS,
        "scales": SCALES,
    }


def list_command(args: argparse.Namespace) -> int:
    """`meta-train list`."""
    from meta_train.errors import show
    from tasks import NAMED

    if args.kind == "named":  # tasks by one word: what a config may write instead of the options
        summaries = {name: show(spec, 200) for name, spec in NAMED.items()}
    else:
        registry = registries()[args.kind]  # with the entry points of installed packages
        summaries = {name: _summary(registry, name) for name in registry}
    width = max(map(len, summaries))
    for name, summary in sorted(summaries.items()):
        print(f"{name:{width}}  {summary}")
    write_json(args.json, summaries)
    return 0


def _summary(registry: dict[str, Any], name: str) -> str:
    """The first line of a factory's docstring; why it cannot be used, where it cannot."""
    from meta_train.cli.describe import split_docstring
    from meta_train.errors import PieceError

    try:
        return split_docstring(registry[name])[0]
    except PieceError as error:
        return str(error)


def _own(name: str) -> dict[str, Any]:
    """The factory that FILE.py:FACTORY or package.module:FACTORY stands for, as a registry (ConfigError)."""
    from meta_train.config.own import load, split
    from meta_train.errors import ConfigError, PieceError, Problem

    parts = split(name)
    try:
        return {} if parts is None else {name: load(*parts, name)}
    except PieceError as error:
        raise ConfigError([Problem("", str(error))]) from error


def describe_command(args: argparse.Namespace) -> int:
    """`meta-train describe`."""
    from meta_train.cli.describe import describe, describe_model, render
    from meta_train.config.load import RunConfig
    from meta_train.errors import show
    from tasks import NAMED

    if args.name == "config":
        print(render(describe_model(RunConfig, "config")), end="")
        return 0
    if args.name == "population":
        from meta_train.population.config import PopulationConfig

        print(render(describe_model(PopulationConfig, "population")), end="")
        return 0
    everything = {name: factory for registry in registries().values() for name, factory in registry.items()}
    everything |= _own(args.name)
    if args.name in NAMED:
        print(f"{args.name}: a task by one word, for {show(NAMED[args.name], 200)}\n")
        args.name = NAMED[args.name]["name"]
    print(render(describe(everything, args.name)), end="")
    return 0
