"""The command line, `meta-train`. Every error that a user can make is one line and exit code 2."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from meta_train.commands import evaluate, imports, leaderboard, population

EXIT_REFUSED, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130
MOST_CPU_DEVICES = 16
KINDS = ("tasks", "named", "augmentations", "estimators", "optimizers", "systems")
# Modules with an `add(commands)` each; light to import: what a command needs is imported when it runs.
COMMANDS = (evaluate, imports, population, leaderboard)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and exits."""
    sys.exit(command(sys.argv[1:] if argv is None else argv))


def command(argv: list[str]) -> int:
    """Runs one command and returns its exit code: 0, 1 failed, 2 refused, 130 interrupted."""
    args = parser().parse_args(argv)
    _refuse_foreign_tasks()
    _offer_cpu_devices()
    from learned_opt import ArtefactError
    from meta_train.checkpoint import CheckpointError
    from meta_train.hooks import Interrupted, RunError
    from meta_train.metrics import MetricsError
    from meta_train.problems import ConfigError

    try:
        return args.command(args) or 0
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except (RunError, CheckpointError, MetricsError, ArtefactError) as error:
        print(f"meta-train: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Interrupted as error:
        print(f"meta-train: {error}; go on with: {_resume_command(argv)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("meta-train: stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `meta-train list tasks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="meta-train", description="Meta-train learned optimizers, and use them."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="meta-train as a config file says")
    run.add_argument("config", metavar="CONFIG", help="a YAML file")
    run.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replaces one value of the config")
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="directory of the run (default: runs/CONFIG's name)"
    )
    run.add_argument("--resume", action="store_true", help="go on with the run in that directory")
    run.add_argument("--dry-run", action="store_true", help="print the resolved config and what it will take")
    run.add_argument("--json", metavar="FILE", help="write what was measured to FILE")
    run.add_argument(
        "--profile", type=Path, metavar="DIR", help="write a JAX trace of a few outer steps to DIR"
    )
    run.set_defaults(command=run_command)

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

    export = commands.add_parser(
        "export", help="write a run's optimizer as a small artefact for learned_opt.load"
    )
    export.add_argument("run", type=Path, metavar="RUN", help="directory of a run")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the artefact")
    export.set_defaults(command=export_command)

    listing = commands.add_parser("list", help="what a config can name")
    listing.add_argument("kind", choices=KINDS, metavar="|".join(KINDS))
    listing.add_argument("--json", metavar="FILE", help="write it to FILE")
    listing.set_defaults(command=list_command)

    describe = commands.add_parser(
        "describe", help="docstring, options and defaults of a name, or of `config`"
    )
    describe.add_argument("name", metavar="NAME")
    describe.set_defaults(command=describe_command)

    for module in COMMANDS:
        module.add(commands)
    return top


def run_command(args: argparse.Namespace) -> int:
    """`meta-train run`."""
    from meta_train import config as config_lib
    from meta_train import train
    from meta_train.display import progress_display

    config = config_lib.load(args.config, args.overrides)
    directory = args.out or Path("runs") / Path(args.config).stem
    if args.dry_run:
        return dry_run(config, args.json)
    with progress_display(config.outer_steps) as display:
        result = train.run(config, directory, resume=args.resume, display=display, profile=args.profile)
    if result.start_seconds is None:
        print(f"{directory} is finished already: {result.outer_steps} outer steps")
    else:
        print(
            f"{result.outer_steps} outer steps in {result.seconds:.0f} s, the first after "
            f"{result.start_seconds:.1f} s; the run is in {directory}"
        )
        print(f"next: meta-train evaluate {directory}")
    _write_json(
        args.json,
        {
            "directory": str(directory),
            "outer_steps": result.outer_steps,
            "seconds": result.seconds,
            "start_seconds": result.start_seconds,
        },
    )
    return 0


def dry_run(config: Any, json_file: str | None) -> int:
    """Prints the resolved config and the forecast of the run's size; compiles nothing."""
    from meta_train import config as config_lib
    from meta_train.experiment import assemble, forecast
    from meta_train.train import set_up_jax

    set_up_jax(config)
    sizes = forecast(assemble(config))
    print(config_lib.to_yaml(config))
    mib = 2**20
    print(f"# meta-parameters        {sizes.num_meta_parameters:,}")
    print(f"# particles' state       {sizes.particles / mib:.2f} MiB")
    print(f"# noise, at most         {sizes.noise / mib:.2f} MiB  (3 N |theta| floats)")
    print(f"# data                   {sizes.data / mib:.2f} MiB")
    print(f"# one device, about      {sizes.memory / mib:.2f} MiB  (all of it, and what a window takes)")
    print(f"# inner steps per outer  {sizes.inner_steps:,}")
    _write_json(json_file, sizes._asdict() | {"config": config_lib.resolved(config)})
    return 0


def diagnose_command(args: argparse.Namespace) -> int:
    """`meta-train diagnose`."""
    from meta_train import config as config_lib
    from meta_train.diagnose_report import diagnose_run

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


def export_command(args: argparse.Namespace) -> int:
    """`meta-train export`."""
    from meta_train.export import export_run

    for line in export_run(args.run, args.out):
        print(line)
    return 0


def registries() -> dict[str, dict[str, Any]]:
    """The registries by the names that the command line gives them."""
    from meta_train.config_checks import default_registries
    from meta_train.systems import SYSTEMS

    found = default_registries()
    return {
        "tasks": found.tasks,
        "augmentations": found.augmentations,
        "estimators": found.estimators,
        "optimizers": found.learned_optimizers,
        "systems": SYSTEMS,
    }


def list_command(args: argparse.Namespace) -> int:
    """`meta-train list`."""
    from meta_train.describe import split_docstring
    from meta_train.problems import show
    from tasks import NAMED

    if args.kind == "named":  # tasks by one word: what a config may write instead of the options
        summaries = {name: show(spec, 200) for name, spec in NAMED.items()}
    else:
        summaries = {name: split_docstring(factory)[0] for name, factory in registries()[args.kind].items()}
    width = max(map(len, summaries))
    for name, summary in sorted(summaries.items()):
        print(f"{name:{width}}  {summary}")
    _write_json(args.json, summaries)
    return 0


def describe_command(args: argparse.Namespace) -> int:
    """`meta-train describe`."""
    from meta_train.config import RunConfig
    from meta_train.describe import describe, describe_model, render
    from meta_train.problems import show
    from tasks import NAMED

    if args.name == "config":
        print(render(describe_model(RunConfig, "config")), end="")
        return 0
    everything = {name: factory for registry in registries().values() for name, factory in registry.items()}
    if args.name in NAMED:
        print(f"{args.name}: a task by one word, for {show(NAMED[args.name], 200)}\n")
        args.name = NAMED[args.name]["name"]
    print(render(describe(everything, args.name)), end="")
    return 0


def _write_json(file: str | None, value: Any) -> None:
    from meta_train.hooks import RunError

    if file is None:
        return
    try:
        Path(file).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror}") from error


def _resume_command(argv: list[str]) -> str:
    import shlex

    return shlex.join(["meta-train", *(argv if "--resume" in argv else [*argv, "--resume"])])


def _offer_cpu_devices() -> None:
    """One CPU device for each core, so that `mesh.particles` can split the particles over them.

    XLA runs the small operations of an inner training on one core; two devices use two.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", min(max(2, os.cpu_count() or 1), MOST_CPU_DEVICES))


def _refuse_foreign_tasks() -> None:
    """Another program's `tasks.py` in the current directory must not be taken for ours."""
    import meta_train
    import tasks

    ours = Path(meta_train.__file__).parent.parent / "tasks" / "__init__.py"
    if tasks.__file__ is None or Path(tasks.__file__).resolve() != ours.resolve():
        sys.exit(f"meta-train: the module `tasks` is {tasks.__file__}, not this project's: rename that file")
